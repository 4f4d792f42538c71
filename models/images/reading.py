"""From the bytes of a file to a photo: which decoder reads it, and what goes with the pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from models.images import headers, png, profile, raw, tiff
from models.images.color import to_srgb
from models.images.contents import GAIN_MAP, contents
from models.images.heif import HeifLayout
from models.images.limits import RAW, CorruptImage, ImageError, ImageLimits, TruncatedImage
from models.images.mending import Mended, candidates, ends_early, filled
from models.images.metadata import collect, tiff_resolution
from models.images.photo import Array, Model, Photo, Samples, at_full_scale, upright

_LINEAR = "the file does not say how its floating-point values are encoded; they are taken as sRGB, not as linear light"
_NO_GAIN_MAP = "the HDR gain map is left out: screens with HDR show the result like any other"
_TEN_BITS = "the {} bits of each channel are taken as 8"
_MODELS: dict[str, Model] = {"L": "GRAY", "CMYK": "CMYK", "RGB": "RGB"}


def photo_of(data: bytes, limits: ImageLimits, shrink_to: int | None = None, *, ended: bool = True) -> Photo:
    """Do as :func:`models.images.decode`; Pillow's plugins raise more. ``ended``: its end must be there."""
    if headers.takes_raw(data, limits):
        return _developed(data, limits)
    layout = headers.tiff_layout(data, limits)
    if layout is not None and layout.deep:
        return _photo(tiff.decode(data, layout), data, layout, None)
    with headers.open_image(data, limits) as image:
        if ended and not headers.is_whole(data):
            raise TruncatedImage(
                f"the file ends before the picture does: the {headers.name_of(image)} file has no end marker"
            )
        if png.is_deep(data):
            return _photo(png.decode(data, image.size), data, layout, image)
        if shrink_to is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (shrink_to, shrink_to))
        return _photo(None, data, layout, image)


def copies(data: bytes, limits: ImageLimits, error: ImageError) -> Iterator[Mended]:
    """Yield copies of a damaged file that may decode; none of a raw file."""
    if limits.strict or not isinstance(error, CorruptImage | TruncatedImage) or raw.is_raw(data):
        return
    with contextlib.suppress(Exception):  # whatever comes of damage: there are no more
        yield from candidates(data, limits)


def nearly_whole(data: bytes, limits: ImageLimits, error: ImageError) -> Photo | None:
    """Decode the photo of a file that is nearly whole, with a note; None where no copy of it decodes."""
    for found in copies(data, limits, error):
        with contextlib.suppress(Exception):  # this copy does not decode either
            photo, note = photo_of(found.data, limits, ended=not found.other), found.note
            if found.other:
                result = filled(*(_planes(each) for each in (photo, photo_of(found.other, limits, ended=False))))
                if result is None:
                    return None
                planes, lines, side = result
                note = ends_early(lines, side) if lines else note
                alpha = None if photo.alpha is None else planes[:, :, 3]
                photo = replace(photo, pixels=np.ascontiguousarray(planes[:, :, :3]), alpha=alpha)
            return replace(photo, notes=(*photo.notes, note))
    return None


def _planes(photo: Photo) -> Array:
    return photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])


def _developed(data: bytes, limits: ImageLimits) -> Photo:
    pixels = raw.develop(data, limits)
    gray = pixels.shape[2] == 1
    told, dropped = collect(raw.exif_block(data), None, None, 1, pages=True)
    rgb = np.repeat(pixels, 3, axis=2) if gray else pixels
    return Photo(rgb, format=RAW, metadata=told, gray=gray, dropped=dropped)


def _photo(samples: Samples | None, data: bytes, layout: tiff.Layout | None, image: Image.Image | None) -> Photo:
    """Make a photo of deep samples, or of Pillow's image, with the file's metadata and the names of those that are left
    out.
    """
    boxed = None if image is None else headers.boxes(data)
    beside = contents(data, layout, boxed)
    info, notes = {} if image is None else image.info, []
    if layout is not None:
        stored = turn = headers.tiff_orientation(layout)
        icc = profile.tiff(data, layout.tags, layout.photometric, layout.floating)
        dpi = tiff_resolution(layout.tags)
        told, dropped = collect(data, layout.xmp, dpi, turn, beside, pages=True)
        # `turn` is the file's own, `stored` what is left to do.
        stored = turn if samples is not None else 1  # Pillow turns a TIFF
        notes += [_LINEAR] if samples is not None and layout.floating and not icc else []
        notes += ["only the first page of the file is taken"] if layout.tags.next else []
    elif image is not None:
        stored = turn = headers.orientation(image, data)
        icc = _icc(image, data, boxed)
        told, dropped = collect(info.get("exif"), info.get("xmp") or beside.xmp, info.get("dpi"), turn, beside)
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"only the first of {frames} frames is taken")
        notes += [_TEN_BITS.format(boxed.bits)] if boxed is not None and boxed.bits > 8 else []
    samples = samples or _samples(image)
    if layout is not None and samples.values.dtype == np.uint16 and layout.bits < 16:  # Pillow's gray of 12 bits
        samples = replace(samples, values=at_full_scale(samples.values, layout.bits))
    pixels, alpha, embedded = to_srgb(samples, icc)
    alpha = None if alpha is None else upright(alpha, stored)
    notes += [_NO_GAIN_MAP] if GAIN_MAP in dropped else []
    name = "TIFF" if image is None else headers.name_of(image)
    gray = samples.model == "GRAY"
    return Photo(upright(pixels, stored), alpha, embedded, name, told, gray, tuple(notes), dropped)


def _icc(image: Image.Image, data: bytes, boxed: HeifLayout | None) -> bytes | None:
    """The profile of the picture's colors, embedded or not."""
    icc: bytes | None = image.info.get("icc_profile")
    if image.format == "PNG":
        return profile.png(data, icc)
    if image.format == "BMP":
        return profile.bmp(data)
    gray = image.mode in ("1", "L", "LA")
    if boxed is not None:
        return profile.heif(boxed.nclx, icc, gray)
    return icc or (profile.exif(image.info.get("exif"), gray) if image.format in ("JPEG", "MPO") else None)


def _samples(image: Any) -> Samples:
    """Decode the samples of Pillow's image."""
    stated = image.size
    image.load()
    if image.format == "HEIF" and image.size != stated:
        raise CorruptImage(f"the picture has {image.width}x{image.height} pixels, and its header says {stated}")
    # Pillow's modes of more than 8 bits are all gray.
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return Samples(np.asarray(image)[:, :, None], "GRAY")
    alpha = None
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        alpha = np.asarray(transparent.getchannel("A"))
        image = image.convert("L") if image.mode in ("1", "L", "LA", "La") else transparent.convert("RGB")
    if image.mode not in _MODELS:
        image = image.convert("L" if image.mode == "1" else "RGB")
    values = np.asarray(image)
    return Samples(values.reshape(*values.shape[:2], -1), _MODELS[image.mode], alpha)
