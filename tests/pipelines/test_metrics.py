"""Metrics of an image, and statistics over photographs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.metrics import METRICS, aggregate, bootstrap_interval, compare

Pixels = NDArray[np.uint8]


def test_psnr_of_a_known_error() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    assert metrics.psnr(grey + 10, grey) == pytest.approx(20 * math.log10(25.5))
    assert metrics.psnr(grey, grey + 10) == metrics.psnr(grey + 10, grey)


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


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(0, 1000))
def test_interval_is_ordered_inside_the_data_and_repeatable(values: list[float], seed: int) -> None:
    data = np.array(values)
    interval = bootstrap_interval(data, seed, resamples=50)
    assert interval is not None
    assert data.min() - 1e-9 <= interval[0] <= interval[1] <= data.max() + 1e-9
    assert interval == bootstrap_interval(data, seed, resamples=50)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(3.0, 1.0, 40), trial, resamples=300) or (0.0, 0.0)
        hits += low <= 3.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_one_photograph_has_no_interval() -> None:
    assert bootstrap_interval(np.array([1.0]), 0) is None


def test_improvement_follows_the_direction_of_the_metric() -> None:
    values, baseline = np.array([1.0, 1.0, 3.0, 2.0]), np.array([2.0, 2.0, 2.0, 2.0])
    lower = compare(METRICS["fade"], values, baseline, 0)
    higher = compare(METRICS["psnr"], values, baseline, 0)
    assert lower is not None
    assert higher is not None
    assert (lower.improved, higher.improved) == (0.5, 0.25)
    assert lower.mean == higher.mean == pytest.approx(-0.25)


def test_photographs_without_a_value_are_left_out_of_the_pair() -> None:
    found = compare(METRICS["fade"], np.array([1.0, math.nan, 5.0]), np.array([2.0, 2.0, math.nan]), 0)
    assert found is not None
    assert (found.n, found.mean, found.interval, found.improved) == (1, -1.0, None, 1.0)
    assert compare(METRICS["fade"], np.array([math.nan]), np.array([1.0]), 0) is None


def test_aggregate_pairs_by_photograph_and_not_by_order() -> None:
    rows = [
        {"image_id": "a", "model": "hazy input", "fade": 4.0},
        {"image_id": "b", "model": "hazy input", "fade": 1.0},
        {"image_id": "b", "model": "m", "fade": 0.5},
        {"image_id": "a", "model": "m", "fade": 1.0, "psnr": None},
    ]
    table = aggregate(rows, "hazy input", ["hazy input", "m", "absent"], seed=0)
    assert list(table) == ["hazy input", "m"]
    assert table["hazy input"]["fade"].difference is None
    entry = table["m"]["fade"]
    assert (entry.n, entry.mean, entry.median) == (2, 0.75, 0.75)
    assert entry.difference is not None
    assert (entry.difference.mean, entry.difference.improved) == (-1.75, 1.0)
    assert "psnr" not in table["m"]


def test_no_headline_selected_labels() -> None:
    from pipelines.evaluate_summary import HEADLINE

    assert not any(METRICS[name].selected_labels for name in HEADLINE.values())
    assert METRICS["clearness"].selected_labels
    assert METRICS["quality"].selected_labels
