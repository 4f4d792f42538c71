"""TIFF at full depth: 16-bit and float colour, and CIELAB, which Pillow cannot hold. tifffile does the work, on a copy
whose directory says nothing but the layout, after every number in it was checked.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.images.directory import Directory, Entry, first_directory, numbers_entry, with_directory
from models.images.limits import CorruptImage, TruncatedImage, UnsupportedFormat
from models.images.modes import Model, Samples

Array = NDArray[Any]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _PER_PIXEL, _ROWS, _STRIP_BYTES = 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 284, 317, 322, 323, 324, 325
_EXTRA, _SAMPLE_FORMAT, _XMP, _DNG = 338, 339, 700, 50706

_MODELS: dict[int, tuple[Model, int]] = {
    0: ("GRAY", 1),
    1: ("GRAY", 1),
    2: ("RGB", 3),
    5: ("CMYK", 4),
    8: ("LAB", 3),
    9: ("LAB", 3),
}
_WHITE_IS_ZERO, _CIELAB, _ICCLAB = 0, 8, 9
_COMPRESSIONS = (1, 5, 8, 32946, 32773)  # none, LZW, deflate twice, PackBits: all bounded by the size of a strip
_DTYPES = {
    (1, 8): "u1", (1, 16): "u2", (1, 32): "u4", (2, 16): "i2", (2, 32): "i4",
    (3, 16): "f2", (3, 32): "f4", (3, 64): "f8",
}  # fmt: skip
_PREMULTIPLIED, _STRAIGHT = 1, 2
_KIND, _WITHIN, _MOSAICS = 254, 330, (32803, 34892)  # NewSubfileType, SubIFDs, color filter array and linear raw


@dataclass(frozen=True)
class Layout:
    """How the first page of a TIFF stores its pixels. Sizes are those of the stored picture, before it is turned."""

    directory: Directory
    width: int
    height: int
    photometric: int
    samples: int
    dtype: str | None
    bits: int
    several: bool

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1..8; 0 when there is none, 1 when it makes no sense."""
        value = self.directory.number(_ORIENTATION)
        return value if 0 <= value <= 8 else 1

    @property
    def deep(self) -> bool:
        """Whether :func:`decode` is needed: Pillow would cut the depth, or cannot read it at all."""
        return (self.bits > 8 and self.bits % 16 == 0) or self.photometric in (_CIELAB, _ICCLAB)

    @property
    def floating(self) -> bool:
        """Whether the samples are floating-point numbers."""
        return self.dtype is not None and self.dtype.startswith("f")

    @property
    def further_samples(self) -> bool:
        """Whether there are channels beside those of the color model and one of transparency."""
        colours = {3: 1, 6: 3}.get(self.photometric) or _MODELS.get(self.photometric, ("GRAY", self.samples))[1]
        kinds = self.directory.numbers(_EXTRA)
        alpha = not kinds.size or kinds[0] in (_PREMULTIPLIED, _STRAIGHT)
        return self.samples > colours + int(alpha)

    @property
    def xmp(self) -> bytes:
        """The embedded XMP packet, or nothing."""
        return self.directory.raw(_XMP)


def layout(data: bytes) -> Layout:
    """Read the header.

    Raises:
        CorruptImage, TruncatedImage: there is no sound one.
        UnsupportedFormat: a camera's raw file.
    """
    tags = first_directory(data)
    width, height = tags.number(_WIDTH), tags.number(_HEIGHT)
    if not width or not height:
        raise CorruptImage("the TIFF header says no size")
    if _is_raw(data, tags):
        raise UnsupportedFormat("this is a camera's raw file; develop it to JPEG, PNG or TIFF first")
    bits, kinds = tags.numbers(_BITS), tags.numbers(_SAMPLE_FORMAT)
    depth = int(bits.max()) if bits.size else 1
    uniform = not bits.size or bool((bits == bits[0]).all())
    uniform = uniform and (not kinds.size or bool((kinds == kinds[0]).all()))
    kind = int(kinds[0]) if kinds.size else 1
    return Layout(
        directory=tags,
        width=width,
        height=height,
        photometric=tags.number(_PHOTOMETRIC, 1),
        samples=tags.number(_PER_PIXEL, 1),
        dtype=_DTYPES.get((kind, depth)) if uniform else None,
        bits=depth,
        several=tags.next != 0,
    )


def decode(data: bytes, page: Layout) -> Samples:
    """The pixels of a deep TIFF, as they are stored (not turned, not converted).

    Raises:
        UnsupportedFormat: a colour model, depth or compression that is not on the list.
        CorruptImage, TruncatedImage: the header contradicts itself or the length of the file.
    """
    import tifffile

    _check_kind(page)
    with tifffile.TiffFile(io.BytesIO(_plain(data, page))) as file:
        first = file.pages.first
        planar = page.directory.number(_PLANAR, 1) == 2 and page.samples > 1
        size = (page.height, page.width)
        shape = size if page.samples == 1 else (page.samples, *size) if planar else (*size, page.samples)
        if first.shape != shape or first.dtype != np.dtype(page.dtype):
            raise CorruptImage(f"the TIFF header says {shape} {page.dtype} and {first.shape} {first.dtype}")
        values = first.asarray(maxworkers=1)
    if page.samples == 1:
        return _samples(values[:, :, None], page)
    return _samples(np.moveaxis(values, 0, 2) if planar else values, page)


def last_strip(page: Layout) -> tuple[int, int, int] | None:
    """(first byte, bytes of a row, rows) of the last strip of an uncompressed picture; None for other pictures."""
    tags, rows = page.directory, page.directory.number(_ROWS, page.height) or page.height
    strips = tags.numbers(_STRIPS)
    if tags.number(_COMPRESSION, 1) != 1 or not strips.size or strips[-1] != strips.max():
        return None
    if page.photometric not in _MODELS or (page.samples > 1 and tags.number(_PLANAR, 1) == 2):
        return None
    row = math.ceil(page.width * page.samples * page.bits / 8)
    return int(strips[-1]), row, page.height - rows * (strips.size - 1)


def encode(pixels: Array, icc: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """A deflated little-endian TIFF of (H, W) grey or (H, W, 2..4) uint16; 2 and 4 have straight alpha last."""
    import tifffile

    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    options: dict[str, Any] = {"photometric": "rgb" if channels >= 3 else "minisblack"}
    if channels > 1:
        options["planarconfig"] = "contig"
    if channels in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    if dpi is not None:
        options |= {"resolution": dpi, "resolutionunit": "INCH"}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.ascontiguousarray(pixels),
        byteorder="<",
        compression="zlib",
        predictor=True,
        iccprofile=icc,
        metadata=None,
        software=False,
        maxworkers=1,
        **options,
    )
    return buffer.getvalue()


def with_entries(file: bytes, entries: tuple[Entry, ...]) -> bytes:
    """A TIFF that :func:`encode` or Pillow wrote, with further tags."""
    if not entries or file[:2] != b"II":
        return file
    tags = first_directory(file)
    new = {entry.tag for entry in entries}
    return with_directory(file, (*entries, *(tags.entry(tag) for tag in tags.fields if tag not in new)))


def _is_raw(data: bytes, tags: Directory) -> bool:
    """DNG; CR2; a mosaic of color filters; NEF, ARW and such, whose first picture is a preview of another in it."""
    if _DNG in tags.fields or data[8:10] == b"CR" or tags.number(_PHOTOMETRIC) in _MOSAICS:
        return True
    return bool(tags.number(_KIND) & 1) and _WITHIN in tags.fields


def _check_kind(page: Layout) -> None:
    compression = page.directory.number(_COMPRESSION, 1)
    lab = page.photometric in (_CIELAB, _ICCLAB)
    known = page.photometric in _MODELS and page.dtype is not None and not (lab and page.dtype not in ("u1", "u2"))
    if not known:
        raise UnsupportedFormat(
            f"TIFF with colour model {page.photometric} and {page.bits} bits is not supported; save it as RGB of 8 or "
            "16 bits a channel"
        )
    if compression not in _COMPRESSIONS:
        raise UnsupportedFormat(
            f"TIFF compression {compression} is not supported at {page.bits} bits; use deflate, LZW or none"
        )
    if not _MODELS[page.photometric][1] <= page.samples <= _MODELS[page.photometric][1] + 4:
        raise CorruptImage(f"the TIFF header says {page.samples} samples a pixel for colour model {page.photometric}")


def _plain(data: bytes, page: Layout) -> bytes:
    """A copy of the file whose directory has the layout and nothing else, all of it checked."""
    tags, tiled = page.directory, _TILES in page.directory.fields
    offsets = tags.numbers(_TILES if tiled else _STRIPS)
    sizes = tags.numbers(_TILE_BYTES if tiled else _STRIP_BYTES)
    rows = min(tags.number(_ROWS, page.height) or page.height, page.height)
    block = (tags.number(_TILE_HEIGHT), tags.number(_TILE_WIDTH)) if tiled else (rows, page.width)
    planes = page.samples if tags.number(_PLANAR, 1) == 2 else 1
    _check_blocks(page, tiled, block, planes, offsets.size)
    if sizes.size == 0 and offsets.size == 1 and tags.number(_COMPRESSION, 1) == 1:
        sizes = np.array([_bytes(page)])  # old writers leave it out where it is plain
    _check_lengths(page, offsets, sizes, len(data))
    layout_tags = {
        _WIDTH: page.width, _HEIGHT: page.height, _COMPRESSION: tags.number(_COMPRESSION, 1), _PHOTOMETRIC: 1,
        _PER_PIXEL: page.samples, _PLANAR: 2 if planes > 1 else 1, _PREDICTOR: tags.number(_PREDICTOR, 1),
    }  # fmt: skip
    layout_tags |= {_TILE_WIDTH: block[1], _TILE_HEIGHT: block[0]} if tiled else {_ROWS: block[0]}
    kind = {"u": 1, "i": 2, "f": 3}[np.dtype(page.dtype).kind]
    values = {tag: np.array([value]) for tag, value in layout_tags.items()}
    values |= {_BITS: np.full(page.samples, page.bits), _SAMPLE_FORMAT: np.full(page.samples, kind)}
    values |= {_TILES: offsets, _TILE_BYTES: sizes} if tiled else {_STRIPS: offsets, _STRIP_BYTES: sizes}
    entries = tuple(numbers_entry(tag, array, tags.order) for tag, array in values.items())
    return with_directory(data, entries, tags.order)


def _bytes(page: Layout) -> int:
    return page.width * page.height * page.samples * page.bits // 8


def _check_blocks(page: Layout, tiled: bool, block: tuple[int, int], planes: int, count: int) -> None:
    longest = max(4096, page.width, page.height)
    if tiled and not all(16 <= side <= longest and side % 16 == 0 for side in block):
        raise CorruptImage(f"the TIFF header says tiles of {block[1]}x{block[0]}; expected multiples of 16")
    expected = math.ceil(page.height / block[0]) * math.ceil(page.width / block[1]) * planes
    if count != expected:
        raise CorruptImage(f"the TIFF header lists {count} strips or tiles; {page.width}x{page.height} need {expected}")


def _check_lengths(page: Layout, offsets: Array, sizes: Array, length: int) -> None:
    if sizes.size != offsets.size or not sizes.all():
        raise CorruptImage(
            f"the TIFF header lists {offsets.size} strips or tiles but {np.count_nonzero(sizes)} lengths"
        )
    if offsets.max() > length or sizes.max() > length or (offsets.astype(int) + sizes.astype(int)).max() > length:
        raise TruncatedImage("the file ends before the picture does: strips or tiles lie behind its end")
    if sizes.astype(int).sum() > length:
        raise CorruptImage("the strips or tiles overlap: together they are longer than the file")
    if page.directory.number(_COMPRESSION, 1) == 1 and sizes.astype(int).sum() < _bytes(page):
        raise TruncatedImage("the file ends before the picture does: its strips or tiles are too short")


def _samples(values: Array, page: Layout) -> Samples:
    """Colours apart from alpha; further samples are dropped, as is one that the header calls unspecified."""
    model, colours = _MODELS[page.photometric]
    kinds = page.directory.numbers(_EXTRA)
    kind = int(kinds[0]) if kinds.size else _STRAIGHT
    alpha = None
    if page.samples > colours and kind in (_PREMULTIPLIED, _STRAIGHT):
        alpha = values[:, :, colours]
    if page.photometric == _ICCLAB:
        model = "ICCLAB"
    inverted = page.photometric == _WHITE_IS_ZERO
    return Samples(values[:, :, :colours], model, alpha, inverted, alpha is not None and kind == _PREMULTIPLIED)
