"""Panoramas of 360 degrees, whose left and right ends meet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.images import Photo

# As an attribute or an element of XMP (Photo Sphere XMP metadata, namespace GPano)
_EQUIRECTANGULAR = re.compile(rb"\bGPano:ProjectionType(\s*=\s*[\"']|>)\s*equirectangular\b", re.IGNORECASE)
_FULL_WIDTH = re.compile(rb"\bGPano:FullPanoWidthPixels(\s*=\s*[\"']|>)\s*([0-9]{1,9})\b")


def goes_round(photo: Photo) -> bool:
    """Say whether the XMP of a photograph calls it an equirectangular panorama as wide as the whole circle."""
    packet = photo.metadata.xmp if photo.metadata is not None else None
    if packet is None or not _EQUIRECTANGULAR.search(packet):
        return False
    # A part of the circle has the same projection, and ends that do not meet.
    width = _FULL_WIDTH.search(packet)
    return width is not None and int(width[2]) == photo.pixels.shape[1]
