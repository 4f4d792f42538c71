"""Color models and ICC profiles: from what a file holds to sRGB, at 8 and at 16 bits a channel."""

from __future__ import annotations

import io

import numpy as np
from PIL import ImageCms

from models.images.limits import UnsupportedFormat
from models.images.photo import Array, Samples, straight, whole_numbers
from models.images.profile import is_hdr, is_sound, srgb_gray_profile, srgb_profile

_PROFILE_MODELS = {"GRAY": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
_BLOCK = 1 << 20  # pixels that are converted at once, so that memory stays that of the picture


def to_srgb(samples: Samples, source: bytes | None) -> tuple[Array, Array | None, bytes | None]:
    """Convert samples as a file stores them to sRGB.

    Returns:
        (H, W, 3) sRGB, uint8 or uint16. (H, W) alpha of the same type or None. The profile to embed, when there was one
        that is sound and made for this color model; or None.

    Raises:
        UnsupportedFormat: values whose white is unknown; a profile of HDR.
    """
    if samples.model in ("LAB", "ICCLAB"):
        return _lab(samples), samples.alpha, srgb_profile() if source else None
    values = whole_numbers(samples.values)
    alpha = None if samples.alpha is None else whole_numbers(samples.alpha)
    if samples.premultiplied and alpha is not None:
        values = straight(values, alpha)
    if samples.inverted:
        values = np.iinfo(values.dtype).max - values
    if source and is_sound(source):
        if is_hdr(source):
            raise UnsupportedFormat("HDR pictures (PQ or HLG) are not supported; convert it to SDR (sRGB) first")
        if (converted := _profiled(values, samples.model, source)) is not None:
            return converted, alpha, srgb_profile()
    return _plain(values), alpha, None


def _profiled(values: Array, model: str, source: bytes) -> Array | None:
    """Convert to sRGB; None when the profile is damaged or made for another color model."""
    import imagecodecs

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(source)))
        if name.startswith("sRGB") or source == srgb_gray_profile():
            return _plain(values)
        # The color space of its input (ICC.1:2022, 7.2.6).
        if source[16:20] != _PROFILE_MODELS[model]:
            return None
        if model == "GRAY":  # level by level
            # A picture of all levels, 256 in a row, is the table that all pixels are looked up in.
            levels = np.arange(np.iinfo(values.dtype).max + 1, dtype=values.dtype).reshape(-1, 256, 1)
            return _plain(_transform(levels, source, "gray")[:, :, 1].reshape(-1)[values])
        return _transform(values, source, model.lower())
    except (ImageCms.PyCMSError, OSError, imagecodecs.CmsError):
        return None


def _transform(values: Array, source: bytes, model: str, dtype: str | None = None) -> Array:
    """Convert by Little CMS. Its optimized tables are off by thousands of 65535 in the shadows, and by ten of 255 in
    those of gray; they are good for colors of 8 bits alone.
    """
    import imagecodecs

    height, width = values.shape[:2]
    gray = model == "gray"
    result = np.empty((height, width, 3), dtype or values.dtype)
    flags = 0 if values.dtype == np.uint8 and not gray else int(imagecodecs.CMS.FLAGS.NOOPTIMIZE)
    rows = max(1, _BLOCK // width)
    for start in range(0, height, rows):
        block = values[start : start + rows]
        result[start : start + rows] = imagecodecs.cms_transform(
            block[:, :, 0] if gray else block,
            source,
            srgb_profile(),
            colorspace=model,
            outcolorspace="rgb",
            outdtype=result.dtype,
            flags=flags,
        )
    return result


def _plain(values: Array) -> Array:
    """Return gray, RGB or CMYK without a profile as RGB; CMYK as if inks were ideal."""
    if values.shape[2] == 1:
        return np.repeat(values, 3, axis=2)
    if values.shape[2] == 3:
        return values
    white = np.iinfo(values.dtype).max
    light = white - values
    # Products of 16 bits need 32.
    paper = light[:, :, 3].astype(np.uint32)
    channels = [(light[:, :, channel] * paper + white // 2) // white for channel in range(3)]
    return np.stack([channel.astype(values.dtype) for channel in channels], axis=2)


def _lab(samples: Samples) -> Array:
    """Convert CIELAB (D50) of 8 or 16 bits in TIFF's two encodings: a and b signed, or as in ICC profiles of version
    2.
    """
    import imagecodecs

    values, deep = samples.values, samples.values.dtype.itemsize == 2
    unit = 256.0 if deep else 1.0
    # ICC's version 2 writes a lightness of 100 as FF00, TIFF's own encoding as FFFF.
    full = 65_280.0 if deep and samples.model == "ICCLAB" else 65_535.0 if deep else 255.0
    lab = np.empty(values.shape, np.float32)
    lab[:, :, 0] = np.minimum(values[:, :, 0] * np.float32(100 / full), 100)
    if samples.model == "ICCLAB":
        lab[:, :, 1:] = values[:, :, 1:].astype(np.float32) / unit - 128
    else:
        lab[:, :, 1:] = values[:, :, 1:].astype(np.int16 if deep else np.int8).astype(np.float32) / unit
    return _transform(lab, imagecodecs.cms_profile("lab4"), "lab", "uint16" if deep else "uint8")
