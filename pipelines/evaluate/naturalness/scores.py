"""BRISQUE and NIQE: how far the statistics of a picture are from those of natural ones. Plain numpy, no Ray.

Both divide every pixel's difference from its surroundings by their contrast. In photographs that nothing happened to,
these numbers and the products of neighbors follow generalized Gaussian distributions with steady parameters; noise,
blur and compression change them. BRISQUE asks a support vector machine what people would say of such parameters, NIQE
measures their distance from those of pristine photographs. Neither knows what haze is.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.ndimage import correlate1d
from scipy.special import gamma

from pipelines.evaluate.metrics import require_pixels

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]

BLOCK = 96
"""Side of the squares that NIQE compares, as its authors recommend: the parameters are those of such squares."""
_FEWEST_BLOCKS = 2  # a covariance needs two
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHAPES = np.arange(0.2, 10.0, 0.001)  # that a distribution may have; 2 is Gaussian
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))  # rises with the shape


@cache
def _weights(name: str) -> dict[str, Values]:
    return {key: found.astype(np.float64) for key, found in load_file(Path(__file__).with_name(name)).items()}


def _gray(image: Pixels) -> Values:
    """Luma of uint8 RGB (H, W, 3) in whole levels, which is what both programs were made with.

    Raises:
        ImageError: other pixels than these.
    """
    require_pixels(image)
    luma: Values = np.rint(image @ np.array([0.299, 0.587, 0.114]))
    return luma


def _gaussian() -> Values:
    weights = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
    normalized: Values = weights / weights.sum()
    return normalized


def _blurred(gray: Values) -> Values:
    """Blur by a Gaussian of 7x7 and 7/6 pixels, borders repeated."""
    kernel = _gaussian()
    found: Values = correlate1d(correlate1d(gray, kernel, axis=0, mode="nearest"), kernel, axis=1, mode="nearest")
    return found


def _normalized(gray: Values) -> Values:
    """Difference from the surroundings in units of their contrast plus one level: (H, W) of levels from 0 to 255."""
    mean = _blurred(gray)
    contrast = np.sqrt(np.abs(_blurred(gray * gray) - mean * mean))
    difference = gray - mean
    difference[np.abs(difference) < 1e-9] = 0.0  # what rounding leaves of flat places has no sign
    found: Values = difference / (contrast + 1.0)
    return found


def _fit(values: Values) -> tuple[Values, Values, Values]:
    """Fit asymmetric generalized Gaussians to (N, pixels): shape, and the deviation left and right of zero, N each.

    By moments (Lasmar et al., ICIP 2009), NaN where nothing is on a side.
    """
    squares = values * values
    left, right = (
        np.sqrt((squares * side).sum(axis=1) / side.sum(axis=1)) for side in (values < 0, values > 0)
    )  # fmt: skip
    skew = left / right
    ratio = np.abs(values).mean(axis=1) ** 2 / squares.mean(axis=1)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    above = np.searchsorted(_RATIOS, ratio).clip(1, len(_RATIOS) - 1)
    nearest = above - (ratio - _RATIOS[above - 1] < _RATIOS[above] - ratio)
    return _SHAPES[np.where(np.isnan(ratio), 0, nearest)], left, right


def _features(blocks: Values, outside: Literal["wrap", "constant"], *, variances: bool) -> Values:
    """18 numbers of each block: (N, h, w) to (N, 18).

    Args:
        blocks: as `_normalized` gives them.
        outside: what the neighbors are beyond the border: the other side, or zero.
        variances: spreads are squared deviations, as in BRISQUE; else the scales of the distributions, as in NIQE.
    """
    count, height, width = blocks.shape
    padded = np.pad(blocks, ((0, 0), (1, 1), (1, 1)), mode=outside)
    found: list[Values] = []
    for y, x in ((0, 0), *_NEIGHBORS):
        own = blocks if (y, x) == (0, 0) else blocks * padded[:, 1 - y : height + 1 - y, 1 - x : width + 1 - x]
        shape, left, right = _fit(own.reshape(count, -1))
        scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        spreads = (left**2, right**2) if variances else (left * scale, right * scale)
        mean = (right - left) * scale * gamma(2 / shape) / gamma(1 / shape)
        found += [shape, (spreads[0] + spreads[1]) / 2] if own is blocks else [shape, mean, *spreads]
    return np.stack(found, axis=1)


def brisque(image: Pixels) -> float:
    """Return BRISQUE (Mittal et al., TIP 2012) of uint8 RGB (H, W, 3), about 0 to 100, lower is better.

    It is computed as OpenCV does it, with its model, which was trained on the LIVE database, but not cut off at 0 and
    100, beyond which pictures would no longer differ. NaN for a constant image.
    """
    gray = _gray(image)
    size = [side // 2 for side in gray.shape]
    whole = torch.from_numpy(gray)[None, None]
    half = F.interpolate(whole, size=size, mode="bicubic", align_corners=False)[0, 0].numpy()
    model = _weights("brisque.safetensors")
    with np.errstate(all="ignore"):
        found = [_features(_normalized(scale)[None], "constant", variances=True)[0] for scale in (gray, half)]
        low, high = model["range"]
        scaled = 2 * (np.concatenate(found) - low) / (high - low) - 1
        distances = ((model["vectors"] - scaled) ** 2).sum(axis=1)
        return float(model["alpha"] @ np.exp(-model["gamma"][0] * distances) - model["rho"][0])


def _halved(gray: Values) -> Values:
    """Half the size by the bicubic kernel stretched over eight pixels, borders mirrored, as MATLAB does."""
    x = np.abs(np.arange(8) - 3.5) / 2
    kernel = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        gray = correlate1d(gray, kernel, axis=axis, mode="reflect", origin=-1)
        gray = gray[::2] if axis == 0 else gray[:, ::2]
    return gray


def _blocks(normalized: Values, side: int) -> Values:
    """Cut (H, W) of whole blocks to (N, side, side)."""
    height, width = normalized.shape
    parts = normalized.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    return parts.reshape(-1, side, side)


def niqe(image: Pixels) -> float:
    """Return NIQE, the distance from natural scenes (Mittal et al., SPL 2013), of uint8 RGB (H, W, 3): 0 and up, lower
    is better.

    It uses the authors' parameters of pristine photographs. NaN for fewer than two blocks of 96x96 that are not flat;
    of few blocks the distance is uncertain.
    """
    rows, columns = (side // BLOCK * BLOCK for side in image.shape[:2])
    if not rows or not columns:
        return float("nan")
    gray = _gray(image[:rows, :columns])
    pristine = _weights("niqe.safetensors")
    with np.errstate(all="ignore"):
        features = np.concatenate(
            [
                _features(_blocks(_normalized(scale), side), "wrap", variances=False)
                for scale, side in ((gray, BLOCK), (_halved(gray), BLOCK // 2))
            ],
            axis=1,
        )
    known = features[np.isfinite(features).all(axis=1)]
    if len(known) < _FEWEST_BLOCKS:
        return float("nan")
    away = pristine["mean"] - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((pristine["covariance"] + np.cov(known, rowvar=False)) / 2)
    return float(np.sqrt(away @ inverse @ away))
