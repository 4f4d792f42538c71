"""Overlapping tiles of an image, and the feathered weights that put them together again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A rectangle of pixels: rows ``top`` to ``bottom`` and columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, image: Tensor) -> Tensor:
        """Return that part of NCHW, a view."""
        return image[..., self.top : self.bottom, self.left : self.right]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where the tiles of one axis start: evenly spread, each reaching ``overlap`` or more into the next."""
    if length <= side:
        return [0]
    # As few as reach the end with that overlap; then spread, so that the last ends at the end.
    count = math.ceil((length - overlap) / (side - overlap))
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def tiles_of(height: int, width: int, side: int, overlap: int) -> list[Tile]:
    """Cover an image with tiles of at most ``side`` by ``side`` pixels.

    Raises:
        ValueError: ``overlap`` is not smaller than ``side``.
    """
    if not 0 <= overlap < side:
        raise ValueError(f"overlap is {overlap}; expected 0 or more and less than the tile's side, {side}")
    return [
        Tile(top, min(height, top + side), left, min(width, left + side))
        for top in _starts(height, side, overlap)
        for left in _starts(width, side, overlap)
    ]


def _ramp(start: int, end: int, length: int, overlap: int, device: torch.device) -> Tensor:
    """Weights along one axis: 1 inside, 0 in the outer quarter of an overlap, whose pixels saw a false border."""
    place = torch.arange(start, end, device=device, dtype=torch.float32) + 0.5
    weights = torch.ones_like(place)
    for inner, distance in ((start > 0, place - start), (end < length, end - place)):
        if inner and overlap:
            # A rise over the middle half of the overlap; those of two neighbors add up to 1 there.
            weights = torch.minimum(weights, ((distance - overlap / 4) / (overlap / 2)).clamp(0.0, 1.0))
    return weights


def feather(tile: Tile, height: int, width: int, overlap: int, device: torch.device) -> Tensor:
    """Return the weights of a tile's pixels in an image of ``height`` by ``width``: HW in [0, 1]; divide by their
    sum.
    """
    rows = _ramp(tile.top, tile.bottom, height, overlap, device)
    columns = _ramp(tile.left, tile.right, width, overlap, device)
    return rows[:, None] * columns[None, :]
