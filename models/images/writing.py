"""From pixels to the bytes of a file: Pillow writes 8 bits, and what it cannot hold is packed here by imagecodecs."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from models.images import exif as image_exif
from models.images import png as image_png
from models.images.metadata import exif_block, pillow_options
from models.images.photo import Array, Metadata

_FULL_CHROMA_QUALITY = 90
_LOSSY = ("JPEG", "WEBP", "AVIF")
_AVIF_SPEED = 9  # of 0 to 10
_STRIP = 1 << 18  # bytes
_STRAIGHT = 2


def pillow(pixels: Array, name: str, icc: bytes | None, quality: int, told: Metadata) -> bytes:
    """Encode uint8 pixels as JPEG, WebP, AVIF, BMP or PNG."""
    options = pillow_options(told, name)
    if name in _LOSSY:
        options["quality"] = quality
    if name == "AVIF":
        options["speed"] = _AVIF_SPEED
    if name == "JPEG" or (name == "AVIF" and pixels.ndim == 3):
        options["subsampling"] = "4:4:4" if quality >= _FULL_CHROMA_QUALITY else "4:2:0"
    if icc is not None and name in _LOSSY:
        options["icc_profile"] = icc
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def png(pixels: Array, icc: bytes | None, told: Metadata) -> bytes:
    """Encode a PNG of (H, W) gray or (H, W, 2..4), uint8 or uint16; 2 and 4 have alpha last."""
    if pixels.dtype == np.uint8:
        data = pillow(pixels, "PNG", None, 0, Metadata())
    else:
        import imagecodecs

        # Reshaped twice: strides of sides of 1 may be any, and imagecodecs looks at them.
        data = bytes(imagecodecs.png_encode(pixels.reshape(-1).reshape(pixels.shape)))
    parts = [] if icc is None else [(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))]
    if told.dpi is not None:
        parts.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in told.dpi), 1)))
    if (block := exif_block(told)) is not None:
        parts.append((b"eXIf", block))
    texts = told.texts if told.xmp is None else (("XML:com.adobe.xmp", told.xmp.decode()), *told.texts)
    # The five zeros end the keyword: not compressed, no language, no translation.
    parts += [(b"iTXt", keyword.encode("latin-1") + bytes(5) + text.encode()) for keyword, text in texts]
    inserted = b"".join(image_png.chunk(name, body) for name, body in parts)
    return data[: image_png.HEADER_END] + inserted + data[image_png.HEADER_END :]


def tiff(pixels: Array, icc: bytes | None, told: Metadata) -> bytes:
    """Encode a deflated little-endian TIFF of (H, W) gray or (H, W, 2..4), uint8 or uint16; 2 and 4 have alpha last."""
    import imagecodecs

    height, width = pixels.shape[:2]
    pixels = pixels.reshape(height, width, -1)
    channels, rows = pixels.shape[2], max(1, _STRIP // pixels[0].nbytes)
    parts = (imagecodecs.delta_encode(pixels[row : row + rows], axis=1) for row in range(0, height, rows))
    strips = [bytes(imagecodecs.deflate_encode(part.tobytes())) for part in parts]
    tags, children = image_exif.directories(exif_block(told) or image_exif.EMPTY)
    # 259: deflate (8); 284: planes together (1); 317: differences along the rows (2).
    tags.update({
        256: width, 257: height, 258: (pixels.dtype.itemsize * 8,) * channels, 259: 8, 262: 2 if channels > 2 else 1,
        277: channels, 278: rows, 279: tuple(map(len, strips)), 284: 1, 317: 2,
    })  # fmt: skip
    if channels in (2, 4):
        tags[338] = _STRAIGHT
    for tag, kind, value in ((700, 1, told.xmp), (33723, 7, told.iptc), (34675, 7, icc)):
        if value is not None:
            tags.tagtype[tag] = kind
            tags[tag] = value
    # Pillow takes the places of strips as counted from the end of the directory.
    places = np.cumsum([0, *map(len, strips)])[:-1]
    tags[273] = (0,) * len(strips)
    between = len(image_exif.packed(tags, children)) - len(tags.tobytes(8))
    tags[273] = tuple((places + between).tolist())
    return b"".join([image_exif.HEAD, image_exif.packed(tags, children), *strips])
