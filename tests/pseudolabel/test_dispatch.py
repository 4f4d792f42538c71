"""Dispatching units to workers that die, without Ray."""

import itertools

import pytest

from pseudolabel.dispatch import Crew, WorkerGone
from pseudolabel.rounds import LabelingError, Round, UnitCounts, WorkUnit


class FakeWorkers:
    """Answers in the order of the calls; `fate` decides what becomes of each unit sent to a worker."""

    def __init__(self, size, fate=lambda index, unit, nth: UnitCounts(10, 10, 5), born=lambda index, nth: None):
        self.size, self.fate, self.born = size, fate, born
        self.answers, self.sent, self.replaced = {}, [], []
        self.ups = [0] * size
        self.tickets = itertools.count()
        self.dismissed = False
        self.most_waiting = 0

    def call_up(self, index):
        self.ups[index] += 1
        return self._ticket(self.born(index, self.ups[index]))

    def send(self, index, unit):
        self.sent.append((index, unit))
        return self._ticket(self.fate(index, unit, len(self.sent)))

    def _ticket(self, answer):
        ticket = next(self.tickets)
        self.answers[ticket] = answer
        return ticket

    def replace(self, index):
        self.replaced.append(index)

    def wait(self, tickets, seconds):
        self.most_waiting = max(self.most_waiting, len(tickets))
        return sorted(t for t in tickets if self.answers[t] != "never")[:1]

    def answer(self, ticket):
        answer = self.answers[ticket]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def dismiss(self):
        self.dismissed = True


UNITS = [WorkUnit("corpus/a.parquet", group) for group in range(8)]


def work(workers, units=UNITS, attempts=3, stopped=lambda: False):
    current = Round(1, 7, units, attempts)
    crew = Crew(workers, attempts)
    crew.work_off(current, workers.send, outstanding=2, stopped=stopped, seconds=0)
    current.close()
    return current.report(), crew


def test_every_unit_is_labelled_once_and_counted():
    workers = FakeWorkers(2)
    report, crew = work(workers)
    assert [unit for _, unit in workers.sent] == UNITS
    assert {index for index, _ in workers.sent} == {0, 1}
    assert (report["units"], report["done"], report["photographs"], report["accepted"]) == (8, 8, 80, 40)
    assert sum(report["per_worker"].values()) == 80
    assert report["failed"] == []
    assert crew.deaths == 0


def test_a_worker_has_at_most_two_units():
    workers = FakeWorkers(2)
    work(workers)
    assert workers.most_waiting <= 4


def test_the_units_of_a_dead_worker_go_to_others_until_it_is_back():
    def fate(index, unit, nth):
        return WorkerGone("killed") if index == 0 and nth <= 4 else UnitCounts(10, 10, 5)

    workers = FakeWorkers(2, fate, born=lambda index, nth: "never" if index == 0 and nth > 1 else None)
    report, crew = work(workers)
    assert report["done"] == 8
    assert report["photographs"] == 80, "each unit counts once"
    assert report["handed_again"] >= 1
    assert crew.deaths == 1
    lost = {unit for index, unit in workers.sent if index == 0}
    assert lost <= {unit for index, unit in workers.sent if index == 1}


def test_a_worker_that_is_gone_for_good_is_replaced():
    def born(index, nth):
        return WorkerGone("node died", for_good=True) if index == 1 and nth == 1 else None

    workers = FakeWorkers(2, born=born)
    report, _ = work(workers)
    assert workers.replaced == [1]
    assert report["done"] == 8


def test_a_unit_that_fails_time_and_again_is_given_up_and_named():
    def fate(index, unit, nth):
        return LabelingError("no such file") if unit.row_group == 3 else UnitCounts(10, 10, 10)

    report, _ = work(FakeWorkers(2, fate))
    assert report["done"] == 7
    assert report["failed"] == [{"uri": "corpus/a.parquet", "row_group": 3, "reason": "no such file"}]
    assert report["handed_again"] == 2


def test_work_goes_on_with_the_workers_that_there_is_room_for():
    workers = FakeWorkers(3, born=lambda index, nth: None if index == 2 else "never")
    report, _ = work(workers)
    assert report["done"] == 8
    assert {index for index, _ in workers.sent} == {2}


def test_a_wrong_configuration_ends_the_round():
    with pytest.raises(LabelingError, match="unknown scorer"):
        work(FakeWorkers(2, born=lambda index, nth: LabelingError("unknown scorer 'clap'")))


def test_workers_that_never_live_end_the_round():
    with pytest.raises(LabelingError, match="before they are ready"):
        work(FakeWorkers(2, born=lambda index, nth: WorkerGone("out of memory")))


def test_a_stop_ends_the_round():
    with pytest.raises(LabelingError, match="stopped"):
        work(FakeWorkers(1), stopped=lambda: True)
