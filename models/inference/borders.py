"""Black or white borders of films, scans and prints: they are no part of the scene, and stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.inference.tiles import Tile

_UNIFORM = 2.5 / 255  # a line of a border differs by no more from its color
_EXTREME = 16 / 255  # how far that color is from black or white, at most
_STEP = 8 / 255  # between border and picture
_SEEN = 0.3  # share of a line that has that step: the edge of a border is straight, that of a burnt-out sky is not
_LEAST = 3  # lines of a border
_MOST = 0.45  # of the side
_BLURRED = 10  # lines that JPEG's blocks make uneven before the picture begins
_STEADY = 8 / 255  # by which a known border may waver

Lines = Callable[[int], Tensor]  # a line by its number, counted from the edge: (3, length)


def content_of(image: Tensor, known: Tile | None = None) -> Tile:
    """Find the part of a picture without uniform black or white borders; all of it where there are none.

    Args:
        image: 13HW in [0, 1], or of whole numbers.
        known: what it was in the frame before, of a video: it stays as long as its borders do, however dark the
            picture beside them.
    """
    height, width = image.shape[-2:]
    if known is not None and known != Tile(0, height, 0, width) and _still(image[0], known):
        return known
    top, bottom = (_thickness(lines, height) for lines in _lines(image[0], -2))
    # Without the borders above and below, which would make columns look uneven.
    between = _lines(image[0, :, top : height - bottom], -1)
    left, right = (_thickness(lines, width) for lines in between)
    if not (top or bottom or left or right):
        return Tile(0, height, 0, width)
    within = _lines(image[0, :, :, left : width - right], -2)
    return Tile(
        _edge(within[0], top, height),
        height - _edge(within[1], bottom, height),
        _edge(between[0], left, width),
        width - _edge(between[1], right, width),
    )


def _lines(image: Tensor, axis: int) -> tuple[Lines, Lines]:
    """The rows (-2) or columns (-1) of an image from one end, and from the other."""

    def line(number: int) -> Tensor:
        found = image.select(axis, number)
        return found if found.is_floating_point() else found.float() / torch.iinfo(found.dtype).max

    return line, lambda number: line(-1 - number)


def _thickness(lines: Lines, count: int) -> int:
    """Count the lines from an edge that are of one color, black or white; 0 where they make no border."""
    # The first line says what the border looks like.
    color = lines(0).mean(dim=1, keepdim=True)
    if min(float(color.max()), 1.0 - float(color.min())) > _EXTREME:
        return 0
    most = int(_MOST * count)
    found = 0
    while found <= most and float((lines(found) - color).abs().max()) <= _UNIFORM:
        found += 1
    return found if _LEAST <= found <= most else 0


def _edge(lines: Lines, start: int, count: int) -> int:
    """Where the picture begins, at or soon after ``start`` lines of one color; 0 where no straight edge is there."""
    if not start:
        return 0
    for number in range(start, min(start + _BLURRED, int(_MOST * count))):
        # Over two lines, as the edge may be blurred across one.
        step = (lines(number + 1) - lines(number - 1)).abs().amax(dim=0)
        if float((step > _STEP).float().mean()) >= _SEEN:
            return number
    return 0


def _still(image: Tensor, known: Tile) -> bool:
    """Say whether the borders of the frame before are borders in this one."""
    sides = (
        image[:, : known.top],
        image[:, known.bottom :],
        image[:, known.top : known.bottom, : known.left],
        image[:, known.top : known.bottom, known.right :],
    )
    return all(_flat(side) for side in sides if side.numel())


def _flat(side: Tensor) -> bool:
    # A subtitle or a channel's logo does not move the median.
    color = torch.median(side.flatten(1), dim=1).values
    extreme = min(float(color.max()), 1.0 - float(color.min())) <= _EXTREME
    uneven = (side - color[:, None, None]).abs() > _STEADY
    return extreme and float(uneven.float().mean()) < 1e-3
