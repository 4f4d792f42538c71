"""The label workers of Colabator as Ray actors, and the coordinator that keeps them busy; thin shells."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from models.config import LabelingError, PoolError
from pseudolabel.crew import ActorWorkers, Crew, CrewError, UnitFailed
from pseudolabel.labeling.client import COORDINATOR, LabelingClient
from pseudolabel.labeling.rounds import LabelingConfig, Round, UnitCounts, WorkUnit
from pseudolabel.pool import LabelPoolClient, namespace_of, take_name

log = logging.getLogger(__name__)

HISTORY = 100  # rounds whose reports are kept


class LabelWorker:
    """A teacher and a scorer in a process of their own: units in, candidates to the pool."""

    def __init__(self, config: LabelingConfig, pool: LabelPoolClient, build: Callable[..., Any] | None) -> None:
        self._config, self._pool, self._build = config, pool, build
        self._labeler: Any = None
        self._loaded: str | None = None

    def ready(self) -> None:
        """Load network and scorer."""
        from pseudolabel.labeling.labeler import Labeler  # torch: only this actor needs it

        if self._labeler is None:
            self._labeler = Labeler(self._config, self._build)

    def label(self, unit: WorkUnit, teacher: list[Any], step: int) -> UnitCounts:
        """Label `unit`; everything offered is acknowledged when this returns.

        Args:
            unit: what to label.
            teacher: one reference to packed weights, in a list so that it is fetched only when it is news.
            step: their training step.

        Raises:
            LabelingError: none of its photographs can be read here, or none of their labels is finite: such a worker
                may well be sick, and others shall try.
        """
        self.ready()
        if self._loaded != teacher[0].hex():  # not the step: a run that was set back comes to it again
            self._labeler.load(ray.get(teacher[0]), step)
            self._loaded = teacher[0].hex()
        offers, finite = [], False
        for entries in self._labeler.label(unit):
            finite = finite or any(math.isfinite(entry.clearness) for entry in entries)
            offers.append(self._pool.offer_async(entries))
        # All of them are under way by now, and what the pool answers is durable.
        answers = [accepted for offer in offers for accepted in offer.result()]
        unreadable = len(self._labeler.unreadable)
        if unreadable and not answers:
            raise LabelingError(
                f"none of its {unreadable} photographs can be read, such as {self._labeler.unreadable[0]}"
            )
        if answers and not finite:
            raise LabelingError(f"not one of its {len(answers)} labels is finite")
        return UnitCounts(len(answers) + unreadable, len(answers), sum(answers), unreadable)


def _explained(problem: RayTaskError) -> UnitFailed:
    """Turn any error into one that counts against the unit or the worker and never ends the round."""
    cause = problem.cause
    return UnitFailed(
        str(cause) if isinstance(cause, LabelingError | PoolError) else f"{type(cause).__name__}: {cause}"
    )


class LabelCoordinator:
    """Hands units to workers, hands them out again when a worker dies, and labels anew when the teacher is newer."""

    def __init__(
        self,
        config: LabelingConfig,
        pool: LabelPoolClient,
        units: list[WorkUnit],
        teacher: tuple[bytes, int],
        build: Callable[..., Any] | None,
    ) -> None:
        self._config, self._pool, self._units, self._build = config, pool, units, build
        self._teacher = (ray.put(teacher[0]), teacher[1])
        self._labeled_step: int | None = None
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._rounds = self._given_up = 0
        self._current: Round | None = None
        self._error: str | None = None
        self._crew: Crew | None = None
        self._workers: ActorWorkers
        self._one_round = threading.Lock()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._held = threading.Event()

    def publish(self, state: bytes, step: int) -> None:
        """Take newer weights; the coordinator owns them in the object store, so they outlive who sent them."""
        with self._changed:
            if step > self._teacher[1]:
                self._teacher = (ray.put(state), step)
                self._changed.notify_all()

    def hold(self) -> None:
        """Break the round off and begin no other one until :meth:`rewind`; returns when all offers are acknowledged."""
        self._held.set()
        with self._one_round:  # to get it is to know that the round under way has ended
            pass

    def rewind(self, state: bytes, step: int) -> None:
        """Take these weights though they may be older than the last, as after a restart, and label with them."""
        with self._changed:
            self._teacher = (ray.put(state), step)
            self._labeled_step = None
            self._held.clear()
            self._changed.notify_all()

    def weights_step(self) -> int:
        """Return the training step of the oldest weights that any worker labels with; of the latest while none has
        work.
        """
        current, latest = self._current, self._teacher[1]
        oldest = None if current is None else current.oldest_step
        return latest if oldest is None else oldest

    def run_round(self) -> dict[str, Any]:
        """Label all units, each with the teacher that is the latest when it is handed out.

        Raises:
            LabelingError: the workers cannot start, or not a single unit could be labeled.
        """
        with self._one_round:
            self._rounds += 1
            # Weights that come during the round are used at once; all units have these or newer
            # ones.
            step = self._teacher[1]
            current = Round(self._rounds, step, self._units, self._config.attempts)
            self._current = current
            try:
                self._work_off(current)
            finally:
                current.close()
                self._current = None
            report = current.report()
            self._history.append(report)
            self._given_up += len(current.failed)
            if current.failed and not current.done:
                raise LabelingError(f"nothing could be labeled: {report['reasons']}")
            if current.failed:
                told = (current.number, len(current.failed), report["units"], report["reasons"])
                log.error("labeling round %d gave up %d of %d row groups: %s", *told)
            if not current.left:
                self._labeled_step = step
            return report

    def refresh(self) -> None:
        """Label everything whenever the teacher is newer than the labels, until :meth:`stop`."""
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(self._is_behind, timeout=1.0)
                if self._stopped.is_set() or not self._is_behind():
                    continue
            try:
                self.run_round()
                self._error = None
            except (LabelingError, RayError) as problem:
                if self._stopped.is_set():
                    return
                self._error = str(problem)
                log.error("labeling in the background has failed and is tried again: %s", problem)  # noqa: TRY400
                self._stopped.wait(5.0)

    def troubles(self) -> tuple[int, int]:
        """See :meth:`LabelingClient.troubles`."""
        crew = self._crew
        return self._given_up, crew.retired if crew else 0

    def status(self) -> dict[str, Any]:
        """See :meth:`LabelingClient.status`."""
        current, crew = self._current, self._crew
        return {
            "teacher_step": self._teacher[1],
            "weights_step": self.weights_step(),
            "labeled_step": self._labeled_step,
            "workers_ready": len(crew.ready) if crew else 0,
            "deaths": crew.deaths if crew else 0,
            **dict(zip(("given_up", "retired"), self.troubles(), strict=True)),
            "error": self._error,
            "current": current.report() if current else None,
            "history": list(self._history),
        }

    def stop(self) -> None:
        """End the round under way and stop the workers."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        crew = self._crew
        if crew is not None:
            crew.dismiss()

    def _is_behind(self) -> bool:
        if self._stopped.is_set():
            return True
        behind = self._labeled_step is None or self._teacher[1] > self._labeled_step
        return behind and not self._held.is_set()

    def _work_off(self, current: Round) -> None:
        if self._crew is None:
            config = self._config
            self._workers = ActorWorkers(
                LabelWorker,
                (config, self._pool, self._build),
                size=config.workers,
                options={"num_cpus": config.worker_cpus, "num_gpus": config.worker_gpus},
                explain=_explained,
            )
            self._crew = Crew(self._workers, config.attempts, config.worker_failures)
        workers = self._workers

        def send(index: int, unit: WorkUnit) -> Any:
            teacher, step = self._teacher  # news of weights reach a round that is under way
            current.sent(unit, step)
            return workers.call(index, "label", unit, [teacher], step)

        try:
            self._crew.work_off(
                current,
                send,
                outstanding=self._config.outstanding,
                stopped=self._stopped.is_set,
                held=self._held.is_set,
            )
        except BaseException as problem:
            self._crew.dismiss()  # a worker that could not start must not be taken for a ready one next time
            self._crew = None
            if isinstance(problem, CrewError):
                raise LabelingError(f"labeling has ended: {problem}") from None
            raise


def start_labeling(
    config: LabelingConfig,
    pool: LabelPoolClient,
    units: Sequence[WorkUnit],
    teacher: tuple[Any, int],
    build: Callable[..., Any] | None = None,
) -> LabelingClient:
    """Start the label workers of a run; they end with the program that started them.

    Args:
        config: sizes, names, workers and resources.
        pool: the run's pool, where candidates go.
        units: row groups of the hazy corpus.
        teacher: state dict of the first teacher and its training step.
        build: makes network and scorer from `config`; by default :func:`pseudolabel.labeling.load_models`.

    Raises:
        LabelingError: there is nothing to label, or the run labels already.
    """
    from pseudolabel.labeling.labeler import pack_state

    if not units:
        raise LabelingError("there is nothing to label: the corpus has no row groups")
    remote = ray.remote(LabelCoordinator)
    options = remote.options(
        name=COORDINATOR,
        namespace=namespace_of(pool.run),
        num_cpus=config.coordinator_cpus,
        max_concurrency=8,  # a round, the refreshing, and the short calls beside them
        max_restarts=-1,
        max_task_retries=-1,
    )
    arguments = (config, pool, list(units), (pack_state(teacher[0]), teacher[1]), build)
    actor = take_name(lambda: options.remote(*arguments), pool.run, "is being labeled by another program")
    return LabelingClient(pool.run, actor)
