"""ICC profiles: our own, and whether a stranger's can be handed to Little CMS, which makes room for as many entries as
a profile claims to have before it looks whether they are there.
"""

from __future__ import annotations

import functools
import math
import struct

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
