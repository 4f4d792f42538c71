"""ICC profiles: our own, and whether a stranger's can be handed to Little CMS, which makes room for as many entries as
a profile claims to have before it looks whether they are there.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import ImageCms

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
