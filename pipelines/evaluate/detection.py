"""Downstream: what a detector finds in the results, against annotated photographs. No Ray.

Detectors are torchvision's, with weights from a file or torchvision's cache. Average precision is pycocotools'
(BSD-2-Clause).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import images
from models.checkpoints import read_released
from models.config import ConfigError, nearest
from pipelines.evaluate.annotations import Annotated, Boxes, canonical
from pipelines.evaluate.iqa import file_hash, torchvision_cache
from pipelines.evaluate.metrics import Pixels

MOST = 100  # detections of an image that count, as in COCO
LEAST_SCORE = 0.05
RESAMPLES = 200  # each accumulates all images anew, so there are fewer than for means


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
        """Detect objects in uint8 RGB (H, W, 3): (n, 6) with x1, y1, x2, y2, score and label, the best `MOST`."""
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


@dataclass(frozen=True)
class Detections:
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


def precision_program() -> tuple[Any, Any]:
    """Return the classes of pycocotools that hold annotations and that compute average precision.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as problem:
        raise ConfigError(
            f"average precision needs pycocotools ({problem}): pip install 'ray-dehaze[metrics]'"
        ) from problem
    return COCO, COCOeval


def average_precision(
    truth: Mapping[str, Annotated], found: Detections, labels: Sequence[str], classes: Sequence[str], seed: int
) -> Precision:
    """Compute the mAP of one model by pycocotools.

    Args:
        truth: by image id; boxes are scaled to the size at which the detector saw the picture.
        found: the detections.
        labels: names by the detector's label.
        classes: to average over, canonical.
        seed: of the bootstrap.

    Raises:
        ConfigError: pycocotools is not installed.
    """
    COCO, COCOeval = precision_program()
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
        resampled = _resampled(judge, len(ids), len(classes), seed)
    by_class = {name: _mean(precision[0, :, place]) for place, name in enumerate(classes)}
    return Precision(_mean(precision[0]), _mean(precision), by_class, resampled)


def _mean(precision: NDArray[np.float64]) -> float:
    """Return the mean of the defined values: -1 stands for a class without an object."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


def _resampled(judge: Any, photographs: int, classes: int, seed: int) -> NDArray[np.float64]:
    """ap50 over photographs drawn with replacement; matches within a photograph stay as they are."""
    matches = np.array(judge.evalImgs, dtype=object).reshape(classes, photographs)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
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
    ids: Sequence[str], truth: Mapping[str, Annotated], found: Detections, numbers: Mapping[str, int]
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
    ids: Sequence[str], found: Detections, numbers: Mapping[str, int], names: Sequence[str]
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
