"""Camera raw files: LibRaw develops them, by way of rawpy, which the extra ``raw`` brings."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from models.images import exif, tiff
from models.images.limits import (
    MAGIC,
    RAW,
    SUFFIXES,
    CorruptImage,
    Header,
    ImageLimits,
    ImageTooLarge,
    TruncatedImage,
    UnsupportedFormat,
    check_size,
    kind_of,
)
from models.images.photo import Array

_SRGB = (2.4, 12.92)  # its curve: power, and slope at black
_WHITE = 0.001  # of the pixels; less than LibRaw's hundredth, as haze is bright
_TURNED = 4  # bit of LibRaw's flip: the sides change places
_LIKE_TIFF = (b"IIRO", b"IIRS", b"IIU\0")  # ORF and RW2, but for these bytes
_UNKNOWN = f"this is a camera's raw file that LibRaw does not know; {tiff.DEVELOP}"
_NO_MEMORY = (ImageTooLarge, "not enough memory to develop the raw file")
_ERRORS = {
    "LibRawFileUnsupportedError": (UnsupportedFormat, _UNKNOWN),
    "LibRawNotImplementedError": (UnsupportedFormat, _UNKNOWN),
    "LibRawIOError": (TruncatedImage, "the file ends before the picture does, or its directories are damaged"),
    "LibRawTooBigError": _NO_MEMORY, "LibRawUnsufficientMemoryError": _NO_MEMORY,
}  # fmt: skip


def reads_suffix(suffix: str) -> bool:
    """Return whether files of a suffix can be read here: raw files only where rawpy is installed."""
    kind = SUFFIXES.get(suffix.lower())
    return kind is not None and (kind != RAW or find_spec("rawpy") is not None)


def is_raw(data: bytes) -> bool:
    """Return whether this is a camera's raw file; many are TIFF files whose first picture is a thumbnail."""
    if not data.startswith(MAGIC["TIFF"]):
        return kind_of(data[:16]) == "a camera's raw file"
    try:
        return tiff.is_raw(data, exif.first(data))
    except Exception:  # noqa: BLE001 - a damaged directory raises almost anything; it is told of as a TIFF's
        return False


def probe(data: bytes, limits: ImageLimits) -> Header:
    """Ask LibRaw for the size of the upright picture, which nothing develops.

    Raises:
        ImageError: as :func:`models.images.decode`.
    """
    with _opened(data, limits) as (_, header):
        return header


def develop(data: bytes, limits: ImageLimits) -> Array:
    """Develop a raw file to uint16 (H, W, 3), or (H, W, 1) of a sensor without colors: sRGB, upright, with the camera's
    white balance, and exposed so that a thousandth of the pixels is white.

    Raises:
        ImageError: as :func:`models.images.decode`.
    """
    with _opened(data, limits) as (raw, _):
        pixels: Array = raw.postprocess(output_bps=16, use_camera_wb=True, gamma=_SRGB, auto_bright_thr=_WHITE)
    return pixels


def exif_block(data: bytes) -> bytes | None:
    """Return a raw file as what holds its EXIF; None where it is not built like a TIFF."""
    if data.startswith(MAGIC["TIFF"]):
        return data
    return b"II*\0" + data[4:] if data.startswith(_LIKE_TIFF) else None


@contextlib.contextmanager
def _opened(data: bytes, limits: ImageLimits) -> Iterator[tuple[Any, Header]]:
    """Open a file with LibRaw, which reads its header only, and check the size."""
    try:
        import rawpy
    except ImportError as problem:
        needed = "this is a camera's raw file, which needs rawpy: pip install 'ray-dehaze[raw]'"
        raise UnsupportedFormat(f"{needed}; or {tiff.DEVELOP}") from problem
    if data.startswith(MAGIC["TIFF"]):
        tiff.check_mosaics(data)
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            told = raw.sizes
            check_size(told.raw_width, told.raw_height, limits)
            aspect = told.pixel_aspect  # pixels become square
            size = int(told.width * max(aspect, 1) + 0.5), int(told.height / min(aspect, 1) + 0.5)
            header = Header(RAW, *(size[::-1] if told.flip & _TURNED else size))
            check_size(header.width, header.height, limits)
            yield raw, header
    except rawpy.LibRawError as problem:
        kind, text = _ERRORS.get(type(problem).__name__, (CorruptImage, "the raw file is damaged"))
        raise kind(text) from problem
