"""Depth maps beside photographs: read, turned the right way round, stored at the photograph's size. No Ray.

Inside the system depth is a 16-bit grayscale PNG: 65535 = nearest, 0 = farthest. Files come in both directions, and
which one cannot be told from a single map: the caller says it (:data:`DepthOrder`), and
:mod:`pipelines.ingest.depth.check` looks at many for signs of the opposite.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.ingest.depth.files import BadDepth

# "near": larger is nearer (disparity; MiDaS, Depth Anything, RIDCP500). "far": larger is farther (meters; RESIDE).
DepthOrder = Literal["near", "far"]

_ASPECT_TOLERANCE = 0.05
_TOP = 65_535
_MAX_MISSING = 0.2
_SAMPLE = 1_000_000  # values that percentiles are taken from
_TAIL = 0.1  # per cent at either end that may be outliers
_STRETCH = 1.5  # ends are outliers when they make the range this many times longer
_HOLE_GAP = 0.01  # of the largest value: 8-bit maps have their next level at 0.004
_HORIZON_GAP = 4.0
_INFINITE = 1e30

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def store_depth(values: Array, width: int, height: int, order: DepthOrder, *, name: str = "") -> bytes:
    """Convert a depth map to the form that the system stores.

    - *Ends.* Smallest and largest value become the ends of the range. Where the outer 0.1 % of values at both ends
      make the range more than 1.5 times as long, they are outliers and clipped; other maps lose nothing.
    - *Missing values.* NaN is missing, and so is an infinite disparity (over 1e30). So is, in maps of distances
      (``far``), a smallest value of 0 or less that stands apart from the others by 1 % of the range or more: sensors
      write 0 for no echo. Up to 20 % may be missing and are filled from the nearest pixel that is not.
    - *The sky* of maps of distances is no hole: infinity, or a largest value that is over four times the next one, is
      the farthest there is.

    Args:
        values: (H, W), any unit. It may have another size than the photograph, but not another shape (5 %).
        width, height: of the photograph.
        order: whether larger values are nearer or farther.
        name: what messages call the map.

    Returns:
        A 16-bit grayscale PNG of (height, width), 65535 = nearest, resampled bilinearly.

    Raises:
        BadDepth: another aspect, constant, or with too much missing.
    """
    named = f"depth map {name}".rstrip()
    _check_aspect(values.shape, width, height, named)
    values = np.where(np.abs(values) > _INFINITE, np.copysign(np.inf, values), values)
    beyond, missing = _beyond(values, order), _missing(values, order)
    known = ~(missing | beyond)
    if missing.mean() > _MAX_MISSING or not known.any():
        what, other = ("not finite", "far") if order == "near" else ("not finite, or 0", "near")
        raise BadDepth(
            f"{named} has no value in {missing.mean():.0%} of its pixels ({what}, where '{order}' is larger); at most "
            f"{_MAX_MISSING:.0%} are filled in, so complete it, leave it out, or use the order '{other}' if that is "
            "the horizon"
        )
    low, high = _ends(values[known])
    if not high > low:
        if not beyond.any():
            raise BadDepth(f"{named} is {low:g} everywhere; leave it out and a procedural map is used")
        low = high - max(1.0, abs(high))  # one plane before the sky
        values = np.where(known, low, values)
    unit = np.clip((np.where(known, values, high) - low) / (high - low), 0.0, 1.0)
    if order == "far":
        unit = 1.0 - unit
    resized = _resample(unit.astype(np.float32), ~missing, width, height)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(resized * _TOP).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _check_aspect(shape: tuple[int, ...], width: int, height: int, named: str) -> None:
    if len(shape) != 2 or 0 in shape:
        raise BadDepth(f"{named} has shape {shape}; expected (H, W)")
    ratio = (shape[1] / shape[0]) / (width / height)
    if abs(ratio - 1) <= _ASPECT_TOLERANCE:
        return
    turned = abs((shape[0] / shape[1]) / (width / height) - 1) <= _ASPECT_TOLERANCE
    remedy = "turn it by 90 degrees" if turned else "expected the same shape, so crop it like the photograph"
    raise BadDepth(f"{named} is {shape[1]}x{shape[0]}, the photograph {width}x{height}; {remedy}")


def _beyond(values: Array, order: DepthOrder) -> Mask:
    """Pixels farther than a map of distances goes."""
    if order == "near":
        return np.zeros(values.shape, dtype=bool)
    beyond: Mask = values == np.inf
    finite = values[np.isfinite(values)]
    if finite.size:
        top = finite.max()
        rest = finite[finite < top]
        if rest.size and rest.max() > 0 and top > _HORIZON_GAP * rest.max():
            beyond |= values == top
    return beyond


def _missing(values: Array, order: DepthOrder) -> Mask:
    missing: Mask = ~np.isfinite(values)
    if order == "near":
        return missing
    missing &= values != np.inf
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() <= 0:
        rest = finite[finite > finite.min()]
        if rest.size and rest.min() > _HOLE_GAP * np.percentile(_sample(rest), 99):
            missing |= values == finite.min()
    return missing


def _sample(values: Array) -> Array:
    return values[:: max(1, values.size // _SAMPLE)]


def _ends(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = np.percentile(_sample(values), [_TAIL, 100 - _TAIL])
    if inner_high > inner_low and high - low > _STRETCH * (inner_high - inner_low):
        return float(inner_low), float(inner_high)
    return low, high


def _resample(unit: NDArray[np.float32], valid: Mask, width: int, height: int) -> NDArray[np.float32]:
    """Resample bilinearly over valid pixels; a pixel with none around it takes the nearest one's value."""
    if valid.all():
        return _bilinear(unit, width, height)
    from scipy.ndimage import distance_transform_edt

    # Missing pixels count 0 in both sums, so the quotient is the mean over the valid ones alone.
    weight = _bilinear(valid.astype(np.float32), width, height)
    total = _bilinear(np.where(valid, unit, 0).astype(np.float32), width, height)
    known = weight > 1e-3
    resized = np.divide(total, weight, out=np.zeros_like(total), where=known)
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled: NDArray[np.float32] = np.clip(resized[tuple(nearest)], 0.0, 1.0)
    return filled


def _bilinear(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))
