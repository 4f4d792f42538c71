"""How accepted photographs are cut into shards, and which shards stay when a corpus grows or shrinks."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import parse
from pipelines.corpus.catalogue import EXAMINED
from pipelines.corpus.format import split_of
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide.parts import Work, by_content, by_text, gather, load, scatter, store
from pipelines.ingest.decide.plan import PlannedShard, cut, plan_shards
from pipelines.ingest.decide.rows import SHEET
from pipelines.ingest.decide.stages import HELD, decide


def config(**changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": ["/in"], "domain": "hazy", "out": "/out", **changes})


def rows(count: int, kind: str = "file", size: int = 1 << 20, **changes: dict[int, Any]) -> list[dict[str, Any]]:
    """Accepted photographs; ``changes`` are other values in some of them."""
    made = [
        {
            "uri": f"/{i}", "key": str(i), "place": f"{kind}|{i}|9|/container", "depth": None, "listed": 9, "mtime": 1,
            "size": size, "image_id": hashlib.sha256(str(i).encode()).hexdigest()[:32], "width": 100, "height": 80,
            "phash": bytes(32), "haze": 0.5, "reason": "", "message": "", "pair_id": None, "status": "accepted",
            "same_as": None, "distance": 0, "shard": "", "old": False,
        }
        for i in range(count)
    ]  # fmt: skip
    for name, values in changes.items():
        for i, value in values.items():
            made[i][name] = value
    return made


class Planner:
    """Plans sheets of so many parts; each time in a folder of its own."""

    def __init__(self, folder: Path, parts: int) -> None:
        self.folder, self.parts, self.times = folder, parts, 0

    def __call__(
        self, sheet: list[dict[str, Any]], settings: IngestConfig, existing: list[dict[str, Any]] | None = None
    ) -> tuple[list[PlannedShard], dict[str, str]]:
        """The shards, and by uri the shard each photograph is in. ``existing`` are photographs with their shards."""
        self.times += 1
        work = Work(str(self.folder / str(self.times)), self.parts)
        table = pa.Table.from_pylist(sheet, SHEET)
        scatter(work.place("all"), table, by_content(table, self.parts), self.parts)
        for part in range(self.parts):
            store(work.place("sheet", part), SHEET, [load(work.place("all"), part)])
        held = pa.Table.from_pylist([{n: row[n] for n in HELD.names} for row in existing or []], HELD)
        scatter(work.place("held"), held, by_text(held["image_id"], self.parts), self.parts)
        shards = plan_shards(work, settings, [work.place("held")], Counter(held["shard"].to_pylist()))
        names = {(shard.part, shard.number): shard.name for shard in shards}
        found = {}
        for part in range(self.parts):
            kept = load(work.place("sheet", part)).to_pylist()
            found |= {row["uri"]: row["shard"] for row in kept if row["shard"]}
            assigned = gather([work.place("assigned", p) for p in range(self.parts)], part).to_pylist()
            found |= {kept[a["row"] & 0xFFFFFFFF]["uri"]: names[a["part"], a["number"]] for a in assigned}
        for shard in shards:
            assert {uri for uri, name in found.items() if name == shard.name} == set(shard.table()["uri"].to_pylist())
        return shards, found


@pytest.fixture(params=[1, 3])
def plan(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.setattr(Work, "run", lambda self, function, jobs: [function(**job) for job in jobs])
    return Planner(tmp_path, request.param)


def placed(sheet: list[dict[str, Any]], found: dict[str, str]) -> list[dict[str, Any]]:
    return [row | {"shard": found[row["uri"]]} for row in sheet]


@given(st.lists(st.floats(1, 100), max_size=300), st.floats(50, 5000))
def test_cut_keeps_order_and_is_bounded(sizes: list[float], largest: float) -> None:
    parts = cut(np.array(sizes), largest)
    assert [int(i) for part in parts for i in part] == list(range(len(sizes)))
    assert all(len(part) for part in parts)
    assert all(np.array(sizes)[part].sum() <= largest + 100 for part in parts)


def test_a_small_corpus_still_has_several_files() -> None:
    assert [len(cut(np.ones(n), 1e9)) for n in (0, 3, 10, 47)] == [0, 1, 2, 8]


def test_a_shard_holds_one_split_and_about_so_many_bytes(plan: Planner) -> None:
    shards, found = plan(rows(64), config(shard_mb=10, test_fraction=0.5))
    assert len(found) == 64
    assert len({shard.name for shard in shards}) == len(shards)
    for shard in shards:
        ids = shard.table()["image_id"].to_pylist()
        assert {split_of(i, 0.5) for i in ids} == {shard.name.partition("-")[0]}
        assert len(ids) == shard.rows <= 11


def test_photographs_of_one_scene_are_on_one_side(plan: Planner) -> None:
    scenes = {i: f"scene {i // 3}" for i in range(60)}
    _, found = plan(rows(60, pair_id=scenes), config(test_fraction=0.5))
    sides = [found[f"/{i}"].partition("-")[0] for i in range(60)]
    assert all(len(set(sides[i : i + 3])) == 1 for i in range(0, 60, 3))
    assert set(sides) == {"train", "test"}


def test_rows_of_a_table_stay_beside_their_neighbors(plan: Planner) -> None:
    shards, _ = plan(rows(40, "parquet:image"), config(test_fraction=0.0))
    assert [uri for shard in shards for uri in shard.table()["uri"].to_pylist()] == [f"/{i}" for i in range(40)]
    single, _ = plan(rows(40), config(test_fraction=0.0))
    for part in range(plan.parts):
        ids = [i for shard in single if shard.part == part for i in shard.table()["image_id"].to_pylist()]
        assert ids == sorted(ids)


def test_shards_stay_when_photographs_are_added(plan: Planner) -> None:
    few, many = rows(40), rows(60)
    first, found = plan(few, config())
    added, then = plan(many, config(), placed(few, found))
    assert {uri: then[uri] for uri in found} == found
    assert sorted(uri for shard in added for uri in shard.table()["uri"].to_pylist()) == sorted(
        f"/{i}" for i in range(40, 60)
    )
    assert not {shard.name for shard in added} & {shard.name for shard in first}


def test_a_shard_that_lost_a_photograph_is_written_anew_and_others_stay(plan: Planner) -> None:
    _, found = plan(rows(40), config())
    shards, _ = plan(rows(40, status={7: "rejected"}), config(), placed(rows(40), found))
    written = {uri for shard in shards for uri in shard.table()["uri"].to_pylist()}
    assert written == {uri for uri, name in found.items() if name == found["/7"]} - {"/7"}


def test_another_depth_map_is_another_shard(plan: Planner) -> None:
    _, found = plan(rows(40), config())
    shards, then = plan(rows(40, depth={7: "file|1|9|/7.npy"}), config(), placed(rows(40), found))
    written = {uri for shard in shards for uri in shard.table()["uri"].to_pylist()}
    assert written == {uri for uri, name in found.items() if name == found["/7"]}
    assert not {then[uri] for uri in written} & set(found.values())
    assert sum(shard.depth for shard in shards) == 1


def test_the_name_stands_for_the_content(plan: Planner) -> None:
    names = {shard.name for shard in plan(rows(20), config())[0]}
    assert names == {shard.name for shard in plan(rows(20), config(concurrency=3, shard_mb=128))[0]}
    assert not names & {shard.name for shard in plan(rows(20), config(max_side=50))[0]}


def test_what_passes_through_the_driver_does_not_grow_with_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []

    def run(self: Work, function: Any, jobs: Any) -> list[Any]:
        waiting = list(jobs)
        results = [function(**job) for job in waiting]
        passed.append(len(pickle.dumps([function, waiting, results])))
        return results

    monkeypatch.setattr(Work, "run", run)
    sizes = []
    for count in (1000, 10_000):
        passed.clear()
        work = Work(str(tmp_path / str(count)), 2)
        random = np.random.default_rng(0)
        made = rows(count, phash={i: random.bytes(32) for i in range(count)})
        table = pa.Table.from_pylist(made, SHEET).select(EXAMINED.names)
        scatter(work.place("examined"), table, by_content(table, 2), 2)
        decide(work, config(test_fraction=0.5), [work.place("examined")])
        assert len(plan_shards(work, config(test_fraction=0.5, shard_mb=1e9))) == 2 * 2 * 8
        sizes.append(sum(passed))
    assert sizes[1] < 1.1 * sizes[0]
