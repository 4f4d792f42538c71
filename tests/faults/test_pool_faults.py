"""What the label pool promises when processes are killed, disks fill up and nodes go away."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util.placement_group import placement_group_table

from models.config import PoolError
from pseudolabel.inspect.runs import running
from pseudolabel.pool.actors import owned, start_pool
from pseudolabel.pool.client import group_prefix, namespace_of, shard_name
from pseudolabel.pool.entries import LabelEntry

pytestmark = pytest.mark.faults

KILLS, CALLS, PER_CALL = 20, 15, 5  # 20 x 15 x 5 = 1,500 offers
PHOTOGRAPHS = 500  # so that each is offered three times, with rising scores


def entry(image_id, score=0.5, step=0, side=8):
    noise = np.random.default_rng([step, sum(image_id.encode())])
    label = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return LabelEntry(image_id, label, label[..., 0], np.ones((1, 1), np.float32), score, score, step)


def shard_of_run(run, shard):
    return ray.get_actor(shard_name(shard), namespace=namespace_of(run))


def pid_of(actor):
    return ray.get(actor.__ray_call__.options(max_task_retries=-1).remote(lambda self: os.getpid()))


def kill(run, shard=0):
    pid = pid_of(shard_of_run(run, shard))
    os.kill(pid, signal.SIGKILL)
    return pid


def test_twenty_kills_in_a_stream_of_offers_lose_no_acknowledged_one(run, tmp_path):
    client = start_pool(run, tmp_path, shards=2)
    sent, in_flight, pids = [], 0, set()
    for phase in range(KILLS):
        pid = pid_of(shard_of_run(run, phase % 2))
        for number in range(CALLS):
            first = (phase * CALLS + number) * PER_CALL
            batch = [
                entry(f"photo {i % PHOTOGRAPHS}", score=0.1 + i / 10_000, step=i)
                for i in range(first, first + PER_CALL)
            ]
            sent.append((batch, client.offer_async(batch)))
            if number == CALLS // 2:
                os.kill(pid, signal.SIGKILL)
                in_flight += sum(not offer.done() for _, offer in sent[-8:])
        pids.add(pid)
    acknowledged: dict[str, LabelEntry] = {}
    for batch, offer in sent:
        for one, accepted in zip(batch, offer.result(120), strict=True):
            if accepted and one.clearness >= getattr(acknowledged.get(one.image_id), "clearness", 0):
                acknowledged[one.image_id] = one
    assert len(sent) * PER_CALL >= 1000
    assert len(pids) == KILLS, "each kill found a new process"
    assert in_flight >= KILLS, "the kills came while offers were under way"
    assert len(acknowledged) == PHOTOGRAPHS
    found = client.fetch(list(acknowledged))
    for held, best in zip(found, acknowledged.values(), strict=True):
        assert held is not None
        assert held.teacher_step == best.teacher_step, held.image_id
        np.testing.assert_array_equal(held.label, best.label)
    assert client.stats().size == len(client.ids()) == PHOTOGRAPHS
    assert client.offer([entry("afterwards")]) == [True]
    print(f"{len(sent) * PER_CALL} offers, {KILLS} kills, {in_flight} calls under way at kills, 0 acknowledged lost")


def fill_up(client, first, side=64):
    """Offer until the pool refuses twice; identifiers that were acknowledged, and the error.

    Once is not enough where the files are bounded, and not the disk: it may be the log that is full.
    """
    acknowledged, refused = [], 0
    for number in range(first, first + 2000):
        try:
            client.offer([entry(f"{number}", step=number, side=side)])
        except PoolError as problem:
            refused += 1
            if refused == 2:
                return acknowledged, str(problem)
        else:
            acknowledged.append(f"{number}")
            refused = 0
    pytest.fail("the disk never became full")


def test_a_shard_without_space_says_so_serves_on_and_goes_on_when_there_is_space(run, tmp_path):
    client = start_pool(run, tmp_path)
    client.offer([entry("first")])
    pid = pid_of(shard_of_run(run, 0))
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 << 20, unlimited[1]))  # its files end there, as a full disk's do
    acknowledged, message = fill_up(client, 0)
    assert len(acknowledged) > 50
    assert str(tmp_path) in message
    assert "free some space" in message
    assert all(label is not None for label in client.fetch(acknowledged)), "it still answers"
    with pytest.raises(PoolError, match="free some space"):
        client.offer([entry("still full", side=64)])
    assert pid_of(shard_of_run(run, 0)) == pid, "it has not died of it"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    assert client.offer([entry("again", side=64)]) == [True]
    kill(run)
    expected = sorted([*acknowledged, "first", "again"])
    assert client.ids() == expected
    assert all(label is not None for label in client.fetch(expected))
    assert client.stats().size == len(expected)


SMALL_DISK = """
    import subprocess, sys
    import numpy as np
    from models.config import PoolError
    from pseudolabel.pool import LabelEntry, LabelPool, SnapshotError
    disk = sys.argv[1]

    def mount(options):
        subprocess.run(["mount", "-o", options, *(["-t", "tmpfs", "tmpfs"] if "remount" not in options else []), disk],
                       check=True)

    def entry(number, side=64):
        label = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        return LabelEntry(str(number), label, label[..., 0], np.ones((1, 1), np.float32), 0.5, 0.5, number)

    def whole(pool, count):
        found = pool.fetch([str(n) for n in range(count)])
        assert all((a.label == entry(n).label).all() for n, a in enumerate(found)), "corrupted"
        assert pool.stats().size == len(pool.ids()) == count

    def refused(kind, call):
        try:
            call()
        except kind as problem:
            print(problem)
        else:
            raise AssertionError("it was not refused")

    mount("size=3m")
    pool = LabelPool(disk + "/pool")
    taken = 0
    try:
        while taken < 1000:
            pool.offer([entry(taken)])
            taken += 1
    except PoolError as problem:
        print(problem)
    whole(pool, taken)
    refused(SnapshotError, lambda: pool.snapshot(disk + "/snapshot"))
    whole(pool, taken)
    mount("remount,size=64m")
    assert pool.offer([entry(taken)]) == [True]
    whole(pool, taken + 1)
    pool.snapshot(disk + "/snapshot")
    pool.close()
    mount("remount,ro")
    refused(PoolError, lambda: LabelPool(disk + "/pool"))
    beside = LabelPool(disk + "/pool", readonly=True)
    whole(beside, taken + 1)
    beside.close()
    mount("remount,rw")
    pool = LabelPool(disk + "/pool")
    whole(pool, taken + 1)
    assert pool.offer([entry(taken + 1)]) == [True]
    pool.restore(disk + "/snapshot")
    whole(pool, taken + 1)
    print(taken)
"""


def test_a_small_disk_fills_is_set_read_only_and_comes_back(own_mounts, tmp_path):
    command = [*own_mounts, sys.executable, "-c", textwrap.dedent(SMALL_DISK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    full, snapshot, read_only, taken = done.stdout.splitlines()
    assert "; 0 MiB are free there: free some space" in full
    assert "No space left on device" in snapshot
    assert "Read-only file system" in read_only
    assert all(str(tmp_path) in message for message in (full, snapshot, read_only))
    assert int(taken) > 20


def test_two_runs_on_one_cluster_do_not_touch_each_others_pools(run, tmp_path):
    one = start_pool(run, tmp_path / "one", shards=2)
    two = start_pool(f"{run}-other", tmp_path / "two", shards=2)
    ids = [f"photo {i}" for i in range(20)]
    one.offer([entry(image_id, 0.9, step=1) for image_id in ids])
    two.offer([entry(image_id, 0.1, step=2) for image_id in ids[:10]])
    two.snapshot(tmp_path / "snapshot of two")
    before = one.stats()
    kill(f"{run}-other")
    two.restore(tmp_path / "snapshot of two")
    assert two.offer([entry(ids[0], 0.2, step=3)]) == [True]
    assert one.stats() == before
    assert {label.teacher_step for label in one.fetch(ids)} == {1}
    assert {label.teacher_step for label in two.fetch(ids[:10])} == {2, 3}
    two.shutdown()
    with pytest.raises(PoolError, match="in use by another process"):
        start_pool(f"{run}-other", tmp_path / "one", shards=2)
    assert one.offer([entry("new")]) == [True]
    assert one.stats().size == 21


A_PROGRAM = """
    import sys, time, ray
    import torch
    from pseudolabel.pool.actors import owned, start_pool
    from pseudolabel.labeling.workers import start_labeling
    from pseudolabel.labeling.rounds import LabelingConfig, WorkUnit

    address, run, folder = sys.argv[1:]
    ray.init(address=address, namespace="elsewhere", logging_level="ERROR", log_to_driver=False)
    class Scorer:
        pass
    with owned(run):
        pool = start_pool(run, folder, shards=2)
        config = LabelingConfig(network={}, workers=1, worker_cpus=0.1)
        labeling = start_labeling(config, pool, [WorkUnit("none", 0)], ({"x": torch.zeros(1)}, 0),
                                  build=lambda _: (torch.nn.Identity(), Scorer()))
        labeling.start()
        while not labeling.status()["workers_ready"]:
            time.sleep(0.1)
        print("at work", flush=True)
        time.sleep(600)
"""


def test_nothing_outlives_a_killed_program(run, tmp_path):
    """Neither shards nor label workers nor their places stay on the cluster, and the same run can begin again."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", textwrap.dedent(A_PROGRAM), address, run, str(tmp_path / "pool")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "at work\n"
        pids = {about["pid"] for one in running() if one.run == run for about in one.shards}
        assert len(pids) == 2
        assert next(one for one in running() if one.run == run).owner["pid"] == program.pid
        program.kill()
    began = time.monotonic()
    while any(one.run == run for one in running()) or any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() - began < 30
        time.sleep(0.1)
    left = [one["name"] for one in placement_group_table().values() if one["state"] != "REMOVED"]
    assert not [name for name in left if name.startswith(group_prefix(run))]
    with owned(run):
        assert start_pool(run, tmp_path / "pool", shards=2).ids() == []
    print(f"all gone {time.monotonic() - began:.1f} s after their program")


LOSE_A_NODE = """
    import json, os, shutil, sys, time
    from pathlib import Path
    import numpy as np, ray
    from ray.cluster_utils import Cluster
    from pseudolabel.pool.actors import start_pool
    from pseudolabel.pool.client import namespace_of, shard_name
    from pseudolabel.pool.entries import LabelEntry, shard_folder

    root = sys.argv[1]
    quick = dict(health_check_initial_delay_ms=500, health_check_period_ms=500, health_check_timeout_ms=1000,
                 health_check_failure_threshold=3)
    cluster = Cluster(initialize_head=True, head_node_args=dict(
        num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, _system_config=quick))
    second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)

    def entry(number, score):
        return LabelEntry(f"photo {number}", np.full((8, 8, 3), number, np.uint8), np.zeros((8, 8), np.uint8),
                          np.ones((1, 1), np.float32), score, score, 0)

    client = start_pool("run", root + "/pool", shards=2, snapshots=root + "/snapshots")
    assert all(client.offer([entry(n, 0.5) for n in range(40)]))
    client.snapshot(root + "/snapshots/step-1")
    def alive(pid):
        status = Path(f"/proc/{pid}/stat")
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"

    def places():
        actors = [ray.get_actor(shard_name(s), namespace=namespace_of("run")) for s in range(2)]
        return ray.get([a.__ray_call__.options(max_task_retries=-1).remote(
            lambda self: (ray.get_runtime_context().get_node_id(), os.getpid())) for a in actors])

    before = places()
    lost = [node for node, _ in before].index(second.node_id)
    began = time.monotonic()
    cluster.remove_node(second, allow_graceful=False)
    # A real node takes its processes along; here the shard's outlives the raylet for a moment, and would go on
    # answering from files that are gone.
    while alive(before[lost][1]):
        assert time.monotonic() - began < 60, "the shard's process outlives its node"
        time.sleep(0.05)
    store = Path(root, "pool", shard_folder(lost, 2))
    shutil.rmtree(store)
    offer = client.offer_async([entry(n, 0.6) for n in range(40, 60)])
    found = client.fetch([f"photo {n}" for n in range(60)])
    seconds, after = time.monotonic() - began, places()
    Path(root, "report.json").write_text(json.dumps({
        "nodes_before": len({node for node, _ in before}), "nodes_after": len({node for node, _ in after}),
        "moved": [old != new for (_, old), (_, new) in zip(before, after)], "lost": lost,
        "begins_anew": any(store.glob("labels-*.sqlite")), "offered": offer.result(60), "seconds": seconds,
        "labels": [None if label is None else int(label.label[0, 0, 0]) for label in found],
        "size": client.stats().size,
    }))
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_shard_whose_node_is_gone_starts_elsewhere_from_the_latest_snapshot(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(LOSE_A_NODE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["nodes_before"], report["nodes_after"]) == (2, 1)
    assert report["moved"] == [shard == report["lost"] for shard in range(2)], "the other shard was left alone"
    assert report["begins_anew"]
    assert report["labels"][:40] == list(range(40))
    assert report["offered"] == [True] * 20
    assert report["size"] == 60
    print(f"answers {report['seconds']:.1f} s after its node is gone")
