"""Dispatching units to workers that die, without Ray."""

import itertools
from collections import Counter

import pytest

from pseudolabel.crew import dispatch
from pseudolabel.crew.dispatch import Crew, CrewError, UnitFailed, WorkerGone
from pseudolabel.labeling.rounds import Round, UnitCounts, WorkUnit, reasons


class FakeWorkers:
    """Answers in the order of the calls; `fate` decides what becomes of each unit sent to a worker."""

    def __init__(self, size, fate=lambda index, unit, nth: UnitCounts(10, 10, 5), born=lambda index, nth: None):
        self.size, self.fate, self.born = size, fate, born
        self.answers, self.sent, self.replaced, self.gone = {}, [], [], []
        self.ups = [0] * size
        self.tickets = itertools.count()
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

    def retire(self, index):
        self.gone.append(index)

    def wait(self, tickets, seconds):
        self.most_waiting = max(self.most_waiting, len(tickets))
        return sorted(t for t in tickets if self.answers[t] != "never")[:1]

    def answer(self, ticket):
        answer = self.answers[ticket]
        if isinstance(answer, Exception):
            raise answer
        return answer


UNITS = [WorkUnit("corpus/a.parquet", group) for group in range(8)]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(dispatch, "PATIENCE_SECONDS", 0)


def work(workers, units=UNITS, attempts=3, stopped=lambda: False):
    current = Round(1, 7, units, attempts)
    crew = Crew(workers, attempts)
    crew.work_off(current, workers.send, outstanding=2, stopped=stopped)
    current.close()
    return current.report(), crew


def test_every_unit_is_labeled_once_and_counted():
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
        return UnitFailed("no such file") if unit.row_group == 3 else UnitCounts(10, 10, 10)

    report, _ = work(FakeWorkers(2, fate))
    assert report["done"] == 7
    assert report["failed"] == [{"uri": "corpus/a.parquet", "row_group": 3, "reason": "no such file"}]
    assert 2 <= report["handed_again"] <= 4, "as often as workers that are well have failed it, and little more"


def test_work_goes_on_with_the_workers_that_there_is_room_for():
    workers = FakeWorkers(3, born=lambda index, nth: None if index == 2 else "never")
    report, _ = work(workers)
    assert report["done"] == 8
    assert {index for index, _ in workers.sent} == {2}


def test_a_wrong_configuration_ends_the_round():
    with pytest.raises(CrewError, match="unknown scorer"):
        work(FakeWorkers(2, born=lambda index, nth: UnitFailed("unknown scorer 'clap'")))


def test_workers_that_never_live_end_the_round():
    with pytest.raises(CrewError, match="dies before it is ready: out of memory"):
        work(FakeWorkers(2, born=lambda index, nth: WorkerGone("out of memory")))


MANY = [WorkUnit("corpus/a.parquet", group) for group in range(400)]
GOOD = UnitCounts(10, 10, 5)


class Hasty(FakeWorkers):
    """Who fails is done at once; photographs take their time."""

    def wait(self, tickets, seconds):
        super().wait(tickets, seconds)
        known = [ticket for ticket in tickets if self.answers[ticket] != "never"]
        return sorted(known, key=lambda ticket: (self.answers[ticket] == GOOD, ticket))[:1]


def sick(*indices, says="CUDA error"):
    """Workers that fail everything, and so do those who are hired in their place."""
    return lambda index, unit, nth: UnitFailed(says) if index in indices else GOOD


@pytest.mark.parametrize("kind", [FakeWorkers, Hasty])
@pytest.mark.parametrize(("size", "sick_ones"), [(2, [0]), (2, [1]), (8, [0]), (8, [7]), (8, [0, 2, 4, 6, 7])])
def test_sick_workers_cost_nothing_and_are_replaced_then_retired(kind, size, sick_ones):
    workers = kind(size, sick(*sick_ones))
    report, crew = work(workers, MANY, attempts=5)
    assert (report["done"], report["failed"]) == (400, [])
    assert sorted(workers.replaced) == sorted(workers.gone) == sick_ones
    assert crew.retired == len(sick_ones)
    assert set(crew.ready) == set(range(size)) - set(sick_ones)
    wasted = sum(index in sick_ones for index, _ in workers.sent)
    assert wasted <= 2 * (3 + 1) * len(sick_ones), "two at a time, three in a row, it and its replacement"
    twice = Counter(workers.sent)
    assert all(count == 1 for (index, _), count in twice.items() if index not in sick_ones)


def test_a_sick_worker_that_a_new_process_mends_stays():
    workers = FakeWorkers(
        2, lambda index, unit, nth: UnitFailed("CUDA") if index == 0 and not workers.replaced else GOOD
    )
    report, crew = work(workers, MANY)
    assert report["done"] == 400
    assert (workers.replaced, workers.gone, crew.retired) == ([0], [], 0)
    assert report["per_worker"]["worker 0.1"] > 1000, "it has its share"


@pytest.mark.parametrize(("size", "often"), [(1, 10), (2, 2), (2, 3), (2, 10), (8, 2), (8, 3)])
def test_a_worker_that_fails_now_and_then_costs_nothing(size, often):
    workers = FakeWorkers(
        size, lambda index, unit, nth: UnitFailed("hiccup") if nth % often == 0 and not index else GOOD
    )
    report, crew = work(workers, MANY, attempts=5)
    assert (report["done"], report["failed"]) == (400, [])
    assert crew.retired == 0


@pytest.mark.parametrize("kind", [FakeWorkers, Hasty])
@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("bad", [[5], [0, 1, 2, 3, 4, 5, 6, 7], [399], [7, 77, 177, 277, 377], range(0, 400, 10)])
@pytest.mark.parametrize("problem", [UnitFailed("no such file"), WorkerGone("out of memory")])
def test_poisonous_units_are_given_up_and_nobody_is_retired_for_them(kind, size, bad, problem):
    workers = kind(size, lambda index, unit, nth: problem if unit.row_group in bad else GOOD)
    report, crew = work(workers, MANY, attempts=5)
    assert [unit["row_group"] for unit in sorted(report["failed"], key=lambda unit: unit["row_group"])] == list(bad)
    assert report["done"] == 400 - len(bad)
    assert crew.retired == 0
    assert len(workers.replaced) <= size, "at the end, when nothing else is left, all are tried anew"
    tries = Counter(unit for _, unit in workers.sent if unit.row_group in bad)
    assert crew.deaths <= 5 * size * len(bad)
    assert crew.deaths or max(tries.values()) <= 5 * size


def test_a_unit_that_kills_goes_to_others_first():
    workers = FakeWorkers(4, lambda index, unit, nth: WorkerGone("killed") if unit.row_group == 9 else GOOD)
    work(workers, MANY, attempts=4)
    tried = [index for index, unit in workers.sent if unit.row_group == 9]
    assert sorted(tried[:4]) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_when_all_are_sick_the_round_ends_soon_and_says_why(size):
    workers = FakeWorkers(size, sick(*range(size), says="no kernel image"))
    report, crew = work(workers, MANY, attempts=5)
    assert report["done"] == 0
    assert report["reasons"] == "400 x no kernel image"
    assert len(workers.sent) <= 2 * 4 * size
    assert len(workers.replaced) == size, "a new process might have helped"
    assert crew.retired == 0, "nobody is there to compare them with"


def test_when_all_fall_sick_in_the_middle_the_rest_is_given_up_soon():
    workers = FakeWorkers(2, lambda index, unit, nth: GOOD if nth <= 100 else UnitFailed("disk full"))
    report, _ = work(workers, MANY, attempts=5)
    assert report["done"] == 100
    assert report["reasons"] == "300 x disk full"
    assert len(workers.sent) < 150


def test_one_that_cannot_start_is_retired_and_the_others_do_its_work():
    for problem in (UnitFailed("no such scorer here"), WorkerGone("out of memory")):
        workers = FakeWorkers(2, born=lambda index, nth, problem=problem: problem if index == 0 else None)
        report, crew = work(workers)
        assert report["done"] == 8
        if problem.args[0].startswith("no"):
            assert (workers.replaced, workers.gone, crew.retired) == ([0], [0], 1)


def test_reasons_are_counted_and_few():
    failed = [{"reason": reason} for reason in "aaabbcde"]
    assert reasons(failed) == "3 x a; 2 x b; 1 x c; 2 for other reasons"
    assert reasons([]) == ""


def test_a_stop_ends_the_round():
    with pytest.raises(CrewError, match="stopped"):
        work(FakeWorkers(1), stopped=lambda: True)
