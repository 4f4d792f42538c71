"""Plans of an ingest: what is found, which copy is kept, how shards are cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.settings import ConfigError, parse
from pipelines.corpus import split_of
from pipelines.ingest_files import list_files, listed_ids, match_depth
from pipelines.ingest_plan import IngestConfig, Survey, cut, decide, plan_shards, survey

SUFFIXES = (".jpg", ".png")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def config(source: Path, **changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": [str(source)], "domain": "hazy", "out": str(source / "out"), **changes})


def names(table: pa.Table) -> list[str]:
    return [Path(uri).name for uri in table["uri"].to_pylist()]


# --- files ---


def test_listing_is_recursive_sorted_and_by_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "deep/er/c.jpg", "notes.txt", "d", ".hidden.jpg", ".trash/e.jpg")
    table = list_files(str(tmp_path), SUFFIXES, "photographs")
    assert table["uri"].to_pylist() == [str(tmp_path / n) for n in ("a.PNG", "b.jpg", "deep/er/c.jpg")]
    assert table["key"].to_pylist() == ["a", "b", "deep/er/c"]
    assert table["size"].to_pylist() == [5, 5, 13]


def test_a_hidden_root_is_no_obstacle(tmp_path: Path) -> None:
    touch(tmp_path / ".data", "a.jpg")
    assert list_files(str(tmp_path / ".data"), SUFFIXES, "photographs").num_rows == 1


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    assert names(list_files(str(tmp_path / "b.jpg"), SUFFIXES, "photographs")) == ["b.jpg"]


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        list_files(str(tmp_path / "nowhere"), SUFFIXES, "photographs")
    touch(tmp_path, "notes.txt")
    with pytest.raises(ConfigError, match=r"no photographs in .*looked for \.jpg \.png"):
        list_files(str(tmp_path), SUFFIXES, "photographs")


def test_one_empty_source_among_others_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "a", "a.jpg")
    touch(tmp_path / "b", "readme.txt")
    with pytest.raises(ConfigError, match=r"no photographs in .*b;"):
        survey(config(tmp_path, sources=[str(tmp_path / "a"), str(tmp_path / "b")]))


def test_overlapping_sources_find_a_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b/c.jpg")
    found = survey(config(tmp_path, sources=[str(tmp_path), str(tmp_path / "b")])).photographs
    assert sorted(names(found)) == ["a.jpg", "c.jpg"]


def test_fingerprint_follows_files_and_settings(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    first = survey(config(tmp_path)).fingerprint
    assert survey(config(tmp_path)).fingerprint == first
    assert survey(config(tmp_path, out=str(tmp_path / "else"), concurrency=1)).fingerprint == first
    assert survey(config(tmp_path, max_side=100)).fingerprint != first
    assert survey(config(tmp_path, domain="clear")).fingerprint != first
    os.utime(tmp_path / "a.jpg", (1, 1))
    second = survey(config(tmp_path)).fingerprint
    assert second != first
    touch(tmp_path, "c.jpg")
    assert survey(config(tmp_path)).fingerprint not in (first, second)


def test_config_names_wrong_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_side'"):
        config(tmp_path, max_sides=3)
    with pytest.raises(ConfigError, match="test_fraction"):
        config(tmp_path, test_fraction=2)


# --- duplicates ---


def hashed(rows: list[tuple[str, str]], unreadable: list[str] | None = None) -> pa.Table:
    good = [{"uri": uri, "image_id": i, "reason": "", "message": ""} for uri, i in rows]
    bad = [{"uri": uri, "image_id": "", "reason": "unreadable", "message": "no"} for uri in unreadable or []]
    schema = pa.schema([(name, pa.string()) for name in ("uri", "image_id", "reason", "message")])
    return pa.Table.from_pylist(good + bad, schema)


def test_the_first_copy_by_name_is_kept() -> None:
    decision = decide(hashed([("z", "1"), ("b", "2"), ("a", "1"), ("c", "1")], ["x"]), set())
    assert decision.keep.to_pylist() == [{"uri": "a", "image_id": "1"}, {"uri": "b", "image_id": "2"}]
    assert decision.duplicates.select(["uri", "same_as"]).to_pylist() == [
        {"uri": "c", "same_as": "a"},
        {"uri": "z", "same_as": "a"},
    ]
    assert [row["reason"] for row in decision.rejects] == ["unreadable"]


def test_all_copies_of_held_out_content_are_rejected() -> None:
    decision = decide(hashed([("a", "1"), ("b", "2"), ("c", "1")]), {"1", "9"})
    assert [row["uri"] for row in decision.keep.to_pylist()] == ["b"]
    assert [(row["uri"], row["reason"]) for row in decision.rejects] == [("a", "held_out"), ("c", "held_out")]


@pytest.mark.parametrize("held_out", [set(), {"1"}])
def test_nothing_readable(held_out: set[str]) -> None:
    decision = decide(hashed([], ["x", "y"]), held_out)
    assert (decision.keep.num_rows, decision.duplicates.num_rows, len(decision.rejects)) == (0, 0, 2)


@given(st.lists(st.sampled_from("1234567"), max_size=40), st.sets(st.sampled_from("123")))
def test_every_file_ends_up_in_one_place(ids: list[str], held_out: set[str]) -> None:
    decision = decide(hashed([(f"u{i}", image_id) for i, image_id in enumerate(ids)]), held_out)
    parts = [*decision.keep["uri"].to_pylist(), *decision.duplicates["uri"].to_pylist()]
    parts += [row["uri"] for row in decision.rejects]
    assert sorted(parts) == sorted(f"u{i}" for i in range(len(ids)))
    assert set(decision.keep["image_id"].to_pylist()) == set(ids) - held_out


# --- held-out lists ---


def test_a_text_file_of_ids(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a" * 32 + "\n\n" + "b" * 32 + "\n")
    assert listed_ids(str(tmp_path / "ids.txt")) == {"a" * 32, "b" * 32}
    (tmp_path / "ids.txt").write_text("photo_1.jpg\n")
    with pytest.raises(ConfigError, match=r"holds 'photo_1\.jpg'"):
        listed_ids(str(tmp_path / "ids.txt"))


def test_a_folder_of_photographs_is_no_list(tmp_path: Path) -> None:
    assert listed_ids(str(touch(tmp_path, "a.jpg"))) is None
    assert listed_ids(str(tmp_path / "a.jpg")) is None


# --- shards ---


@given(st.integers(0, 600), st.integers(1, 100))
def test_cut_keeps_order_and_is_even(count: int, largest: int) -> None:
    parts = cut(range(count), largest)
    assert [row for part in parts for row in part] == list(range(count))
    assert all(0 < len(part) <= largest for part in parts)
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_small_corpus_still_has_several_files() -> None:
    assert len(cut(range(47), 256)) == 8
    assert len(cut(range(10), 256)) == 2
    assert len(cut(range(3), 256)) == 1


def table_of(*keys: str) -> pa.Table:
    return pa.table({"uri": [f"/{key}.x" for key in keys], "key": list(keys)})


def test_a_shard_holds_one_split(tmp_path: Path) -> None:
    ids = [f"{i * 0x04000000:08x}" + "0" * 24 for i in range(64)]
    keep = pa.table({"uri": [f"/{i}.jpg" for i in ids], "image_id": ids})
    plan = Survey(keep, None, None, "f" * 32)
    shards = plan_shards(keep, config(tmp_path, rows_per_file=10, test_fraction=0.5), plan)
    assert sorted(i for shard in shards for i in shard.image_ids) == ids
    assert len({shard.name for shard in shards}) == len(shards)
    for shard in shards:
        assert {split_of(i, 0.5) for i in shard.image_ids} == {shard.name.partition("-")[0]}
        assert len(shard.uris) == len(shard.image_ids) == len(shard.depths) <= 10


def test_depth_maps_by_path_then_by_name() -> None:
    photographs = table_of("x/1", "y/1", "z/2", "z/3")
    assert match_depth(photographs, table_of("x/1", "2", "elsewhere/1")) == {"/x/1.x": "/x/1.x", "/z/2.x": "/2.x"}


def test_no_depth_map_matches() -> None:
    with pytest.raises(ConfigError, match="none of the 1 depth maps"):
        match_depth(table_of("a"), table_of("b"))
