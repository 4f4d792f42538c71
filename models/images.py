"""The image contract: bytes to RGB pixels and back. Training, command line and HTTP all use this file, so they
cannot disagree on channel order, orientation or colour.

Inside the system an image is RGB, float32, NCHW, [0, 1]; :class:`Photo` is the form next to files: (H, W, 3) pixels
with what has to be put back when the picture is written again.
"""

from __future__ import annotations

import io
import os
import struct
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from models.image_errors import CorruptImage, ImageError, ImageTooLarge, TruncatedImage, UnsupportedFormat
from models.image_modes import deep_grey, eight_bits, exif_orientation, to_srgb, upright
from models.settings import Settings

if TYPE_CHECKING:  # torch takes seconds and 500 MB, which jobs that only read files need not pay
    from torch import Tensor

__all__ = [
    "IMAGE_SUFFIXES", "CorruptImage", "ImageError", "ImageLimits", "ImageTooLarge", "Photo", "TruncatedImage",
    "UnsupportedFormat", "decode", "encode", "read", "resize", "to_tensor", "to_uint8", "write",
]  # fmt: skip

Array = NDArray[Any]  # uint8 unless a docstring says more

SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG",
    ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
IMAGE_SUFFIXES = frozenset(SUFFIXES)  # lower case, with the dot

_MAGIC: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",), "PNG": (b"\x89PNG",), "WEBP": (b"RIFF",),
    "TIFF": (b"II*\0", b"MM\0*"), "BMP": (b"BM",),
}  # fmt: skip
_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # what the formats can hold
_FULL_CHROMA_QUALITY = 90


class ImageLimits(Settings):
    """What :func:`decode` accepts. Everything is checked from the header, before pixels are decoded.

    ``max_aspect`` bounds long side over short side; ``first_frame`` takes the first frame of animated and
    multi-page files, which are refused otherwise.
    """

    max_bytes: int = Field(64 << 20, gt=0)
    max_pixels: int = Field(100_000_000, gt=0, le=178_956_970)  # above that Pillow itself refuses
    max_aspect: float = Field(50.0, ge=1.0)
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
    first_frame: bool = False


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright and in sRGB.

    Attributes:
        pixels: (H, W, 3) RGB; uint8, or uint16 for sources with more than 8 bits (0..65535).
        alpha: (H, W) of the same dtype, or None.
        icc: the sRGB profile to embed again when the source had a profile, else None.
        format: of the source, such as ``"JPEG"``.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    format: str = "PNG"

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
        return replace(self, pixels=_quantise(image, self.pixels.dtype)[0])


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Photo:
    """Read an encoded image.

    Upright (EXIF orientation applied), converted to sRGB when an ICC profile is embedded (a profile that is damaged
    or does not fit counts as none). Greyscale, palette, bilevel and CMYK become RGB. 16-bit greyscale, 32-bit
    integers within 0..65535 and floats within 0..1 become uint16; 16-bit colour is read at 8 bits per channel, which
    is what Pillow offers.

    Args:
        data: the whole file.
        limits: what is accepted.

    Raises:
        ImageTooLarge, UnsupportedFormat, CorruptImage, TruncatedImage: and nothing else, whatever the bytes are.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted")
    try:
        with _open(data, limits) as image:
            _check_header(image, limits)
            image.load()
            return _to_photo(image)
    except ImageError:
        raise
    except MemoryError as problem:
        raise ImageTooLarge("not enough memory to decode the image; reduce its size") from problem
    except Exception as problem:  # Pillow's plugins raise almost anything on damaged files
        raise _typed(problem, data) from problem


def encode(photo: Photo, format: str | None = None, quality: int = 95) -> bytes:  # noqa: A002 - the contract's name
    """Write a photo in a file format.

    Args:
        photo: what to write. Alpha is dropped for JPEG and BMP. 16 bits are kept for grey photos without alpha in PNG
            and TIFF; other combinations are rounded to 8 bits.
        format: JPEG, PNG, WEBP, TIFF or BMP; None takes the photo's own.
        quality: 1..100 for JPEG and WEBP; the others are lossless.

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
    options: dict[str, Any] = {}
    if name in ("JPEG", "WEBP"):
        options["quality"] = quality
    if name == "JPEG":
        options["subsampling"] = "4:4:4" if quality >= _FULL_CHROMA_QUALITY else "4:2:0"
    if name == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
    if photo.icc is not None and name != "BMP":
        options["icc_profile"] = photo.icc
    buffer = io.BytesIO()
    _to_image(photo, name).save(buffer, name, **options)
    return buffer.getvalue()


def read(path: str | os.PathLike[str], limits: ImageLimits = DEFAULT_LIMITS) -> Photo:
    """:func:`decode` a local file; errors name it.

    Raises:
        ImageError: as :func:`decode`.
        OSError: the file is missing or unreadable.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > limits.max_bytes:  # before it is read into memory
        raise ImageTooLarge(f"{path}: the file has {size:,} bytes; at most {limits.max_bytes:,} are accepted")
    try:
        return decode(path.read_bytes(), limits)
    except ImageError as problem:
        raise type(problem)(f"{path}: {problem}") from problem


def write(photo: Photo, path: str | os.PathLike[str], quality: int = 95) -> None:
    """:func:`encode` to a local file in the format of its suffix. Atomic: readers see the old file or the new one.

    Raises:
        UnsupportedFormat: the suffix is not in :data:`IMAGE_SUFFIXES`.
        OSError: the folder is missing or not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UnsupportedFormat(f"{path}: cannot tell an image format from suffix '{path.suffix}'; known: {known}")
    data = encode(photo, SUFFIXES[path.suffix.lower()], quality)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_tensor(pixels: Array) -> Tensor:
    """(H, W, 3) or (N, H, W, 3) uint8 or uint16 to float32 NCHW in [0, 1]; one image becomes a batch of one."""
    import torch

    if pixels.ndim not in (3, 4) or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels are {pixels.dtype}{pixels.shape}; expected uint8 or uint16 (H, W, C) or (N, H, W, C)")
    batch = pixels if pixels.ndim == 4 else pixels[None]
    planes = np.stack([batch[..., channel] for channel in range(batch.shape[-1])], axis=1)  # cheapest on integers
    return torch.from_numpy(np.divide(planes, np.iinfo(batch.dtype).max, dtype=np.float32))


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """NCHW float to NHWC uint8: clamped to [0, 1], half rounded up. Inverse of :func:`to_tensor` on uint8."""
    return _quantise(image, np.dtype(np.uint8))


def resize(pixels: Array, width: int, height: int) -> Array:
    """Resample uint8 or uint16, (H, W, 3) or (H, W), antialiased: Lanczos where it shrinks, bicubic where it grows."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = width < pixels.shape[1] or height < pixels.shape[0]
    kind = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).resize((width, height), kind))
    if pixels.ndim == 3:
        return np.stack([resize(channel, width, height) for channel in np.moveaxis(pixels, 2, 0)], axis=2)
    smooth = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((width, height), kind))
    rounded: Array = np.clip(np.rint(smooth), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return rounded


def _quantise(image: Tensor, dtype: np.dtype[Any]) -> Array:
    top = np.iinfo(dtype).max
    levels = image.detach().float().clamp(0, 1).mul_(top).add_(0.5).cpu().numpy().astype(dtype)
    return np.stack([levels[:, channel] for channel in range(levels.shape[1])], axis=-1)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header only."""
    if not data:
        raise TruncatedImage("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=limits.formats)
    except Image.DecompressionBombError as problem:
        raise ImageTooLarge(str(problem)) from problem
    except UnidentifiedImageError as problem:
        if any(data.startswith(_MAGIC[name]) for name in limits.formats if name in _MAGIC):
            raise  # of an accepted format, but damaged
        accepted = ", ".join(limits.formats)
        raise UnsupportedFormat(f"not an image of an accepted format ({accepted})") from problem


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{width}x{height} are {width * height:,} pixels; at most {limits.max_pixels:,} accepted")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageTooLarge(f"{width}x{height} is more than {limits.max_aspect:g} times as long as wide")
    # MPO is a JPEG with further pictures behind it (stereo, HDR gain map): every viewer shows the first.
    if getattr(image, "is_animated", False) and image.format != "MPO" and not limits.first_frame:
        raise UnsupportedFormat(f"the {image.format} file has several frames; only still pictures are accepted")


def _typed(problem: Exception, data: bytes) -> ImageError:
    """The typed error for what a plugin raised."""
    if isinstance(problem, Image.DecompressionBombError):
        return ImageTooLarge(str(problem))
    text = str(problem)
    if isinstance(problem, UnidentifiedImageError):
        text = "the header is damaged"  # Pillow's message holds the address of a buffer
    if isinstance(problem, EOFError) or "truncated" in text.lower() or _ends_early(data):
        return TruncatedImage(f"the file ends before the picture does: {text}")
    return CorruptImage(f"cannot decode the image: {text or type(problem).__name__}")


def _ends_early(data: bytes) -> bool:
    """Whether a length in the header of a WebP or BMP, or the missing end of a PNG or JPEG, shows a cut file."""
    if data.startswith(b"RIFF"):
        return len(data) < 12 or struct.unpack("<I", data[4:8])[0] + 8 > len(data)
    if data.startswith(b"BM"):
        return len(data) < 26 or struct.unpack("<I", data[2:6])[0] > len(data)
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-64:]


def _to_photo(image: Image.Image) -> Photo:
    name = "JPEG" if image.format == "MPO" else str(image.format)
    turn = exif_orientation(image)
    icc: bytes | None = None
    alpha: Array | None = None
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
    return Photo(upright(pixels, turn), alpha, icc, name)


def _to_image(photo: Photo, name: str) -> Image.Image:
    pixels, alpha = photo.pixels, photo.alpha if name in _WITH_ALPHA else None
    if pixels.dtype == np.uint16:
        grey = (pixels == pixels[:, :, :1]).all()
        if grey and alpha is None and name in ("PNG", "TIFF"):
            return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]))
        pixels = eight_bits(pixels)
        alpha = None if alpha is None else eight_bits(alpha)
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    return Image.fromarray(np.ascontiguousarray(pixels))
