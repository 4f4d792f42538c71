"""Pictures of a run's labels: some photographs, their labels of now, and how far each place is trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

_SIDE, _GAP, _LINE = 208, 8, 20
_BACKGROUND, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def draw_labels(photos: Mapping[str, Pixels], entries: Sequence[Any], title: str) -> Image.Image:
    """One line per photograph: photograph, label, trust map (white is trusted).

    Args:
        photos: (S, S, 3) uint8 by ``image_id``.
        entries: ``LabelEntry`` of each, in their order, or None.
        title: above all.
    """
    width = 3 * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, 2 * _LINE + _GAP + len(photos) * (_SIDE + _LINE + _GAP)), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((_GAP, 2), title, _INK, font=font)
    for column, name in enumerate(("photograph", "label", "trust, 0 black to 1 white")):
        draw.text((_GAP + column * (_SIDE + _GAP), _LINE + 2), name, _FAINT, font=font)
    top = 2 * _LINE + _GAP
    for (image_id, photo), entry in zip(photos.items(), entries, strict=True):
        for column, picture in enumerate(_panels(photo, entry)):
            sheet.paste(picture, (_GAP + column * (_SIDE + _GAP), top))
        draw.text((_GAP, top + _SIDE + 2), _caption(image_id, entry), _INK, font=font)
        top += _SIDE + _LINE + _GAP
    return sheet


def _panels(photo: Pixels, entry: Any) -> list[Image.Image]:
    size = (_SIDE, _SIDE)
    panels = [Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)]
    if entry is not None:
        trust = np.rint(np.clip(entry.trust, 0, 1) * 255).astype(np.uint8)
        panels.append(Image.fromarray(entry.label).resize(size, Image.Resampling.LANCZOS))
        panels.append(Image.fromarray(trust).resize(size, Image.Resampling.NEAREST).convert("RGB"))
    return panels


def _caption(image_id: str, entry: Any) -> str:
    name = image_id if len(image_id) <= 16 else f"{image_id[:12]}…"
    if entry is None:
        return f"{name}   no label yet"
    return f"{name}   clearness {entry.clearness:.3f}   quality {entry.quality:.3f}   step {entry.teacher_step}"


def write_labels(photos: Mapping[str, Pixels], entries: Sequence[Any], folder: Path, step: int) -> Path:
    """The picture of one step, as a file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:07d}.png"
    draw_labels(photos, entries, f"step {step}").save(path)
    return path
