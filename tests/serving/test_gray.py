"""Gray in, gray out: the mode and the neutrality of photographs stay, in files, over HTTP and in videos."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models import images
from models.options import DehazeOptions
from models.predictor import Predictor
from tests.models.images.mutants import encoded

Pixels = NDArray[np.uint8]
MODEL = "corun-compact"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(MODEL, threads=1)


@pytest.fixture(scope="module")
def gray(photo: Callable[..., Pixels]) -> Pixels:
    """(H, W)."""
    return np.asarray(Image.fromarray(photo(3, 60, 85, hazy=True)).convert("L"))


def mode_of(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return str(image.mode)


def files(gray: Pixels) -> dict[str, tuple[bytes, str]]:
    """By name: a gray file, and the mode of its result."""
    image = Image.fromarray(gray)
    alpha = Image.merge("LA", [image, image.transpose(Image.Transpose.ROTATE_180)])
    colors = image.convert("RGB")
    deep = gray.astype(np.uint16) * 257 + np.arange(85, dtype=np.uint16)
    profile = imagecodecs.cms_profile("gray", whitepoint=[0.3127, 0.3290], gamma=1.8)
    return {
        "jpeg": (encoded(image, "JPEG"), "L"),
        "jpeg of three channels": (encoded(colors, "JPEG"), "RGB"),
        "png": (encoded(image, "PNG"), "L"),
        "png of three channels": (encoded(colors, "PNG"), "RGB"),
        "png of two levels": (encoded(image.convert("1"), "PNG"), "L"),
        "png with a profile": (encoded(image, "PNG", icc_profile=profile), "L"),
        "png with alpha": (encoded(alpha, "PNG"), "LA"),
        "png with a transparent level": (encoded(image, "PNG", transparency=200), "LA"),
        "png of 16 bits": (bytes(imagecodecs.png_encode(deep)), "I;16"),
        "tiff": (encoded(image, "TIFF"), "L"),
        "tiff with alpha": (encoded(alpha, "TIFF"), "LA"),
        "tiff of 16 bits": (encoded(Image.fromarray(deep), "TIFF"), "I;16"),
        "webp": (encoded(colors, "WEBP", lossless=True), "RGB"),
        "bmp": (encoded(image, "BMP"), "L"),
    }


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_files_keep_their_mode_and_stay_neutral(predictor: Predictor, gray: Pixels, strength: float) -> None:
    for name, (data, mode) in files(gray).items():
        result, _ = predictor.dehaze_bytes(data, DehazeOptions(strength=strength))
        assert mode_of(result) == mode, name
        before, after = images.decode(data), images.decode(result)
        assert after.pixels.dtype == before.pixels.dtype, name
        assert after.icc == before.icc, name
        if name != "webp":  # lossy, and colors are all it has
            np.testing.assert_array_equal(after.pixels, after.pixels[:, :, :1].repeat(3, axis=2))
        if before.alpha is not None:
            np.testing.assert_array_equal(after.alpha, before.alpha)
        if strength == 0 and mode != "RGB" and name != "jpeg":
            np.testing.assert_array_equal(after.pixels, before.pixels)


def test_the_network_alone_would_tint_them(predictor: Predictor, gray: Pixels) -> None:
    """So that these tests can fail."""
    hazy = images.to_tensor(np.repeat(gray[:, :, None], 3, axis=2))
    scene = images.to_uint8(predictor.network(hazy[:, :, :56, :80]).scene.detach())[0].astype(int)
    assert np.abs(scene - scene[:, :, :1]).max() > 2


@pytest.mark.parametrize("output", ["side-by-side", "transmission"])
def test_other_outputs(predictor: Predictor, gray: Pixels, output: Any) -> None:
    result, _ = predictor.dehaze_bytes(encoded(Image.fromarray(gray), "PNG"), DehazeOptions(output=output))
    assert mode_of(result) == "L"


def test_another_format_keeps_the_mode_where_it_has_it(predictor: Predictor, gray: Pixels) -> None:
    data = encoded(Image.fromarray(gray), "PNG")
    modes = {"JPEG": "L", "PNG": "L", "TIFF": "L", "BMP": "L", "AVIF": "L", "WEBP": "RGB"}
    for kind, mode in modes.items():
        assert mode_of(predictor.dehaze_bytes(data, DehazeOptions(format=kind))[0]) == mode  # type: ignore[arg-type]


def test_over_http(service: Callable[..., Any], gray: Pixels) -> None:
    client = service(model=MODEL)
    for name in ("png", "png of three channels", "png with alpha", "png of 16 bits"):
        data, mode = files(gray)[name]
        answer = client.post("/v1/dehaze", content=data)
        assert answer.status_code == 200
        assert mode_of(answer.content) == mode
        pixels = images.decode(answer.content).pixels
        np.testing.assert_array_equal(pixels, pixels[:, :, :1].repeat(3, axis=2))
