"""What is in photographs, as somebody annotated it: Pascal VOC's XML files, as RTTS has them,
or a COCO JSON file. No Ray.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import ConfigError
from pipelines.evaluate.sources import SourceEntry, bases

Boxes = NDArray[np.float32]
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
    """Read annotations by the photograph's stem: from a folder of VOC XML files, at any depth, or a COCO JSON file.

    Raises:
        ConfigError: nothing there, or not in either format; the file is named.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise ConfigError(f"{path} holds no .xml file; --annotations is a folder of VOC files or a COCO .json")
        _require_different(file.stem for file in files)
        return {file.stem: _voc(file) for file in files}
    if not path.is_file():
        raise ConfigError(f"there is no {path}; --annotations is a folder of VOC files or a COCO .json")
    try:
        return _coco(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ConfigError(f"{path} is no COCO annotation file: {type(problem).__name__} {problem}") from problem


def _require_different(stems: Iterable[str]) -> None:
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise ConfigError(
            f"annotations belong to photographs by name, and {len(twice)} names are there twice: {twice[0]}"
        )


def _voc(file: Path) -> Annotated:
    try:
        root = ET.parse(file).getroot()  # noqa: S314 - see the import
        objects = root.findall("object")
        size = _size(_text(root, "size/width"), _text(root, "size/height"))
        boxes = [[float(_text(o, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
        names = tuple(_text(o, "name").strip() for o in objects)
    except (ET.ParseError, ValueError) as problem:
        raise ConfigError(f"{file} is no VOC annotation: {problem}") from problem
    found = np.array(boxes, np.float32).reshape(-1, 4)
    found[:, :2] -= 1  # VOC counts pixels from 1, and its boxes include their last pixel
    return Annotated(size, found, names, tuple(o.findtext("difficult") == "1" for o in objects))


def _size(width: Any, height: Any) -> tuple[int, int]:
    """Width and height of a picture; boxes are scaled by them, so that none must be 0, as some programs write."""
    size = (int(width), int(height))
    if min(size) < 1:
        raise ValueError(f"a photograph of {width}x{height} pixels")
    return size


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
    _require_different(PurePosixPath(str(image["file_name"])).stem for image in content["images"])
    for image in content["images"]:
        own = of_image.get(image["id"], [])
        boxes = np.array([a["bbox"] for a in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[PurePosixPath(str(image["file_name"])).stem] = Annotated(
            _size(image["width"], image["height"]), boxes, tuple(classes[a["category_id"]] for a in own),
            tuple(bool(a.get("iscrowd", 0)) for a in own),
        )  # fmt: skip
    return found


def match_annotations(entries: Sequence[SourceEntry], annotations: Mapping[str, Annotated]) -> dict[str, Annotated]:
    """Return what is annotated of the photographs, by image id.

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


def canonical(name: str) -> str:
    """Return a class's name as COCO writes it."""
    plain = name.strip().lower()
    return ALIASES.get(plain, plain)


def shared_classes(annotations: Iterable[Annotated], classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return annotated classes that the detector knows, and those that it does not.

    Raises:
        ConfigError: it knows none.
    """
    names = sorted({canonical(name) for annotated in annotations for name in annotated.names})
    known = {canonical(name) for name in classes}
    shared = [name for name in names if name in known]
    if not shared:
        raise ConfigError(f"the detector knows none of the annotated classes {names}")
    return shared, [name for name in names if name not in known]
