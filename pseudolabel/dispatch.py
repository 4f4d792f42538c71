"""Who labels what: keeps workers busy through a round, and goes on when some of them die. No Ray."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pseudolabel.rounds import LabelingError, Round, WorkUnit

log = logging.getLogger(__name__)

QUIET_SECONDS = 30  # between two warnings that nobody is there


class WorkerGone(RuntimeError):  # noqa: N818 - an event, not a mistake
    """A worker died with the call; `for_good` when nothing restarts it."""

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class Workers(Protocol):
    """What a crew is made of, as the crew sees it. A ticket stands for a call under way; it is hashable."""

    size: int

    def call_up(self, index: int) -> Any:
        """Ask worker `index` whether it is ready; a ticket that is answered when it is."""
        ...

    def replace(self, index: int) -> None:
        """Hire somebody in the place of worker `index`."""
        ...

    def wait(self, tickets: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Tickets that are answered; waits for at least one, `seconds` at most."""
        ...

    def answer(self, ticket: Any) -> Any:
        """The answer; raises WorkerGone, or LabelingError when the worker is well but the call has failed."""
        ...

    def dismiss(self) -> None:
        """Stop all of them."""
        ...


class Crew:
    """Workers and what is known about them. A worker gets work only after it has said that it is ready."""

    def __init__(self, workers: Workers, attempts: int) -> None:
        """Call up all `workers`; give up when they die more than `attempts` times each before they are ready."""
        self._workers, self._attempts = workers, attempts
        self._coming: dict[Any, int] = {}
        self._failures = 0
        self.deaths = 0
        for index in range(workers.size):
            self._call_up(index)

    @property
    def ready(self) -> list[int]:
        """Workers that can take work."""
        away = set(self._coming.values())
        return [index for index in range(self._workers.size) if index not in away]

    def work_off(
        self,
        current: Round,
        send: Callable[[int, WorkUnit], Any],
        *,
        outstanding: int,
        stopped: Callable[[], bool],
        held: Callable[[], bool] = lambda: False,
        seconds: float = 1.0,
    ) -> None:
        """Have every unit of a round done or given up.

        Args:
            current: the round; it is told how each unit went.
            send: gives a unit to a worker and returns the ticket.
            outstanding: units a worker may have at a time.
            stopped: asked at least every `seconds` whether to leave off at once.
            held: asked as often whether to break the round off: units that are out come back, no others are handed out.

        Raises:
            LabelingError: no worker can start, or `stopped`.
        """
        out: dict[Any, tuple[int, WorkUnit]] = {}
        said = time.monotonic()
        while not current.finished:
            if stopped():
                raise LabelingError("labelling was stopped")
            if held():
                current.leave()
            self._hand_out(current, send, out, outstanding)
            for ticket in self._workers.wait([*out, *self._coming], seconds):
                if stopped():  # the workers were dismissed; that is no death to make up for
                    break
                if ticket in out:
                    self._take_back(current, ticket, *out.pop(ticket))
                else:
                    self._arrived(ticket)
            if not self.ready and time.monotonic() - said > QUIET_SECONDS:
                said = time.monotonic()
                log.warning("no label worker is up yet: is there room for them?")

    def dismiss(self) -> None:
        """Stop all workers."""
        self._workers.dismiss()

    def _hand_out(
        self,
        current: Round,
        send: Callable[[int, WorkUnit], Any],
        out: dict[Any, tuple[int, WorkUnit]],
        outstanding: int,
    ) -> None:
        load = Counter(index for index, _ in out.values())
        for level in range(outstanding):  # evenly: everybody gets a first unit before anybody gets a second
            for index in [index for index in self.ready if load[index] <= level]:
                unit = current.take()
                if unit is None:
                    return
                out[send(index, unit)] = (index, unit)
                load[index] += 1

    def _take_back(self, current: Round, ticket: Any, index: int, unit: WorkUnit) -> None:
        try:
            current.finish(unit, f"worker {index}", self._workers.answer(ticket))
        except LabelingError as problem:
            current.fail(unit, str(problem))
        except WorkerGone:
            current.fail(unit, f"worker {index} died")
            if index in self.ready:  # each of its calls fails, but it died once
                self.deaths += 1
                self._call_up(index)

    def _call_up(self, index: int) -> None:
        self._coming[self._workers.call_up(index)] = index

    def _arrived(self, ticket: Any) -> None:
        index = self._coming.pop(ticket)
        try:
            self._workers.answer(ticket)
            self._failures = 0
        except LabelingError as problem:
            raise LabelingError(f"label workers cannot start: {problem}") from None
        except WorkerGone as problem:
            self._failures += 1
            if self._failures > self._attempts * self._workers.size:
                raise LabelingError(f"label workers die before they are ready: {problem}") from None
            if problem.for_good:
                self._workers.replace(index)
            self._call_up(index)
