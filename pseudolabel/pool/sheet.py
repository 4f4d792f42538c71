"""A picture of a label pool: input, label and trust map of its best, worst and some other photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pseudolabel.pool.entries import LabelEntry

Pixels = NDArray[np.uint8]

_BACKGROUND, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_BOX, _GAP, _LINE, _HEAD = 208, 6, 18, 64
_BLEND = 0.7  # of colour over the grey label, so that one sees what is trusted

# Viridis at nine places: perceptually even, and legible to the colour-blind.
_COLOURS = np.array(
    [
        (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
        (170, 220, 50), (253, 231, 37),
    ],
    dtype=np.float64,
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """Photographs under one title."""

    title: str
    entries: Sequence[LabelEntry]


def draw_sheet(sections: Sequence[Section], originals: Mapping[str, Pixels], *, inputs: bool) -> Image.Image:
    """One column per section, one line per photograph: input, label, trust.

    Args:
        sections: empty ones are left out.
        originals: input photographs by identifier, (H, W, 3) uint8 RGB; labels are drawn in their proportions.
        inputs: whether to draw them at all.

    Raises:
        ValueError: there is nothing to draw.
    """
    sections = [section for section in sections if section.entries]
    if not sections:
        raise ValueError("there is nothing to draw: the label pool is empty")
    low, high = _range([entry.trust for section in sections for entry in section.entries])
    panels = ("input", "label", "trust") if inputs else ("label", "trust")
    width = len(panels) * (_BOX + _GAP) + 3 * _GAP
    lines = max(len(section.entries) for section in sections)
    sheet = Image.new("RGB", (width * len(sections) + _GAP, _HEAD + lines * (_BOX + _LINE + 2 * _GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, section in enumerate(sections):
        left = column * width + 2 * _GAP
        draw.text((left, _GAP), section.title, _INK, font=_font(18))
        for panel, name in enumerate(panels):
            draw.text((left + panel * (_BOX + _GAP), _HEAD - _LINE - 4), name, _FAINT, font=_font(13))
        top = _HEAD
        for entry in section.entries:
            pictures = _pictures(entry, originals.get(entry.image_id), (low, high), inputs=inputs)
            for panel, picture in enumerate(pictures):
                sheet.paste(picture, (left + panel * (_BOX + _GAP), top))
            draw.text((left, top + pictures[-1].height + 2), _caption(entry), _INK, font=_font(13))
            top += max(picture.height for picture in pictures) + _LINE + 2 * _GAP
    _legend(sheet, draw, (low, high))
    return _trimmed(sheet)


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Save as PNG, replacing an old one at once."""
    partial = path.with_name(path.name + ".partial")
    sheet.save(partial, "PNG", optimize=True)
    partial.replace(path)


def coloured(values: NDArray[Any]) -> Pixels:
    """Colours of values in [0, 1]; (..., 3) uint8, from violet to yellow."""
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(values, places, _COLOURS[:, channel]) for channel in range(3)]
    colours: Pixels = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def _range(maps: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """From the lowest to the highest trust on the sheet, in twentieths: one scale for all its maps."""
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    low, high = np.floor(low * 20) / 20, np.ceil(high * 20) / 20
    return float(low), float(max(high, low + 0.05))


def _pictures(
    entry: LabelEntry, original: Pixels | None, scale: tuple[float, float], *, inputs: bool
) -> list[Image.Image]:
    height, width = (entry.label if original is None else original).shape[:2]
    size = (max(1, round(width * _BOX / max(height, width))), max(1, round(height * _BOX / max(height, width))))
    label = Image.fromarray(entry.label).resize(size, Image.Resampling.LANCZOS)
    shown = [label, _trust(entry, label, scale)]
    if not inputs:
        return shown
    if original is None:
        missing = Image.new("RGB", size, (235, 235, 235))
        ImageDraw.Draw(missing).text((size[0] // 2, size[1] // 2), "not in the corpus", _FAINT, _font(13), anchor="mm")
        return [missing, *shown]
    return [Image.fromarray(original).resize(size, Image.Resampling.LANCZOS), *shown]


def _trust(entry: LabelEntry, label: Image.Image, scale: tuple[float, float]) -> Image.Image:
    relative = (entry.trust.astype(np.float64) - scale[0]) / (scale[1] - scale[0])
    blocks = Image.fromarray(coloured(relative)).resize(label.size, Image.Resampling.NEAREST)
    return Image.blend(label.convert("L").convert("RGB"), blocks, _BLEND)


def _caption(entry: LabelEntry) -> str:
    name = entry.image_id if len(entry.image_id) <= 16 else f"{entry.image_id[:12]}…"
    return f"{name}   clearness {entry.clearness:.3f}   quality {entry.quality:.3f}   step {entry.teacher_step}"


def _legend(sheet: Image.Image, draw: ImageDraw.ImageDraw, scale: tuple[float, float]) -> None:
    ramp = Image.fromarray(np.broadcast_to(coloured(np.linspace(0, 1, 120)), (12, 120, 3)).copy())
    right = sheet.width - 2 * _GAP
    draw.text((right, _GAP + 6), f"{scale[1]:.2f}", _INK, font=_font(13), anchor="rm")
    sheet.paste(ramp, (right - 152, _GAP))
    draw.text((right - 158, _GAP + 6), f"trust {scale[0]:.2f}", _INK, font=_font(13), anchor="rm")


def _trimmed(sheet: Image.Image) -> Image.Image:
    """Without the empty space below the last line."""
    rows = np.flatnonzero((np.asarray(sheet) != 255).any(axis=(1, 2)))
    return sheet.crop((0, 0, sheet.width, int(rows[-1]) + 1 + 2 * _GAP))


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)
