"""The image contract: bytes to RGB pixels and back. Training, command line and HTTP all use this file, so they
cannot disagree on channel order, orientation or color.

Inside the system an image is RGB, float32, NCHW, [0, 1]; :class:`Photo` is the form next to files: (H, W, 3) pixels
with what has to be put back when the picture is written again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import _imaging

from models.images import headers as image_headers
from models.images import writing
from models.images.limits import (
    DEFAULT_LIMITS,
    RAW,
    SUFFIXES,
    WRITTEN,
    Header,
    ImageError,
    ImageLimits,
    ImageTooLarge,
    UnsupportedFormat,
    check_bytes,
    format_written,
)
from models.images.metadata import lost_in
from models.images.photo import Array, Metadata, Photo, eight_bits
from models.images.profile import srgb_gray_profile
from models.images.reading import copies, nearly_whole, photo_of
from models.paths import name_of, replacing

_LIBRARIES = ("PIL", "tifffile", "imagecodecs")
_MODULES = re.compile(rf"({'|'.join(_LIBRARIES)})(\.|$)")


def _quiet() -> None:
    """Quiet the libraries: their complaints about a damaged file are in our errors and notes. This is for the whole
    process: filters of warnings, and log levels, are not one thread's.
    """
    _silence_libtiff()
    # Any change of the filters makes Python show again what it has shown once.
    if next(iter(warnings.filters), None) != ("ignore", None, Warning, _MODULES, 0):
        warnings.filterwarnings("ignore", module=_MODULES.pattern)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@functools.cache
def _silence_libtiff() -> None:
    """Stop Pillow's libtiff from writing to stderr; Pillow reports the same, and has no switch for it."""
    library = ctypes.CDLL(_imaging.__file__)  # also finds what it is linked with
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if (setter := getattr(library, name, None)) is not None:  # missing where libtiff is linked statically
            setter(None)


# Of photographs for corpora and evaluations; lower case, with the dot.
IMAGE_SUFFIXES = frozenset(suffix for suffix, name in SUFFIXES.items() if name != RAW)

_WITH_ALPHA = ("PNG", "WEBP", "AVIF", "TIFF")
_DEEP = ("PNG", "TIFF")
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}  # what the formats can hold


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, shrink_to: int | None = None) -> Photo:
    """Read an encoded image.

    Upright (orientation of EXIF or XMP applied), and in sRGB: converted when an ICC profile is embedded (one that is
    damaged or made for another color model counts as none), or when the file states its colors in another way
    (:mod:`models.images.profile`). Grayscale, palette, bilevel, CMYK and CIELAB become RGB;
    CMYK without a profile as if inks were ideal. PNG and TIFF of 16 bits a channel become uint16, and so do floats
    within 0..1 and integers of other sizes within 0..65535 in TIFF, and raw files, which are developed; everything else
    becomes uint8.

    Args:
        data: the whole file.
        limits: what is accepted.
        shrink_to: for training: a JPEG may come at 1/2, 1/4 or 1/8 of its size, the smallest whose shorter side is
            still this many pixels or more; reading it is several times as fast. Other formats come whole.

    Raises:
        ImageTooLarge, UnsupportedFormat, CorruptImage, TruncatedImage: and nothing else, whatever the bytes are.
        ValueError: ``shrink_to`` is below 1.
    """
    if shrink_to is not None and shrink_to < 1:
        raise ValueError(f"shrink_to is {shrink_to}; expected 1 or more pixels")
    check_bytes(len(data), limits)
    _quiet()
    try:
        return photo_of(data, limits, shrink_to)
    except Exception as problem:  # noqa: BLE001 - Pillow's plugins raise almost anything on damaged files
        error = image_headers.typed(problem, data)
        if (photo := nearly_whole(data, limits, error)) is not None:
            return photo
        raise error from (None if error is problem else problem)


def probe(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Header:
    """Read format and upright size from the header, with the checks of :func:`decode` but without its pixels.

    Args:
        data: the whole file, or as much of its beginning as holds the header: for JPEG, PNG and BMP 256 KiB will
            nearly always do (of a PNG, an orientation behind the pixels is missed); the others are needed whole.
        limits: what is accepted.

    Raises:
        ImageError: as :func:`decode`; :class:`TruncatedImage` when the header is not all there.
    """
    _quiet()
    try:
        return image_headers.probe(data, limits)
    except Exception as problem:  # noqa: BLE001 - as above
        error = image_headers.typed(problem, data)
        for found in copies(data, limits, error):
            with contextlib.suppress(Exception):
                return image_headers.probe(found.data, limits)
        raise error from (None if error is problem else problem)


def encode(photo: Photo, format: str | None = None, quality: int = 95, metadata: bool = False) -> bytes:  # noqa: A002 - the contract's name
    """Write a photo in a file format. The profile goes into all but BMP; alpha into PNG, WebP, AVIF and TIFF; 16
    bits into PNG and TIFF, and are rounded to 8 elsewhere. What was gray is written as gray, but in WebP, which has no
    such.

    Args:
        photo: what to write.
        format: JPEG, PNG, WEBP, AVIF, TIFF or BMP; None takes the photo's own, and JPEG for what is only read (HEIC,
            raw files).
        quality: 1..100 for JPEG, WEBP and AVIF; the others are lossless.
        metadata: also write the photo's EXIF (with the place it was taken), XMP and resolution. BMP holds only the
            last.

    Raises:
        UnsupportedFormat: a format that is not on the list.
        ImageTooLarge: a side that the format cannot hold.
    """
    name = format_written(photo.format, format)
    if name not in WRITTEN:
        raise UnsupportedFormat(f"cannot write format '{name}'; known: {', '.join(sorted(WRITTEN))}")
    longest = max(photo.pixels.shape[:2])
    if longest > _LONGEST_SIDE.get(name, longest):
        raise ImageTooLarge(f"{name} holds at most {_LONGEST_SIDE[name]} pixels a side, not {longest}; use PNG or TIFF")
    told = (photo.metadata if metadata else None) or Metadata()
    pixels, icc = _channels(photo, name)
    _quiet()
    if name in _DEEP:
        return (writing.png if name == "PNG" else writing.tiff)(pixels, icc, told)
    return writing.pillow(pixels, name, icc, quality, told)


def lost(photo: Photo, format: str | None = None) -> tuple[str, ...]:  # noqa: A002 - the contract
    """List the kinds of metadata that the source holds and that :func:`encode` does not write into ``format``, even on
    request.

    Args:
        photo: what was decoded.
        format: as in :func:`encode`.
    """
    name = format_written(photo.format, format)
    return tuple(sorted({*photo.dropped, *lost_in(photo.metadata or Metadata(), name)}))


def read_image(path: str | os.PathLike[str], limits: ImageLimits = DEFAULT_LIMITS) -> Photo:
    """Read a local file and :func:`decode` it; errors name it.

    Raises:
        ImageError: as :func:`decode`.
        OSError: the file is missing or unreadable.
    """
    path = Path(path)
    try:
        check_bytes(path.stat().st_size, limits)  # before it is read into memory
        return decode(path.read_bytes(), limits)
    except ImageError as problem:
        raise type(problem)(f"{path}: {problem}") from problem


def write_image(photo: Photo, path: str | os.PathLike[str], quality: int = 95, metadata: bool = False) -> None:
    """Write to a file, by :func:`encode`, in the format of its suffix; readers see the old file or the whole new one.

    Args:
        photo: to write.
        path: a local path or a URI; the folder is made if missing.
        quality: as in :func:`encode`.
        metadata: as in :func:`encode`.

    Raises:
        UnsupportedFormat: the suffix is not one of a format that is written.
        OSError: it cannot be written.
    """
    suffix = Path(name_of(path)).suffix.lower()
    if SUFFIXES.get(suffix) not in WRITTEN:
        known = ", ".join(sorted(suffix for suffix, name in SUFFIXES.items() if name in WRITTEN))
        raise UnsupportedFormat(f"{path}: cannot tell an image format from suffix '{suffix}'; known: {known}")
    data = encode(photo, SUFFIXES[suffix], quality, metadata)
    with replacing(os.fspath(path)) as stream:
        stream.write(data)


def _channels(photo: Photo, name: str) -> tuple[Array, bytes | None]:
    """Return the array to encode: (H, W) where the source was gray and the pixels still are, else (H, W, 3), with alpha
    and as deep as the format holds; and the profile to embed.
    """
    pixels, icc = photo.pixels, photo.icc
    if photo.gray and name != "WEBP" and (pixels == pixels[:, :, :1]).all():  # WebP knows no gray
        pixels, icc = pixels[:, :, 0], None if icc is None else srgb_gray_profile()
    if photo.alpha is not None and name in _WITH_ALPHA:
        pixels = np.dstack([pixels, photo.alpha])
    return np.ascontiguousarray(pixels if name in _DEEP else eight_bits(pixels)), icc
