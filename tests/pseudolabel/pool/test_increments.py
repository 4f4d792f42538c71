"""Snapshots that write only what changed since an earlier one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pseudolabel.inspect.contents import open_contents
from pseudolabel.pool import increments
from pseudolabel.pool.increments import drop_snapshots
from pseudolabel.pool.label_pool import LabelPool
from pseudolabel.pool.snapshots import MANIFEST, File, read_manifest
from tests.pseudolabel.pool.conftest import entry

Scores = list[tuple[str, float, float, int]]


@pytest.fixture
def pool(pool: LabelPool) -> LabelPool:
    pool.offer([entry(f"{number:03d}") for number in range(100)])
    return pool


def better(pool: LabelPool, numbers: range, step: int) -> None:
    assert all(pool.offer([entry(f"{number:03d}", 0.5 + step / 1000, 0.6, step) for number in numbers]))


def rows(snapshot: Path) -> list[tuple[str, int]]:
    """Snapshot that each file lies in, and its rows."""
    files = [file for part in read_manifest(snapshot).parts for file in part.files]
    return [(file.name.partition("/")[0] if "/" in file.name else snapshot.name, file.rows) for file in files]


def test_what_changed_is_written_and_all_of_it_comes_back(pool: LabelPool, other: LabelPool, tmp_path: Path) -> None:
    pool.snapshot(tmp_path / "s" / "1")
    better(pool, range(3, 6), 1)
    pool.offer([entry("new")])
    pool.snapshot(tmp_path / "s" / "2", base=tmp_path / "s" / "1")
    assert rows(tmp_path / "s" / "2") == [("1", 100), ("2", 4)]
    other.restore(tmp_path / "s" / "2")
    assert other.scores() == pool.scores()
    assert other.stats() == pool.stats()
    for id_ in ("003", "006", "new"):
        assert other.fetch_records([id_]) == pool.fetch_records([id_])
    found = open_contents(str(tmp_path / "s" / "2"))
    assert sorted(map(tuple, (row.values() for row in found.scores.to_pylist()))) == pool.scores()
    assert sorted(found.records(["003", "006"]), key=lambda one: one.image_id) == pool.fetch_records(["003", "006"])
    other.snapshot(tmp_path / "s" / "3", base=tmp_path / "s" / "2")
    assert rows(tmp_path / "s" / "3") == [("1", 100), ("2", 4)], "a pool that was restored knows where its labels are"
    assert read_manifest(tmp_path / "s" / "1").version == 1, "a whole one is what it ever was"


def test_without_a_change_nothing_is_written(pool: LabelPool, other: LabelPool, tmp_path: Path) -> None:
    pool.snapshot(tmp_path / "s" / "1")
    pool.snapshot(tmp_path / "s" / "2", base=tmp_path / "s" / "1")
    assert [path.name for path in (tmp_path / "s" / "2").iterdir()] == [MANIFEST]
    other.restore(tmp_path / "s" / "2")
    assert other.scores() == pool.scores()


def test_files_that_are_mostly_of_the_past_are_written_anew(pool: LabelPool, tmp_path: Path) -> None:
    pool.snapshot(tmp_path / "s" / "1")
    better(pool, range(50), 1)
    pool.snapshot(tmp_path / "s" / "2", base=tmp_path / "s" / "1")
    assert rows(tmp_path / "s" / "2") == [("1", 100), ("2", 50)]
    better(pool, range(45, 55), 2)
    pool.snapshot(tmp_path / "s" / "3", base=tmp_path / "s" / "2")
    assert rows(tmp_path / "s" / "3") == [("2", 50), ("3", 55)]


def test_many_small_files_become_one(pool: LabelPool, other: LabelPool, tmp_path: Path) -> None:
    for step in range(60):
        better(pool, range(step, step + 1), step)
        base = tmp_path / "s" / f"{step - 1:02d}" if step else None
        pool.snapshot(tmp_path / "s" / f"{step:02d}", base=base)
        assert len(rows(tmp_path / "s" / f"{step:02d}")) <= increments.MOST_SMALL
        drop_snapshots(tmp_path / "s", 2, f"{step:02d}")
    other.restore(tmp_path / "s" / "59")
    assert other.scores() == pool.scores()
    files = list((tmp_path / "s").rglob("labels-*"))
    assert len(files) <= increments.MOST_SMALL + 1


def test_full_files_are_not_merged() -> None:
    full = [File(name=f"1/labels-{number}", rows=16384, bytes=1) for number in range(40)]
    assert increments.lasting(full, {file.name: 16384 for file in full}) == full
    assert increments.lasting(full, {file.name: 8191 for file in full}) == []
    empty = [File(name="1/labels-0", rows=0, bytes=1)]
    assert increments.lasting(empty, {}) == []


def test_a_base_that_is_damaged_or_elsewhere_or_the_same_is_not_gone_on_with(pool: LabelPool, tmp_path: Path) -> None:
    pool.snapshot(tmp_path / "s" / "1")
    pool.snapshot(tmp_path / "other" / "2", base=tmp_path / "s" / "1")
    assert rows(tmp_path / "other" / "2") == [("2", 100)]
    pool.snapshot(tmp_path / "s" / "1", base=tmp_path / "s" / "1")
    assert rows(tmp_path / "s" / "1") == [("1", 100)]
    next((tmp_path / "s" / "1").glob("labels-*")).unlink()
    pool.snapshot(tmp_path / "s" / "2", base=tmp_path / "s" / "1")
    assert rows(tmp_path / "s" / "2") == [("2", 100)]
    pool.snapshot(tmp_path / "s" / "3", base=tmp_path / "s" / "none")
    assert rows(tmp_path / "s" / "3") == [("3", 100)]


def test_files_of_a_snapshot_that_was_never_completed_are_not_relied_on(pool: LabelPool, tmp_path: Path) -> None:
    pool.snapshot(tmp_path / "s" / "1")
    better(pool, range(5), 1)
    pool.snapshot_part(tmp_path / "s" / "2", "lost", tmp_path / "s" / "1")  # and then the program dies
    pool.snapshot(tmp_path / "s" / "3", base=tmp_path / "s" / "1")
    assert rows(tmp_path / "s" / "3") == [("1", 100), ("3", 5)]


def test_another_number_of_shards_writes_all_and_reads_all(pool: LabelPool, other: LabelPool, tmp_path: Path) -> None:
    pool.snapshot(tmp_path / "s" / "1")
    better(pool, range(5), 1)
    pool.snapshot(tmp_path / "s" / "2", base=tmp_path / "s" / "1")
    other.restore(tmp_path / "s" / "2", 1, 2)
    part = other.snapshot_part(tmp_path / "s" / "3", "x", tmp_path / "s" / "2", 1, 2)
    assert [file.rows for file in part.files] == [len(other.ids())]
    mine = set(other.ids())
    assert other.scores() == [row for row in pool.scores() if row[0] in mine]
    assert 0 < len(mine) < 100


def test_what_a_kept_snapshot_needs_outlives_the_one_that_wrote_it(
    pool: LabelPool, other: LabelPool, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    for number in range(1, 6):
        better(pool, range(number), number)
        pool.snapshot(folder / f"{number}", base=folder / f"{number - 1}")
    (folder / "run-id").write_text("x")
    (folder / "9").mkdir()
    (folder / "9" / "labels-under-way-00000.parquet").write_text("x")
    drop_snapshots(folder, 2, "4")
    assert sorted(path.parent.name for path in folder.rglob(MANIFEST)) == ["3", "4", "5"]
    assert not (folder / "2").exists() or not (folder / "2" / MANIFEST).exists()
    assert {path.name for path in (folder / "9").iterdir()} == {"labels-under-way-00000.parquet"}
    assert (folder / "run-id").is_file()
    for number in (3, 4, 5):
        other.restore(folder / f"{number}")
    assert other.scores() == pool.scores()
    drop_snapshots(folder, 1, "5")
    assert len(list(folder.rglob(MANIFEST))) == 1
    other.restore(folder / "5")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    drop_snapshots(folder, 1, "5")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_nothing_is_removed_while_a_kept_manifest_cannot_be_read(pool: LabelPool, tmp_path: Path) -> None:
    for number in (1, 2):
        pool.snapshot(tmp_path / "s" / f"{number}")
    (tmp_path / "s" / "2" / MANIFEST).write_text("no manifest")
    drop_snapshots(tmp_path / "s", 1, "2")
    assert rows(tmp_path / "s" / "1") == [("1", 100)]


def test_snapshots_that_take_turns_go_on_with_each_other(pool: LabelPool, other: LabelPool, tmp_path: Path) -> None:
    folder, expected = tmp_path / "s", {}
    (folder / os.fsdecode(b"\xff")).mkdir(parents=True)
    for step in range(8):
        better(pool, range(step, step + 3), step)
        name, before = "ab"[step % 2], "ba"[step % 2]
        pool.snapshot(folder / name, base=folder / before)
        expected[name] = pool.scores()
        for kept, scores in expected.items():
            other.restore(folder / kept)
            assert other.scores() == scores
    files = [file.name for name in "ab" for part in read_manifest(folder / name).parts for file in part.files]
    used = {name.rpartition("/")[2] for name in files}
    assert {path.name for path in (folder / "b").glob("*.parquet")} <= used, "what nobody needs is gone from the last"


def test_only_snapshots_are_removed(pool: LabelPool, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        pool.snapshot(tmp_path / "s" / f"{number}")
    (tmp_path / "s" / "2" / f".{MANIFEST}.0123abcd.tmp").write_text("of one who was killed")
    theirs = [tmp_path / "s" / name for name in ("0/photo.jpg", "0a/deep/labels-x-00000.parquet", "1/notes.txt")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    drop_snapshots(tmp_path / "s", 1, "3")
    assert all(path.read_text() == "mine" for path in theirs)
    assert not (tmp_path / "s" / "2").exists()
    assert rows(tmp_path / "s" / "1") == [("1", 100)], "with something else in it, it may be somebody's"


def test_a_store_of_before_snapshots_shared_files_learns_it(tmp_path: Path) -> None:
    with closing(LabelPool(tmp_path / "pool")) as pool:
        pool.offer([entry("a"), entry("b")])
    (file,) = (tmp_path / "pool").glob("*.sqlite")
    with closing(sqlite3.connect(file)) as db:
        db.execute("drop table written")
        db.commit()
    with closing(LabelPool(tmp_path / "pool")) as pool:
        pool.snapshot(tmp_path / "s" / "1")
        pool.snapshot(tmp_path / "s" / "2", base=tmp_path / "s" / "1")
    assert rows(tmp_path / "s" / "2") == [("1", 2)]


moves = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 7), st.floats(0, 1)),
        st.tuples(st.sampled_from(["snapshot", "restore", "drop"]), st.integers(0, 7), st.just(0.0)),
    ),
    max_size=40,
)


@given(moves=moves)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happened_each_snapshot_that_is_kept_is_the_pool_of_then(
    moves: list[tuple[str, int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("pool")
    known: dict[str, Scores] = {}
    last: Path | None = None
    with closing(LabelPool(root / "pool", sync=False)) as pool:
        for step, (move, number, score) in enumerate(moves):
            if move == "offer":
                pool.offer([entry(f"{number}", score, score, step)])
            elif move == "snapshot":
                at = root / "s" / f"{step:02d}"
                pool.snapshot(at, base=last)
                known[at.name], last = pool.scores(), at
            elif move == "restore" and known:
                last = root / "s" / sorted(known)[number % len(known)]
                pool.restore(last)
                assert pool.scores() == known[last.name]
            elif move == "drop" and known:
                drop_snapshots(root / "s", 2, max(known))
                known = {name: known[name] for name in sorted(known)[-2:]}
        for name, scores in known.items():
            pool.restore(root / "s" / name)
            assert pool.scores() == scores
