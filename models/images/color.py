"""Colour models and ICC profiles: from what a file holds to sRGB, at 8 and at 16 bits a channel."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from models.images.limits import UnsupportedFormat
from models.images.modes import Samples, sixteen_bits, straight
from models.images.profile import is_hdr, is_sound, is_srgb, srgb_grey_profile, srgb_profile

Array = NDArray[Any]

_PROFILE_MODELS = {"GRAY": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
_BLOCK = 1 << 20  # pixels that are converted at once, so that memory stays that of the picture


def to_srgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """RGB in sRGB, or grey with its curve; and the profile to embed when there was one. ``image`` has no alpha.

    Raises:
        UnsupportedFormat: the profile is one of HDR.
    """
    source = image.info.get("icc_profile")
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    mode = "L" if image.mode == "L" else "RGB"
    if not source or not is_sound(source):
        return image.convert(mode), None
    _refuse_hdr(source)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(source))
        if is_srgb(profile):
            return image.convert(mode), srgb_profile()
        return _grey(image, profile) if mode == "L" else _colours(image, profile), srgb_profile()
    except (ImageCms.PyCMSError, OSError):  # damaged, or made for another colour model than the image's
        return image.convert(mode), None


def _colours(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    target = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    converted = ImageCms.profileToProfile(image, profile, target, outputMode="RGB")
    return image if converted is None else converted


def _grey(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Level by level: for grey of 8 bits, Little CMS's optimised tables are off by up to ten levels in the shadows."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(srgb_grey_profile()))
    levels = Image.frombytes("L", (256, 1), bytes(range(256)))
    flags = ImageCms.Flags.NOOPTIMIZE
    converted = ImageCms.profileToProfile(levels, profile, target, outputMode="L", flags=flags)
    return image if converted is None else image.point(converted.tobytes())


def deep_to_srgb(samples: Samples, source: bytes | None) -> tuple[Array, Array | None, bytes | None]:
    """What :func:`to_srgb` does, for deep samples.

    Returns:
        (H, W, 3) sRGB; uint16, or uint8 for 8-bit CIELAB. (H, W) alpha or None. The profile to embed or None.

    Raises:
        UnsupportedFormat: values whose white is unknown; a profile of HDR.
    """
    if samples.model in ("LAB", "ICCLAB"):
        return _lab(samples), samples.alpha, srgb_profile() if source else None
    values = sixteen_bits(samples.values)
    alpha = None if samples.alpha is None else sixteen_bits(samples.alpha)
    if samples.premultiplied and alpha is not None:
        values = straight(values, alpha)
    if samples.inverted:
        values = 65_535 - values
    if source and is_sound(source):
        _refuse_hdr(source)
        converted = _profiled(values, samples.model, source)
        if converted is not None:
            return converted, alpha, srgb_profile()
    return _plain(values), alpha, None


def _profiled(values: Array, model: str, source: bytes) -> Array | None:
    """Converted to sRGB; None when the profile is damaged or made for another colour model."""
    import imagecodecs

    try:
        if is_srgb(ImageCms.ImageCmsProfile(io.BytesIO(source))):
            return _plain(values)
        if source[16:20] != _PROFILE_MODELS[model]:
            return None
        if model == "GRAY":
            levels = np.arange(65_536, dtype=np.uint16).reshape(256, 256, 1)
            return _plain(_transform(levels, source, "gray", "uint16").reshape(-1)[values])
        return _transform(values, source, model.lower(), "uint16")
    except (ImageCms.PyCMSError, OSError, imagecodecs.CmsError):
        return None


def _transform(values: Array, source: bytes, model: str, dtype: str) -> Array:
    """Through Little CMS; grey stays one channel. Its optimised tables are off by thousands of 65535 in the shadows, so
    they are not used.
    """
    import imagecodecs

    height, width = values.shape[:2]
    grey = model == "gray"
    result = np.empty((height, width, 1 if grey else 3), dtype)
    rows = max(1, _BLOCK // width)
    for start in range(0, height, rows):
        block = values[start : start + rows]
        converted = imagecodecs.cms_transform(
            block[:, :, 0] if grey else block,
            source,
            srgb_grey_profile() if grey else srgb_profile(),
            colorspace=model,
            outcolorspace="gray" if grey else "rgb",
            outdtype=dtype,
            flags=int(imagecodecs.CMS.FLAGS.NOOPTIMIZE),
        )
        result[start : start + rows] = converted[:, :, None] if grey else converted
    return result


def _refuse_hdr(profile: bytes) -> None:
    if is_hdr(profile):
        raise UnsupportedFormat("HDR pictures (PQ or HLG) are not supported; convert it to SDR (sRGB) first")


def _plain(values: Array) -> Array:
    """uint16 grey, RGB or CMYK without a profile as RGB; CMYK as if inks were ideal."""
    if values.shape[2] == 1:
        return np.repeat(values, 3, axis=2)
    if values.shape[2] == 3:
        return values
    light = 65_535 - values
    paper = light[:, :, 3].astype(np.uint32)
    channels = [(light[:, :, channel] * paper + 32_767) // 65_535 for channel in range(3)]
    return np.stack(channels, axis=2).astype(np.uint16)


def _lab(samples: Samples) -> Array:
    """CIELAB (D50) of 8 or 16 bits in TIFF's two encodings: a and b signed, or as in ICC profiles of version 2."""
    import imagecodecs

    values, deep = samples.values, samples.values.dtype.itemsize == 2
    unit = 256.0 if deep else 1.0
    full = 65_280.0 if deep and samples.model == "ICCLAB" else 65_535.0 if deep else 255.0
    lab = np.empty(values.shape, np.float32)
    lab[:, :, 0] = np.minimum(values[:, :, 0] * np.float32(100 / full), 100)
    if samples.model == "ICCLAB":
        lab[:, :, 1:] = values[:, :, 1:].astype(np.float32) / unit - 128
    else:
        lab[:, :, 1:] = values[:, :, 1:].astype(np.int16 if deep else np.int8).astype(np.float32) / unit
    return _transform(lab, imagecodecs.cms_profile("lab4"), "lab", "uint16" if deep else "uint8")
