"""The book-keeping of work: units that come as they are needed, parts of what is given up, work that is broken off."""

import itertools

import pytest

from pseudolabel.crew import dispatch
from pseudolabel.crew.dispatch import Crew, WorkerGone
from pseudolabel.crew.work import Work


class Words(Work[str]):
    """Words; the letters of one that is given up are tried one by one."""

    def __init__(self, units, **options):
        super().__init__(units, **options)
        self.answers, self.lost = [], []

    def finish(self, unit, worker, answer):
        super().finish(unit, worker, answer)
        self.answers.append(answer)

    def gave_up(self, unit, reason):
        if len(unit) > 1:
            return list(unit)
        self.lost.append((unit, reason))
        return ()


class Workers:
    """Whoever is given a unit with an `x` dies of it."""

    size = 2

    def __init__(self, deadly=lambda unit: "x" in unit):
        self.deadly, self.tickets, self.given = deadly, itertools.count(), {}

    def call_up(self, index):
        return self.send(index, "")

    def replace(self, index):
        pass

    def send(self, index, unit):
        ticket = next(self.tickets)
        self.given[ticket] = unit
        return ticket

    def wait(self, tickets, seconds):
        return sorted(tickets)[:1]

    def answer(self, ticket):
        unit = self.given[ticket]
        if unit and self.deadly(unit):
            raise WorkerGone("killed")
        return unit.upper()


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(dispatch, "PATIENCE_SECONDS", 0)


def test_only_the_part_that_kills_is_lost():
    workers, work = Workers(), Words(["abc", "dxe", "fgh"], attempts=3)
    Crew(workers, 3).work_off(work, workers.send, outstanding=2)
    assert sorted(work.answers) == ["ABC", "D", "E", "FGH"]
    ((lost, reason),) = work.lost
    assert lost == "x"
    assert "died" in reason


@pytest.mark.parametrize("deadly", [lambda unit: False, lambda unit: int(unit) % 50 == 0])
def test_units_are_fetched_as_they_are_needed(deadly):
    fetched = 0

    def units():
        nonlocal fetched
        for number in range(2000):
            fetched += 1
            yield f"{number:04d}"

    class Watched(Words):
        most = 0

        def finish(self, unit, worker, answer):
            super().finish(unit, worker, answer)
            self.most = max(self.most, fetched - self.done)

        def gave_up(self, unit, reason):
            self.lost.append((unit, reason))
            return ()

    workers, work = Workers(deadly), Watched(units(), attempts=3, window=32)
    Crew(workers, 3).work_off(work, workers.send, outstanding=2)
    assert work.done + len(work.lost) == fetched == 2000
    assert work.most <= 32 + 2 * 2 + len(work.lost)


def test_work_without_end_can_be_broken_off():
    workers, work = Workers(), Words(str(number) for number in itertools.count())
    Crew(workers, 3).work_off(work, workers.send, outstanding=2, held=lambda: work.done >= 10)
    assert work.finished
    assert 10 <= work.done <= 13
