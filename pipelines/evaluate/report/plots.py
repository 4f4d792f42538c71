"""Distributions of a metric over photographs, one row for each model, as SVG that stands in the page."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pipelines.evaluate.metrics import METRICS, Values
from pipelines.reports import text

_W, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM = 460, 118, 12, 26, 6, 22
_DOTS = 120
_TICKS = 5


def distribution(metric: str, values: Mapping[str, Values]) -> str:
    """A figure: for every model its photographs as dots, the middle half as a box, median and mean.

    Args:
        metric: its name.
        values: by model; models without one are left out.
    """
    rows = {model: found for model, found in values.items() if found.size}
    if not rows:
        return ""
    everything = np.concatenate(list(rows.values()))
    low, high, step = axis(float(everything.min()), float(everything.max()))
    height = _TOP + _ROW * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * (value - low) / (high - low)

    parts = []
    for tick in range(round((high - low) / step) + 1):
        value = low + tick * step
        parts.append(f'<path class="grid" d="M{x(value):.1f} {_TOP}V{height - _BOTTOM}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{height - 7}" text-anchor="middle">{value:.6g}</text>')
    for place, (model, found) in enumerate(rows.items()):
        y = _TOP + _ROW * (place + 0.5)
        parts.append(f'<text class="y row" x="{_LEFT - 8}" y="{y + 4:.1f}">{text(model, 18)}</text>')
        parts.append(_row(found, y, [x(float(v)) for v in _spread(found)]))
        parts.append(f'<circle class="mean" cx="{x(float(found.mean())):.1f}" cy="{y:.1f}" r="3.5"/>')
    about = METRICS[metric]
    counts = ", ".join(f"{model}: median {np.median(found):.3g} of {found.size}" for model, found in rows.items())
    label = f"{text(metric)}: {text(counts, 400)}"
    svg = f'<svg viewBox="0 0 {_W} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return (
        f'<figure class="chart"><figcaption><strong>{text(metric)}</strong> <small>{about.better} is better'
        f"</small></figcaption>{svg}</figure>"
    )


def _spread(found: Values) -> list[float]:
    """Ends, quarters and median, then the dots: all values, or so many of them in order."""
    ordered = np.sort(found)
    some = ordered if ordered.size <= _DOTS else ordered[np.linspace(0, ordered.size - 1, _DOTS).astype(int)]
    return [*np.percentile(found, [0, 25, 50, 75, 100]), *some]


def _row(found: Values, y: float, places: list[float]) -> str:
    least, lower, median, upper, most, *dots = places
    drawn = [
        f'<path class="whisker" d="M{least:.1f} {y:.1f}H{most:.1f}"/>',
        f'<rect class="box" x="{lower:.1f}" y="{y - 8:.1f}" width="{max(0.5, upper - lower):.1f}" height="16"/>',
        f'<path class="mid" d="M{median:.1f} {y - 8:.1f}v16"/>',
    ]
    if found.size > 1:
        drawn += [
            f'<circle class="dot" cx="{place:.1f}" cy="{y + (i % 5 - 2) * 2.4:.1f}" r="1.6"/>'
            for i, place in enumerate(dots)
        ]
    return "".join(drawn)


def axis(low: float, high: float) -> tuple[float, float, float]:
    """Round ends around two values, and the step between ticks."""
    span = high - low or max(1e-3, abs(high) * 0.1)
    scale = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(digit * scale for digit in (1, 2, 5, 10) if digit * scale * _TICKS >= span)
    first = math.floor(low / step + 1e-9) * step
    return first, max(first + step, math.ceil(high / step - 1e-9) * step), step
