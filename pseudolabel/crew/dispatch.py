"""Who does what: keeps workers busy until work is done, and goes on when some of them die or fall sick. No Ray."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from models.config import DehazeError
from pseudolabel.crew.work import Unit, Work

log = logging.getLogger(__name__)

QUIET_SECONDS = 30  # between two warnings that nobody is there
PATIENCE_SECONDS = 30  # that workers in doubt wait for others to come


class CrewError(DehazeError, RuntimeError):
    """The work cannot go on: no worker is left, or it was stopped."""


class UnitFailed(RuntimeError):  # noqa: N818 - an event, not a mistake
    """A call failed with a worker that goes on living; another one may do better."""


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
        """Stop worker `index`, if it lives, and hire somebody in its place."""
        ...

    def retire(self, index: int) -> None:
        """Stop worker `index` for good."""
        ...

    def wait(self, tickets: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return tickets that are answered; wait for at least one, `seconds` at most."""
        ...

    def answer(self, ticket: Any) -> Any:
        """Return the answer; raise WorkerGone or UnitFailed; any other exception ends the work."""
        ...

    def dismiss(self) -> None:
        """Stop all of them."""
        ...


@dataclass
class _Known:
    """What is known about one worker.

    Attributes:
        name: of the worker, for reports; a replacement has another one.
        well: its last unit went well.
        row: units that it failed since one went well, and whether another worker has done them since.
        second: it is a replacement that has not done anything yet.
        births: how often it died before it was ready.
        reason: of its last failure.
        retired: it gets no more work.
    """

    name: str
    well: bool = False
    row: dict[Any, bool] = field(default_factory=dict)
    second: bool = False
    births: int = 0
    reason: str = ""
    retired: bool = False


class Crew:
    """Workers and what is known about them. A worker gets work only after it has said that it is ready.

    Is it the worker or the unit? A worker is sick that fails `failures` units in a row which others then do; a unit is
    to blame when workers that are well fail it. Whoever is in doubt rests until others have had its units. Where all
    are in doubt nobody can tell: all are replaced once, and when that does not help, the rest of the work is given up.
    """

    def __init__(self, workers: Workers, attempts: int, failures: int = 3) -> None:
        """Call up all `workers`.

        Args:
            workers: who there is.
            attempts: how often one may die before it is ready.
            failures: units in a row after which a worker is in doubt.
        """
        self._workers, self._attempts, self._limit = workers, attempts, failures
        # Tickets of those that were asked whether they are ready.
        self._coming: dict[Any, int] = {}
        self._known = [_Known(f"worker {index}") for index in range(workers.size)]
        self.deaths = 0
        self._at_work = self._said = time.monotonic()
        for index in range(workers.size):
            self._call_up(index)

    @property
    def ready(self) -> list[int]:
        """Return the workers that can take work."""
        away = set(self._coming.values())
        return [i for i, known in enumerate(self._known) if i not in away and not known.retired]

    @property
    def retired(self) -> int:
        """Return the number of workers that were given up."""
        return sum(known.retired for known in self._known)

    def work_off(
        self,
        work: Work[Unit],
        send: Callable[[int, Unit], Any],
        *,
        outstanding: int,
        stopped: Callable[[], bool] = lambda: False,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        """Have every unit done or given up.

        Args:
            work: the units; it is told how each of them went.
            send: gives a unit to a worker and returns the ticket; asked late, so that it may send along what is newest.
            outstanding: units a worker may have at a time.
            stopped: asked at least every second whether to leave off at once.
            held: asked as often whether to break the work off: units that are out come back, no others are handed out.

        Raises:
            CrewError: no worker can start, or `stopped`.
        """
        # By ticket: the worker's place, its name at that time, and what it was given.
        out: dict[Any, tuple[int, str, Unit]] = {}
        self._at_work = self._said = time.monotonic()
        for known in self._known:
            known.row.clear()  # of units of other work
        while not work.finished:
            if stopped():
                raise CrewError("the work was stopped")
            if held():
                work.leave()
            self._hand_out(work, send, out, outstanding)
            for ticket in self._wait(out):
                if stopped():  # the workers were dismissed; that is no death to make up for
                    break
                if ticket in out:
                    self._take_back(work, ticket, *out.pop(ticket))
                else:
                    self._arrived(ticket)

    def dismiss(self) -> None:
        """Stop all workers."""
        self._workers.dismiss()

    def _wait(self, out: Mapping[Any, Any]) -> Sequence[Any]:
        if not self.ready and time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            log.warning("no worker is up yet: is there room for them?")
        tickets = [*out, *self._coming]
        return self._workers.wait(tickets, 1.0) if tickets else ()

    def _rests(self, index: int) -> bool:
        return len(self._known[index].row) >= self._limit

    def _hand_out(
        self,
        work: Work[Unit],
        send: Callable[[int, Unit], Any],
        out: dict[Any, tuple[int, str, Unit]],
        outstanding: int,
    ) -> None:
        load = Counter(name for _, name, _ in out.values())
        for level in range(outstanding):  # evenly: everybody gets a first unit before anybody gets a second
            for index in [i for i in self.ready if load[self._known[i].name] <= level and not self._rests(i)]:
                known = self._known[index]
                # The more it has failed in a row, the farther back its next unit is from.
                unit = work.take(known.name, len(known.row) / self._limit)
                if unit is not None:
                    out[send(index, unit)] = (index, known.name, unit)
                    load[known.name] += 1
        if out:
            self._at_work = time.monotonic()
        elif self.ready and not work.finished:
            self._at_a_loss(work)

    def _take_back(self, work: Work[Unit], ticket: Any, index: int, name: str, unit: Unit) -> None:
        known = self._known[index]
        try:
            # Names tell whether the one who took the unit is still the one in that place.
            counts = self._workers.answer(ticket)
        except UnitFailed as problem:
            if known.name == name:
                self._failed(work, index, unit, str(problem))
            else:  # it was replaced meanwhile
                work.fail(unit, str(problem), name, counts=False)
        except WorkerGone:
            if known.name == name and index in self.ready:  # each of its calls fails, but it died once
                self.deaths += 1
                self._failed(work, index, unit, f"{name} died")
                if known.name == name and not known.retired:
                    self._call_up(index)
            else:
                work.fail(unit, f"{name} died", counts=False)
        else:
            work.finish(unit, name, counts)
            self._succeeded(known if known.name == name else None, unit)

    def _failed(self, work: Work[Unit], index: int, unit: Unit, reason: str) -> None:
        known = self._known[index]
        # One that was well is believed: the unit is to blame, more than it is.
        blamed, known.well, known.reason = known.well, False, reason
        # A unit that somebody well has failed says nothing about the others.
        if not work.suspicious(unit):
            known.row[unit] = False
        if work.fail(unit, reason, known.name, counts=blamed) or blamed:
            self._acquit([unit], but=known)

    def _succeeded(self, known: _Known | None, unit: Unit) -> None:
        """Blame the workers that failed this unit, and acquit the one that did it of its own failures."""
        if known is not None:
            # It is well: what it failed before is to blame, and nobody else who failed that.
            failed = list(known.row)
            known.row.clear()
            known.well, known.second, known.births = True, False, 0
            self._acquit(failed)
        for index, other in enumerate(self._known):
            if unit in other.row and not other.retired:
                other.row[unit] = True
                if sum(other.row.values()) >= self._limit:
                    self._sick(index, f"failed {self._limit} units in a row that others have done: {other.reason}")

    def _acquit(self, units: Sequence[Unit], but: _Known | None = None) -> None:
        for known in self._known:
            for unit in units if known is not but else ():
                known.row.pop(unit, None)

    def _sick(self, index: int, what: str) -> None:
        """Replace a worker, or retire it when it was the replacement."""
        if not self._known[index].second:
            log.warning("%s is replaced: it %s", self._known[index].name, what)
            self._replace(index, second=True)
            return
        self._known[index] = replace(self._known[index], retired=True, row={})
        self._no_longer_coming(index)
        self._workers.retire(index)
        left = sum(not known.retired for known in self._known)
        log.error("%s is retired, %d are left: it %s", self._known[index].name, left, what)

    def _replace(self, index: int, *, second: bool) -> None:
        number = int(self._known[index].name.partition(".")[2] or 0) + 1
        self._no_longer_coming(index)
        self._workers.replace(index)
        self._known[index] = _Known(f"worker {index}.{number}", second=second)
        self._call_up(index)

    def _at_a_loss(self, work: Work[Unit]) -> None:
        """Go on where units are left and workers ready, and nothing can be handed out."""
        # Others are on their way, who may tell whose fault it is.
        patient = self._coming and time.monotonic() - self._at_work < PATIENCE_SECONDS
        if not all(self._rests(index) for index in self.ready):
            for unit in [] if patient else work.go_round():
                self._acquit([unit])
            return
        once = [index for index in self.ready if not self._known[index].second]
        for index in once:
            what = f"failed {self._limit} units in a row, as all others did: {self._known[index].reason}"
            self._sick(index, what)
        if not once and not patient:
            work.abandon(self._known[self.ready[0]].reason)

    def _call_up(self, index: int) -> None:
        self._coming[self._workers.call_up(index)] = index

    def _no_longer_coming(self, index: int) -> None:
        self._coming = {ticket: coming for ticket, coming in self._coming.items() if coming != index}

    def _arrived(self, ticket: Any) -> None:
        index = self._coming.pop(ticket)
        known = self._known[index]
        try:
            self._workers.answer(ticket)
            return
        except UnitFailed as problem:
            what = f"cannot start: {problem}"
            self._sick(index, what)
        except WorkerGone as problem:
            what = f"dies before it is ready: {problem}"
            known.births += 1
            if known.births > self._attempts:
                self._sick(index, what)
            elif problem.for_good:
                # The count goes over to its replacement, or it would never end.
                births = known.births
                self._replace(index, second=known.second)
                self._known[index].births = births
            else:
                self._call_up(index)
        if not self.ready and not self._coming:
            raise CrewError(f"no worker is left; the last one {what}")
