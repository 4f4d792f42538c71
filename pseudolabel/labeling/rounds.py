"""Labeling rounds: what there is to label, how, and the book-keeping of one round. No Ray, no torch.

A round labels every unit of a corpus with one teacher. Units are handed out, and come back finished, or are handed to
another worker; a unit that fails time and again is given up and named in the report.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from models.config import Settings

log = logging.getLogger(__name__)


class LabelingConfig(Settings):
    """How photographs are labeled.

    The defaults leave room on two cores for two training workers of half a core each and their data tasks.

    Attributes:
        network: configuration of the teacher's network, for `models.zoo.build`.
        allow_networks: packages that it may name, likewise.
        scorer: name, folder or full configuration of the scorer, for `pseudolabel.scorer.clip.load_scorer`.
        label_size: side of the square that whole photographs are resized to (288 in the paper).
        batch_size: photographs per forward pass and per offer.
        passes: how often the teacher may dehaze a photograph; see :func:`pseudolabel.labeling.label_batch`.
        device: of teacher and scorer, such as `cpu` or `cuda`.
        threads: of torch in each worker.
        workers: label workers.
        worker_cpus, worker_gpus, coordinator_cpus: what each asks of Ray.
        outstanding: units handed to a worker at a time; 2 keeps it busy while its answer travels.
        attempts: how often a unit may fail with workers that are well before it is given up, and how often a worker may
            die before it is ready.
        worker_failures: after so many units in a row that it failed and others did, a worker is replaced; when its
            replacement fares no better, the others go on without it.
    """

    network: dict[str, Any]
    allow_networks: tuple[str, ...] = ()
    scorer: str | dict[str, Any] = "clip-compact"
    label_size: int = Field(288, ge=8, le=4096)
    batch_size: int = Field(4, ge=1)
    passes: int = Field(1, ge=1)
    device: str = "cpu"
    threads: int = Field(1, ge=1)
    workers: int = Field(2, ge=1)
    worker_cpus: float = Field(0.2, ge=0)
    worker_gpus: float = Field(0.0, ge=0)
    coordinator_cpus: float = Field(0.05, ge=0)
    outstanding: int = Field(2, ge=1)
    attempts: int = Field(5, ge=1)
    worker_failures: int = Field(3, ge=1)


@dataclass(frozen=True, order=True)
class WorkUnit:
    """One row group of a Parquet file of the corpus; `uri` is a URI or a local path."""

    uri: str
    row_group: int


@dataclass(frozen=True)
class UnitCounts:
    """What came of one unit. `unreadable` photographs were skipped and are named in the worker's log."""

    photographs: int = 0
    offered: int = 0
    accepted: int = 0
    unreadable: int = 0

    def __add__(self, other: UnitCounts) -> UnitCounts:
        return UnitCounts(
            self.photographs + other.photographs,
            self.offered + other.offered,
            self.accepted + other.accepted,
            self.unreadable + other.unreadable,
        )


@dataclass
class _Trouble:
    """What went wrong with a unit: how often that says something about it, with whom, and the last reason."""

    tries: int = 0
    counted: bool = False  # since everybody might try last
    by: set[str] = field(default_factory=set)
    reason: str = ""


@dataclass
class Round:
    """The book-keeping of one round.

    Invariant: a unit is waiting, handed out, done, given up, or left because the round was broken off. Not safe for
    several threads, except `report` and `oldest_step`.
    """

    number: int
    teacher_step: int
    units: Iterable[WorkUnit]
    attempts: int = 5
    counts: UnitCounts = field(default_factory=UnitCounts, init=False)
    done: int = field(default=0, init=False)
    left: int = field(default=0, init=False)
    handed_again: int = field(default=0, init=False)
    failed: list[dict[str, Any]] = field(default_factory=list, init=False)
    per_worker: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._waiting = deque(self.units)
        self._again: list[WorkUnit] = []  # came back undone; another worker is to have them before any new one
        self._total = len(self._waiting)
        self._troubles: defaultdict[WorkUnit, _Trouble] = defaultdict(_Trouble)
        self._steps: dict[WorkUnit, int] = {}
        self._started = time.monotonic()
        self._seconds: float | None = None

    @property
    def finished(self) -> bool:
        """Whether every unit is done, given up or left."""
        return self.done + len(self.failed) + self.left >= self._total

    @property
    def oldest_step(self) -> int | None:
        """Training step of the oldest weights that a handed-out unit is labeled with, None when none is out."""
        return min(tuple(self._steps.values()), default=None)

    def take(self, worker: str, place: float = 0.0) -> WorkUnit | None:
        """The next unit for `worker`, None when there is none that it has not failed already.

        Args:
            worker: its name.
            place: 0 to 1, how far back in the queue: failures of neighbors say less about a worker than those of units
                from all over the corpus.
        """
        for unit in self._again:
            if worker not in self._troubles[unit].by:
                self._again.remove(unit)
                return unit
        if not self._waiting:
            return None
        at = min(int(place * len(self._waiting)), len(self._waiting) - 1)
        unit = self._waiting[at]
        del self._waiting[at]
        return unit

    def sent(self, unit: WorkUnit, step: int) -> None:
        """`unit` is on its way to a worker, to be labeled with the teacher of `step`."""
        self._steps[unit] = step

    def leave(self) -> None:
        """Break the round off: what is waiting stays undone, what is handed out comes back as usual."""
        self.left += len(self._waiting) + len(self._again)
        self._waiting.clear()
        self._again.clear()

    def finish(self, unit: WorkUnit, worker: str, counts: UnitCounts) -> None:
        """`worker` has labeled `unit`, and the pool has acknowledged all of it."""
        self.done += 1
        self._forget(unit)
        self.counts += counts
        self.per_worker[worker] = self.per_worker.get(worker, 0) + counts.photographs

    def fail(self, unit: WorkUnit, reason: str, worker: str | None = None, *, counts: bool = True) -> bool:
        """`unit` came back undone: hand it out again, or give it up.

        Args:
            unit: which.
            reason: in a few words.
            worker: who failed it, and is not to have it again as long as there are others; None where it is innocent.
            counts: whether that says something about the unit.

        Returns:
            whether it was given up.
        """
        self._steps.pop(unit, None)
        trouble = self._troubles[unit]
        trouble.tries, trouble.reason = trouble.tries + counts, reason
        trouble.counted |= counts
        if worker is not None:
            trouble.by.add(worker)
        if trouble.tries >= self.attempts:
            self._give_up(unit, reason)
            log.error("row group %d of %s is given up: %s", unit.row_group, unit.uri, reason)
            return True
        self._again.append(unit)
        self.handed_again += 1
        log.warning("row group %d of %s is handed out again: %s", unit.row_group, unit.uri, reason)
        return False

    def suspicious(self, unit: WorkUnit) -> bool:
        """Whether a worker that is well has failed it: then it says little about the others that do."""
        return unit in self._troubles and self._troubles[unit].tries > 0

    def go_round(self) -> list[WorkUnit]:
        """Everybody has failed what is left, and nobody else is there: all may try again; it counts at least once.

        Returns:
            units that were given up.
        """
        units, self._again = self._again, []
        return [unit for unit in units if self._once_more(unit)]

    def _once_more(self, unit: WorkUnit) -> bool:
        trouble = self._troubles[unit]
        trouble.by.clear()
        if trouble.counted:
            self._again.append(unit)
        given_up = not trouble.counted and self.fail(unit, trouble.reason)
        trouble.counted = False
        return given_up

    def abandon(self, reason: str) -> None:
        """Give up all that is waiting: nobody is left that could do it."""
        rest = [*self._again, *self._waiting]
        self._again.clear()
        self._waiting.clear()
        for unit in rest:
            self._give_up(unit, self._troubles[unit].reason or reason)
        log.error("%d row groups are given up, because every label worker fails: %s", len(rest), reason)

    def _give_up(self, unit: WorkUnit, reason: str) -> None:
        self.failed.append({"uri": unit.uri, "row_group": unit.row_group, "reason": reason})
        self._forget(unit)

    def _forget(self, unit: WorkUnit) -> None:
        self._troubles.pop(unit, None)
        self._steps.pop(unit, None)

    def close(self) -> None:
        """Stop the clock."""
        self._seconds = time.monotonic() - self._started

    def report(self) -> dict[str, Any]:
        """Plain numbers for logs; of `units`, so many are `done`, those in `failed` were given up, and `left` were not
        begun because the round was broken off. `teacher_step` is of the weights at its beginning, `reasons` has the
        most frequent ones of `failed`, counted."""
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self._started
        return {
            "round": self.number,
            "teacher_step": self.teacher_step,
            "units": self._total,
            "done": self.done,
            "failed": list(self.failed),
            "reasons": reasons(self.failed),
            "left": self.left,
            "handed_again": self.handed_again,
            "photographs": self.counts.photographs,
            "offered": self.counts.offered,
            "accepted": self.counts.accepted,
            "unreadable": self.counts.unreadable,
            "seconds": seconds,
            "per_worker": dict(self.per_worker),
        }


def reasons(failed: Iterable[dict[str, Any]], most: int = 3) -> str:
    """The `most` frequent reasons of units that were given up, such as `12 x no such file; 1 x killed`."""
    counted = Counter(unit["reason"] for unit in list(failed)).most_common()
    told = [f"{count} x {reason}" for reason, count in counted[:most]]
    others = sum(count for _, count in counted[most:])
    return "; ".join([*told, *([f"{others} for other reasons"] if others else [])])
