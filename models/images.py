"""The image contract: bytes to RGB pixels and back. Training, command line and HTTP all use this file, so they
cannot disagree on channel order, orientation or colour.

Inside the system an image is RGB, float32, NCHW, [0, 1]; :class:`Photo` is the form next to files: (H, W, 3) pixels
with what has to be put back when the picture is written again.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import image_headers, image_png, image_tiff
from models.files import temporary_name
from models.image_colour import deep_to_srgb, to_srgb
from models.image_errors import CorruptImage, ImageError, ImageTooLarge, TruncatedImage, UnsupportedFormat
from models.image_limits import DEFAULT_LIMITS, SUFFIXES, Header, ImageLimits, check_bytes
from models.image_metadata import Metadata, collect, pillow_options, png_chunks, tiff_entries, tiff_resolution
from models.image_modes import Samples, deep_grey, eight_bits, exif_orientation, upright
from models.image_quiet import quiet
from models.image_tensors import quantise, resize, to_tensor, to_uint8

if TYPE_CHECKING:  # torch takes seconds and 500 MB, which jobs that only read files need not pay
    from torch import Tensor

__all__ = [
    "DEFAULT_LIMITS", "IMAGE_SUFFIXES", "CorruptImage", "Header", "ImageError", "ImageLimits", "ImageTooLarge",
    "Metadata", "Photo", "TruncatedImage", "UnsupportedFormat", "decode", "encode", "lost", "probe", "read", "resize",
    "to_tensor", "to_uint8", "write",
]  # fmt: skip

Array = NDArray[Any]  # uint8 unless a docstring says more

IMAGE_SUFFIXES = frozenset(SUFFIXES)  # lower case, with the dot

_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
_DEEP = ("PNG", "TIFF")
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # what the formats can hold
_FULL_CHROMA_QUALITY = 90


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright and in sRGB.

    Attributes:
        pixels: (H, W, 3) RGB; uint8, or uint16 for sources with more than 8 bits (0..65535).
        alpha: (H, W) of the same dtype, or None.
        icc: the sRGB profile to embed again when the source had a profile, else None.
        format: of the source, such as ``"JPEG"``.
        metadata: EXIF, XMP and resolution, cleaned; None when the source tells nothing.
        notes: plain sentences on what is not as the file has it, whatever is written from it: parts that are missing,
            an HDR gain map or further frames that are left out.
        dropped: kinds of metadata in the file that no result keeps, such as "thumbnail"; see :func:`lost`.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    format: str = "PNG"
    metadata: Metadata | None = None
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def tensor(self) -> Tensor:
        """The pixels as float32 (1, 3, H, W) in [0, 1]."""
        return to_tensor(self.pixels)

    def with_tensor(self, image: Tensor) -> Photo:
        """This photo with other pixels: ``image`` is (1, 3, H, W) float, clamped to [0, 1].

        Raises:
            ValueError: another shape than (1, 3, H, W), or another size while there is alpha to go with it.
        """
        if image.dim() != 4 or image.shape[:2] != (1, 3):
            raise ValueError(f"image is {tuple(image.shape)}; expected (1, 3, H, W)")
        if self.alpha is not None and tuple(image.shape[2:]) != self.alpha.shape:
            raise ValueError(f"image is {tuple(image.shape[2:])} but the alpha channel is {self.alpha.shape}")
        return replace(self, pixels=quantise(image, self.pixels.dtype)[0])


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, shrink_to: int | None = None) -> Photo:
    """Read an encoded image.

    Upright (orientation of EXIF or XMP applied), and in sRGB: converted when an ICC profile is embedded (one that is
    damaged or made for another colour model counts as none). Greyscale, palette, bilevel, CMYK and CIELAB become RGB;
    CMYK without a profile as if inks were ideal. PNG and TIFF of 16 bits a channel become uint16, and so do floats
    within 0..1 and integers of other sizes within 0..65535 in TIFF; everything else becomes uint8.

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
    try:
        with quiet():
            return _decode(data, limits, shrink_to)
    except Exception as problem:  # Pillow's plugins raise almost anything on damaged files
        if isinstance(problem, ImageError):
            raise
        raise image_headers.typed(problem, data) from problem


def probe(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Header:
    """Format and upright size from the header, with the checks of :func:`decode` but without its pixels.

    Args:
        data: the whole file, or as much of its beginning as holds the header: for JPEG, PNG and BMP 256 KiB will
            nearly always do (of a PNG, an orientation behind the pixels is missed); WebP and TIFF are needed whole.
        limits: what is accepted.

    Raises:
        ImageError: as :func:`decode`; :class:`TruncatedImage` when the header is not all there.
    """
    try:
        with quiet():
            return image_headers.probe(data, limits)
    except Exception as problem:  # as above
        if isinstance(problem, ImageError):
            raise
        raise image_headers.typed(problem, data) from problem


def encode(photo: Photo, format: str | None = None, quality: int = 95, metadata: bool = False) -> bytes:  # noqa: A002 - the contract's name
    """Write a photo in a file format. The profile goes into all but BMP; alpha into PNG, WebP and TIFF; 16 bits into
    PNG and TIFF, and are rounded to 8 elsewhere. PNG and TIFF hold equal channels of 16 bits as grey, unless there is
    a profile.

    Args:
        photo: what to write.
        format: JPEG, PNG, WEBP, TIFF or BMP; None takes the photo's own.
        quality: 1..100 for JPEG and WEBP; the others are lossless.
        metadata: also write the photo's EXIF (with the place it was taken), XMP and resolution. BMP holds only the
            last.

    Raises:
        UnsupportedFormat: a format that is not on the list.
        ImageTooLarge: a side that the format cannot hold.
    """
    name = (format or photo.format).upper()
    if name not in SUFFIXES.values():
        raise UnsupportedFormat(f"cannot write format '{name}'; known: {', '.join(sorted(set(SUFFIXES.values())))}")
    longest = max(photo.pixels.shape[:2])
    if longest > _LONGEST_SIDE.get(name, longest):
        raise ImageTooLarge(f"{name} holds at most {_LONGEST_SIDE[name]} pixels a side, not {longest}; use PNG or TIFF")
    told = (photo.metadata if metadata else None) or Metadata()
    with quiet():
        if photo.pixels.dtype == np.uint16 and name in _DEEP:
            file = _encode_deep(photo, name, told)
        else:
            file = _encode_pillow(photo, name, quality, told)
        return image_tiff.with_entries(file, tiff_entries(told)) if name == "TIFF" else file


def lost(photo: Photo, format: str | None = None) -> tuple[str, ...]:  # noqa: A002, ARG001 - the contract
    """Kinds of metadata that the source holds and that :func:`encode` does not write into ``format``, even on request.

    Args:
        photo: what was decoded.
        format: as in :func:`encode`.
    """
    return photo.dropped


def read(path: str | os.PathLike[str], limits: ImageLimits = DEFAULT_LIMITS) -> Photo:
    """:func:`decode` a local file; errors name it.

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


def write(photo: Photo, path: str | os.PathLike[str], quality: int = 95, metadata: bool = False) -> None:
    """:func:`encode` to a local file in the format of its suffix. Atomic: readers see the old file or the new one.

    Raises:
        UnsupportedFormat: the suffix is not in :data:`IMAGE_SUFFIXES`.
        OSError: the folder is missing or not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UnsupportedFormat(f"{path}: cannot tell an image format from suffix '{path.suffix}'; known: {known}")
    data = encode(photo, SUFFIXES[path.suffix.lower()], quality, metadata)
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _decode(data: bytes, limits: ImageLimits, shrink_to: int | None) -> Photo:
    layout = image_headers.tiff_layout(data, limits)
    if layout is not None and layout.deep:
        return _deep_tiff(data, layout)
    with image_headers.open_image(data, limits) as image:
        if image_png.is_deep(data):
            return _deep_png(data, image)
        if shrink_to is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (shrink_to, shrink_to))
        image.load()
        return _to_photo(image, layout)


def _deep_tiff(data: bytes, layout: image_tiff.Layout) -> Photo:
    turn = image_headers.tiff_orientation(layout)
    told = collect(data, layout.xmp, tiff_resolution(layout.directory), turn)
    return _from_samples(image_tiff.decode(data, layout), layout.icc, turn, "TIFF", told)


def _deep_png(data: bytes, image: Image.Image) -> Photo:
    turn = image_headers.orientation(image, data)
    icc = image.info.get("icc_profile")
    return _from_samples(image_png.decode(data, image.size), icc, turn, "PNG", _told(image, None, turn))


def _from_samples(samples: Samples, source: bytes | None, turn: int, name: str, told: Metadata | None) -> Photo:
    pixels, alpha, icc = deep_to_srgb(samples, source)
    return Photo(upright(pixels, turn), None if alpha is None else upright(alpha, turn), icc, name, told)


def _to_photo(image: Image.Image, layout: image_tiff.Layout | None) -> Photo:
    turn = exif_orientation(image)  # 1 for TIFF, which Pillow has turned by now
    told = _told(image, layout, turn)
    icc: bytes | None = None
    alpha: Array | None = None
    name = image_headers.name_of(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        grey = deep_grey(image)
        pixels = np.repeat(grey[:, :, None], 3, axis=2)
    else:
        if image.has_transparency_data:
            transparent = image.convert("RGBA")
            alpha = upright(np.asarray(transparent.getchannel("A")), turn)
            image = image.getchannel("L") if image.mode == "LA" else transparent.convert("RGB")
        colour, icc = to_srgb(image)
        pixels = np.asarray(colour)
    return Photo(upright(pixels, turn), alpha, icc, name, told)


def _told(image: Image.Image, layout: image_tiff.Layout | None, turn: int) -> Metadata | None:
    if layout is not None:
        turn, dpi = image_headers.tiff_orientation(layout), tiff_resolution(layout.directory)
        return collect(layout.directory.source, layout.xmp, dpi, turn)
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return collect(image.info.get("exif"), xmp, image.info.get("dpi"), turn)


def _encode_deep(photo: Photo, name: str, told: Metadata) -> bytes:
    pixels = photo.pixels
    if photo.icc is None and (pixels == pixels[:, :, :1]).all():  # the profile is one for RGB
        pixels = pixels[:, :, 0]
    if photo.alpha is not None:
        pixels = np.dstack([pixels, photo.alpha])
    if name == "TIFF":
        return image_tiff.encode(pixels, photo.icc, told.dpi)
    return image_png.encode(pixels, photo.icc, png_chunks(told))


def _encode_pillow(photo: Photo, name: str, quality: int, told: Metadata) -> bytes:
    options = pillow_options(told, name)
    if name in ("JPEG", "WEBP"):
        options["quality"] = quality
    if name == "JPEG":
        options["subsampling"] = "4:4:4" if quality >= _FULL_CHROMA_QUALITY else "4:2:0"
    if name == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
    if photo.icc is not None and name != "BMP":
        options["icc_profile"] = photo.icc
    pixels, alpha = photo.pixels, photo.alpha if name in _WITH_ALPHA else None
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    if pixels.dtype == np.uint16:
        pixels = eight_bits(pixels)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, name, **options)
    return buffer.getvalue()
