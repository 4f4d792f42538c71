"""Metrics of one photograph, and the statistics over many. Plain numpy, no Ray.

Every image metric takes uint8 RGB (H, W, 3): what a person would have saved and looked at, not floats that no file
could hold. Scores of the CLIP scorer are metrics of the table too, but they selected the pseudo labels that
Colabator trains on, so they never headline it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]

MIN_SIDE = 16
"""Shortest side that is measured: FADE works on 8x8 patches, SSIM on an 11x11 window."""

PSNR_CAP = 100.0
"""PSNR of identical images, in dB: JSON and CSV readers stumble over infinity."""

SSIM_SETTINGS: dict[str, Any] = {
    "data_range": 255,
    "channel_axis": 2,
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
}
"""The settings of Wang et al. (2004), recorded with every summary because SSIM differs between programs by them."""


@dataclass(frozen=True)
class Metric:
    """A column of the table: which way is better, whether it needs the clear image, and whether it selected labels."""

    name: str
    better: Literal["lower", "higher"]
    what: str
    needs_reference: bool = False
    selected_labels: bool = False
    decimals: int = 3

    def gain(self, value: float | Values, baseline: float | Values) -> Any:
        """How much better ``value`` is than ``baseline``: positive is an improvement, whichever way is better."""
        return baseline - value if self.better == "lower" else value - baseline


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("fade", "lower", "perceived haze density (Choi et al., 2015) by fade-python"),
        Metric("clearness", "higher", "1 - P(hazy) of the scorer", selected_labels=True),
        Metric("quality", "higher", "quality of the scorer", selected_labels=True),
        Metric("psnr", "higher", "dB over RGB, data range 255", needs_reference=True, decimals=2),
        Metric("ssim", "higher", "gaussian window 11, sigma 1.5, data range 255", needs_reference=True),
    )
}


def fade(image: Pixels) -> float:
    """Fog aware density of uint8 RGB (H, W, 3): no reference needed, lower is clearer; NaN for a constant image.

    The value depends on the size of the image, so compare only within one run.
    """
    import pyfade

    with np.errstate(all="ignore"):
        return float(pyfade.fade_array(np.ascontiguousarray(image)))


def psnr(image: Pixels, reference: Pixels) -> float:
    """``10 log10(255^2 / MSE)`` in dB over all pixels and channels of two uint8 (H, W, 3); at most ``PSNR_CAP``."""
    difference = image.astype(np.float64) - reference.astype(np.float64)
    error = float(np.mean(difference * difference))
    return PSNR_CAP if error == 0.0 else min(PSNR_CAP, 10.0 * math.log10(255.0**2 / error))


def ssim(image: Pixels, reference: Pixels) -> float:
    """Structural similarity of two uint8 (H, W, 3), mean over channels, with ``SSIM_SETTINGS``."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(image, reference, **SSIM_SETTINGS))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Difference:
    """A model against the hazy input, photograph by photograph.

    ``mean`` is model minus input, ``interval`` its 95 % bootstrap interval over photographs (None below two), and
    ``improved`` the fraction of photographs that got better, whichever way is better for the metric.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    improved: float


@dataclass(frozen=True)
class Aggregate:
    """One metric of one model over the photographs where it is defined."""

    n: int
    mean: float
    median: float
    difference: Difference | None


def bootstrap_interval(values: Values, seed: int, resamples: int = 2000) -> tuple[float, float] | None:
    """95 % percentile interval of the mean, resampling photographs with replacement; None for fewer than two."""
    if values.size < 2:
        return None
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, values.size, values.size)].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def compare(metric: Metric, values: Values, baseline: Values, seed: int) -> Difference | None:
    """Paired difference of two aligned columns; photographs where either is NaN are left out."""
    both = np.isfinite(values) & np.isfinite(baseline)
    if not both.any():
        return None
    values, baseline = values[both], baseline[both]
    difference = values - baseline
    improved = float(np.mean(metric.gain(values, baseline) > 0))
    return Difference(int(both.sum()), float(difference.mean()), bootstrap_interval(difference, seed), improved)


def column(rows: Sequence[Mapping[str, Any]], name: str) -> Values:
    """One metric of every row as float64, with NaN where it is missing."""
    return np.array([math.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)


def aggregate(
    rows: Sequence[Mapping[str, Any]], baseline: str, models: Sequence[str], seed: int
) -> dict[str, dict[str, Aggregate]]:
    """Statistics per model and metric.

    Args:
        rows: per-photograph rows with ``image_id``, ``model`` and one value or None per metric.
        baseline: the model that the others are compared with, usually the hazy input.
        models: the order of the answer; those without rows are left out.
        seed: of the bootstrap.

    Returns:
        ``{model: {metric: Aggregate}}`` with only the metrics that some photograph has.
    """
    by_model: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {})[row["image_id"]] = row
    inputs = by_model.get(baseline, {})
    table: dict[str, dict[str, Aggregate]] = {}
    for model in models:
        own = list(by_model.get(model, {}).values())
        paired = [inputs.get(row["image_id"], {}) for row in own]
        for name, metric in METRICS.items():
            values = column(own, name)
            finite = values[np.isfinite(values)]
            if finite.size == 0:
                continue
            against = None if model == baseline else compare(metric, values, column(paired, name), seed)
            entry = Aggregate(int(finite.size), float(finite.mean()), float(np.median(finite)), against)
            table.setdefault(model, {})[name] = entry
    return table
