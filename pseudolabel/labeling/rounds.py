"""Labeling rounds: what there is to label, how, and the book-keeping of one round. No Ray, no torch.

A round labels every unit of a corpus with one teacher. A unit that fails time and again is given up and named in the
report.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from pydantic import Field, field_validator

from models.config import Settings
from pseudolabel.crew import Work


class LabelWorkers(Settings):
    """What label workers do and how many there are: what a recipe says of them.

    The defaults leave room on two cores for two training workers of half a core each and their data tasks.

    Attributes:
        size: side of the square that real photographs are trained and labeled at (288 in the paper).
        passes: how often the teacher may dehaze a photograph for its label. A further pass is kept where it is worse
            neither in clearness nor in quality, so that labels may go beyond the teacher; 1 is the paper's.
        workers: label workers, at least 1; each holds a teacher and a scorer.
        worker_cpus: what each asks of Ray.
        worker_gpus: what each asks of Ray.
        worker_batch: photographs that each takes through its networks at a time.
        threads: of torch in each label worker.
    """

    size: int = Field(288, ge=8, le=4096)
    passes: int = Field(1, ge=1)
    workers: int = Field(2, ge=1)
    worker_cpus: float = Field(0.2, ge=0)
    worker_gpus: float = Field(0.0, ge=0)
    worker_batch: int = Field(4, ge=1)
    threads: int = Field(1, ge=1)

    @field_validator("worker_gpus")
    @classmethod
    def _a_share_or_whole_ones(cls, value: float) -> float:
        if value > 1 and value % 1:
            raise ValueError(f"a label worker may have a share of a GPU or whole ones, not {value:g}")
        return value


class LabelingConfig(LabelWorkers):
    """How photographs are labeled.

    Attributes:
        network: configuration of the teacher's network, for `models.zoo.build`.
        allow_networks: packages that it may name, likewise.
        scorer: name, folder or full configuration of the scorer, for `pseudolabel.scorer.clip.load_scorer`.
        device: of teacher and scorer, such as `cpu` or `cuda`.
        coordinator_cpus: what the coordinator asks of Ray.
        outstanding: units handed to a worker at a time; 2 keeps it busy while its answer travels.
        attempts: how often a unit may fail with workers that are well before it is given up, and how often a worker may
            die before it is ready.
        worker_failures: after so many units in a row that it failed and others did, a worker is replaced; when its
            replacement fares no better, the others go on without it.
    """

    network: dict[str, Any]
    allow_networks: tuple[str, ...] = ()
    scorer: str | dict[str, Any] = "clip-compact"
    device: str = "cpu"
    coordinator_cpus: float = Field(0.05, ge=0)
    outstanding: int = Field(2, ge=1)
    attempts: int = Field(5, ge=1)
    worker_failures: int = Field(3, ge=1)


@dataclass(frozen=True, order=True, slots=True)
class WorkUnit:
    """One row group of a Parquet file of the corpus; `uri` is a URI or a local path."""

    uri: str
    row_group: int

    def __str__(self) -> str:
        return f"row group {self.row_group} of {self.uri}"


@dataclass(frozen=True)
class UnitCounts:
    """What came of one unit. `unreadable` photographs were skipped and are named in the worker's log."""

    photographs: int = 0
    offered: int = 0
    accepted: int = 0
    unreadable: int = 0

    def __add__(self, other: UnitCounts) -> UnitCounts:
        return UnitCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Round(Work[WorkUnit]):
    """The book-keeping of one round. Not safe for several threads, except `report` and `oldest_step`.

    Args:
        number: of the round.
        teacher_step: training step of the weights at its beginning.
        units: what there is to label.
        attempts: how often a unit may fail with workers that are well before it is given up.
    """

    def __init__(self, number: int, teacher_step: int, units: Sequence[WorkUnit], attempts: int = 5) -> None:
        super().__init__(units, attempts, window=len(units))
        self.number, self.teacher_step, self._total = number, teacher_step, len(units)
        self.counts = UnitCounts()
        self.failed: list[dict[str, Any]] = []
        self.per_worker: Counter[str] = Counter()  # photographs
        self._steps: dict[WorkUnit, int] = {}
        self._started = time.monotonic()
        self._seconds: float | None = None

    @property
    def left(self) -> int:
        """Return the number of units that were not begun because the round was broken off."""
        return self._total - self.done - len(self.failed) if self.broken_off else 0

    @property
    def oldest_step(self) -> int | None:
        """Return the training step of the oldest weights that a handed-out unit is labeled with, None when none is
        out.
        """
        return min(tuple(self._steps.values()), default=None)

    def sent(self, unit: WorkUnit, step: int) -> None:
        """Note that `unit` is on its way to a worker, to be labeled with the teacher of `step`."""
        self._steps[unit] = step

    def finish(self, unit: WorkUnit, worker: str, answer: UnitCounts) -> None:
        """Count `unit` as labeled by `worker`, after the pool has acknowledged all of it."""
        super().finish(unit, worker, answer)
        self._steps.pop(unit, None)
        self.counts += answer
        self.per_worker[worker] += answer.photographs

    def fail(self, unit: WorkUnit, reason: str, worker: str | None = None, *, counts: bool = True) -> bool:
        """Do as :meth:`Work.fail`."""
        self._steps.pop(unit, None)
        return super().fail(unit, reason, worker, counts=counts)

    def gave_up(self, unit: WorkUnit, reason: str) -> tuple[WorkUnit, ...]:
        """Name the unit in the report."""
        self.failed.append({"uri": unit.uri, "row_group": unit.row_group, "reason": reason})
        return ()

    def close(self) -> None:
        """Stop the clock."""
        self._seconds = time.monotonic() - self._started

    def report(self) -> dict[str, Any]:
        """Return plain numbers for logs: of `units`, `done` are finished, those in `failed` were given up, and `left`
        were not begun because the round was broken off. `teacher_step` is of the weights at its beginning, `reasons`
        has the most frequent ones of `failed`, counted."""
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
            **asdict(self.counts),
            "seconds": seconds,
            "per_worker": dict(self.per_worker),
        }


def reasons(failed: Iterable[dict[str, Any]]) -> str:
    """Return the three most frequent reasons of units that were given up, such as `12 x no such file; 1 x killed`."""
    counted = Counter(unit["reason"] for unit in list(failed)).most_common()
    told = [f"{count} x {reason}" for reason, count in counted[:3]]
    others = sum(count for _, count in counted[3:])
    return "; ".join([*told, *([f"{others} for other reasons"] if others else [])])
