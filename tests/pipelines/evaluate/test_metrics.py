"""Metrics of an image, and which of them may judge."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.config import ConfigError
from models.images import ImageError
from pipelines.evaluate import metrics
from pipelines.evaluate.choices import headline_of, label_metrics
from pipelines.evaluate.evaluator import Kind
from pipelines.evaluate.metrics import METRICS
from pipelines.evaluate.naturalness import brisque, niqe

Pixels = NDArray[np.uint8]


def test_psnr_of_a_known_error() -> None:
    gray = np.full((32, 32, 3), 100, np.uint8)
    assert metrics.psnr(gray + 10, gray) == pytest.approx(20 * math.log10(25.5))
    assert metrics.psnr(gray, gray + 10) == metrics.psnr(gray + 10, gray)


def test_psnr_does_not_wrap_around() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert metrics.psnr(black, white) == 0.0


def test_identical_images_score_the_cap_and_one(photo: Callable[..., Pixels]) -> None:
    image = photo(1)
    assert metrics.psnr(image, image) == metrics.PSNR_CAP
    assert metrics.ssim(image, image) == pytest.approx(1.0)


def test_ssim_falls_with_noise(photo: Callable[..., Pixels]) -> None:
    image = photo(1)
    noise = np.random.default_rng(0).normal(0, 1, image.shape)
    little, much = (np.clip(image + s * noise, 0, 255).astype(np.uint8) for s in (5, 40))
    assert metrics.ssim(image, image) > metrics.ssim(little, image) > metrics.ssim(much, image) > 0


@pytest.mark.parametrize("seed", range(4))
def test_fade_is_higher_for_haze(photo: Callable[..., Pixels], seed: int) -> None:
    assert metrics.fade(photo(seed, hazy=True)) > metrics.fade(photo(seed))


def test_fade_of_a_constant_image_is_nan_without_warnings() -> None:
    assert math.isnan(metrics.fade(np.full((64, 64, 3), 128, np.uint8)))


def test_smallest_side_can_be_measured() -> None:
    image = np.random.default_rng(0).integers(0, 256, (metrics.MIN_SIDE, metrics.MIN_SIDE, 3), dtype=np.uint8)
    assert math.isfinite(metrics.fade(image))
    assert math.isfinite(metrics.ssim(image, 255 - image))


# Sharma, Wu and Dalal (2005), table 1: two colors in CIELAB and their difference.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 3.1571, -77.2803), (50.0, 0.0, -82.7485), 2.8615),
    ((50.0, 2.8361, -74.0200), (50.0, 0.0, -82.7485), 3.4412),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
]


def test_color_differences_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    import skimage.color

    colors = iter([np.array([pair[i] for pair in SHARMA])[None] for i in (0, 1)])
    monkeypatch.setattr(skimage.color, "rgb2lab", lambda image: next(colors))
    picture = np.zeros((1, len(SHARMA), 3), np.uint8)
    assert metrics.ciede2000(picture, picture) == pytest.approx(np.mean([pair[2] for pair in SHARMA]), abs=1e-4)


def test_color_difference_of_black_and_white_is_a_hundred() -> None:
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert metrics.ciede2000(black, white) == pytest.approx(100, abs=0.1)
    assert metrics.ciede2000(white, white) == 0.0


def test_a_shift_of_the_level_has_a_sign(photo: Callable[..., Pixels]) -> None:
    gray = np.full((32, 32, 3), 100, np.uint8)
    assert metrics.level_shift(gray - 10, gray) == pytest.approx(-10.0)
    assert metrics.level_shift(gray + 25, gray) == pytest.approx(25.0)
    assert math.isnan(metrics.level_shift(gray, gray * 0))
    metric = METRICS["level_shift"]
    assert metric.gain(-2.0, 5.0) == 3.0  # nearer to none
    assert metric.gain(-7.0, 5.0) == -2.0


def test_hues_shift_by_what_they_are_turned() -> None:
    from skimage.color import lab2rgb, rgb2lab

    def wheel(turn: float, chroma: float) -> Pixels:
        angles = np.radians(np.arange(0, 360, 15) + turn)
        lab = np.stack([np.full(24, 60.0), chroma * np.cos(angles), chroma * np.sin(angles)], axis=-1)
        return np.rint(255 * lab2rgb(lab[None])).astype(np.uint8)

    assert np.hypot(*rgb2lab(wheel(0, 25))[0, :, 1:].T).min() > 20
    assert metrics.hue_shift(wheel(0, 25), wheel(0, 25)) == pytest.approx(0, abs=1e-9)
    assert metrics.hue_shift(wheel(20, 25), wheel(0, 25)) == pytest.approx(20, abs=1.0)
    assert metrics.hue_shift(wheel(-20, 12), wheel(0, 25)) == pytest.approx(20, abs=1.5)
    assert metrics.hue_shift(wheel(180, 25), wheel(0, 25)) == pytest.approx(180, abs=1.5)
    gray = np.full((1, 24, 3), 90, np.uint8)
    assert math.isnan(metrics.hue_shift(wheel(0, 25), gray))  # a gray has no hue
    half = np.concatenate([wheel(20, 25), gray], axis=1), np.concatenate([wheel(0, 25), gray], axis=1)
    assert metrics.hue_shift(*half) == pytest.approx(20, abs=1.0)


def test_a_result_that_explains_the_haze_has_no_rehazing_error(photo: Callable[..., Pixels]) -> None:
    scene = photo(2)
    transmission = np.repeat(np.linspace(0.3, 0.9, 96, dtype=np.float32)[:, None], 128, axis=1)
    veil = 1 - transmission[..., None]
    hazy = np.rint(scene * (1 - veil) + np.array([200, 210, 230]) * veil).astype(np.uint8)
    assert metrics.rehazing_error(scene, transmission, hazy) < 0.5
    assert metrics.rehazing_error(255 - scene, transmission, hazy) > 10
    assert metrics.rehazing_error(hazy, np.ones_like(transmission), hazy) == 0.0  # nothing was done: the trap of it


def test_metrics_are_chosen_in_the_order_of_the_table() -> None:
    assert metrics.chosen(["default"]) == metrics.DEFAULT
    assert metrics.chosen(["psnr", "musiq", "fade", "brisque"]) == ("fade", "brisque", "psnr", "musiq")
    assert "clearness" not in metrics.chosen(["default"], scorer=False)
    with pytest.raises(ConfigError, match="did you mean 'musiq'"):
        metrics.chosen(["musik"])
    with pytest.raises(ConfigError, match="scorer is 'none'"):
        metrics.chosen(["quality"], scorer=False)


def test_every_metric_says_its_range_its_license_and_what_it_is() -> None:
    assert all(metric.limits and metric.license and metric.what for metric in METRICS.values())
    assert all("noncommercial" in m.license.lower() for m in METRICS.values() if m.provider == "pyiqa")


@pytest.mark.parametrize("kind", ["real", "paired", "synthetic"])
def test_no_headline_selected_labels(kind: Kind) -> None:
    banned = label_metrics([])
    assert banned == {"clearness", "quality"}
    assert headline_of(kind, metrics.DEFAULT, None, banned) == ("fade" if kind == "real" else "psnr")
    assert headline_of(kind, ("quality", "fade"), None, banned) == "fade"
    with pytest.raises(ConfigError, match="'quality' selected the labels"):
        headline_of(kind, metrics.DEFAULT, "quality", banned)
    with pytest.raises(ConfigError, match="can headline"):
        headline_of(kind, ("quality", "clearness"), None, banned)
    with pytest.raises(ConfigError, match="is not measured"):
        headline_of(kind, ("fade",), "niqe", banned)


def test_what_needs_a_reference_says_so() -> None:
    with pytest.raises(ConfigError, match=r"real photographs, which have no clear version \(--reference\); .* as fade"):
        headline_of("real", ("psnr",), None, frozenset())


def test_a_model_whose_labels_musiq_chose_is_not_judged_by_it() -> None:
    banned = label_metrics([{"labels_by_iqa": False}, {"labels_by_iqa": True}])
    assert {"musiq", "musiq-spaq"} <= banned
    with pytest.raises(ConfigError, match="'musiq' selected the labels"):
        headline_of("real", ("fade", "musiq"), "musiq", banned)


OF_TWO = (metrics.psnr, metrics.ssim, metrics.ciede2000, metrics.level_shift, metrics.hue_shift)


@pytest.mark.parametrize("metric", [*OF_TWO, metrics.fade, brisque, niqe])
def test_what_it_would_measure_wrongly_is_refused(metric: Callable[..., float], photo: Callable[..., Pixels]) -> None:
    picture = photo(1, height=200, width=200)
    pictures = 2 if metric in OF_TWO else 1
    for wrong in (picture / 255, picture.astype(np.uint16), picture[..., 0], torch.from_numpy(picture)):
        with pytest.raises(ImageError, match=r"expected uint8 \(H, W, 3\)"):
            metric(*[wrong] * pictures)
    if pictures == 2:
        with pytest.raises(ImageError, match="one size"):
            metric(picture, picture[:-8])
