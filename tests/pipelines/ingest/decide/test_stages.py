"""What becomes of files: filters, held-out sets, equal and similar photographs. Every file ends up in one place, and
the same one however many parts the catalogue is cut into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ConfigError, parse
from pipelines.corpus.catalogue import EXAMINED
from pipelines.corpus.similarity import EXHAUSTIVE
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import banned, similar
from pipelines.ingest.decide.banned import BANNED, Banned, store_banned
from pipelines.ingest.decide.parts import Work, by_content, by_text, load, scatter
from pipelines.ingest.decide.stages import HELD, decide


def config(**changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": ["/in"], "domain": "hazy", "out": "/out", **changes})


def look(seed: int, *turned: int) -> bytes:
    """A hash, with some of its bits turned."""
    bits = np.unpackbits(np.random.default_rng(seed).integers(0, 256, 32, dtype=np.uint8))
    bits[list(turned)] ^= 1
    return np.packbits(bits).tobytes()


def row(
    uri: str, image_id: str = "", seed: int | None = None, turned: tuple[int, ...] = (), **changes: Any
) -> dict[str, Any]:
    known = {
        "uri": uri, "key": uri, "place": f"file|0|9|{uri}", "depth": None, "listed": 9, "mtime": 1, "size": 1000,
        "image_id": image_id or uri, "width": 100, "height": 80, "haze": 0.5, "reason": "", "message": "",
        "phash": look(hash(uri) % 2**32 if seed is None else seed, *turned),
    }  # fmt: skip
    return known | changes


@dataclass(frozen=True)
class Ban:
    """What must not get in: image ids, and looks with their names."""

    reason: Any
    ids: Sequence[str] = ()
    looks: Sequence[bytes] = ()
    names: Sequence[str] = ()


@pytest.fixture(params=[1, 3])
def work(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """One part, or several; the jobs are done here."""
    monkeypatch.setattr(Work, "run", lambda self, function, jobs: [function(**job) for job in jobs])
    return Work(str(tmp_path / "work"), request.param)


def decided(
    work: Work,
    rows: Sequence[dict[str, Any]],
    asked: IngestConfig,
    bans: Sequence[Ban] = (),
    settled: Sequence[str] = (),
    maps: Sequence[str | None] = (),
) -> list[dict[str, Any]]:
    """Rows of the sheet, in the order of the given ones. ``settled`` is what the corpus holds, with these ``maps``."""
    table = pa.Table.from_pylist(list(rows), EXAMINED)
    scatter(work.place("examined"), table, by_content(table, work.parts), work.parts)
    depth = list(maps) or [None] * len(settled)
    held = pa.table([list(settled), depth, ["s"] * len(settled)], schema=HELD)
    scatter(work.place("held"), held, by_text(held["image_id"], work.parts), work.parts)
    made = []
    for number, ban in enumerate(bans):
        named = list(ban.looks) + [None] * (len(ban.ids) - len(ban.looks))
        names = [*ban.names, *[None] * (len(named) - len(ban.names))]
        ids = [*ban.ids, *[""] * (len(named) - len(ban.ids))]
        store_banned(work.place(f"ban{number}"), pa.table([ids, names, named], schema=BANNED), work.parts)
        made.append(Banned(ban.reason, [work.place(f"ban{number}")], len(ban.looks)))
    decide(work, asked, [work.place("examined")], [work.place("held")], made)
    found = [row for part in range(work.parts) for row in load(work.place("sheet", part)).to_pylist()]
    places = {row["uri"]: place for place, row in enumerate(rows)}
    return sorted(found, key=lambda row: places[row["uri"]])


def outcome(found: list[dict[str, Any]]) -> dict[str, tuple[str, str, str | None]]:
    return {row["uri"]: (row["status"], row["reason"], row["same_as"]) for row in found}


def statuses(found: list[dict[str, Any]]) -> list[str]:
    return [row["status"] for row in found]


KEPT = ("accepted", "", None)


def test_the_first_of_equal_files_by_name_is_kept(work: Work) -> None:
    rows = row("z", "1", 1), row("b", "2"), row("a", "1", 1), row("c", "1", 1), row("x", reason="unreadable")
    assert outcome(decided(work, rows, config())) == {
        "a": KEPT, "b": KEPT, "c": ("duplicate", "exact", "a"), "z": ("duplicate", "exact", "a"),
        "x": ("rejected", "unreadable", None),
    }  # fmt: skip


def test_of_equal_files_one_with_a_depth_map_is_kept(work: Work) -> None:
    rows = row("a", "1", 1), row("b", "1", 1, depth="file|0|0|b.npy"), row("c", "1", 1, depth="file|0|0|c.npy")
    found = decided(work, rows, config())
    assert statuses(found) == ["duplicate", "accepted", "duplicate"]
    assert found[1]["depth"] == "file|0|0|b.npy"


@pytest.mark.parametrize("held", ["file|0|0|c.npy", None])
def test_an_equal_file_that_is_added_takes_no_place_and_no_depth_map(work: Work, held: str | None) -> None:
    rows = row("a", "1", 1), row("b", "1", 1, depth="file|0|0|b.npy"), row("c", "1", 1, depth=held)
    found = decided(work, rows, config(append=True), settled=["1"], maps=[held])
    assert [row["depth"] for row in found if row["status"] == "accepted"] == [held]


def test_the_largest_of_similar_ones_is_kept(work: Work) -> None:
    rows = row("a", seed=1), row("b", seed=1, turned=(3, 9), width=200), row("c", seed=1, turned=tuple(range(40)))
    found = decided(work, rows, config())
    assert outcome(found) == {"a": ("duplicate", "near", "b"), "b": KEPT, "c": KEPT}
    assert [row["distance"] for row in found] == [2, 0, 0]
    rows = row("a", seed=1), row("b", seed=1, turned=(3, 9))
    assert statuses(decided(work, rows, config(near_duplicates=1))) == ["accepted", "accepted"]
    rows = row("a", seed=1), row("b", seed=1)
    assert statuses(decided(work, rows, config(near_duplicates=-1))) == ["accepted", "accepted"]


def test_what_the_corpus_holds_already_stays(work: Work) -> None:
    rows = row("a", "1", 1), row("b", "1", 1), row("c", "2", 1, (3,), width=500), row("d", "3", 1, (5,))
    found = outcome(decided(work, rows, config(), settled=["3"]))
    assert found["d"] == KEPT
    assert [found[u][:2] for u in "abc"] == [("duplicate", "near"), ("duplicate", "exact"), ("duplicate", "near")]


def test_hazes_of_one_scene_stay(work: Work) -> None:
    rows = row("s/1", seed=1), row("s/2", seed=1)
    assert statuses(decided(work, rows, config(pair_by="(.)/"))) == ["accepted", "accepted"]
    rows = row("s/1", seed=1), row("s/2", seed=1), row("t/1", seed=1), row("u", seed=1), row("v", seed=1)
    found = outcome(decided(work, rows, config(pair_by="(.)/")))
    assert [found[uri] for uri in ("s/1", "s/2")] == [KEPT, KEPT]
    assert {found[uri] for uri in ("t/1", "u", "v")} == {("duplicate", "near", "s/1")}


def test_filters_name_the_size(work: Work) -> None:
    rows = row("a", height=31), row("b", width=900), row("c", width=100, height=32)
    found = decided(work, rows, config())
    assert outcome(found) == {
        "a": ("rejected", "too_small", None), "b": ("rejected", "too_long", None), "c": KEPT,
    }  # fmt: skip
    assert [row["message"] for row in found][:2] == [
        "100x31 has a side below 32 pixels", "900x80 is more than 8 times as long as wide",
    ]  # fmt: skip


def test_held_out_photographs_and_what_looks_like_them(work: Work) -> None:
    rows = row("a", "1"), row("b", "1"), row("c", "2", 7, tuple(range(50))), row("d", "3")
    ban = Ban("held_out", ["1", "9"], [look(7)], ["/held/7.jpg"])
    found = decided(work, rows, config(), [ban])
    assert [outcome(found)[u][:2] for u in "abcd"] == [("rejected", "held_out")] * 3 + [("accepted", "")]
    assert "looks like held-out /held/7.jpg (50 of 256 bits differ)" in found[2]["message"]
    assert outcome(decided(work, rows, config(holdout_bits=-1), [ban]))["c"] == KEPT
    assert outcome(decided(work, rows, config(), [Ban("held_out", ["2"])]))["c"][1] == "held_out"  # a list of ids


def test_another_corpus_has_it(work: Work) -> None:
    ban = Ban("other_corpus", ["1", "8"], [look(1), look(7)], ["/o/1", "/o/7"])
    found = decided(work, [row("a", "1", 1), row("b", "2", 7, (1, 2)), row("c")], config(), [ban])
    assert outcome(found) == {
        "a": ("duplicate", "other_corpus", "/o/1"), "b": ("duplicate", "other_corpus", "/o/7"), "c": KEPT,
    }  # fmt: skip
    assert [row["distance"] for row in found] == [0, 2, 0]


@pytest.mark.parametrize("every", [True, False])
def test_of_several_that_look_like_it_the_nearest_is_named(
    work: Work, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    monkeypatch.setattr(banned, "EXHAUSTIVE", EXHAUSTIVE if every else 0)
    ban = Ban("other_corpus", "123", [look(1, *range(9)), look(1, 4), look(1, 5)], ["/far", "/near", "/as near"])
    (found,) = decided(work, [row("a", "9", 1)], config(), [Ban("held_out", ["7"], [look(3)], ["/x"]), ban])
    assert found["same_as"] in {"/near", "/as near"}
    assert found["distance"] == 1


def reference(rows: Sequence[dict[str, Any]], bits: int, settled: set[str], scenes: dict[str, str | None]) -> Any:
    """The rule on one list: what becomes of each uri."""
    found: dict[str, tuple[str, str | None, int]] = {}
    first: dict[str, str] = {}
    for r in sorted(rows, key=lambda r: str(r["uri"])):
        if r["image_id"] in first:
            found[r["uri"]] = "exact", first[r["image_id"]], 0
        first.setdefault(r["image_id"], r["uri"])
    left = [r for r in rows if r["uri"] not in found]
    left.sort(key=lambda r: (r["image_id"] not in settled, -r["width"] * r["height"], -r["size"], r["uri"]))
    models: list[dict[str, Any]] = []
    for r in left:
        for model in models:
            far = (int.from_bytes(r["phash"]) ^ int.from_bytes(model["phash"])).bit_count()
            scene = scenes[r["uri"]]
            if far <= bits and not (scene is not None and scene == scenes[model["uri"]]):
                old = r["image_id"] in settled
                found[r["uri"]] = ("", None, 0) if old else ("near", model["uri"], far)
                break
        else:
            models.append(r)
            found[r["uri"]] = "", None, 0
    return found


@st.composite
def crowds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Photographs of which many look like another, in chains too; some of the same size, bytes, scene or content."""
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    rows: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 60))):
        look_ = random.bytes(32)
        if rows and random.random() < 0.8:
            bits = np.unpackbits(np.frombuffer(rows[random.integers(len(rows))]["phash"], np.uint8))
            bits[random.integers(0, 256, random.integers(0, 12))] ^= 1
            look_ = np.packbits(bits).tobytes()
        copy = rows[random.integers(len(rows))] if rows and random.random() < 0.1 else None
        values = {"width": int(random.integers(80, 84)), "size": int(random.integers(1, 3)), "phash": look_}
        values |= {"image_id": f"{number}"} if copy is None else {n: copy[n] for n in (*values, "image_id")}
        scene = f"{random.integers(3)}/" if random.random() < 0.5 else ""
        rows.append(row(f"{scene}{number:03d}", **values))
    return rows


@pytest.mark.parametrize("every", [True, False])
def test_the_decisions_are_those_of_the_rule_on_one_list(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    monkeypatch.setattr(Work, "run", lambda self, function, jobs: [function(**job) for job in jobs])
    monkeypatch.setattr(similar, "EXHAUSTIVE", EXHAUSTIVE if every else 0)
    monkeypatch.setattr(similar, "_FINE", 20)

    @given(crowds(), st.sets(st.integers(0, 60).map(str)), st.integers(0, 15), st.integers(1, 4))
    @settings(max_examples=40, deadline=None)
    def same(rows: list[dict[str, Any]], settled: set[str], bits: int, parts: int) -> None:
        work = Work(str(tmp_path_factory.mktemp("work")), parts)
        found = decided(work, rows, config(near_duplicates=bits, pair_by="(.)/"), settled=sorted(settled))
        scenes = {r["uri"]: r["pair_id"] for r in found}
        said = {r["uri"]: (r["reason"], r["same_as"], r["distance"]) for r in found}
        assert said == reference(rows, bits, settled, scenes)

    same()


@pytest.mark.parametrize("parts", [1, 3])
@given(
    st.lists(st.tuples(st.sampled_from("1234567"), st.booleans(), st.integers(20, 50)), max_size=30),
    st.sets(st.sampled_from("123")),
)
@settings(max_examples=30, deadline=None)
def test_every_file_ends_up_in_one_place(
    tmp_path_factory: pytest.TempPathFactory, parts: int, files: list[tuple[str, bool, int]], held_out: set[str]
) -> None:
    rows = [
        row(f"u{i}", image_id, int(image_id), reason="" if good else "corrupt", height=height)
        for i, (image_id, good, height) in enumerate(files)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "run", lambda self, function, jobs: [function(**job) for job in jobs])
        work = Work(str(tmp_path_factory.mktemp("work")), parts)
        found = decided(work, rows, config(), [Ban("held_out", sorted(held_out))])
    assert [r["uri"] for r in found] == [r["uri"] for r in rows]
    assert set(statuses(found)) <= {"accepted", "rejected", "duplicate"}
    kept = [r["image_id"] for r in found if r["status"] == "accepted"]
    good = {image_id for image_id, good, height in files if good and height >= 32} - held_out
    assert sorted(kept) == sorted(good)
    for r in found:
        assert (r["reason"] == "") == (r["status"] == "accepted")
        assert (r["same_as"] is None) == (r["status"] != "duplicate")


def test_nothing_at_all(work: Work) -> None:
    assert decided(work, [], config(), [Ban("held_out", ["1"], [look(1)], ["x"])]) == []


def test_config_names_wrong_values() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_side'"):
        config(max_sides=3)
    with pytest.raises(ConfigError, match="test_fraction"):
        config(test_fraction=2)
    with pytest.raises(ConfigError, match="expected a regular expression with a group"):
        config(pair_by=r"\d+")
    with pytest.raises(ConfigError, match="not a regular expression"):
        config(pair_by="(")
