"""The book-keeping of work that a crew does: what waits, what is out, what came back undone. No Ray."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Unit = TypeVar("Unit", bound=Hashable)


@dataclass
class _Trouble:
    """What went wrong with a unit: how often that says something about it, with whom, and the last reason."""

    tries: int = 0
    counted: bool = False  # since everybody might try last
    by: set[str] = field(default_factory=set)
    reason: str = ""


class Work(Generic[Unit]):
    """Units that workers do, each until it is done or has failed too often.

    Invariant: a unit is still to come, waiting, handed out, done, given up, or left because the work was broken off.
    Units to come are fetched as they are needed, so that they may be any number.

    Args:
        units: what is to be done, named by its ``str`` in logs.
        attempts: how often a unit may fail with workers that are well before it is given up.
        window: how many units may wait here, where a worker in doubt looks for one from far back.
    """

    def __init__(self, units: Iterable[Unit], attempts: int = 5, window: int = 64) -> None:
        self.done = self.handed_again = 0
        self.broken_off = False
        self._attempts, self._window = attempts, window
        self._to_come: Iterator[Unit] = iter(units)
        self._waiting: deque[Unit] = deque()
        self._again: list[Unit] = []  # came back undone; another worker is to have them before any new one
        self._out: set[Unit] = set()
        self._troubles: defaultdict[Unit, _Trouble] = defaultdict(_Trouble)

    def gave_up(self, unit: Unit, reason: str) -> Iterable[Unit]:
        """Take note of a unit that is given up, and return the units to try in its place, such as its parts."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Return whether every unit is done, given up or left."""
        # Whether there are units to come shows only when one is asked for.
        return not (self._out or self._again or self._fetch(1))

    def _fetch(self, count: int) -> int:
        """Let as many units wait as there are, ``count`` at most; returns how many do."""
        self._waiting.extend(itertools.islice(self._to_come, max(0, count - len(self._waiting))))
        return len(self._waiting)

    def take(self, worker: str, place: float = 0.0) -> Unit | None:
        """Return the next unit for `worker`, None when there is none that it has not failed already.

        Args:
            worker: its name.
            place: 0 to 1, how far back in the queue: failures of neighbors say less about a worker than those of units
                from all over.
        """
        again = next((unit for unit in self._again if worker not in self._troubles[unit].by), None)
        if again is not None:
            self._again.remove(again)
            self._out.add(again)
            return again
        there = self._fetch(self._window if place else 1)
        if not there:
            return None
        # A worker in doubt gets units from elsewhere in the queue: neighbors may share a fault.
        at = min(int(place * there), there - 1)
        unit = self._waiting[at]
        del self._waiting[at]
        self._out.add(unit)
        return unit

    def leave(self) -> None:
        """Break the work off: what is waiting or to come stays undone, what is handed out comes back as usual."""
        self.broken_off = True
        self._to_come = iter(())
        self._waiting.clear()
        self._again.clear()

    def finish(self, unit: Unit, worker: str, answer: Any) -> None:  # noqa: ARG002 - for those who override it
        """Count `unit` as done by `worker`, with this answer."""
        self.done += 1
        self._out.discard(unit)
        self._troubles.pop(unit, None)

    def fail(self, unit: Unit, reason: str, worker: str | None = None, *, counts: bool = True) -> bool:
        """Take `unit` back undone: hand it out again, or give it up.

        Args:
            unit: which.
            reason: in a few words.
            worker: who failed it, and is not to have it again as long as there are others; None where it is innocent.
            counts: whether that says something about the unit.

        Returns:
            whether it was given up.
        """
        self._out.discard(unit)
        trouble = self._troubles[unit]
        trouble.tries, trouble.reason = trouble.tries + counts, reason
        trouble.counted |= counts
        if worker is not None:
            trouble.by.add(worker)
        if trouble.tries >= self._attempts:
            log.error("%s is given up: %s", unit, reason)
            self._give_up(unit, reason)
            return True
        self._again.append(unit)
        self.handed_again += 1
        log.warning("%s is handed out again: %s", unit, reason)
        return False

    def suspicious(self, unit: Unit) -> bool:
        """Return whether a worker that is well has failed it: then it says little about the others that do."""
        return unit in self._troubles and self._troubles[unit].tries > 0

    def go_round(self) -> list[Unit]:
        """Let all workers try the units again that each of them has failed; such a round counts at least once.

        Returns:
            units that were given up.
        """
        units, self._again = self._again, []
        return [unit for unit in units if self._once_more(unit)]

    def _once_more(self, unit: Unit) -> bool:
        trouble = self._troubles[unit]
        trouble.by.clear()
        # Somebody who was well has tried it since the last round: that was its count.
        if trouble.counted:
            self._again.append(unit)
        given_up = not trouble.counted and self.fail(unit, trouble.reason)
        trouble.counted = False
        return given_up

    def abandon(self, reason: str) -> None:
        """Give up all that is left: nobody is there who could do it."""
        log.error("the rest is given up, because every worker fails: %s", reason)
        while self._again or self._fetch(1):
            unit = self._again.pop(0) if self._again else self._waiting.popleft()
            self._give_up(unit, self._troubles[unit].reason or reason)

    def _give_up(self, unit: Unit, reason: str) -> None:
        self._troubles.pop(unit, None)
        self._waiting.extend(self.gave_up(unit, reason))
