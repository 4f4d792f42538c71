"""Colors that a file states by other means than an embedded profile, as a profile: PNG's chunks, TIFF's tags, EXIF's
Adobe RGB, BMP's header.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms

from models.images import png as image_png
from models.images.directory import EXIF_IFD, Directory, directory, first_directory
from models.images.limits import ImageError, UnsupportedFormat

_LONGEST = 16 << 20
_MOST_TAGS = 100  # as in Little CMS
_HEADER = 128


@functools.cache
def srgb_profile() -> bytes:
    """An sRGB profile, the same bytes every time."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # its creation time, which would be now
    return bytes(data)


@functools.cache
def srgb_grey_profile() -> bytes:
    """The same for grey: it calls itself sRGB too."""
    return grey_profile(srgb_profile())


def grey_profile(rgb: bytes) -> bytes:
    """A profile for grey with the white and the (green) curve of one for RGB."""
    tags = tags_of(rgb)
    kept = {name: tags[name] for name in (b"desc", b"cprt", b"wtpt", b"chad") if name in tags}
    return _assembled(rgb[:16] + b"GRAY" + rgb[20:_HEADER], kept | {b"kTRC": tags[b"gTRC"]})


def rgb_profile(points: Sequence[float], curves: Sequence[Sequence[float] | bytes]) -> bytes | None:
    """A profile from chromaticities, or None when there is no such.

    Args:
        points: x and y of white, red, green, blue.
        curves: one for all channels or three, from stored values to light: a power; nothing for sRGB; g, a, b, c, d
            of ``(a x + b)**g`` from d on and ``c x`` below it; or what :func:`table_curve` gives.
    """
    import imagecodecs

    try:
        made = imagecodecs.cms_profile("rgb", whitepoint=list(points[:2]), primaries=list(points[2:]), gamma=1.0)
    except imagecodecs.CmsError:
        return None
    tags = tags_of(made)
    packed = [curve if isinstance(curve, bytes) else _curve(curve) for curve in curves]
    for name, index in ((b"rTRC", 0), (b"gTRC", 1), (b"bTRC", 2)):
        tags[name] = packed[index % len(packed)]
    return _assembled(made[:_HEADER], tags)


def table_curve(values: NDArray[Any]) -> bytes:
    """A curve of evenly spaced uint16."""
    return b"curv\0\0\0\0" + struct.pack(">I", values.size) + values.astype(">u2").tobytes()


def tags_of(profile: bytes) -> dict[bytes, bytes]:
    """The tags of a profile that :func:`is_sound`."""
    count = struct.unpack_from(">I", profile, _HEADER)[0]
    entries = struct.iter_unpack(">4sII", profile[_HEADER + 4 : _HEADER + 4 + 12 * count])
    return {name: profile[at : at + size] for name, at, size in entries}


def is_hdr(profile: bytes) -> bool:
    """Whether a sound profile is one of PQ or HLG: by its tag cicp (ICC.1:2022, 9.2.17), or by its name (BT.2100)."""
    tags = tags_of(profile)
    text = tags.get(b"desc", b"").replace(b"\0", b"")
    return tags.get(b"cicp", b"")[9:10] in (b"\x10", b"\x12") or b"2100" in text


def _curve(numbers: Sequence[float]) -> bytes:
    if not numbers:
        return tags_of(srgb_profile())[b"gTRC"]
    kind = 0 if len(numbers) == 1 else 3
    fixed = struct.pack(f">{len(numbers)}i", *(round(number * 65_536) for number in numbers))
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed


def _assembled(head: bytes, tags: dict[bytes, bytes]) -> bytes:
    at = _HEADER + 4 + 12 * len(tags)
    entries, body = b"", b""
    for name, tag in tags.items():
        entries += name + struct.pack(">II", at + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    whole = head[4:36] + b"acsp" + head[40:_HEADER] + struct.pack(">I", len(tags)) + entries + body
    return struct.pack(">I", len(whole) + 4) + whole


def is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether a profile calls itself sRGB.

    Raises:
        PyCMSError: it cannot say.
    """
    return ImageCms.getProfileDescription(profile).startswith("sRGB")


def is_sound(profile: bytes) -> bool:
    """Whether every tag lies inside the profile and holds what it claims to (ICC.1:2022, sections 7.3 and 10)."""
    if not _HEADER + 4 <= len(profile) <= _LONGEST or profile[36:40] != b"acsp":
        return False
    count = struct.unpack_from(">I", profile, _HEADER)[0]
    if count > _MOST_TAGS or _HEADER + 4 + 12 * count > len(profile):
        return False
    places = struct.iter_unpack(">4xII", profile[_HEADER + 4 : _HEADER + 4 + 12 * count])
    return all(at + size <= len(profile) and _fits(profile[at : at + size]) for at, size in places)


def _fits(tag: bytes) -> bool:
    kind, claimed = tag[:4], 0
    if len(tag) < 12:
        return False
    if kind in (b"mluc", b"curv"):
        claimed = struct.unpack_from(">I", tag, 8)[0] * (12 if kind == b"mluc" else 2)
    elif kind in (b"mft1", b"mft2"):
        claimed = tag[10] ** tag[8] * tag[9]
    elif kind in (b"mAB ", b"mBA ") and len(tag) >= 32:
        at = struct.unpack_from(">I", tag, 24)[0]
        claimed = math.prod(tag[at : at + min(tag[8], 16)]) * tag[9] if at else 0
    return claimed <= len(tag)


Array = NDArray[Any]
Chromaticities = tuple[float, ...]  # x and y of white, red, green, blue

_D65 = (0.3127, 0.3290)
_SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE_RGB: Chromaticities = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_ADOBE_GAMMA = 563 / 256
# ITU-T H.273, tables 2 and 3: what cICP's numbers mean.
_PRIMARIES: dict[int, Chromaticities] = {
    1: _SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: dict[int, tuple[float, ...]] = {
    1: _BT709, 4: (2.2,), 5: (2.8,), 6: _BT709, 8: (1.0,), 13: (), 14: _BT709, 15: _BT709,
}  # fmt: skip
_HDR = {16: "PQ", 18: "HLG"}
_UNSPECIFIED = 2
_LIKE_SRGB = 0.005  # of chromaticities
_LIKE_GAMMA_22 = 0.05  # as in libpng: such a gamma means the sRGB curve
_LIKE_CURVE = 0.04  # between the sRGB curve and a power of 2.2
_POINTS = 4096  # of a curve; Little CMS takes up to 32,767
_TRANSFER, _WHITE, _PRIMARY, _ICC = 301, 318, 319, 34675
_COLOR_SPACE, _INTEROPERABILITY = 0xA001, 0xA005
_ADOBE = 2
_MATRIX_MODELS, _GREYS = (0, 1, 2, 6), (0, 1)  # of TIFF


def png(data: bytes, icc: bytes | None) -> bytes | None:
    """The profile of a PNG by the order of precedence of its specification (third edition, 4.3): cICP, iCCP, sRGB, then
    gAMA with cHRM. A gamma close to 1/2.2 counts as sRGB, which it stands for in nearly all files.

    Args:
        data: the file.
        icc: what its iCCP holds.

    Raises:
        UnsupportedFormat: HDR, or what cICP may say and nobody writes.
    """
    found: dict[bytes, bytes] = {}
    for name, at, length in image_png.chunks(data):
        if name == b"IDAT":
            break
        if name in image_png.COLORS and image_png.is_sound(data, name, at, length):
            found.setdefault(name, data[at : at + length])
    grey = data[25] in (0, 4)
    code = found.get(b"cICP", b"")
    if len(code) == 4 and _UNSPECIFIED not in code[:2]:
        return _coded(tuple(code), grey)
    if (icc and is_sound(icc)) or b"sRGB" in found:
        return icc
    curve: tuple[float, ...] = ()
    if len(gamma := found.get(b"gAMA", b"")) == 4 and (value := struct.unpack(">I", gamma)[0] / 100_000):
        curve = () if abs(value * 2.2 - 1) < _LIKE_GAMMA_22 else (1 / value,)
    whole = found.get(b"cHRM", b"")
    points = tuple(value / 100_000 for value in struct.unpack(">8I", whole)) if len(whole) == 32 else _SRGB
    return _profile(points, curve, grey) or icc


def _coded(code: tuple[int, ...], grey: bool) -> bytes | None:
    primaries, transfer, matrix, full = code
    if transfer in _HDR:
        raise UnsupportedFormat(f"HDR pictures ({_HDR[transfer]}) are not supported; convert it to SDR (sRGB) first")
    if primaries not in _PRIMARIES or transfer not in _CURVES or matrix or full != 1:
        raise UnsupportedFormat(f"the colors of this PNG (cICP {code}) are not supported; convert it to sRGB first")
    return _profile(_PRIMARIES[primaries], _CURVES[transfer], grey)


def tiff(tags: Directory, photometric: int, floating: bool = False) -> bytes | None:
    """The profile of a TIFF: the embedded one, or what its WhitePoint, PrimaryChromaticities and TransferFunction say
    (TIFF 6.0, section 20), or its EXIF. A transfer function close to the sRGB curve counts as that.
    """
    if (icc := tags.raw(_ICC)) and is_sound(icc):
        return icc
    if photometric not in _MATRIX_MODELS:
        return icc
    grey = photometric in _GREYS
    white, primaries = _rationals(tags, _WHITE, 2) or _D65, _rationals(tags, _PRIMARY, 6) or _SRGB[2:]
    tables = None if floating or photometric == 0 else _tables(tags.numbers(_TRANSFER))
    if tables is not None or (*white, *primaries) != _SRGB:
        return _profile((*white, *primaries), () if tables is None else tables, grey) or icc
    return _adobe(tags, grey) or icc


def exif(block: Any, grey: bool) -> bytes | None:
    """Adobe RGB, where EXIF says so: by its interoperability index (DCF 2.0: R03), or as many programs do."""
    if not isinstance(block, bytes):
        return None
    try:
        return _adobe(first_directory(block.removeprefix(b"Exif\0\0")), grey)
    except ImageError:
        return None


def bmp(data: bytes) -> bytes | None:
    """The profile inside a BMP, version 5."""
    if len(data) < 138 or struct.unpack_from("<I", data, 14)[0] < 124 or data[70:74] != b"DEBM":
        return None
    at, size = struct.unpack_from("<II", data, 126)
    return data[14 + at : 14 + at + size]


def _adobe(tags: Directory, grey: bool) -> bytes | None:
    try:
        inner = directory(tags.source, tags.order, at) if (at := tags.number(EXIF_IFD)) else None
        if inner is None:
            return None
        space, where = inner.number(_COLOR_SPACE), inner.number(_INTEROPERABILITY)
        index = directory(tags.source, tags.order, where).raw(1) if where and space != 1 else b""
    except ImageError:
        return None
    return _profile(_ADOBE_RGB, (_ADOBE_GAMMA,), grey) if space == _ADOBE or index[:3] == b"R03" else None


def _rationals(tags: Directory, tag: int, count: int) -> Chromaticities | None:
    raw = tags.raw(tag)
    if len(raw) != 8 * count:
        return None
    values = struct.unpack(f"{tags.order}{2 * count}I", raw)
    return tuple(a / b if b else 0.0 for a, b in zip(values[::2], values[1::2], strict=True))


def _tables(values: Array) -> Array | None:
    """(1 or 3, N) of a TransferFunction, or None for one that is missing, damaged or like sRGB's."""
    count = 3 if values.size % 3 == 0 else 1
    if values.dtype.itemsize != 2 or not 16 * count <= values.size <= 3 << 16:
        return None
    tables = values.reshape(count, -1).astype(np.uint16)
    light = tables / 65_535
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    if (np.diff(tables.astype(int), axis=1) < 0).any() or light[:, -1].min() < 0.5:
        return None
    if np.abs(shown - np.linspace(0, 1, shown.shape[1])).max() < _LIKE_CURVE:
        return None
    places = np.linspace(0, tables.shape[1] - 1, min(tables.shape[1], _POINTS))
    return np.stack([np.interp(places, np.arange(table.size), table).round().astype(np.uint16) for table in tables])


def _spans(points: Chromaticities) -> bool:
    """Whether chromaticities may be those of a display: a triangle, and a white."""
    white, (r, s, g, h, b, c) = points[:2], points[2:]
    area = abs((g - r) * (c - s) - (b - r) * (h - s))
    return area > 0.01 and max(points) < 1.5 and min(white) > 0.1 and sum(white) < 0.95


def _profile(points: Chromaticities, curve: tuple[float, ...] | Array, grey: bool) -> bytes | None:
    """None for sRGB, and for what cannot be."""
    if not _spans(points):
        points = _SRGB
    like = max(abs(a - b) for a, b in zip(points, _SRGB, strict=True)) < _LIKE_SRGB or grey
    if isinstance(curve, tuple) and ((not curve and like) or (curve and not 0.2 < curve[0] < 8)):
        return None
    curves = [table_curve(table) for table in curve] if isinstance(curve, np.ndarray) else [curve]
    made = rgb_profile(_SRGB if like else points, curves)
    return grey_profile(made) if grey and made is not None else made
