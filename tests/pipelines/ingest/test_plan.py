"""How accepted photographs are cut into shards, and which shards stay when a corpus grows or shrinks."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from models.config import parse
from pipelines.corpus.catalogue import EXAMINED
from pipelines.corpus.format import split_of
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import Examined
from pipelines.ingest.plan import cut, plan_shards


def config(**changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": ["/in"], "domain": "hazy", "out": "/out", **changes})


def sheet(count: int, pairs: list[str | None] | None = None, kind: str = "file", size: int = 1 << 20) -> Examined:
    rows = [
        {
            "uri": f"/{i}", "key": str(i), "place": f"{kind}|{i}|9|/container", "depth": None, "listed": 9, "mtime": 1,
            "size": size, "image_id": hashlib.sha256(str(i).encode()).hexdigest()[:32], "width": 100, "height": 80,
            "phash": bytes(32), "haze": 0.5, "reason": "", "message": "",
        }
        for i in range(count)
    ]  # fmt: skip
    return Examined(pa.Table.from_pylist(rows, EXAMINED), pairs or [None] * count)


@given(st.lists(st.floats(1, 100), max_size=300), st.floats(50, 5000))
def test_cut_keeps_order_and_is_bounded(sizes: list[float], largest: float) -> None:
    parts = cut(np.array(sizes), largest)
    assert [int(i) for part in parts for i in part] == list(range(len(sizes)))
    assert all(len(part) for part in parts)
    assert all(np.array(sizes)[part].sum() <= largest + 100 for part in parts)


def test_a_small_corpus_still_has_several_files() -> None:
    assert [len(cut(np.ones(n), 1e9)) for n in (0, 3, 10, 47)] == [0, 1, 2, 8]


def test_a_shard_holds_one_split_and_about_so_many_bytes() -> None:
    found = sheet(64)
    shards = plan_shards(found, config(shard_mb=10, test_fraction=0.5), {})
    assert sorted(row for shard in shards for row in shard.rows) == list(range(64))
    assert len({shard.name for shard in shards}) == len(shards)
    for shard in shards:
        assert {split_of(i, 0.5) for i in found.ids[shard.rows]} == {shard.name.partition("-")[0]}
        assert len(shard.rows) <= 11
        assert set(found.shard[shard.rows]) == {shard.name}


def test_photographs_of_one_scene_are_on_one_side() -> None:
    found = sheet(60, pairs=[f"scene {i // 3}" for i in range(60)])
    plan_shards(found, config(test_fraction=0.5), {})
    sides = [name.partition("-")[0] for name in found.shard]
    assert all(len(set(sides[i : i + 3])) == 1 for i in range(0, 60, 3))
    assert set(sides) == {"train", "test"}


def test_rows_of_a_table_stay_beside_their_neighbors() -> None:
    found = sheet(40, kind="parquet:image")
    shards = plan_shards(found, config(test_fraction=0.0), {})
    assert [int(row) for shard in shards for row in shard.rows] == list(range(40))
    single = plan_shards(mixed := sheet(40), config(test_fraction=0.0), {})
    assert [mixed.ids[row] for shard in single for row in shard.rows] == sorted(mixed.ids)


def test_shards_stay_when_photographs_are_added() -> None:
    few, many = sheet(40), sheet(60)
    first = plan_shards(few, config(), {})
    existing = {shard.name: [(i, None) for i in few.ids[shard.rows]] for shard in first}
    added = plan_shards(many, config(), existing)
    assert many.shard[:40].tolist() == few.shard.tolist()
    assert sorted(row for shard in added for row in shard.rows) == list(range(40, 60))
    assert not {shard.name for shard in added} & set(existing)


def test_a_shard_that_lost_a_photograph_is_written_anew_and_others_stay() -> None:
    before = sheet(40)
    existing = {s.name: [(i, None) for i in before.ids[s.rows]] for s in plan_shards(before, config(), {})}
    after = sheet(40)
    after.reject(np.array([7]), "too_small", ["small"])
    written = {int(row) for shard in plan_shards(after, config(), existing) for row in shard.rows}
    assert written == {i for i in range(40) if before.shard[i] == before.shard[7]} - {7}


def test_another_depth_map_is_another_shard() -> None:
    before, after = sheet(40), sheet(40)
    existing = {s.name: [(i, None) for i in before.ids[s.rows]] for s in plan_shards(before, config(), {})}
    maps = [None] * 7 + ["file|1|9|/7.npy"] + [None] * 32
    after.table = after.table.set_column(3, "depth", pa.array(maps, pa.string()))
    written = {int(row) for shard in plan_shards(after, config(), existing) for row in shard.rows}
    assert written == {i for i in range(40) if before.shard[i] == before.shard[7]}
    assert not set(after.shard[list(written)]) & set(existing)


def test_the_name_stands_for_the_content() -> None:
    names = {s.name for s in plan_shards(sheet(20), config(), {})}
    assert names == {s.name for s in plan_shards(sheet(20), config(concurrency=3, shard_mb=128), {})}
    assert not names & {s.name for s in plan_shards(sheet(20), config(max_side=50), {})}
