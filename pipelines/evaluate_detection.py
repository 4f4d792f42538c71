"""Downstream: what a detector finds in the results, against annotated photographs. No Ray.

Annotations are Pascal VOC's XML files, as RTTS has them, or one COCO JSON file. Detectors are torchvision's, with
weights from a file or torchvision's cache. Average precision is pycocotools' (BSD-2-Clause).
"""

from __future__ import annotations

import contextlib
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import images
from models.checkpoint import read_released
from models.settings import ConfigError, nearest
from pipelines.evaluate_iqa import file_hash, torchvision_cache
from pipelines.evaluate_matching import bases
from pipelines.evaluate_sources import Entry
from pipelines.metrics import Pixels

Boxes = NDArray[np.float32]
MOST = 100  # detections of an image that count, as in COCO
LEAST_SCORE = 0.05
RESAMPLES = 200  # each accumulates all images anew, so there are fewer than for means
ALIASES = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "pottedplant": "potted plant",
    "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip
"""VOC's names of classes by COCO's; every other class is matched by its name."""


@dataclass(frozen=True)
class Annotated:
    """What is in a photograph: boxes (n, 4) as x1, y1, x2, y2 in pixels of ``size`` (width, height), and their names.

    ``ignored`` boxes (VOC's difficult ones, COCO's crowds) count neither as found nor as missed.
    """

    size: tuple[int, int]
    boxes: Boxes
    names: tuple[str, ...]
    ignored: tuple[bool, ...]


def read_annotations(path: Path) -> dict[str, Annotated]:
    """By the photograph's stem: from a folder of VOC XML files, at any depth, or a COCO JSON file.

    Raises:
        ConfigError: nothing there, or not in either format; the file is named.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise ConfigError(f"{path} holds no .xml file; --annotations is a folder of VOC files or a COCO .json")
        return {file.stem: _voc(file) for file in files}
    if not path.is_file():
        raise ConfigError(f"there is no {path}; --annotations is a folder of VOC files or a COCO .json")
    try:
        return _coco(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ConfigError(f"{path} is no COCO annotation file: {type(problem).__name__} {problem}") from problem


def _voc(file: Path) -> Annotated:
    try:
        root = ET.parse(file).getroot()  # noqa: S314 - see the import
        objects = root.findall("object")
        size = (int(_text(root, "size/width")), int(_text(root, "size/height")))
        boxes = [[float(_text(o, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
        names = tuple(_text(o, "name").strip() for o in objects)
    except (ET.ParseError, ValueError) as problem:
        raise ConfigError(f"{file} is no VOC annotation: {problem}") from problem
    found = np.array(boxes, np.float32).reshape(-1, 4)
    found[:, :2] -= 1  # VOC counts pixels from 1, and its boxes include their last pixel
    return Annotated(size, found, names, tuple(o.findtext("difficult") == "1" for o in objects))


def _text(node: ET.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"<{path}> is missing")
    return text


def _coco(content: Mapping[str, Any]) -> dict[str, Annotated]:
    classes = {c["id"]: str(c["name"]) for c in content["categories"]}
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    found = {}
    for image in content["images"]:
        own = of_image.get(image["id"], [])
        boxes = np.array([a["bbox"] for a in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[PurePosixPath(str(image["file_name"])).stem] = Annotated(
            (int(image["width"]), int(image["height"])), boxes, tuple(classes[a["category_id"]] for a in own),
            tuple(bool(a.get("iscrowd", 0)) for a in own),
        )  # fmt: skip
    return found


def match_annotations(entries: Sequence[Entry], annotations: Mapping[str, Annotated]) -> dict[str, Annotated]:
    """What is annotated of the photographs, by image id.

    Raises:
        ConfigError: nothing is.
    """
    found = {}
    for entry in entries:
        stems = (PurePosixPath(base).name for base in bases(entry.name))
        match = next((annotations[stem] for stem in stems if stem in annotations), None)
        if match is not None:
            found[entry.image_id] = match
    if not found:
        raise ConfigError(f"none of {len(annotations)} annotations belongs to a photograph, such as {entries[0].name}")
    return found


class Detector:
    """A detector of torchvision.

    Args:
        spec: torchvision's name, whose weights are in its cache; ``name=file``; or a weights file under the name that
            torchvision gave it.
        classes: what the labels 1, 2, ... of the weights mean; None for COCO's, which torchvision's own weights know.
        device: to compute on.

    Raises:
        ConfigError: no such detector, no weights, or weights of something else.
    """

    def __init__(self, spec: str, classes: Sequence[str] | None = None, device: str = "cpu") -> None:
        from torchvision.models import get_model

        name, path, coco = _weights_of(spec)
        state = read_released(path)
        self.classes = tuple(classes or coco)
        count = len(self.classes) + (0 if classes is None else 1)
        try:
            network = get_model(name, weights=None, weights_backbone=None, num_classes=count)
            network.load_state_dict(state)
        except RuntimeError as problem:
            reason = " ".join(str(problem).split())[:300]
            raise ConfigError(f"{path} does not fit {name} with {count} classes: {reason}") from problem
        if classes is not None:
            self.classes = ("__background__", *classes)
        self._network = network.eval().to(device)
        self._device = device
        self.about = {"detector": name, "weights": path.name, "weights_sha256": file_hash(path)}

    @torch.inference_mode()
    def __call__(self, image: Pixels) -> Boxes:
        """Of uint8 RGB (H, W, 3): (n, 6) with x1, y1, x2, y2, score and label, the best `MOST`."""
        found = self._network([images.to_tensor(np.ascontiguousarray(image)[None])[0].to(self._device)])[0]
        parts = [found["boxes"], found["scores"][:, None], found["labels"][:, None].float()]
        rows: Boxes = torch.cat(parts, dim=1).float().cpu().numpy()
        rows = rows[rows[:, 4] >= LEAST_SCORE]
        return rows[np.argsort(-rows[:, 4], kind="stable")[:MOST]]


def _weights_of(spec: str) -> tuple[str, Path, Sequence[str]]:
    """Name of the detector, file of its weights, and COCO's classes as its weights number them."""
    from torchvision.models import detection as zoo
    from torchvision.models import get_model_weights, list_models

    known = list_models(module=zoo)
    weights = {name: next(iter(get_model_weights(name))) for name in known}
    name, equals, file = spec.partition("=")
    if not equals and name not in known and ("/" in spec or spec.endswith((".pth", ".pt", ".safetensors"))):
        file = spec
        name = next((n for n in known if Path(weights[n].url).name == Path(spec).name), "")
        if not name:
            raise ConfigError(
                f"--detector {spec}: which detector is it? give NAME={spec}, NAME one of {', '.join(known)}"
            )
    if name not in known:
        raise ConfigError(f"unknown detector '{name}'{nearest(name, known)}")
    path = Path(file) if file else torchvision_cache() / Path(weights[name].url).name
    if not path.is_file():
        raise ConfigError(
            f"detector '{name}' has no weights: there is no file {path}; get {weights[name].url} and give it by "
            f"--detector {name}=FILE, as nothing is downloaded"
        )
    return name, path, weights[name].meta["categories"]


def canonical(name: str) -> str:
    """A class's name as COCO writes it."""
    plain = name.strip().lower()
    return ALIASES.get(plain, plain)


def shared_classes(annotations: Iterable[Annotated], classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Annotated classes that the detector knows, and those that it does not.

    Raises:
        ConfigError: it knows none.
    """
    names = sorted({canonical(name) for annotated in annotations for name in annotated.names})
    known = {canonical(name) for name in classes}
    shared = [name for name in names if name in known]
    if not shared:
        raise ConfigError(f"the detector knows none of the annotated classes {names}")
    return shared, [name for name in names if name not in known]


@dataclass(frozen=True)
class Found:
    """Detections of one model by image id, each (n, 6) in pixels of a picture of ``sizes`` (width, height)."""

    boxes: Mapping[str, Boxes]
    sizes: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Precision:
    """Average precision over classes: ``ap50`` at an overlap of 0.5, ``ap`` over 0.5 to 0.95, by class at 0.5.

    ``resampled`` are ap50 over bootstrap samples of the photographs, the same samples for every model.
    """

    ap50: float
    ap: float
    by_class: dict[str, float]
    resampled: NDArray[np.float64]


def average_precision(
    truth: Mapping[str, Annotated], found: Found, labels: Sequence[str], classes: Sequence[str], seed: int,
    resamples: int = RESAMPLES,
) -> Precision:  # fmt: skip
    """mAP of one model by pycocotools.

    Args:
        truth: by image id; boxes are scaled to the size at which the detector saw the picture.
        found: the detections.
        labels: names by the detector's label.
        classes: to average over, canonical.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ConfigError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as problem:
        raise ConfigError(
            f"average precision needs pycocotools ({problem}): pip install 'ray-dehaze[metrics]'"
        ) from problem
    ids = sorted(truth)
    numbers = {name: place + 1 for place, name in enumerate(classes)}
    names = [canonical(name) for name in labels]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        gt, dt = COCO(), COCO()
        gt.dataset = _dataset(ids, numbers, _true_rows(ids, truth, found, numbers))
        dt.dataset = _dataset(ids, numbers, _found_rows(ids, found, numbers, names))
        gt.createIndex()
        dt.createIndex()
        judge = COCOeval(gt, dt, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [MOST]
        judge.evaluate()
        judge.accumulate()
        precision = judge.eval["precision"][:, :, :, 0, 0]  # overlaps, recalls, classes
        resampled = _resampled(judge, len(ids), len(classes), seed, resamples)
    by_class = {name: _mean(precision[0, :, place]) for place, name in enumerate(classes)}
    return Precision(_mean(precision[0]), _mean(precision), by_class, resampled)


def _mean(precision: NDArray[np.float64]) -> float:
    """Over what is defined: -1 stands for a class without an object."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


def _resampled(judge: Any, photographs: int, classes: int, seed: int, resamples: int) -> NDArray[np.float64]:
    """ap50 over photographs drawn with replacement; matches within a photograph stay as they are."""
    matches = np.array(judge.evalImgs, dtype=object).reshape(classes, photographs)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = generator.integers(0, photographs, photographs)
        judge.evalImgs = list(matches[:, drawn].reshape(-1))
        judge.accumulate()
        values.append(_mean(judge.eval["precision"][0, :, :, 0, 0]))
    return np.array(values)


def _dataset(ids: Sequence[str], numbers: Mapping[str, int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    for place, row in enumerate(rows):
        row["id"] = place + 1
    images_of = [{"id": place} for place in range(len(ids))]
    return {"images": images_of, "categories": [{"id": n, "name": c} for c, n in numbers.items()], "annotations": rows}


def _true_rows(
    ids: Sequence[str], truth: Mapping[str, Annotated], found: Found, numbers: Mapping[str, int]
) -> list[dict[str, Any]]:
    rows = []
    for place, image_id in enumerate(ids):
        annotated, seen = truth[image_id], found.sizes[image_id]
        scale = np.array([seen[0] / annotated.size[0], seen[1] / annotated.size[1]] * 2)
        for box, name, ignored in zip(annotated.boxes * scale, annotated.names, annotated.ignored, strict=True):
            if canonical(name) in numbers:
                rows.append(_row(place, numbers[canonical(name)], box) | {"iscrowd": int(ignored)})
    return rows


def _found_rows(
    ids: Sequence[str], found: Found, numbers: Mapping[str, int], names: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        _row(place, numbers[names[int(box[5])]], box[:4]) | {"score": float(box[4]), "iscrowd": 0}
        for place, image_id in enumerate(ids)
        for box in found.boxes[image_id]
        if names[int(box[5])] in numbers
    ]


def _row(place: int, category: int, box: NDArray[Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(side) for side in box)
    return {
        "image_id": place, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)
    }  # fmt: skip
