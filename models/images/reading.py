"""From the bytes of a file to a photo: which decoder reads it, and what goes with the pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import (
    headers as image_headers,
)
from models.images import (
    png,
    profile,
    tiff,
)
from models.images.color import deep_to_srgb, to_srgb
from models.images.contents import GAIN_MAP, contents
from models.images.limits import CorruptImage, ImageError, ImageLimits, TruncatedImage
from models.images.mending import Mended, candidates, ends_early, filled
from models.images.metadata import collect, tiff_resolution
from models.images.modes import Samples, deep_grey, exif_orientation, upright
from models.images.photo import Photo

Array = NDArray[Any]

_LINEAR = "the file does not say how its floating-point values are encoded; they are taken as sRGB, not as linear light"
_NO_GAIN_MAP = "the HDR gain map is left out: screens with HDR show the result like any other"


def photo_of(data: bytes, limits: ImageLimits, shrink_to: int | None = None, *, ended: bool = True) -> Photo:
    """As :func:`models.images.decode`; Pillow's plugins raise more. ``ended``: its end must be there."""
    layout = image_headers.tiff_layout(data, limits)
    if layout is not None and layout.deep:
        return _told(_deep_tiff(data, layout), data, layout)
    with image_headers.open_image(data, limits) as image:
        if ended:
            image_headers.check_end(data)
        image.info["icc_profile"] = _stated(image, data, layout)
        if png.is_deep(data):
            photo = _deep_png(data, image)
        else:
            if shrink_to is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (shrink_to, shrink_to))
            image.load()
            photo = _to_photo(image)
        return _told(photo, data, layout, image)


def copies(data: bytes, limits: ImageLimits, error: ImageError) -> Iterator[Mended]:
    """Copies of a damaged file that may decode."""
    if limits.strict or not isinstance(error, CorruptImage | TruncatedImage):
        return
    with contextlib.suppress(Exception):  # whatever comes of damage: there are no more
        yield from candidates(data, limits)


def nearly_whole(data: bytes, limits: ImageLimits, error: ImageError) -> Photo | None:
    """The photo of a file that is nearly whole, with a note."""
    for found in copies(data, limits, error):
        with contextlib.suppress(Exception):  # this copy does not decode either
            photo, note = photo_of(found.data, limits, ended=not found.other), found.note
            if found.other:
                result = filled(photo.pixels, photo_of(found.other, limits, ended=False).pixels)
                if result is None:
                    return None
                pixels, lines, side = result
                note = ends_early(lines, side) if lines else note
                photo = replace(photo, pixels=pixels)
            return replace(photo, notes=(*photo.notes, note))
    return None


def _deep_tiff(data: bytes, layout: tiff.Layout) -> Photo:
    icc = profile.tiff(layout.directory, layout.photometric, layout.floating)
    notes = (_LINEAR,) if layout.floating and not icc else ()
    photo = _from_samples(tiff.decode(data, layout), icc, image_headers.tiff_orientation(layout), "TIFF")
    return replace(photo, notes=notes)


def _deep_png(data: bytes, image: Image.Image) -> Photo:
    turn = image_headers.orientation(image, data)
    return _from_samples(png.decode(data, image.size), image.info["icc_profile"], turn, "PNG")


def _from_samples(samples: Samples, source: bytes | None, turn: int, name: str) -> Photo:
    pixels, alpha, icc = deep_to_srgb(samples, source)
    alpha = None if alpha is None else upright(alpha, turn)
    return Photo(upright(pixels, turn), alpha, icc, name, grey=samples.model == "GRAY")


def _to_photo(image: Image.Image) -> Photo:
    turn = exif_orientation(image)  # 1 for TIFF, which Pillow has turned by now
    icc: bytes | None = None
    alpha: Array | None = None
    name = image_headers.name_of(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        pixels = deep_grey(image)
    else:
        if image.has_transparency_data:
            transparent = image.convert("RGBA")
            alpha = upright(np.asarray(transparent.getchannel("A")), turn)
            image = image.convert("L") if image.mode in ("1", "L", "LA", "La") else transparent.convert("RGB")
        colour, icc = to_srgb(image)
        pixels = np.asarray(colour)
    grey = pixels.ndim == 2
    return Photo(upright(np.repeat(pixels[:, :, None], 3, 2) if grey else pixels, turn), alpha, icc, name, grey=grey)


def _stated(image: Image.Image, data: bytes, layout: tiff.Layout | None) -> bytes | None:
    """The profile of the picture's colors, embedded or not."""
    icc: bytes | None = image.info.get("icc_profile")
    grey = image.mode in ("1", "L", "LA")
    if layout is not None:
        return profile.tiff(layout.directory, layout.photometric)
    if image.format == "PNG":
        return profile.png(data, icc)
    if image.format == "BMP":
        return profile.bmp(data)
    return icc or (profile.exif(image.info.get("exif"), grey) if image.format in ("JPEG", "MPO") else None)


def _told(photo: Photo, data: bytes, layout: tiff.Layout | None, image: Image.Image | None = None) -> Photo:
    """With what the file tells beside its pixels, and the names of what is left out."""
    beside = contents(data, layout)
    if layout is not None:
        turn, dpi = image_headers.tiff_orientation(layout), tiff_resolution(layout.directory)
        told, dropped = collect(layout.directory, layout.xmp, dpi, turn, beside)
    else:
        info = {} if image is None else image.info
        xmp = info.get("xmp") or beside.xmp
        turn = 1 if image is None else exif_orientation(image)
        told, dropped = collect(info.get("exif"), xmp, info.get("dpi"), turn, beside)
    notes = [*photo.notes, *_left_out(layout, image)]
    if GAIN_MAP in dropped:
        notes.append(_NO_GAIN_MAP)
    return replace(photo, metadata=told, dropped=dropped, notes=tuple(notes))


def _left_out(layout: tiff.Layout | None, image: Image.Image | None) -> Iterator[str]:
    if layout is not None and layout.several:
        yield "only the first page of the file is taken"
    elif image is not None and image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        yield f"only the first of {frames} frames is taken"
