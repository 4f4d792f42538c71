"""How networks execute: local operations in bands of rows, and statistics that the pieces of an image share.

A network of these blocks alternates between *local* operations, whose output rows depend on a few input rows, and
*global* statistics, which are means over all pixels (second moments of channel attention, moments of instance
normalization). Blocks say which is which, through :func:`in_bands` and :func:`pixel_mean`; how that is carried out is
up to the caller:

- normally at once, which is also how networks train and compile;
- under :func:`banded`, local operations run over bands of rows. The result is the same to float32 rounding. Only
  inputs and outputs of the local operations are whole; their intermediates, which are several times larger, are as
  small as a band. On a CPU it is also faster, since a band stays in its caches. With ``spill`` the whole feature maps
  are not kept in the memory of the device either, but in the machine's (for a GPU) or in temporary files (for a CPU);
- under :func:`recording` the statistics of one image are kept, and under :func:`replaying` they are used for another:
  that is how tiles of an image look at the whole of it.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Bands:
    elements: int
    spill: bool
    device: torch.device | None


@dataclass
class _Replay:
    statistics: list[Tensor]
    used: int = 0


_MIN_ROWS = 16  # fewer would mostly compute halo
# Of the context, not of the module: threads and tasks that share a network run it each in its own
# way.
_BANDS: ContextVar[_Bands | None] = ContextVar("bands", default=None)
_RECORD: ContextVar[list[Tensor] | None] = ContextVar("record", default=None)
_REPLAY: ContextVar[_Replay | None] = ContextVar("replay", default=None)


@contextmanager
def banded(elements: int, *, spill: bool = False, device: torch.device | None = None) -> Iterator[None]:
    """Run local operations over bands of about ``elements`` input elements. For inference only.

    Args:
        elements: of all inputs of an operation together; at least 16 rows are taken at a time.
        spill: keep feature maps out of the memory of the device.
        device: where to compute; needed with ``spill``.

    Raises:
        ValueError: ``elements`` is not positive, or ``spill`` without ``device``.
        OSError: a temporary file finds no space.
    """
    if elements < 1 or (spill and device is None):
        raise ValueError(
            f"bands of {elements} elements, spill {spill}, device {device}; expected 1 or more, and a device"
        )
    token = _BANDS.set(_Bands(elements, spill, device))
    try:
        yield
    finally:
        _BANDS.reset(token)


@contextmanager
def recording() -> Iterator[list[Tensor]]:
    """Keep the statistics of the image that is run through a network inside; the list fills as it runs."""
    kept: list[Tensor] = []
    token = _RECORD.set(kept)
    try:
        yield kept
    finally:
        _RECORD.reset(token)


@contextmanager
def replaying(statistics: list[Tensor]) -> Iterator[None]:
    """Use the statistics of an earlier run instead of those of the image at hand.

    Raises:
        RuntimeError: the network asks for more or fewer statistics than were recorded.
    """
    replay = _Replay(statistics)
    token = _REPLAY.set(replay)
    try:
        yield
    finally:
        _REPLAY.reset(token)
    if replay.used != len(statistics):
        raise RuntimeError(f"{len(statistics)} statistics were recorded, but {replay.used} were asked for")


def shared(compute: Callable[[], Tensor]) -> Tensor:
    """Return a statistic of the whole image: computed, or, while statistics are replayed, the recorded one.

    It must not depend on the size of the image, so that another resolution can stand in: a mean, not a sum.
    """
    if torch.compiler.is_compiling():
        return compute()
    replay = _REPLAY.get()
    if replay is not None:
        if replay.used == len(replay.statistics):
            raise RuntimeError(f"only {replay.used} statistics were recorded")
        replay.used += 1
        return replay.statistics[replay.used - 1]
    found = compute()
    record = _RECORD.get()
    if record is not None:
        record.append(found)
    return found


def pixel_mean(total: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return the mean over all pixels, shared between the pieces of an image.

    Args:
        total: from NCHW to a sum over its pixels, N first; it adds up over bands.
        inputs: NCHW, all of one size.
    """

    def compute() -> Tensor:
        pixels = inputs[0].shape[-2] * inputs[0].shape[-1]
        bands = _current()
        if bands is None:
            return total(*inputs) / pixels
        # A sum per band, each with N first: (bands, N, ...).
        sums = [total(*_pieces(inputs, span, bands)) for span in _spans(inputs, bands)]
        return torch.stack(sums).sum(0) / pixels

    return shared(compute)


def in_bands(function: Callable[..., Tensor], *inputs: Tensor, halo: int) -> Tensor:
    """Return ``function(*inputs)``, computed over bands of rows where the caller asked for it.

    Args:
        function: from NCHW tensors to one NCHW tensor. Its height is a whole multiple of, or half, the lowest input's;
            its rows depend on input rows at most ``halo`` away, in rows of the lowest input.
        inputs: NCHW, of one width-to-height ratio; heights are whole multiples of the lowest one.
        halo: rows; even where the function halves the height.
    """
    bands = _current()
    if bands is None:
        return function(*inputs)
    height = _height(inputs)
    spans = _spans(inputs, bands)
    if len(spans) == 1 and not bands.spill:
        return function(*inputs)
    out = _Output(height, bands.spill)
    # A band sees `halo` more rows on either side; what it makes of those belongs to its neighbors.
    for top, bottom in spans:
        seen = max(0, top - halo), min(height, bottom + halo)
        out.write(function(*_pieces(inputs, seen, bands)), (top, bottom), seen)
    return out.whole


Span = tuple[int, int]


def _current() -> _Bands | None:
    return None if torch.compiler.is_compiling() else _BANDS.get()


def _height(inputs: tuple[Tensor, ...]) -> int:
    return min(part.shape[-2] for part in inputs)


def _spans(inputs: tuple[Tensor, ...], bands: _Bands) -> list[Span]:
    """Bands of rows of the lowest input: even numbers of rows, so that halving the height keeps its place."""
    height = _height(inputs)
    per_row = max(1, sum(part.numel() for part in inputs) // height)
    rows = max(_MIN_ROWS, bands.elements // per_row // 2 * 2)
    return [(top, min(height, top + rows)) for top in range(0, height, rows)]


def _pieces(inputs: tuple[Tensor, ...], span: Span, bands: _Bands) -> list[Tensor]:
    """Rows ``span`` of the lowest input, and what belongs to them of the others, on the device that computes."""
    height = _height(inputs)
    # Higher inputs have whole multiples of the lowest one's rows.
    scales = [part.shape[-2] // height for part in inputs]
    pieces = [part[:, :, span[0] * k : span[1] * k] for part, k in zip(inputs, scales, strict=True)]
    return [piece.to(bands.device) for piece in pieces] if bands.spill else pieces


@dataclass
class _Output:
    """The whole output, made when the first band says what it looks like."""

    height: int
    spill: bool
    whole: Tensor = field(default_factory=lambda: torch.empty(0))

    def write(self, piece: Tensor, span: Span, seen: Span) -> None:
        """Keep rows ``span`` of a piece that was made from the input rows ``seen``."""
        # `rows` input rows gave `out` output rows: all places scale by their ratio, up or down. `skip` is the halo.
        out, rows = piece.shape[-2], seen[1] - seen[0]
        if not span[0]:
            shape = (*piece.shape[:2], self.height * out // rows, piece.shape[-1])
            self.whole = _spilled(shape, piece) if self.spill else _empty(shape, piece)
        top, bottom, skip = (count * out // rows for count in (*span, span[0] - seen[0]))
        self.whole[:, :, top:bottom] = piece[:, :, skip : skip + bottom - top]


def _empty(shape: tuple[int, ...], like: Tensor, device: torch.device | None = None) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=device or like.device, memory_format=torch.channels_last)


def _spilled(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An empty NCHW outside of the memory that computes: in the machine's for a GPU, in a nameless file for a CPU."""
    if like.device.type != "cpu":
        return _empty(shape, like, torch.device("cpu"))
    images, channels, height, width = shape
    size = math.prod(shape)
    with tempfile.NamedTemporaryFile(prefix="dehaze-") as file:  # the mapping outlives the name
        try:
            os.posix_fallocate(file.fileno(), 0, size * like.dtype.itemsize)  # a full disk would end the process later
        except OSError as problem:
            needed = size * like.dtype.itemsize >> 20
            raise OSError(
                problem.errno, f"no space for {needed} MiB of feature maps; set TMPDIR to a larger disk", file.name
            ) from problem
        flat = torch.from_file(file.name, shared=True, size=size, dtype=like.dtype)
    # Laid out as NHWC and seen as NCHW: channels-last, like all other feature maps.
    return flat.view(images, height, width, channels).permute(0, 3, 1, 2)
