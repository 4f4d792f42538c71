"""The label pool without Ray: admission, durability, growth, snapshots."""

import dataclasses
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.config import PoolError
from pseudolabel.pool import store
from pseudolabel.pool.entries import LabelEntry, shard_of
from pseudolabel.pool.history import LONGEST, History, Moment, together
from pseudolabel.pool.label_pool import LabelPool
from pseudolabel.pool.snapshots import Manifest, SnapshotError, latest_snapshot, write_manifest
from pseudolabel.pool.stats import PoolStats
from tests.pseudolabel.pool.conftest import entry


def assert_same(found: LabelEntry | None, expected: LabelEntry) -> None:
    assert found is not None
    for field in dataclasses.fields(LabelEntry):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


def test_entries_come_back_bit_for_bit(pool):
    photo = dataclasses.replace(entry("photo"), trust=np.array([[0.1, 1 / 3]], dtype=np.float32), clearness=1 / 3)
    assert pool.offer([photo]) == [True]
    found, missing = pool.fetch(["photo", "never seen"])
    assert_same(found, photo)
    assert missing is None
    assert found.label.flags.writeable


def test_a_candidate_must_not_be_worse_in_either_score(pool):
    pool.offer([entry("a", 0.5, 0.5, step=1)])
    assert pool.offer([entry("a", 0.9, 0.4, step=2), entry("a", 0.4, 0.9, step=2)]) == [False, False]
    assert_same(pool.fetch(["a"])[0], entry("a", 0.5, 0.5, step=1))
    assert pool.offer([entry("a", 0.6, 0.5, step=3)]) == [True]
    assert_same(pool.fetch(["a"])[0], entry("a", 0.6, 0.5, step=3))


def test_the_same_photograph_twice_in_one_batch_is_taken_in_order(pool):
    batch = [entry("a", 0.2, 0.2, 1), entry("a", 0.4, 0.4, 2), entry("a", 0.3, 0.9, 3), entry("b", math.nan, 0.5)]
    assert pool.offer(batch) == [True, True, False, False]
    assert_same(pool.fetch(["a"])[0], batch[1])
    assert pool.ids() == ["a"]


def test_a_repeated_offer_is_acknowledged_and_changes_nothing(pool):
    assert pool.offer([entry("a", step=4)]) == [True]
    assert pool.offer([entry("a", step=4)]) == [True]
    assert pool.stats().replaced == 0
    assert pool.stats().size == 1
    assert pool.offer([entry("a", step=5)]) == [True], "a tie from a later teacher is the fresher label"
    assert pool.stats().replaced == 1
    assert pool.stats().mean_teacher_step == 5


def test_statistics_survive_a_restart(pool, open_pool):
    pool.offer([entry("a", 0.2, 0.4), entry("b", 0.4, 0.8), entry("a", 0.1, 0.1)])
    before = pool.stats()
    pool.close()
    assert open_pool().stats() == before
    assert (before.size, before.offered, before.accepted, before.replaced) == (2, 3, 2, 0)
    assert (before.acceptance_rate, before.mean_teacher_step) == (2 / 3, 0)
    assert (before.mean_clearness, before.mean_quality) == pytest.approx((0.3, 0.6))


offers = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3)), max_size=25)


@given(offers=offers, cuts=st.integers(1, 6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scores_only_rise_and_statistics_are_those_of_the_entries(tmp_path_factory, offers, cuts):
    pool = LabelPool(tmp_path_factory.mktemp("pool"), sync=False)
    best: dict[str, tuple[float, float]] = {}
    for start in range(0, len(offers), cuts):
        pool.offer([entry(*offer, side=2) for offer in offers[start : start + cuts]])
        held = {e.image_id: (e.clearness, e.quality) for e in pool.fetch(pool.ids())}
        assert all(held[i][0] >= old[0] and held[i][1] >= old[1] for i, old in best.items())
        best = held
    stats = pool.stats()
    pool.close()
    assert stats.size == len(best)
    assert stats.offered == len(offers)
    assert stats.mean_clearness == pytest.approx(sum(c for c, _ in best.values()) / max(len(best), 1), abs=1e-9)
    assert stats.mean_quality == pytest.approx(sum(q for _, q in best.values()) / max(len(best), 1), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": ""}, "image_id"),
        ({"label": np.zeros((4, 4), np.uint8)}, r"\(H, W, 3\) uint8"),
        ({"label": np.zeros((8, 8, 3), np.float32)}, "float32"),
        ({"transmission": np.zeros((4, 4), np.uint8)}, r"\(4, 4\)"),
        ({"trust": np.zeros(4, np.float32)}, "gh, gw"),
    ],
)
def test_what_it_cannot_keep_is_refused_and_named(pool, change, message):
    with pytest.raises(ValueError, match=message):
        pool.offer([entry("fine"), dataclasses.replace(entry("photo"), **change)])
    assert pool.ids() == []


def test_shards_are_stable_and_even():
    assert shard_of("0123456789abcdef", 7) == 2
    counts = np.bincount([shard_of(f"{i:032x}", 4) for i in range(4000)])
    assert counts.min() > 900


OFFER_FOREVER = """
    import sys, numpy as np
    from pseudolabel.pool import LabelEntry, LabelPool
    pool = LabelPool(sys.argv[1])
    for step in range(10**6):
        batch = [LabelEntry(f"{step}-{i}", np.full((16, 16, 3), step % 256, np.uint8), np.zeros((16, 16), np.uint8),
                            np.ones((1, 1), np.float32), 0.5, 0.5, step) for i in range(4)]
        assert all(pool.offer(batch))
        print("\\n".join(entry.image_id for entry in batch), flush=True)
"""


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path):
    acknowledged: list[str] = []
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(OFFER_FOREVER), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        acknowledged += [child.stdout.readline().strip() for _ in range(200)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in child.communicate()[0].splitlines(keepends=True) if line[-1] == "\n"]
        pool = LabelPool(tmp_path)
        found = pool.fetch(acknowledged)
        stats = pool.stats()
        assert stats.size == len(pool.ids())
        pool.close()
        assert len(acknowledged) >= 200
        for image_id, label in zip(acknowledged, found, strict=True):
            assert label is not None, image_id
            assert (label.label == int(image_id.split("-")[0]) % 256).all()


FILL_DISK = """
    import resource, sys
    import numpy as np
    from models.config import PoolError
    from pseudolabel.pool import LabelEntry, LabelPool
    pool = LabelPool(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))  # as if the disk ended there
    noise = np.random.default_rng(0)
    for step in range(1000):
        label = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        entry = LabelEntry(str(step), label, label[..., 0], np.ones((1, 1), np.float32), 0.5, 0.5, 0)
        try:
            pool.offer([entry])
        except PoolError as problem:
            print(f"{step}|{problem}|{pool.stats().size}")
            break
"""


def test_a_full_disk_is_a_clear_error_and_corrupts_nothing(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FILL_DISK), str(tmp_path)]
    taken, message, size = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("|")
    assert int(taken) == int(size) > 10
    assert str(tmp_path) in message
    pool = LabelPool(tmp_path)
    assert len(pool.ids()) == int(taken)
    assert all(found is not None and found.label.shape == (64, 64, 3) for found in pool.fetch(pool.ids()))
    assert pool.offer([entry("more")]) == [True]
    pool.close()


def test_a_path_that_cannot_be_a_pool_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PoolError, match=r"file/pool"):
        LabelPool(tmp_path / "file" / "pool")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "labels-00001.sqlite").write_bytes(b"z" * 100_000)
    with pytest.raises(PoolError, match="other"):
        LabelPool(tmp_path / "other")


def files_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_a_snapshot_opened_as_a_pool_is_refused_and_stays(pool, tmp_path):
    pool.offer([entry("a")])
    pool.snapshot(tmp_path / "at")
    before = files_below(tmp_path / "at")
    with pytest.raises(PoolError, match="holds a snapshot"):
        LabelPool(tmp_path / "at")
    assert files_below(tmp_path / "at") == before


def test_a_snapshot_into_a_store_is_refused_and_the_store_stays(pool, tmp_path):
    pool.offer([entry("a")])
    with pytest.raises(SnapshotError, match="has its store there"):
        pool.snapshot(tmp_path / "pool")
    assert pool.ids() == ["a"]
    assert not (tmp_path / "pool" / "manifest.json").exists()


def test_files_of_others_stay_where_pools_and_snapshots_are(pool, tmp_path):
    theirs = [tmp_path / "pool" / "labels-of-mine.csv", tmp_path / "at" / "labels-train.parquet"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    pool.snapshot(tmp_path / "at")
    pool.snapshot(tmp_path / "at")
    pool.restore(tmp_path / "at")
    assert all(path.read_text() == "mine" for path in theirs)
    assert len(list((tmp_path / "at").iterdir())) == 2, "an empty snapshot is its manifest"


def test_a_pool_is_no_folder_of_shards_and_no_uri(tmp_path):
    LabelPool(tmp_path / "run" / "shard-00000-of-00002").close()
    with pytest.raises(PoolError, match=r"such as .*shard-00000-of-00002"):
        LabelPool(tmp_path / "run")
    with pytest.raises(PoolError, match="no folder of this machine"):
        LabelPool("mock:///pool")
    with closing(LabelPool(f"file://{tmp_path}/there")) as pool:
        assert pool.path == tmp_path / "there"


def test_a_folder_belongs_to_one_pool_at_a_time(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    with pytest.raises(PoolError, match="or open in this one: close it there"):
        LabelPool(tmp_path / "pool")
    pool.close()
    LabelPool(tmp_path / "pool").close()


def copy(pool: LabelPool) -> dict[str, LabelEntry]:
    return {e.image_id: e for e in pool.fetch(pool.ids())}


@given(offers=offers)
@settings(max_examples=20, deadline=None)
def test_a_snapshot_gives_the_same_pool(tmp_path_factory, offers):
    folder = tmp_path_factory.mktemp("snapshot")
    pool, other = LabelPool(folder / "pool", sync=False), LabelPool(folder / "other", sync=False)
    pool.offer([entry(*offer, side=3) for offer in offers])
    other.offer([entry("to be replaced")])
    pool.snapshot(folder / "snapshot")
    other.restore(folder / "snapshot")
    held, restored = copy(pool), copy(other)
    assert restored.keys() == held.keys()
    for image_id, expected in held.items():
        assert_same(restored[image_id], expected)
    assert other.stats() == pool.stats()
    pool.close()
    other.close()


def test_a_snapshot_is_of_one_moment_and_the_newest_counts(pool, other, tmp_path):
    pool.offer([entry(f"{i}") for i in range(10)])
    pool.snapshot(tmp_path / "at")
    pool.offer([entry("late")])
    other.restore(f"file://{tmp_path}/at")
    assert other.stats().size == 10
    pool.snapshot(tmp_path / "at")
    other.restore(tmp_path / "at")
    assert "late" in other.ids()
    assert len(list((tmp_path / "at").iterdir())) == 2, "the files of the first one are gone"


def test_snapshots_are_rehashed_to_another_number_of_shards(pool, open_pool, tmp_path):
    photos = [entry(f"photo {i}", i / 50, 0.5, step=i) for i in range(50)]
    pool.offer(photos)
    pool.snapshot(tmp_path / "at")
    shards = [open_pool(f"shard {i}") for i in range(3)]
    for number, shard in enumerate(shards):
        shard.restore(tmp_path / "at", shard=number, shards=3)
        assert shard.ids() == sorted(p.image_id for p in photos if shard_of(p.image_id, 3) == number)
    merged = PoolStats.merged(shard.stats() for shard in shards)
    assert merged.model_dump() == pytest.approx(pool.stats().model_dump())


def test_an_incomplete_snapshot_is_refused_and_the_pool_stays(pool, tmp_path):
    pool.offer([entry("a"), entry("b")])
    with pytest.raises(SnapshotError, match="no complete snapshot"):
        pool.restore(tmp_path / "nowhere")
    at = tmp_path / "at"
    pool.snapshot(at)
    (data,) = at.glob("*.parquet")
    whole = data.read_bytes()
    data.write_bytes(whole[:-10])
    with pytest.raises(SnapshotError, match=data.name):
        pool.restore(at)
    data.write_bytes(whole[:-10] + b"0123456789")
    with pytest.raises(SnapshotError, match=data.name):
        pool.restore(at)
    (at / "manifest.json").unlink()
    with pytest.raises(SnapshotError, match="written last"):
        pool.restore(at)
    (at / "manifest.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(SnapshotError, match="parts"):
        pool.restore(at)
    assert pool.ids() == ["a", "b"]


RESTORE_AND_DIE = """
    import os, signal, sys
    from pseudolabel.pool import LabelPool, store
    pool = LabelPool(sys.argv[1], sync=False)
    store.persist = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # all is written, nothing has changed places
    pool.restore(sys.argv[2])
"""


def test_an_interrupted_restore_leaves_the_old_content(pool, other, open_pool, tmp_path):
    pool.offer([entry("new")])
    pool.snapshot(tmp_path / "at")
    other.offer([entry("old")])
    other.close()
    command = [sys.executable, "-c", textwrap.dedent(RESTORE_AND_DIE), str(tmp_path / "other"), str(tmp_path / "at")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "other" / "labels-00002.partial").exists()
    again = open_pool("other")
    assert again.ids() == ["old"]
    assert files(again) == ["labels-00001.sqlite"]
    again.restore(tmp_path / "at")
    assert again.ids() == ["new"]
    assert files(again) == ["labels-00002.sqlite"]


def files(pool: LabelPool) -> list[str]:
    """Its databases and what is to become one, without their logs."""
    return sorted(path.name for path in pool.path.glob("labels-*") if not path.name.endswith(("-wal", "-shm")))


def test_who_reads_while_all_is_replaced_reads_on(pool, tmp_path):
    pool.offer([entry(f"{i:02d}") for i in range(40)])
    pool.snapshot(tmp_path / "at")
    pool.offer([entry("late")])
    with pool._store.read() as view:
        pool.restore(tmp_path / "at")
        assert view.execute("select count(*) from labels").fetchone() == (41,)
        assert pool.stats().size == 40
    assert pool.offer([entry("later")]) == [True]
    assert pool.stats().size == 41


@pytest.fixture
def damaged(pool, tmp_path):
    """A snapshot that can be read up to its second file."""
    for name in ("one", "two"):
        pool.offer([entry(f"{name} {i}") for i in range(10)])
    parts = tuple(pool.snapshot_part(tmp_path / "damaged", name) for name in ("0", "1"))
    write_manifest(tmp_path / "damaged", Manifest(parts=parts))
    last = tmp_path / "damaged" / parts[1].files[-1].name
    last.write_bytes(bytes(last.stat().st_size))
    return tmp_path / "damaged"


def test_a_restore_that_failed_leaves_nothing_behind(damaged, other):
    other.offer([entry("old")])
    with pytest.raises(SnapshotError, match="labels-1"):
        other.restore(damaged)
    assert files(other) == ["labels-00001.sqlite"]
    assert other.ids() == ["old"]


def test_a_place_that_cannot_be_written_is_named(pool, tmp_path):
    pool.offer([entry("a")])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SnapshotError, match="file/at"):
        pool.snapshot(tmp_path / "file" / "at")


def test_the_history_says_what_was_offered_when_and_survives(open_pool, other, tmp_path):
    now = [1000.0]
    pool = open_pool(clock=lambda: now[0])
    pool.offer([entry("a", 0.5, 0.5, step=1), entry("b", 0.5, 0.5)])
    now[0] = 1000.9
    pool.offer([entry("a", 0.4, 0.9, step=7)])
    now[0] = 1002.0
    pool.offer([entry("a", 0.75, 0.5, step=5)])
    now[0] = 900.0
    pool.offer([entry("c", 0.25, 0.5)])
    expected = History(moments=(Moment(1000, 3, 2, 0, 2, 1.0, 1.0, 7), Moment(1002, 2, 2, 1, 3, 1.5, 1.5, 5)))
    assert pool.history() == expected, "a clock set back does not change the past"
    pool.snapshot(tmp_path / "at")
    pool.close()
    assert open_pool().history() == expected
    other.restore(tmp_path / "at")
    assert other.history() == expected


def test_a_long_history_stays_short(open_pool):
    now = [0.0]
    pool = open_pool(clock=lambda: now[0])
    for step in range(3 * LONGEST):
        now[0] = 5.0 * step
        pool.offer([entry(f"{step}", side=1)])
    history = pool.history()
    assert LONGEST // 4 < len(history.moments) <= LONGEST
    assert sum(m.offered for m in history.moments) == 3 * LONGEST
    assert history.moments[-1].size == 3 * LONGEST
    assert history.last == int(now[0]) // history.width


@pytest.mark.parametrize("shards", [1, 3])
def test_a_history_fits_another_number_of_shards(open_pool, tmp_path, shards):
    now = [50.0]
    one, two = (open_pool(name, clock=lambda: now[0]) for name in ("one", "two"))
    photos = [entry(f"photo {i}") for i in range(40)]
    for shard, pool in enumerate((one, two)):
        pool.offer([photo for photo in photos if shard_of(photo.image_id, 2) == shard])
        now[0] += 10
    parts = tuple(pool.snapshot_part(tmp_path / "at", str(n)) for n, pool in enumerate((one, two)))
    write_manifest(tmp_path / "at", Manifest(parts=parts))
    pools = [open_pool(f"new {n}") for n in range(shards)]
    for n, pool in enumerate(pools):
        pool.restore(tmp_path / "at", n, shards)
    history = together([pool.history() for pool in pools])
    assert [m.at for m in history.moments] == [50, 60, 61]
    assert sum(m.offered for m in history.moments) == 40
    assert history.moments[-1].size == 40


def test_a_snapshot_belongs_to_its_checkpoint(pool, tmp_path):
    pool.offer([entry("a")])
    pool.snapshot(tmp_path / "at", step=300)
    pool.offer([entry("b")])
    with pytest.raises(SnapshotError, match="step 300, not 400"):
        pool.restore(tmp_path / "at", step=400)
    assert pool.ids() == ["a", "b"]
    pool.restore(tmp_path / "at", step=300)
    assert pool.ids() == ["a"]


def test_the_latest_complete_snapshot_is_found(open_pool, tmp_path):
    assert latest_snapshot(tmp_path / "snapshots") is None
    now = [10.0]
    pool = open_pool(clock=lambda: now[0])
    pool.offer([entry("a")])
    for name in ("step-2", "step-1", "damaged"):
        pool.snapshot(tmp_path / "snapshots" / name)
        now[0] += 1
    (tmp_path / "snapshots" / "under way").mkdir()
    (tmp_path / "snapshots" / "damaged" / "manifest.json").write_text("{")
    assert latest_snapshot(tmp_path / "snapshots") == str(tmp_path / "snapshots" / "step-1")
    assert latest_snapshot(f"file://{tmp_path}/snapshots") == f"file://{tmp_path}/snapshots/step-1"
    for name in ("step-1", "step-2"):
        (tmp_path / "snapshots" / name / "manifest.json").write_text("{")
    with pytest.raises(SnapshotError, match="no snapshot in"):
        latest_snapshot(tmp_path / "snapshots")


def test_a_pool_is_new_until_something_is_offered_or_decided(open_pool, tmp_path):
    one, two, three = map(open_pool, ("one", "two", "three"))
    one.offer([entry("a")])
    one.snapshot(tmp_path / "at")
    assert [pool.state().settled for pool in (one, two, three)] == [True, False, False]
    two.begin("a run", 3)
    three.begin("another", 1)
    three.restore(tmp_path / "at")
    assert (two.state().run, two.state().generation, two.state().settled) == ("a run", 3, True)
    assert (three.state().run, three.state().generation) == ("another", 1), "whose it is stays"


def test_a_store_goes_on_after_a_commit_that_failed(pool):
    pool.offer([entry("a")])
    real = pool._store._writer

    class Broken:
        close = real.close

        def execute(self, sql, *arguments):
            if sql == "commit":
                raise sqlite3.OperationalError("disk I/O error")
            return real.execute(sql, *arguments)

        executemany = real.executemany

    pool._store._writer = Broken()
    with pytest.raises(PoolError, match="disk I/O error"):
        pool.offer([entry("b")])
    assert pool.ids() == ["a"]
    assert pool.offer([entry("c")]) == [True]
    assert pool.ids() == ["a", "c"]


def test_a_store_of_another_version_is_refused(tmp_path):
    LabelPool(tmp_path, sync=False).close()
    with closing(sqlite3.connect(tmp_path / "labels-00001.sqlite")) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(PoolError, match="has version 99; this program reads 2"):
        LabelPool(tmp_path)


def test_a_snapshot_that_knows_no_history_keeps_its_counts(pool, tmp_path):
    """As the first versions wrote them."""
    pool.offer([entry("a"), entry("b"), entry("a", 0.9, 0.9, step=2)])
    pool.snapshot(tmp_path / "at")
    manifest = json.loads((tmp_path / "at" / "manifest.json").read_text())
    for part in manifest["parts"]:
        del part["history"], part["run"]
    (tmp_path / "at" / "manifest.json").write_text(json.dumps(manifest))
    before = pool.stats()
    pool.restore(tmp_path / "at")
    assert pool.stats() == before
    pool.offer([entry("c", 0.1, 0.1)])
    last = pool.history().moments[-1]
    assert (last.size, pool.stats().offered) == (3, 4)


def test_a_snapshot_counts_only_when_all_of_it_is_on_the_disk(pool, tmp_path, monkeypatch):
    """After a power cut no file, and no entry of a folder, may be missing that the manifest speaks of."""
    pool.offer([entry("a")])
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(Path(f"/proc/self/fd/{fd}").readlink()))
    target = tmp_path / "deep" / "snapshots" / "step-1"
    pool.snapshot(target, step=1)
    manifest = next(i for i, path in enumerate(done) if path.name.startswith(".manifest.json."))
    before, after = done[:manifest], done[manifest:]
    assert {tmp_path, tmp_path / "deep", tmp_path / "deep" / "snapshots"} <= set(before), "the folders are there"
    assert [path.name.partition("-")[0] for path in before if path.is_relative_to(target)] == ["labels"]
    assert after[1:] == [target, target], "before the manifest is moved into place, and after it"


def test_a_new_store_is_on_the_disk_as_a_file_too(open_pool, tmp_path, monkeypatch):
    """What SQLite flushes is its files; that there are such files is an entry of the folder."""
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(Path(f"/proc/self/fd/{fd}").readlink()))
    open_pool("pool/shard", sync=True)
    assert {tmp_path, tmp_path / "pool", tmp_path / "pool" / "shard"} <= set(done)
