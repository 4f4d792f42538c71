"""The client of a run's label workers: newer teachers for them, rounds of labeling, and what they are at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from models.config import PoolError
from pseudolabel.pool import Pending, find_actor

COORDINATOR = "label-coordinator"


class LabelingClient:
    """The label workers of a run; picklable. Made by :func:`pseudolabel.labeling.workers.start_labeling`."""

    def __init__(self, run: str, actor: Any = None) -> None:
        """Address the label workers of `run`; `actor` is the coordinator's handle, held by those who started it."""
        self._run = run
        self._actor = actor
        self._publishing: Any = None
        self._refreshing: Any = None

    def publish(self, state: Mapping[str, Any], step: int) -> None:
        """Make newer teacher weights known; the next round labels with them. Steps that are not newer are ignored.

        Returns at once; one publication is under way at a time. The weights are sent once, whatever the number of
        workers.

        Args:
            state: state dict of the teacher, on any device.
            step: its training step.
        """
        from pseudolabel.labeling.labeler import pack_state

        self._settle()
        self._publishing = self._coordinator().publish.remote(pack_state(state), step)

    def hold(self) -> None:
        """Break off the labeling, and wait until everything on its way to the pool has arrived.

        For a program that is about to restore the pool; nothing is offered until :meth:`rewind`.
        """
        self._settle()
        self._answer(self._coordinator().hold.remote())

    def rewind(self, state: Mapping[str, Any], step: int) -> None:
        """Go on, everything anew, with weights that may be older than those published last; see :meth:`publish`."""
        from pseudolabel.labeling.labeler import pack_state

        self._settle()
        self._answer(self._coordinator().rewind.remote(pack_state(state), step))

    def weights_step(self) -> Pending[int]:
        """Ask for the training step of the oldest weights that any worker labels with, and take the answer later."""
        return self._pending(self._coordinator().weights_step.remote())

    def run_round(self, progress: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Label all units with the latest teacher, and wait; this is how the pool is seeded before training.

        Args:
            progress: told the :meth:`status` every second.

        Returns:
            the round's report, see :meth:`pseudolabel.labeling.rounds.Round.report`.

        Raises:
            LabelingError: the workers cannot start, or not a single unit could be labeled.
        """
        self._settle()
        ref = self._coordinator().run_round.remote()
        while not ray.wait([ref], timeout=1)[0]:
            if progress is not None:
                progress(self.status())
        report: dict[str, Any] = self._answer(ref)
        if progress is not None:
            progress(self.status())
        return report

    def start(self) -> None:
        """Label everything again, in the background, whenever a newer teacher is there; returns at once."""
        self._refreshing = self._coordinator().refresh.remote()

    def status(self) -> dict[str, Any]:
        """Say what is going on.

        `teacher_step` (published), `weights_step` (oldest in use), `labeled_step` (with this teacher or a later one
        every photograph has been labeled), `workers_ready`, `deaths`, `retired` and `given_up` (see :meth:`troubles`),
        `error`, `current` (report of the round under way, or None) and `history` (reports, newest last).
        """
        status: dict[str, Any] = self._answer(self._coordinator().status.remote())
        return status

    def troubles(self) -> tuple[int, int]:
        """Return how many row groups all rounds together have given up, and how many label workers are retired."""
        given_up, retired = self._answer(self._coordinator().troubles.remote())
        return given_up, retired

    def stop(self) -> None:
        """Stop coordinator and workers; safe to call twice. The pool is not touched."""
        try:
            actor = find_actor(COORDINATOR, self._run, "start_labeling")
        except PoolError:
            return
        with suppress(RayActorError, GetTimeoutError):
            ray.get(actor.stop.remote(), timeout=30)
            if self._refreshing is not None:  # killed in the middle of it, Ray would announce to try it again
                ray.wait([self._refreshing], timeout=10)
        ray.kill(actor)
        self._actor = self._refreshing = None

    def _settle(self) -> None:
        if self._publishing is not None:
            # One is under way at a time, and what went wrong with it is raised here, once.
            publishing, self._publishing = self._publishing, None
            self._answer(publishing)

    def _coordinator(self) -> Any:
        return self._actor or find_actor(COORDINATOR, self._run, "start_labeling")

    def _answer(self, ref: Any) -> Any:
        return self._pending(ref).result()

    def _pending(self, ref: Any) -> Pending[Any]:
        return Pending(f"the labeling of run '{self._run}'", [ref], lambda answers: answers[0])

    def __getstate__(self) -> dict[str, Any]:
        # Handles stay here: the coordinator lives as long as whoever started it holds one.
        return {"_run": self._run, "_actor": None, "_publishing": None, "_refreshing": None}
