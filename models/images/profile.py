"""Colors that a file states, as an ICC profile: the embedded one, PNG's chunks, TIFF's tags, EXIF's Adobe RGB, BMP's
header. Little CMS makes the profiles.
"""

from __future__ import annotations

import functools
import math
import struct
from typing import Any

import numpy as np
from PIL import ImageCms

from models.images import exif as image_exif
from models.images import png as image_png
from models.images.limits import ImageError, UnsupportedFormat
from models.images.photo import Array

Chromaticities = tuple[float, ...]  # x and y of white, red, green, blue

_LONGEST = 16 << 20
_MOST_TAGS = 100  # as in Little CMS
_HEADER = 128
_MADE = slice(24, 36)  # when a profile was made, which would be now
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
_HDR = {16: "PQ", 18: "HLG"}
_UNSPECIFIED = 2
_LIKE_SRGB = 0.005  # of chromaticities
_LIKE_GAMMA_22 = 0.05  # as in libpng: such a gamma means the sRGB curve
_LIKE_CURVE = 0.04  # between the sRGB curve and a power of 2.2
_POINTS = 4096  # of a curve; Little CMS takes up to 32,767
_GRAY_POINTS = 1024  # of the one that is embedded
_TRANSFER, _WHITE, _PRIMARY, _ICC, _COLOR_SPACE = 301, 318, 319, 34675, 0xA001
_ADOBE = 2
_MATRIX_MODELS, _GRAYS = (0, 1, 2, 6), (0, 1)  # of TIFF


def _piecewise(power: float, offset: float, slope: float, below: float) -> Array:
    """A curve from stored values to light: linear below a value, a shifted power above it."""
    x = np.linspace(0, 1, _POINTS)
    return np.where(x < below, x / slope, ((x + offset) / (1 + offset)) ** power)


_SRGB_CURVE = _piecewise(2.4, 0.055, 12.92, 0.04045)  # IEC 61966-2-1
_BT709 = _piecewise(1 / 0.45, 0.099, 4.5, 0.081)
_CURVES: dict[int, float | Array | None] = {
    1: _BT709, 4: 2.2, 5: 2.8, 6: _BT709, 8: 1.0, 13: None, 14: _BT709, 15: _BT709,
}  # fmt: skip


@functools.cache
def srgb_profile() -> bytes:
    """Return an sRGB profile, the same bytes every time."""
    return _dated(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


@functools.cache
def srgb_gray_profile() -> bytes:
    """Return a gray profile with the curve of sRGB, the same bytes every time."""
    import imagecodecs

    table = _table(np.interp(np.linspace(0, 1, _GRAY_POINTS), np.linspace(0, 1, _POINTS), _SRGB_CURVE))
    return _dated(imagecodecs.cms_profile("gray", whitepoint=list(_D65), transferfunction=table))


def _dated(profile: bytes) -> bytes:
    return profile[: _MADE.start] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[_MADE.stop :]


def _table(curve: Array) -> Array:
    table: Array = np.rint(curve * 65_535).astype(np.uint16)
    return table


def is_hdr(profile: bytes) -> bool:
    """Return whether a profile is one of PQ or HLG: by its tag cicp (ICC.1:2022, 9.2.17) or its name (BT.2100)."""
    at = profile.find(b"cicp\0\0\0\0")
    return (at >= 0 and profile[at + 9 : at + 10] in (b"\x10", b"\x12")) or b"2100" in profile.replace(b"\0", b"")


def is_sound(profile: bytes) -> bool:
    """Return whether every tag lies inside the profile and holds what it claims to (ICC.1:2022, sections 7.3 and 10):
    Little CMS makes room for what is claimed.
    """
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
    # mluc: records of 12 bytes; curv: of 2; tables: a grid of all inputs, times the outputs.
    if kind in (b"mluc", b"curv"):
        claimed = struct.unpack_from(">I", tag, 8)[0] * (12 if kind == b"mluc" else 2)
    elif kind in (b"mft1", b"mft2"):
        claimed = tag[10] ** tag[8] * tag[9]
    elif kind in (b"mAB ", b"mBA ") and len(tag) >= 32:
        at = struct.unpack_from(">I", tag, 24)[0]
        claimed = math.prod(tag[at : at + min(tag[8], 16)]) * tag[9] if at else 0
    return claimed <= len(tag)


def png(data: bytes, icc: bytes | None) -> bytes | None:
    """Find the profile of a PNG by the order of precedence of its specification (third edition, 4.3): cICP, iCCP, sRGB,
    then gAMA with cHRM. A gamma close to 1/2.2 counts as sRGB, which it stands for in nearly all files.

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
        if name in image_png.COLORS and image_png.is_sound(data, (name, at, length)):
            found.setdefault(name, data[at : at + length])
    gray = data[25] in (0, 4)
    code = found.get(b"cICP", b"")
    if len(code) == 4 and _UNSPECIFIED not in code[:2]:
        return _coded(code, gray)
    if (icc and is_sound(icc)) or b"sRGB" in found:
        return icc
    curve = None
    if len(gamma := found.get(b"gAMA", b"")) == 4 and (value := struct.unpack(">I", gamma)[0] / 100_000):
        curve = None if abs(value * 2.2 - 1) < _LIKE_GAMMA_22 else 1 / value
    whole = found.get(b"cHRM", b"")
    points = tuple(value / 100_000 for value in struct.unpack(">8I", whole)) if len(whole) == 32 else _SRGB
    return stated(points, curve, gray) or icc


def _coded(code: bytes, gray: bool) -> bytes | None:
    primaries, transfer, matrix, full = code
    if transfer in _HDR:
        raise UnsupportedFormat(f"HDR pictures ({_HDR[transfer]}) are not supported; convert it to SDR (sRGB) first")
    if primaries not in _PRIMARIES or transfer not in _CURVES or matrix or full != 1:
        raise UnsupportedFormat(f"the colors of this PNG (cICP {(*code,)}) are not supported; convert it to sRGB first")
    return stated(_PRIMARIES[primaries], _CURVES[transfer], gray)


def heif(code: tuple[int, ...] | None, icc: bytes | None, gray: bool) -> bytes | None:
    """Find the profile of an AVIF or HEIC: the embedded one, or one made from its color numbers. BT.709's curve counts
    as sRGB's: stills that tell it are made, and shown, like others.

    Args:
        code: primaries, transfer and more, as in cICP; None where it tells none.
        icc: the embedded one.
        gray: the picture has one channel.

    Raises:
        UnsupportedFormat: HDR.
    """
    primaries, transfer = (_UNSPECIFIED, _UNSPECIFIED) if code is None else code[:2]
    if transfer in _HDR:
        raise UnsupportedFormat(f"HDR pictures ({_HDR[transfer]}) are not supported; convert it to SDR (sRGB) first")
    if icc and is_sound(icc):
        return icc
    curve = _CURVES.get(transfer)
    return stated(_PRIMARIES.get(primaries, _SRGB), None if curve is _BT709 else curve, gray) or icc


def tiff(data: bytes, tags: image_exif.Tags, photometric: int, floating: bool) -> bytes | None:
    """Find the profile of a TIFF: the embedded one, or one made from its WhitePoint, PrimaryChromaticities and
    TransferFunction (TIFF 6.0, section 20), or from its EXIF. A transfer function close to the sRGB curve counts as
    that.
    """
    icc = image_exif.raw(tags, _ICC) or None
    if photometric not in _MATRIX_MODELS or (icc and is_sound(icc)):
        return icc
    white, primaries = (tuple(map(float, image_exif.numbers(tags, tag))) for tag in (_WHITE, _PRIMARY))
    points = (*(white if len(white) == 2 else _D65), *(primaries if len(primaries) == 6 else _SRGB[2:]))
    table = None if floating or photometric == 0 else _transfer(image_exif.numbers(tags, _TRANSFER))
    if table is not None or points != _SRGB:
        return stated(points, table, photometric in _GRAYS) or icc
    return exif(data, photometric in _GRAYS) or icc


def exif(block: Any, gray: bool) -> bytes | None:
    """Return a profile of Adobe RGB where EXIF says so: by its interoperability index (DCF 2.0: R03), or as many
    programs do.
    """
    if not isinstance(block, bytes):
        return None
    block = block.removeprefix(b"Exif\0\0")
    try:
        tags = image_exif.inner(block, image_exif.first(block), image_exif.EXIF)
        space = 0 if tags is None else image_exif.number(tags, _COLOR_SPACE)
        index = None if tags is None else image_exif.inner(block, tags, image_exif.INTEROPERABILITY)
    except ImageError:
        return None
    adobe = space == _ADOBE or (space != 1 and index is not None and str(index.get(1, "")).startswith("R03"))
    return stated(_ADOBE_RGB, _ADOBE_GAMMA, gray) if adobe else None


def bmp(data: bytes) -> bytes | None:
    """Read the profile inside a BMP, version 5; None where there is none."""
    if len(data) < 138 or struct.unpack_from("<I", data, 14)[0] < 124 or data[70:74] != b"DEBM":
        return None
    at, size = struct.unpack_from("<II", data, 126)
    return data[14 + at : 14 + at + size]


def _transfer(values: tuple[Any, ...]) -> Array | None:
    """(1 or 3, N) of a TransferFunction, or None for one that is missing, damaged or like sRGB's."""
    count = 3 if len(values) % 3 == 0 else 1
    if not 16 * count <= len(values) <= 3 << 16:
        return None
    light = np.array(values, np.float64).reshape(count, -1) / 65_535
    size = light.shape[1]
    if (np.diff(light) < 0).any() or not light.min() >= 0 or light.max() > 1 or light[:, -1].min() < 0.5:
        return None
    places = np.linspace(0, size - 1, min(size, _POINTS))
    light = np.stack([np.interp(places, np.arange(size), line) for line in light])
    like = np.interp(np.linspace(0, 1, light.shape[1]), np.linspace(0, 1, _POINTS), _SRGB_CURVE)
    return None if np.abs(_shown(light) - _shown(like)).max() < _LIKE_CURVE else light


def _shown(light: Array) -> Array:
    return np.interp(light, _SRGB_CURVE, np.linspace(0, 1, _POINTS))


def _spans(points: Chromaticities) -> bool:
    """Whether chromaticities may be those of a display: a triangle, and a white."""
    white, (r, s, g, h, b, c) = points[:2], points[2:]
    # Twice that of the triangle.
    area = abs((g - r) * (c - s) - (b - r) * (h - s))
    return area > 0.01 and max(points) < 1.5 and min(white) > 0.1 and sum(white) < 0.95


def stated(points: Chromaticities, curve: float | Array | None, gray: bool = False) -> bytes | None:
    """Make a profile of these chromaticities and this curve from stored values to light: a power, a table, three
    tables, or None for sRGB's. Return None for sRGB itself, and where no profile can be made.
    """
    if not _spans(points):
        points = _SRGB
    like = max(abs(a - b) for a, b in zip(points, _SRGB, strict=True)) < _LIKE_SRGB or gray
    if (curve is None and like) or (isinstance(curve, float) and not 0.2 < curve < 8):
        return None

    import imagecodecs  # where a profile is made: nearly all files are sRGB, and read without it

    points = _SRGB if like else points
    options: dict[str, Any] = {"gamma": curve}
    if not isinstance(curve, float):
        options = {"transferfunction": _table(_SRGB_CURVE if curve is None else curve).squeeze()}
    if not gray:
        options["primaries"] = list(points[2:])
    try:
        made: bytes = imagecodecs.cms_profile("gray" if gray else "rgb", whitepoint=list(points[:2]), **options)
    except imagecodecs.CmsError:
        return None
    return made
