"""Depth maps that do not look right: signs of inversion, of lost levels, of holes, of another photograph. No Ray.

Each finding is a suspicion and none rejects a photograph: a corridor, a ceiling or a plain wall is no error. What a
whole sample shows is another matter, and :func:`preflight` stops an ingest for it. Everything is measured on maps and
photographs reduced to 96 or 192 pixels, which costs about half of what storing a map does.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.config import ConfigError

_TOP = 65_535
_SIDE = 96  # pixels of the long side where regions are compared
_EDGE_SIDE = 192  # and where edges are
_INVERTED = 0.25  # score from which a map says anything about its direction
_FEW_LEVELS = 16
_SAME = 0.95
_BLANK = 0.1
_UNRELATED = 0.55
_ALIGNED_GAIN = 0.02
_MIN_MAPS = 8
_MOST = 0.6

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DepthReport:
    """What a depth map looks like beside its photograph.

    Attributes:
        suspicions: any of "inverted", "few levels", "mostly one value", "blank regions" and "unrelated to the
            photograph".
        score: direction, -1..1: above 0 the map looks right, below -0.25 inverted, in between it does not tell. The
            map turned round has the opposite score.
        haze: rank correlation of distance with the dark channel of the photograph, which haze raises.
        sky: -1..1, how surely a pixel of the sky is farther than another one; None without a sky.
        levels: how many of 4096 levels hold 95 % of the pixels.
        largest: share of the pixels in the fullest of 256 levels.
        blank: share of the pixels at either end of the range where the photograph has texture, in 0..1.
        alignment: how strong the photograph's edges are where the map has its own, as a rank in 0..1 (about 0.5 by
            chance); None for a map without edges.
    """

    suspicions: tuple[str, ...]
    score: float
    haze: float
    sky: float | None
    levels: int
    largest: float
    blank: float
    alignment: float | None


def inspect_depth(stored: bytes | NDArray[Any], photo: NDArray[np.uint8]) -> DepthReport:
    """Measure a depth map and name what is suspicious.

    Args:
        stored: as :func:`~pipelines.ingest.depth.attach.store_depth` returns it, or (H, W) numbers of any unit that are
            not all the same, larger = nearer.
        photo: (H, W, 3) uint8, the map's photograph in any size.
    """
    depth = _unit(stored)
    small = _reduce(depth, _SIDE)
    colors = _reduce(photo, _SIDE, small.shape) / 255
    # The ground below is nearer than what is above it.
    vertical = _rank_correlation(small, np.indices(small.shape)[0])
    dark = _dark_channel(colors)
    haze = -_rank_correlation(small, dark)
    sky = _sky_farness(small, colors)
    score = _direction(vertical, haze, sky, float(np.median(dark)))
    levels, largest = _levels(depth)
    blank = _blank(small, colors)
    alignment, by_chance = _alignment(depth, photo)
    found = {
        "inverted": score < -_INVERTED,
        "few levels": levels < _FEW_LEVELS,
        "mostly one value": largest > _SAME,
        "blank regions": blank > _BLANK,
        "unrelated to the photograph": alignment is not None
        and alignment < _UNRELATED
        and alignment < by_chance + _ALIGNED_GAIN,
    }
    names = tuple(name for name, suspected in found.items() if suspected)
    return DepthReport(names, score, haze, sky, levels, largest, blank, alignment)


def preflight(reports: Sequence[DepthReport], order: Literal["near", "far"] | None) -> str | None:
    """Look at a sample of maps before the ingest stores any.

    Args:
        reports: of maps read in the order that was asked for, "near" when none was.
        order: what the caller said about the maps, None when they said nothing.

    Returns:
        A warning, or None when all is well. A caller who named the order is only warned.

    Raises:
        ConfigError: no order was named, and 60 % or more of at least 8 maps that tell their direction look inverted,
            or have lost their levels.
    """
    telling = [report for report in reports if abs(report.score) >= _INVERTED]
    inverted = [report for report in telling if report.score < 0]
    flat = [report for report in reports if {"few levels", "mostly one value"} & set(report.suspicions)]
    problems = []
    if _most(inverted, telling):
        now, other = ("larger is farther", "near") if order == "far" else ("larger is nearer", "far")
        problems.append(
            f"{len(inverted)} of {len(telling)} depth maps look inverted when {now}, which would put the haze in the "
            f"foreground; pass --depth-order {other}, or --depth-order {order or 'near'} if they are right"
        )
    if _most(flat, reports):
        problems.append(
            f"{len(flat)} of {len(reports)} depth maps have next to no levels; expected continuous ones of 8 bits or "
            f"more, so make them anew or leave --depth out (or pass --depth-order {order or 'near'} to keep them)"
        )
    if problems and order is None:
        raise ConfigError("; ".join(problems))
    return "; ".join(problems) or None


def _most(part: Sequence[DepthReport], whole: Sequence[DepthReport]) -> bool:
    return len(whole) >= _MIN_MAPS and len(part) >= _MOST * len(whole)


def suspicious_line(uri: str, depth_uri: str, report: DepthReport) -> dict[str, Any]:
    """Return a row of ``rejects/depth.jsonl``: the photograph stays, its depth map is worth a look."""
    why = {
        "inverted": f"far and near seem swapped (score {report.score:.2f})",
        "few levels": f"{report.levels} levels hold nearly all pixels",
        "mostly one value": f"{report.largest:.0%} of the pixels have one value",
        "blank regions": f"{report.blank:.0%} of the pixels are blank where the photograph is not",
        "unrelated to the photograph": f"its edges are not the photograph's (alignment {report.alignment or 0:.2f})",
    }
    message = "; ".join(why[name] for name in report.suspicions)
    return {"uri": uri, "depth": depth_uri, "suspicions": list(report.suspicions), "message": message}


def _unit(stored: bytes | NDArray[Any]) -> Array:
    if isinstance(stored, bytes):
        with Image.open(io.BytesIO(stored)) as image:
            return np.asarray(image, dtype=np.float64) / _TOP
    values = np.asarray(stored, dtype=np.float64)
    low, high = values.min(), values.max()
    unit: Array = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return unit


def _reduce(picture: NDArray[Any], side: int, shape: tuple[int, ...] | None = None) -> Array:
    """Means over boxes: (H, W) float or (H, W, 3) uint8 to a long side of ``side``, or to ``shape``."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    rows, columns = shape or (max(4, round(height * scale)), max(4, round(width * scale)))
    source = picture if picture.dtype == np.uint8 else picture.astype(np.float32)
    return np.asarray(Image.fromarray(source).resize((columns, rows), Image.Resampling.BOX), dtype=np.float64)


def _rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Spearman's correlation, 0 where one of them is constant."""
    from scipy.stats import rankdata

    a, b = (ranks - ranks.mean() for ranks in (rankdata(first), rankdata(second)))
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length else 0.0


def _dark_channel(colors: Array) -> Array:
    from scipy.ndimage import minimum_filter

    dark: Array = minimum_filter(colors.min(axis=2), 5)
    return dark


def _roughness(colors: Array) -> Array:
    """Mean gradient of the gray photograph over 3 x 3 pixels."""
    from scipy.ndimage import uniform_filter

    rough: Array = uniform_filter(np.hypot(*np.gradient(colors.mean(axis=2))), 3)
    return rough


def _sky_farness(depth: Array, colors: Array) -> float | None:
    """Say how far the sky is, compared with the rest; the sky is bright, smooth, not warm, and touches the upper
    border.
    """
    from scipy.ndimage import label
    from scipy.stats import rankdata

    likely = (_roughness(colors) < 0.03) & (colors.max(axis=2) > 0.55)
    likely &= colors[:, :, 2] >= colors[:, :, 0] - 0.05
    regions, _ = label(likely)
    sky = np.isin(regions, np.setdiff1d(regions[0], 0))
    if not 0.03 < sky.mean() < 0.8:
        return None
    ranks = rankdata(depth).reshape(depth.shape)
    inside, outside = int(sky.sum()), int((~sky).sum())
    farther = (ranks[~sky].sum() - outside * (outside + 1) / 2) / (inside * outside)  # Mann-Whitney
    return float(2 * farther - 1)


def _direction(vertical: float, haze: float, sky: float | None, dark: float) -> float:
    """Return the mean of the signs; haze counts by its amount, because bright stone has a dark channel too."""
    weight = 0.75 * float(np.clip((dark - 0.2) / 0.3, 0.0, 1.0))
    parts = [(1.0, vertical), (weight, haze)] + ([] if sky is None else [(1.0, sky)])
    return sum(share * value for share, value in parts) / sum(share for share, _ in parts)


def _levels(depth: Array) -> tuple[int, float]:
    """Levels that hold 95 % of the pixels, and the share of the fullest one."""
    step = max(1, max(depth.shape) // 512)
    values = depth[::step, ::step]
    fine, _ = np.histogram(values, bins=4096, range=(0.0, 1.0))
    coarse, _ = np.histogram(values, bins=256, range=(0.0, 1.0))
    cumulated = np.cumsum(np.sort(fine)[::-1])
    levels = int(np.searchsorted(cumulated, _SAME * values.size)) + 1
    return levels, float(coarse.max() / values.size)


def _blank(depth: Array, colors: Array) -> float:
    end = (depth <= 0.5 / _TOP) | (depth >= 1.0 - 0.5 / _TOP)
    return float((end & (_roughness(colors) > 0.03)).mean())


def _alignment(depth: Array, photo: NDArray[np.uint8]) -> tuple[float | None, float]:
    """Mean rank of the photograph's gradient at the map's edges; and the same for the mirrored map, as chance."""
    from scipy.ndimage import maximum_filter
    from scipy.stats import rankdata

    small = _reduce(depth, _EDGE_SIDE)
    edges = np.hypot(*np.gradient(small)) > 0.04
    if edges.mean() < 0.005:
        return None, 0.0
    gray = (_reduce(photo, _EDGE_SIDE, small.shape) / 255).mean(axis=2)
    strength = maximum_filter(np.hypot(*np.gradient(gray)), 3)
    ranks = rankdata(strength).reshape(strength.shape) / strength.size
    chance = np.mean([ranks[mirrored].mean() for mirrored in (edges[::-1], edges[:, ::-1], edges[::-1, ::-1])])
    return float(ranks[edges].mean()), float(chance)
