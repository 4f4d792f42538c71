"""BRISQUE and NIQE against other programs, and at their limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from pipelines.evaluate.naturalness import brisque, niqe

Pixels = NDArray[np.uint8]


def noisy(image: Pixels) -> Pixels:
    noise = np.random.Generator(np.random.PCG64(0)).integers(-40, 41, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def mosaic(image: Pixels) -> Pixels:
    large = image[::4, ::4].repeat(4, 0).repeat(4, 1)
    return large[: image.shape[0], : image.shape[1]]


# Photographs of scikit-image. BRISQUE: cv2.quality.QualityBRISQUE_compute of opencv-contrib-python-headless 5.0.0 with
# brisque_model_live.yml and brisque_range_live.yml of its source archive. NIQE: calculate_niqe(convert_to="gray") of
# basicsr 1.4.2, which ships the same parameters and says that it agrees with the authors' program.
ELSEWHERE: list[tuple[str, Callable[[Pixels], Pixels], float, float]] = [
    ("astronaut", np.asarray, 0.4941, 3.0610),
    ("astronaut", mosaic, 52.2872, 7.7021),
    ("astronaut", noisy, 55.9112, 10.5276),
    ("coffee", np.asarray, 3.6074, 4.0593),
    ("coffee", mosaic, 52.7000, 8.7813),
    ("coffee", noisy, 49.8895, 11.2804),
    ("chelsea", np.asarray, 2.0659, 2.5721),
    ("chelsea", mosaic, 57.1881, 12.5009),
    ("chelsea", noisy, 61.5993, 10.2799),
]


@pytest.mark.parametrize(("name", "change", "opencv", "basicsr"), ELSEWHERE)
def test_both_agree_with_other_programs(
    name: str, change: Callable[[Pixels], Pixels], opencv: float, basicsr: float
) -> None:
    image = change(getattr(data, name)())
    assert brisque(image) == pytest.approx(opencv, abs=0.04)  # OpenCV works with float32
    assert niqe(image) == pytest.approx(basicsr, abs=0.006)  # a few grays are rounded the other way there


def test_they_are_plain_numbers_that_are_not_cut_off() -> None:
    image = data.coffee()
    assert type(brisque(image)) is type(niqe(image)) is float
    assert brisque(255 - image // 2 * 2) != brisque(image)
    pixels = np.random.default_rng(0).integers(0, 2, (200, 200, 3), dtype=np.uint8) * 255
    assert brisque(pixels) > 100


def test_what_cannot_be_measured_is_nan_without_warnings() -> None:
    flat = np.full((256, 256, 3), 128, np.uint8)
    small = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    assert math.isnan(brisque(flat))
    assert math.isnan(niqe(flat))
    assert math.isnan(niqe(small))  # one block has no covariance
    assert math.isnan(niqe(small[:40]))
    assert math.isfinite(brisque(small[:16, :16]))


def test_flat_places_do_not_count_by_their_rounding() -> None:
    image = data.coffee().copy()
    image[:150] = 255
    white = brisque(image)
    image[:150] = 254
    assert brisque(image) == pytest.approx(white, abs=1.0)


def test_the_weights_come_with_their_notice() -> None:
    notice = (files("pipelines.evaluate.naturalness") / "NOTICE").read_text(encoding="utf-8")
    assert "The University of Texas at Austin" in notice
    assert "COPYRIGHT NOTICE ENDS WITH THIS LINE" in notice
