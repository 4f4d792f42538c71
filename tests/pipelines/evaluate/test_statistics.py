"""Statistics over photographs in memory that does not grow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluate import statistics
from pipelines.evaluate.statistics import FEWEST, Statistics, weights_of

MODELS, NAMES = ("hazy input", "first", "second"), ("fade", "psnr")


def ids(count: int) -> list[str]:
    generator = np.random.default_rng(1)
    return ["".join(f"{byte:02x}" for byte in generator.bytes(16)) for _ in range(count)]


def filled(values: dict[str, np.ndarray], seed: int = 0, order: list[int] | None = None) -> Statistics:
    """Photographs with a FADE per model; NaN where there is none."""
    found = Statistics(MODELS, NAMES, seed)
    names = ids(len(next(iter(values.values()))))
    for place in order or range(len(names)):
        rows = {m: {"fade": None if np.isnan(v[place]) else float(v[place])} for m, v in values.items()}
        found.add(names[place], rows)
    return found


def test_a_signed_figure_is_better_nearer_to_zero() -> None:
    found = Statistics(("hazy input", "m"), ("level_shift",), 0)
    for image_id, before, after in (("0a", 5.0, -2.0), ("0b", -1.0, 3.0), ("0c", -4.0, -3.0)):
        image = image_id * 8
        found.add(image, {"hazy input": {"level_shift": before}, "m": {"level_shift": after}})
    difference = found.table()["m"]["level_shift"].difference
    assert difference is not None
    assert difference.improved == pytest.approx(2 / 3)
    assert difference.mean == pytest.approx(-2 / 3)


def test_means_medians_and_differences_are_those_of_the_values() -> None:
    hazy, first = np.array([4.0, 1.0, 3.0, 2.0, 6.0]), np.array([1.0, 2.0, 1.0, 1.0, 2.0])
    table = filled({"hazy input": hazy, "first": first}).table()
    assert list(table) == ["hazy input", "first"]
    assert list(table["first"]) == ["fade"]
    entry = table["first"]["fade"]
    assert (entry.n, entry.mean, entry.median) == (5, pytest.approx(1.4), 1.0)
    assert table["hazy input"]["fade"].difference is None
    assert entry.difference is not None
    assert entry.difference.mean == pytest.approx((first - hazy).mean())
    assert entry.difference.improved == 0.8
    assert entry.difference.interval is not None
    assert entry.difference.interval[0] <= entry.difference.mean <= entry.difference.interval[1]


def test_a_photograph_without_a_value_is_left_out_of_its_pairs_only() -> None:
    nan = float("nan")
    found = filled({"hazy input": np.array([2.0, 2.0, 2.0]), "first": np.array([1.0, nan, 4.0])})
    entry = found.table()["first"]["fade"]
    assert (entry.n, entry.mean) == (2, 2.5)
    assert entry.difference is not None
    assert (entry.difference.n, entry.difference.mean, entry.difference.improved) == (2, 0.5, 0.5)
    assert found.table()["hazy input"]["fade"].n == 3


def test_a_metric_that_is_better_when_higher_improves_when_it_rises() -> None:
    found = Statistics(MODELS, NAMES, 0)
    for image_id, gain in zip(ids(4), (1.0, 1.0, 1.0, -1.0), strict=True):
        found.add(image_id, {"hazy input": {"psnr": 20.0}, "first": {"psnr": 20.0 + gain}})
    entry = found.table()["first"]["psnr"].difference
    assert entry is not None
    assert (entry.mean, entry.improved) == (0.5, 0.75)


def test_few_photographs_have_no_interval() -> None:
    values = np.arange(float(FEWEST))
    assert filled({"hazy input": values[:-1]}).table()["hazy input"]["fade"].interval is None
    assert filled({"hazy input": values}).table()["hazy input"]["fade"].interval is not None


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(70)), st.integers(0, 1000))
def test_the_order_does_not_matter_and_the_seed_does(order: list[int], seed: int) -> None:
    values = np.random.default_rng(0).normal(2, 1, 70)
    one, other = (filled({"hazy input": values, "first": values / 2}, seed, o) for o in (None, list(order)))
    first, second = one.table()["first"]["fade"], other.table()["first"]["fade"]
    assert first.interval == pytest.approx(second.interval, abs=1e-12)
    np.testing.assert_array_equal(one.values("first", "fade"), other.values("first", "fade"))
    changed = filled({"hazy input": values, "first": values / 2}, seed + 1).table()["first"]["fade"]
    assert changed.interval != first.interval


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = filled({"hazy input": generator.normal(3.0, 1.0, 40)}, trial)
        interval = found.table()["hazy input"]["fade"].interval
        assert interval is not None
        hits += interval[0] <= 3.0 <= interval[1]
    assert 0.88 <= hits / 200 <= 0.99


def test_pairing_takes_away_what_photographs_have_in_common() -> None:
    generator = np.random.default_rng(0)
    hazy = generator.normal(5, 3, 60)
    first, second = hazy - 1 + generator.normal(0, 0.1, 60), hazy - 1.2 + generator.normal(0, 0.1, 60)
    found = filled({"hazy input": hazy, "first": first, "second": second})
    own = found.table()["first"]["fade"].interval
    pair = next(p for p in found.paired() if (p.model, p.other) == ("second", "first"))
    assert own is not None
    assert own[1] - own[0] > 1
    assert pair.decided
    interval = pair.difference.interval
    assert interval is not None
    assert interval[1] - interval[0] < 0.2
    same = filled({"hazy input": hazy, "first": hazy + generator.normal(0, 1, 60)})
    assert not next(p for p in same.paired() if p.model == "first").decided


def test_memory_does_not_grow_with_the_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE", 40)
    found = filled({"hazy input": np.arange(500.0)})
    kept = found.values("hazy input", "fade")
    assert kept.size == 40
    names = ids(500)
    lowest = sorted(range(500), key=lambda place: names[place])[:40]
    assert set(kept) == {float(place) for place in lowest}
    assert found.table()["hazy input"]["fade"].n == 500
    assert found.table()["hazy input"]["fade"].mean == pytest.approx(249.5)


def test_weights_belong_to_the_photograph_and_the_seed() -> None:
    one, other = ids(2)
    np.testing.assert_array_equal(weights_of(one, 3), weights_of(one, 3))
    assert (weights_of(one, 3) != weights_of(other, 3)).any()
    assert (weights_of(one, 3) != weights_of(one, 4)).any()
    assert weights_of(one, 0).mean() == pytest.approx(1, abs=0.1)
