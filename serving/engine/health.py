"""Whether a replica can still compute: a tiny picture tells, and the time that work takes for which nobody waits.

A picture that fails says nothing by itself, as it may be the picture's fault. So the tiny one is computed right after
it, by the same network, in the same thread: when that fails too, it is the replica. A long picture makes nobody sick:
nothing here waits for the thread that computes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from serving.config import HealthConfig
from serving.engine.batching import Done, DroppedError, InterruptedWorkError, Outcome, Work

log = logging.getLogger(__name__)


class SickError(Exception):
    """The replica, and not the picture, is at fault."""


@dataclass
class _Job:
    works: Sequence[Work]  # none: the tiny picture
    abandoned: float | None = None  # since when nobody has waited, as far as a check saw it


class Health:
    """The health of one replica.

    Args:
        config: when it is sick.
        tiny: computes the tiny picture; raises when that cannot be done.
        computing: the one thread that computes.
        on_sick: called once, in whatever thread found out.
        clock: seconds.
    """

    def __init__(
        self,
        config: HealthConfig,
        tiny: Callable[[], None],
        computing: Executor,
        on_sick: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._tiny, self._computing = config, tiny, computing
        self._on_sick, self._clock = on_sick, clock
        self._failed = 0  # tiny pictures in a row
        self._doubt = False
        self._well_at = clock()
        self._job: _Job | None = None
        self._looking: Future[None] | None = None
        self.sick: str | None = None

    def watched(self, works: Sequence[Work], compute: Callable[[], list[Outcome]]) -> list[Outcome]:
        """Return what ``compute`` makes of the works, in the computing thread; failures that are the replica's are
        :class:`SickError`.
        """
        self._job = _Job(works)
        try:
            outcomes = compute()
            if not any(map(_failed, outcomes)):
                self._doubt = self._doubt or any(isinstance(outcome, MemoryError) for outcome in outcomes)
                if any(isinstance(outcome, Done) for outcome in outcomes):
                    self._well()
                return outcomes
            self._job.works = ()
            while self.sick is None:
                if self._look():
                    return outcomes
            return [SickError(self.sick) if _failed(outcome) else outcome for outcome in outcomes]
        finally:
            self._job = None

    def check(self) -> None:
        """Look for what no picture shows, without waiting for anything.

        Raises:
            SickError: the replica has to be replaced.
        """
        self._check_job(self._job)
        if self.sick is not None:
            raise SickError(self.sick)
        waiting = self._looking is not None and not self._looking.done()
        in_doubt = self._failed or self._doubt or self._clock() - self._well_at >= self._config.idle_s
        if in_doubt and self._job is None and not waiting:
            self._looking = self._computing.submit(self._look_alone)

    def _check_job(self, job: _Job | None) -> None:
        if job is None or not all(work.dropped for work in job.works):
            return
        now = self._clock()
        job.abandoned = now if job.abandoned is None else job.abandoned
        if now - job.abandoned > self._config.stuck_s:
            self._give_up(f"it has computed for {now - job.abandoned:.0f} s what nobody waits for: it hangs")

    def _look_alone(self) -> None:
        self._job = _Job(())
        try:
            self._look()
        finally:
            self._job = None

    def _look(self) -> bool:
        """Compute the tiny picture, in the computing thread."""
        try:
            self._tiny()
        except Exception as problem:  # noqa: BLE001 - whatever a device that is broken raises
            self._failed += 1
            log.warning(
                "a tiny picture fails, too (%d in a row): %s: %s", self._failed, type(problem).__name__, problem
            )
            if self._failed >= self._config.failures:
                self._give_up(f"{self._failed} tiny pictures failed in a row, the last with {problem}")
            return False
        self._well()
        return True

    def _well(self) -> None:
        self._failed, self._doubt, self._well_at = 0, False, self._clock()

    def _give_up(self, reason: str) -> None:
        if self.sick is None:
            self.sick = reason
            log.error("this replica is sick: %s", reason)
            self._on_sick()


def _failed(outcome: Outcome) -> bool:
    """Say whether work failed by itself, and not because nobody waits, or for want of memory at the moment."""
    return isinstance(outcome, Exception) and not isinstance(outcome, DroppedError | InterruptedWorkError | MemoryError)
