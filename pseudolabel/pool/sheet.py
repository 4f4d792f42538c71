"""A picture of a label pool: input, label and trust map of its best, worst and some other photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.contact_sheet import Line, contact_sheet
from pseudolabel.pool.entries import LabelEntry

Pixels = NDArray[np.uint8]

_BOX = 208
_BLEND = 0.7  # of color over the gray label, so that one sees what is trusted


def draw_sheet(
    sections: Mapping[str, Sequence[LabelEntry]], originals: Mapping[str, Pixels], *, inputs: bool
) -> Image.Image:
    """Draw sections side by side, one line per photograph: input, label, trust.

    Args:
        sections: labels by title; empty ones are left out.
        originals: input photographs by identifier, (H, W, 3) uint8 RGB; labels are drawn in their proportions.
        inputs: whether to draw them at all.

    Raises:
        ValueError: there is nothing to draw.
    """
    sections = {title: entries for title, entries in sections.items() if entries}
    if not sections:
        raise ValueError("there is nothing to draw: the label pool is empty")
    low, high = _range([entry.trust for entries in sections.values() for entry in entries])
    panels = ("input", "label", "trust") if inputs else ("label", "trust")
    lines = [
        _line(entry, originals.get(entry.image_id), (low, high), panels) if entry else Line([None] * len(panels), "")
        for row in zip_longest(*sections.values())
        for entry in row
    ]
    # A row of colors, repeated downward, is the legend.
    ramp = Image.fromarray(np.broadcast_to(colored(np.linspace(0, 1, _BOX)), (12, _BOX, 3)).copy())
    lines.append(Line([ramp], f"trust from {low:.2f} to {high:.2f}"))
    heads = [f"{title}: {panel}" for title in sections for panel in panels]
    return contact_sheet(lines, heads, across=len(sections))


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Save as PNG, replacing an old one at once."""
    partial = path.with_name(path.name + ".partial")
    sheet.save(partial, "PNG", optimize=True)
    partial.replace(path)


def colored(values: NDArray[Any]) -> Pixels:
    """Return colors of values in [0, 1]; (..., 3) uint8, from violet to yellow: even, and legible to the
    color-blind.
    """
    from matplotlib import colormaps  # slow, and a pool is rarely drawn

    colors: Pixels = colormaps["viridis"](values, bytes=True)[..., :3]
    return colors


def _range(maps: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """From the lowest to the highest trust on the sheet, in twentieths: one scale for all its maps."""
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    low, high = np.floor(low * 20) / 20, np.ceil(high * 20) / 20
    return float(low), float(max(high, low + 0.05))


def _line(entry: LabelEntry, original: Pixels | None, scale: tuple[float, float], panels: Sequence[str]) -> Line:
    height, width = (entry.label if original is None else original).shape[:2]
    size = (max(1, round(width * _BOX / max(height, width))), max(1, round(height * _BOX / max(height, width))))
    label = Image.fromarray(entry.label).resize(size, Image.Resampling.LANCZOS)
    relative = (entry.trust.astype(np.float64) - scale[0]) / (scale[1] - scale[0])
    blocks = Image.fromarray(colored(relative)).resize(size, Image.Resampling.NEAREST)
    photograph = None if original is None else Image.fromarray(original).resize(size, Image.Resampling.LANCZOS)
    pictures = {
        "input": photograph,
        "label": label,
        "trust": Image.blend(label.convert("L").convert("RGB"), blocks, _BLEND),
    }
    name = entry.image_id if len(entry.image_id) <= 16 else f"{entry.image_id[:12]}…"
    scores = f"clearness {entry.clearness:.3f}   quality {entry.quality:.3f}   step {entry.teacher_step}"
    missing = "   not in the corpus" if original is None and "input" in panels else ""
    return Line([pictures[panel] for panel in panels], f"{name}   {scores}{missing}")
