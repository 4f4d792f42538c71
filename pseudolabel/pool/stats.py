"""Statistics of a label pool."""

from __future__ import annotations

from collections.abc import Iterable

from models.config import Settings


class PoolStats(Settings):
    """Statistics of a pool or of several shards together, as snapshots keep them; means are 0 while it is empty.

    `offered`, `accepted` and `replaced` count over the pool's whole life, restarts and restores included. A call that
    was retried counts again: they are indicators, while `size` and the means are exact.
    """

    size: int = 0
    offered: int = 0
    accepted: int = 0
    replaced: int = 0
    clearness_sum: float = 0.0
    quality_sum: float = 0.0
    step_sum: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Return the share of the offers that were accepted."""
        return self.accepted / max(self.offered, 1)

    @property
    def mean_clearness(self) -> float:
        """Return the mean clearness of all labels."""
        return self.clearness_sum / max(self.size, 1)

    @property
    def mean_quality(self) -> float:
        """Return the mean quality of all labels."""
        return self.quality_sum / max(self.size, 1)

    @property
    def mean_teacher_step(self) -> float:
        """Return the mean training step of the teachers that made the labels."""
        return self.step_sum / max(self.size, 1)

    @classmethod
    def merged(cls, shards: Iterable[PoolStats]) -> PoolStats:
        """Add up the statistics of all `shards`."""
        known = [shard.model_dump() for shard in shards]
        return cls(**{name: sum(shard[name] for shard in known) for name in cls.model_fields})
