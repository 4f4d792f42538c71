"""TIFF: its header; pixels of 16 bits, floats and CIELAB, which Pillow cannot hold and tifffile reads; and writing."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.images import exif
from models.images.limits import CorruptImage, TruncatedImage, UnsupportedFormat
from models.images.photo import Model, Samples

_MODELS: dict[int, tuple[Model, int]] = {
    0: ("GRAY", 1), 1: ("GRAY", 1), 2: ("RGB", 3), 5: ("CMYK", 4), 8: ("LAB", 3), 9: ("ICCLAB", 3),
}  # fmt: skip
_WHITE_IS_ZERO, _LAB = 0, (8, 9)
_COMPRESSIONS = (1, 5, 8, 32946, 32773)  # none, LZW, deflate twice, PackBits: all bounded by the size of a strip
_PREMULTIPLIED, _STRAIGHT = 1, 2
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 277, 338, 339
_KIND, _WITHIN, _MOSAICS, _DNG = 254, 330, (32803, 34892), 50706  # color filter array and linear raw
_DATA = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
_XMP = 700
_CUT = "the file ends before the picture does: strips or tiles are not all there"
DEVELOP = "develop it to JPEG, PNG or TIFF first"


@dataclass(frozen=True)
class Layout:
    """How the first page of a TIFF stores its pixels. Sizes are those of the stored picture, before it is turned."""

    tags: exif.Tags
    width: int
    height: int
    photometric: int
    samples: int
    bits: int
    floating: bool

    @property
    def deep(self) -> bool:
        """Return whether :func:`decode` is needed: Pillow would cut the depth, or cannot read it at all."""
        return (self.bits > 8 and self.bits % 16 == 0) or self.photometric in _LAB

    @property
    def further_samples(self) -> bool:
        """Return whether there are channels beside those of the color model and one of transparency."""
        # Palettes and YCbCr are Pillow's.
        colors = {3: 1, 6: 3}.get(self.photometric) or _MODELS.get(self.photometric, ("GRAY", self.samples))[1]
        return self.samples > colors + (exif.number(self.tags, _EXTRA, _STRAIGHT) in (_PREMULTIPLIED, _STRAIGHT))

    @property
    def xmp(self) -> bytes:
        """Return the embedded XMP packet, or no bytes."""
        return exif.raw(self.tags, _XMP)


def layout(data: bytes) -> Layout:
    """Read the header.

    Raises:
        CorruptImage, TruncatedImage: there is no sound one.
        UnsupportedFormat: a camera's raw file.
    """
    tags = exif.first(data)
    width, height = exif.number(tags, 256), exif.number(tags, 257)
    if not width or not height:
        raise CorruptImage("the TIFF header says no size")
    if is_raw(data, tags):
        raise UnsupportedFormat(f"this is a camera's raw file; {DEVELOP}")
    photometric = exif.number(tags, _PHOTOMETRIC, 1)
    bits = max((value for value in exif.numbers(tags, _BITS) if isinstance(value, int)), default=1)
    floating = exif.number(tags, _FORMAT, 1) == 3
    return Layout(tags, width, height, photometric, exif.number(tags, _SAMPLES, 1), bits, floating)


def is_raw(data: bytes, tags: exif.Tags) -> bool:
    """Return whether a TIFF file is a camera's raw file: DNG, CR2, PEF; NEF and ARW, which begin with a preview."""
    preview = exif.number(tags, _KIND) & 1 and _WITHIN in tags
    return bool(_DNG in tags or data[8:10] == b"CR" or _is_mosaic(tags) or preview)


def check_mosaics(data: bytes) -> None:
    """Check that all of a raw file's mosaic is there: LibRaw paints black what is missing.

    Raises:
        TruncatedImage: it is not.
    """
    start = exif.first(data)
    for tags in (start, *exif.all_inner(data, start, _WITHIN)):
        pairs = [zip(exif.numbers(tags, at), exif.numbers(tags, size), strict=False) for at, size in _DATA]
        ends = [at + size for parts in pairs for at, size in parts]
        if _is_mosaic(tags) and max(ends, default=len(data) + 1) > len(data):
            raise TruncatedImage(_CUT)


def _is_mosaic(tags: exif.Tags) -> bool:
    """Whether a directory is that of a sensor's values."""
    return exif.number(tags, _PHOTOMETRIC, 1) in _MOSAICS


def decode(data: bytes, page: Layout) -> Samples:
    """Decode the pixels of a deep TIFF, as they are stored (not turned, not converted).

    Raises:
        UnsupportedFormat: a color model, depth or compression that is not on the list.
        CorruptImage, TruncatedImage: the header contradicts itself or the length of the file.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first = file.pages.first
        _check(first, page, len(data))
        values = first.asarray(maxworkers=1)
    # One plane after the other: (C, H, W).
    if page.samples > 1 and first.planarconfig == 2:
        values = np.moveaxis(values, 0, 2)
    values = values.reshape(page.height, page.width, page.samples)
    model, colors = _MODELS[page.photometric]
    kind = exif.number(page.tags, _EXTRA, _STRAIGHT)
    has_alpha = page.samples > colors and kind in (_PREMULTIPLIED, _STRAIGHT)
    alpha = values[:, :, colors] if has_alpha else None  # further samples are dropped
    inverted = page.photometric == _WHITE_IS_ZERO
    return Samples(values[:, :, :colors], model, alpha, inverted, has_alpha and kind == _PREMULTIPLIED)


def _check(first: Any, page: Layout, length: int) -> None:
    """Check a page before it is decoded: ``first`` is tifffile's reading of the same page."""
    depths = "u1 u2" if page.photometric in _LAB else "u1 u2 u4 i2 i4 f2 f4 f8"
    if page.photometric not in _MODELS or first.dtype is None or first.dtype.str[1:] not in depths:
        raise UnsupportedFormat(
            f"TIFF with color model {page.photometric} and {page.bits} bits is not supported; save it as RGB of 8 or "
            "16 bits a channel"
        )
    if first.compression not in _COMPRESSIONS:
        raise UnsupportedFormat(
            f"TIFF compression {first.compression} is not supported at {page.bits} bits; use deflate, LZW or none"
        )
    size = (page.height, page.width)
    planes = first.planarconfig == 2 and page.samples > 1
    shape = size if page.samples == 1 else (page.samples, *size) if planes else (*size, page.samples)
    colors = _MODELS[page.photometric][1]
    if first.shape != shape or not colors <= page.samples <= colors + 4:
        raise CorruptImage(f"the TIFF header says {size} pixels of {page.samples} samples, and {first.shape}")
    places, sizes = (np.array(values, dtype=np.int64) for values in (first.dataoffsets, first.databytecounts))
    longest = max(4096, *size)
    if first.is_tiled and not all(16 <= side <= longest for side in (first.tilewidth, first.tilelength)):
        raise CorruptImage(f"the TIFF header says tiles of {first.tilewidth}x{first.tilelength}")
    if not sizes.all() or not places.size == sizes.size == math.prod(first.chunked):
        raise CorruptImage(f"the TIFF header lists {places.size} strips or tiles and {np.count_nonzero(sizes)} lengths")
    if (places + sizes).max() > length or (first.compression == 1 and sizes.sum() < first.nbytes):
        raise TruncatedImage(_CUT)
    if sizes.sum() > length:
        raise CorruptImage("the strips or tiles overlap: together they are longer than the file")
