"""Statistics over photographs in memory that does not grow with them. Plain numpy, no Ray.

Intervals come from a Poisson bootstrap (Hanley and MacGibbon, 2006): in each resample a photograph counts so many
times as its own random numbers say, which are drawn from its id and the run's seed. Sums are all that is kept, every
model sees the same resamples, so differences are paired, and the order of the photographs does not matter.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pipelines.evaluate.metrics import METRICS, Values

RESAMPLES = 2000
FEWEST = 5
"""Photographs below which there is no interval: a bootstrap over three of them would say nothing."""
SAMPLE = 10_000
"""Photographs whose values are kept for medians and plots: all up to here, then those with the lowest ids, which are
hashes of their content and so a random sample."""
_BLOCK = 64

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """A model against another, photograph by photograph, over those where both have a value.

    ``mean`` is the model minus the other, ``interval`` its 95 % bootstrap interval, and ``improved`` the fraction of
    photographs that got better, whichever way is better for the metric.
    """

    n: int
    mean: float
    interval: Interval
    improved: float


@dataclass(frozen=True)
class Aggregate:
    """One metric of one model over the ``n`` photographs where it is defined; ``median`` of those that are kept."""

    n: int
    mean: float
    median: float | None
    interval: Interval
    difference: Difference | None


@dataclass(frozen=True)
class Paired:
    """Two models compared by one metric."""

    model: str
    other: str
    metric: str
    difference: Difference

    @property
    def decided(self) -> bool:
        """Say whether the interval leaves out zero."""
        interval = self.difference.interval
        return interval is not None and not interval[0] <= 0.0 <= interval[1]


Table = dict[str, dict[str, Aggregate]]


def weights_of(image_id: str, seed: int) -> Values:
    """Return how often a photograph counts in each resample: Poisson with mean 1, from its id and the seed."""
    generator = np.random.Generator(np.random.PCG64([seed, int(image_id[:16], 16)]))
    return generator.poisson(1.0, RESAMPLES).astype(np.float64)


class _Sums:
    """Of some columns: over all photographs, and in every resample."""

    def __init__(self, columns: int) -> None:
        self.count, self.total = np.zeros(columns, np.int64), np.zeros(columns)
        self.weight, self.weighted = np.zeros((RESAMPLES, columns)), np.zeros((RESAMPLES, columns))

    def add(self, values: Values, weights: Values) -> None:
        """Add values (photographs, columns), NaN where there is none, with weights (photographs, resamples)."""
        there = np.isfinite(values)
        known = np.where(there, values, 0.0)
        self.count += there.sum(axis=0)
        self.total += known.sum(axis=0)
        self.weight += weights.T @ there
        self.weighted += weights.T @ known

    def mean(self, column: int) -> float:
        return float(self.total[column] / self.count[column])

    def interval(self, column: int) -> Interval:
        """95 % percentile interval of the mean; None for fewer than `FEWEST` photographs."""
        if self.count[column] < FEWEST:
            return None
        drawn = self.weight[:, column] > 0
        low, high = np.percentile(self.weighted[drawn, column] / self.weight[drawn, column], [2.5, 97.5])
        return float(low), float(high)


class Statistics:
    """Takes photographs one by one; gives tables and paired differences.

    Args:
        models: rows of the table in their order; the first is what the others are compared with.
        metrics: its columns.
        seed: of the bootstrap.
    """

    def __init__(self, models: Sequence[str], metrics: Sequence[str], seed: int) -> None:
        self.models, self.metrics, self.seed = tuple(models), tuple(metrics), seed
        self.photographs = 0
        self._pairs = list(combinations(range(len(self.models)), 2))
        self._single = _Sums(len(self.models) * len(self.metrics))
        self._paired = _Sums(len(self._pairs) * len(self.metrics))
        self._better = np.zeros((len(self._pairs), len(self.metrics)), np.int64)
        self._kept: list[tuple[int, int, Values]] = []
        self._waiting: list[tuple[str, Values]] = []

    def add(self, image_id: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Add a photograph: its row by model; metrics that are missing or None are left out."""
        found = [[rows.get(model, {}).get(name) for name in self.metrics] for model in self.models]
        values = np.array(found, np.float64)  # None is NaN
        self._keep(image_id, values)
        self._waiting.append((image_id, values))
        if len(self._waiting) >= _BLOCK:
            self._work()

    def _keep(self, image_id: str, values: Values) -> None:
        entry = (-int(image_id, 16), self.photographs, values)  # the heap's first is the highest id
        self.photographs += 1
        heapq.heappush(self._kept, entry)
        if len(self._kept) > SAMPLE:
            heapq.heappop(self._kept)

    def _work(self) -> None:
        if not self._waiting:
            return
        weights = np.stack([weights_of(image_id, self.seed) for image_id, _ in self._waiting])
        values = np.stack([found for _, found in self._waiting])
        self._waiting.clear()
        self._single.add(values.reshape(len(values), -1), weights)
        if self._pairs:
            first, second = np.array(self._pairs).T
            differences = values[:, second] - values[:, first]
            self._paired.add(differences.reshape(len(values), -1), weights)
            with np.errstate(invalid="ignore"):
                for column, name in enumerate(self.metrics):
                    gains = METRICS[name].gain(values[:, second, column], values[:, first, column])
                    self._better[:, column] += (gains > 0).sum(axis=0)

    def values(self, model: str, metric: str) -> Values:
        """Return what is kept of a column, without NaN, in the order of the ids."""
        place, column = self.models.index(model), self.metrics.index(metric)
        ordered = sorted(self._kept, key=lambda entry: (-entry[0], entry[1]))
        kept: Values = np.array([entry[2][place, column] for entry in ordered], dtype=np.float64)
        return kept[np.isfinite(kept)]

    def table(self) -> Table:
        """Return statistics per model and metric, without those that no photograph has."""
        self._work()
        found: Table = {}
        for place, model in enumerate(self.models):
            for column, metric in enumerate(self.metrics):
                at = place * len(self.metrics) + column
                if self._single.count[at]:
                    kept = self.values(model, metric)
                    entry = Aggregate(
                        int(self._single.count[at]),
                        self._single.mean(at),
                        float(np.median(kept)) if kept.size else None,
                        self._single.interval(at),
                        self._difference(0, place, column) if place else None,
                    )
                    found.setdefault(model, {})[metric] = entry
        return found

    def paired(self) -> list[Paired]:
        """Return every two models that were measured on the same photographs, each later one against each earlier
        one.
        """
        self._work()
        found = []
        for first, second in self._pairs:
            for column, metric in enumerate(self.metrics):
                difference = self._difference(first, second, column)
                if difference is not None:
                    found.append(Paired(self.models[second], self.models[first], metric, difference))
        return found

    def _difference(self, first: int, second: int, column: int) -> Difference | None:
        pair = self._pairs.index((first, second))
        at = pair * len(self.metrics) + column
        count = int(self._paired.count[at])
        if not count:
            return None
        improved = float(self._better[pair, column] / count)
        return Difference(count, self._paired.mean(at), self._paired.interval(at), improved)
