"""What a shard begins with: its own latest store, else the run's latest snapshot; and where its store may be."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from models.config import PoolError
from pseudolabel.pool import mounts
from pseudolabel.pool.shard import Shard, open_shard, remove_store
from pseudolabel.pool.snapshots import latest_snapshot
from tests.pseudolabel.pool.conftest import entry


@pytest.fixture
def shard(tmp_path):
    return Shard(str(tmp_path / "node A"), run="first", snapshots=str(tmp_path / "snapshots"), sync=False)


def elsewhere(shard, tmp_path):
    """The same shard on another node, with a disk of its own."""
    return replace(shard, folder=str(tmp_path / "node B"))


def test_a_store_that_is_the_runs_own_is_gone_on_with(shard):
    pool = open_shard(shard)
    pool.offer([entry("a")])
    pool.close()
    pool = open_shard(shard)
    assert pool.ids() == ["a"]
    pool.close()


def test_a_fresh_run_does_not_inherit_the_labels_of_a_dead_one(shard, tmp_path, caplog):
    """As when `--out` was removed and the store, which lay elsewhere, was not."""
    pool = open_shard(shard)
    pool.offer([entry("a", 0.9)])
    pool.close()
    pool = open_shard(replace(shard, run="second", snapshots=str(tmp_path / "new")))
    assert pool.ids() == []
    assert pool.offer([entry("a", 0.1)]) == [True]
    assert "is removed" in caplog.text
    assert "it is of another run (first, and this one is second)" in caplog.text
    pool.close()


def test_snapshots_of_another_run_are_passed_over(shard):
    pool = open_shard(shard)
    pool.offer([entry("a")])
    pool.snapshot(f"{shard.snapshots}/step-1")
    pool.close()
    pool = open_shard(replace(shard, run="second"))
    assert pool.ids() == []
    pool.close()
    assert latest_snapshot(shard.snapshots, "second") is None
    assert latest_snapshot(shard.snapshots, "first") == f"{shard.snapshots}/step-1"


def test_a_node_that_comes_back_does_not_win_with_its_old_store(shard, tmp_path, caplog):
    on_a = open_shard(shard)
    on_a.offer([entry("a", 0.2)])
    on_a.snapshot(f"{shard.snapshots}/step-1", 1)
    on_a.offer([entry("late on A")])
    on_a.close()
    on_b = open_shard(elsewhere(shard, tmp_path))
    assert on_b.ids() == ["a"]
    on_b.offer([entry("a", 0.8), entry("b")])
    on_b.snapshot(f"{shard.snapshots}/step-2", 2)
    on_b.close()
    again = open_shard(elsewhere(shard, tmp_path))
    assert again.ids() == ["a", "b"], "its own store is the latest one"
    again.close()
    back = open_shard(shard)
    assert back.ids() == ["a", "b"]
    assert back.fetch(["a"])[0].clearness == 0.8
    assert "it is out of date: this shard has begun anew elsewhere (store 1, now 2)" in caplog.text
    back.close()


def test_a_store_is_out_of_date_before_there_is_another_snapshot(shard, tmp_path):
    """Elsewhere the run may have been set back: what the old store has is then of steps that are lost."""
    on_a = open_shard(shard)
    on_a.snapshot(f"{shard.snapshots}/step-0", 0)
    on_a.offer([entry("of lost steps")])
    on_a.close()
    open_shard(elsewhere(shard, tmp_path)).close()
    back = open_shard(shard)
    assert back.ids() == []
    back.close()


def test_another_number_of_shards_begins_with_the_snapshot(shard, tmp_path):
    pool = open_shard(shard)
    pool.offer([entry(f"photo {i}") for i in range(20)])
    pool.snapshot(f"{shard.snapshots}/step-1", 1)
    pool.close()
    two = [open_shard(replace(shard, number=number, count=2)) for number in range(2)]
    assert sum(len(pool.ids()) for pool in two) == 20
    for pool in two:
        pool.close()
    with pytest.raises(PoolError, match="made with 2 shards, not 1"):
        open_shard(replace(shard, run=""))
    pool = open_shard(shard)
    assert len(pool.ids()) == 20
    with pytest.raises(PoolError, match="in use by another process"):
        open_shard(replace(shard, number=0, count=2))
    pool.close()


def test_a_store_that_is_removed_takes_the_empty_folder_along(shard):
    pool = open_shard(shard)
    pool.close()
    Path(shard.folder, "another").mkdir()
    assert remove_store(pool.path) > 0
    assert not pool.path.exists()
    Path(shard.folder, "another").rmdir()
    remove_store(pool.path)
    assert not Path(shard.folder).exists()


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:26 / {out} rw - nfs4 host:/export rw
31 22 0:27 / {memory} rw - tmpfs tmpfs rw
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`out` lies on a network; the home's cache is local."""
    text = MOUNTS.format(out=tmp_path / "out", memory=tmp_path / "memory")
    (tmp_path / "mountinfo").write_text(text)
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def on_network(machine, **more):
    return Shard(str(machine / "out" / "pool"), name="run-1", run="first", sync=False, **more)


def test_a_store_on_a_network_goes_to_a_local_folder_by_itself(machine):
    pool = open_shard(on_network(machine, fixed=False))
    assert pool.path == machine / "cache" / "ray-dehaze" / "pools" / "run-1" / "shard-00000-of-00001"
    assert not (machine / "out").exists()
    pool.offer([entry("a")])
    pool.close()
    pool = open_shard(on_network(machine, fixed=False, room=1 << 60))
    assert pool.ids() == ["a"], "a store that is there is found again, however full the disk is by now"
    pool.close()


def test_a_store_that_is_named_on_a_network_is_refused(machine):
    with pytest.raises(PoolError, match=r"out/pool lies on nfs4 on .*name a folder of a local disk, or leave labels"):
        open_shard(on_network(machine, fixed=True))


def test_memory_networks_and_folders_that_are_full_or_not_ours_are_no_place(machine, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "out"))
    (machine / "file").write_text("in the way")
    places = [machine / "out" / "a", machine / "memory" / "b", machine / "file" / "c", machine / "full" / "d"]
    monkeypatch.setattr("pseudolabel.pool.shard.caches", lambda name: iter(places))
    with pytest.raises(PoolError, match="there is no place for the label pool's store") as told:
        open_shard(on_network(machine, fixed=False, room=1 << 60))
    for why in ("a lies on nfs4", "b lies in memory (tmpfs)", "c cannot be written (Not a directory)", "MiB free, and"):
        assert why in str(told.value)
    assert "Set labels.store to a folder of a local disk with room" in str(told.value)


def test_local_folders_are_tried_in_turn(machine, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "out" / "home"))
    monkeypatch.setattr(mounts.tempfile, "gettempdir", lambda: str(machine / "tmp"))
    found = list(mounts.caches("run-1"))
    assert [path.parts[: len(machine.parts)] == machine.parts for path in found] == [True, False, True]
    assert found[1].is_relative_to("/var/tmp")


def test_where_it_is_is_said_once(shard, caplog):
    caplog.set_level(logging.WARNING)
    open_shard(shard).close()
    assert caplog.text == "", "a new run has nothing to say"
