"""Pool and label workers on Ray: shared, durable, isolated, and going on when processes are killed."""

import io
import os
import pickle
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from ray import cloudpickle
from ray.util.placement_group import placement_group_table
from torch import nn

from models.config import LabelingError, PoolError
from models.networks.corun import CorunOutput
from pseudolabel.__main__ import main as look
from pseudolabel.labeling.rounds import LabelingConfig, WorkUnit
from pseudolabel.labeling.workers import start_labeling
from pseudolabel.pool import actors
from pseudolabel.pool.actors import owned, start_pool
from pseudolabel.pool.client import MAX_PENDING, LabelPoolClient, group_prefix, namespace_of, shard_name
from pseudolabel.pool.entries import LabelEntry, shard_folder, shard_of
from pseudolabel.scorer.scores import Scores
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import test modules


def entry(image_id, score=0.5, step=0):
    shade = sum(image_id.encode()) % 256
    return LabelEntry(
        image_id=image_id,
        label=np.full((8, 8, 3), shade, np.uint8),
        transmission=np.full((8, 8), 255 - shade, np.uint8),
        trust=np.full((2, 2), score, np.float32),
        clearness=score,
        quality=score,
        teacher_step=step,
    )


def pid_of(actor):
    return ray.get(actor.__ray_call__.options(max_task_retries=-1).remote(lambda self: os.getpid()))


def test_what_one_worker_offers_another_fetches(run, tmp_path):
    client = start_pool(run, tmp_path, shards=2)
    ids = [f"photo {i}" for i in range(10)]

    @ray.remote(num_cpus=0.1)
    def rank_1(pool):
        return pool.offer([entry(image_id) for image_id in ids])

    assert ray.get(rank_1.remote(client)) == [True] * 10
    found = pickle.loads(pickle.dumps(client)).fetch(  # noqa: S301 - our own
        [*reversed(ids), "never seen"]
    )
    assert found.pop() is None
    assert [label.image_id for label in found] == ids[::-1]
    for label in found:
        np.testing.assert_array_equal(label.label, entry(label.image_id).label)
        np.testing.assert_array_equal(label.transmission, entry(label.image_id).transmission)
    assert client.ids() == sorted(ids)
    assert client.stats().size == 10
    assert client.stats().mean_quality == pytest.approx(0.5)
    assert client.offer([entry("photo 1", 0.4), entry("photo 2", 0.6)]) == [False, True]


def test_nothing_acknowledged_is_lost_when_a_shard_is_killed(run, tmp_path):
    client = start_pool(run, tmp_path, shards=2)
    actor = ray.get_actor(shard_name(1), namespace=namespace_of(run))
    offers = []
    for number in range(60):
        batch = [entry(f"{number}-{i}") for i in range(4)]
        offers.append(([label.image_id for label in batch], client.offer_async(batch)))
        if number in (10, 35):
            os.kill(pid_of(actor), signal.SIGKILL)
    acknowledged = [i for ids, offer in offers for i, taken in zip(ids, offer.result(60), strict=True) if taken]
    assert len(acknowledged) == 240
    assert client.ids() == sorted(acknowledged)
    assert all(label is not None for label in client.fetch(acknowledged))


def test_a_pool_is_found_again_and_reopened_but_never_mistaken(run, tmp_path):
    client = start_pool(run, tmp_path / "pool")
    client.offer([entry("a")])
    assert start_pool(run, tmp_path / "pool").ids() == ["a"], "as after the death of the driver"
    with pytest.raises(PoolError, match="already has a label pool"):
        start_pool(run, tmp_path / "elsewhere")
    client.shutdown()
    with pytest.raises(PoolError, match="start_pool starts it"):
        client.fetch(["a"])
    with pytest.raises(PoolError, match="made with 1 shards, not 2"):
        start_pool(run, tmp_path / "pool", shards=2)
    assert start_pool(run, tmp_path / "pool").ids() == ["a"]


def test_a_run_has_one_program_at_a_time(run, monkeypatch):
    monkeypatch.setattr(actors, "PATIENCE", 0.0)
    with owned(run):
        with pytest.raises(LabelingError, match="is going on already, in another program"), owned(run):
            pass
        with owned(f"{run}-other"):
            pass
    monkeypatch.undo()  # Ray takes a moment to forget a name
    with owned(run):
        pass


def test_snapshots_of_shards_are_one_and_fit_any_number(run, tmp_path):
    client = start_pool(run, tmp_path / "pool", shards=2)
    client.offer([entry(f"photo {i}", i / 30, step=i) for i in range(30)])
    before = client.stats()
    client.snapshot(tmp_path / "snapshot", step=7)
    client.offer([entry("late")])
    with pytest.raises(PoolError, match="step 7, not 8"):
        client.restore(tmp_path / "snapshot", step=8)
    client.restore(tmp_path / "snapshot", step=7)
    assert client.stats() == before
    other = start_pool(f"{run}-other", tmp_path / "other", shards=1)
    with pytest.raises(PoolError, match="no complete snapshot"):
        other.restore(tmp_path / "nothing")
    other.restore(tmp_path / "snapshot")
    assert other.ids() == client.ids()
    assert other.stats().mean_clearness == pytest.approx(before.mean_clearness)
    other.shutdown()


def test_a_slow_pool_slows_its_producers(run, tmp_path):
    pool = start_pool(run, tmp_path)  # whoever starts shards holds them
    client = LabelPoolClient(run, 1)
    shard = ray.get_actor(shard_name(0), namespace=namespace_of(run))
    shard.__ray_call__.remote(lambda self: time.sleep(1.0))
    started = time.monotonic()
    offers = [client.offer_async([entry("a")]) for _ in range(MAX_PENDING)]
    assert time.monotonic() - started < 0.5, "as many as it may have under way are sent at once"
    offers.append(client.offer_async([entry("a")]))
    assert time.monotonic() - started > 0.8, "a further one waits"
    assert all(offer.result() == [True] for offer in offers)
    assert pool.ids() == ["a"]


def test_slow_answers_slow_those_who_fetch_too(run, tmp_path):
    pool = start_pool(run, tmp_path)
    pool.offer([entry("a")])
    client = LabelPoolClient(run, 1)
    client.stats()
    ray.get_actor(shard_name(0), namespace=namespace_of(run)).__ray_call__.options(concurrency_group="fetch").remote(
        lambda self: time.sleep(1.0)
    )
    started = time.monotonic()
    fetches = [client.prefetch(["a"]) for _ in range(MAX_PENDING)]
    assert time.monotonic() - started < 0.5
    fetches.append(client.prefetch(["a"]))
    assert time.monotonic() - started > 0.8
    assert all(fetch.result()[0] is not None for fetch in fetches)
    assert pool.ids() == ["a"]


def lose(run, folder, shard):
    """As when a node goes with its disk: the process is killed, its store removed."""
    os.kill(pid_of(ray.get_actor(shard_name(shard), namespace=namespace_of(run))), signal.SIGKILL)
    shutil.rmtree(folder / shard_folder(shard, 2))


def test_a_shard_whose_store_is_gone_begins_with_the_latest_snapshot(run, tmp_path):
    client = start_pool(run, tmp_path / "pool", shards=2, snapshots=tmp_path / "snapshots")
    ids = [f"photo {i}" for i in range(20)]
    client.offer([entry(image_id, 0.3) for image_id in ids[:10]])
    client.snapshot(tmp_path / "snapshots" / "step-1")
    client.offer([entry(image_id, 0.4) for image_id in ids])
    client.snapshot(tmp_path / "snapshots" / "step-2")
    before = client.stats()
    late = next(f"late {i}" for i in range(99) if shard_of(f"late {i}", 2) == 0)
    client.offer([entry(late)])
    lose(run, tmp_path / "pool", 1)
    assert client.ids() == sorted([*ids, late]), "what the other shard took meanwhile stays"
    found = client.fetch(ids)
    assert all(label is not None and label.clearness == 0.4 for label in found)
    assert client.stats().offered >= before.offered
    assert client.offer([entry("photo 0", 0.3), entry("photo 1", 0.5)]) == [False, True]


def test_a_lost_store_with_snapshots_that_cannot_be_read_is_an_error_until_they_can(run, tmp_path):
    client = start_pool(run, tmp_path / "pool", shards=2, snapshots=tmp_path / "snapshots")
    client.offer([entry(f"photo {i}") for i in range(10)])
    client.snapshot(tmp_path / "snapshots" / "step-1")
    manifest = tmp_path / "snapshots" / "step-1" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text("{")
    lose(run, tmp_path / "pool", 0)
    with pytest.raises(PoolError, match="no snapshot in"):
        client.ids()
    manifest.write_text(whole)
    assert len(client.ids()) == 10


def test_what_runs_is_listed_and_can_be_ended(run, tmp_path, capsys):
    client = start_pool(run, tmp_path / "pool", shards=2)
    client.offer([entry("a"), entry("b"), entry("c")])
    assert look(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{run}: "))
    assert line.startswith(f"{run}: 2 shards on {socket.gethostname()} with 3 labels, for ")
    assert line.endswith(" seconds, of no program any more")
    with owned(run):
        assert look(["stop", run]) == 2
        refused = capsys.readouterr().err
        assert f"belongs to process {os.getpid()} on {socket.gethostname()}, which is at work" in refused
        assert client.stats().size == 3
    assert look(["stop", run]) == 0
    assert capsys.readouterr().out.startswith(f"stopped {run}: 2 shards")
    assert look(["stop", run]) == 2
    assert f"no run '{run}' is on this cluster" in capsys.readouterr().err
    wait_for(lambda: not places_of(run), 20)
    assert start_pool(run, tmp_path / "pool", shards=2).stats().size == 3, "its stores stay"
    client.shutdown()
    wait_for(lambda: not places_of(run), 20)


def places_of(run):
    """Placement groups that a run's pool still has; Ray takes a moment to remove them."""
    table = placement_group_table().values()
    return [one for one in table if one["name"].startswith(group_prefix(run)) and one["state"] != "REMOVED"]


def test_a_finished_run_leaves_no_store(run, tmp_path):
    client = start_pool(run, tmp_path / "pool", shards=2, run_id="first")
    client.offer([entry(f"photo {i}") for i in range(4)])
    assert client.shutdown(remove=True) > 10_000
    assert not (tmp_path / "pool").exists()


def test_a_store_of_another_run_is_not_taken_over(run, tmp_path):
    first = start_pool(run, tmp_path / "pool", run_id="first")
    first.offer([entry("a")])
    with pytest.raises(PoolError, match="already has a label pool"):
        start_pool(run, tmp_path / "pool", run_id="second")
    first.shutdown()
    assert start_pool(run, tmp_path / "pool", run_id="second").ids() == []


def test_a_folder_that_cannot_be_used_is_an_error_not_a_hang(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PoolError, match="file"):
        start_pool(run, tmp_path / "file")


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, hazy):
        scene = hazy + self.offset
        return CorunOutput([scene], [scene[:, :1]])


class SlowScorer:
    """Brightness for both scores, after a while."""

    def __init__(self, seconds):
        self.seconds = seconds

    def score(self, images):
        time.sleep(self.seconds)
        brightness = images.mean((1, 2, 3))
        return Scores(brightness, brightness, brightness[:, None, None])


UNITS, PER_UNIT = 8, 4
CONFIG = LabelingConfig(network={}, size=8, worker_batch=2, threads=1, workers=2, worker_cpus=0.1)


def offset(value):
    return {"offset": torch.tensor(value)}


@pytest.fixture
def units(tmp_path):
    rows = []
    for i in range(UNITS * PER_UNIT):
        stream = io.BytesIO()
        Image.new("RGB", (20, 10), (100 + i,) * 3).save(stream, "PNG")
        rows.append({"image_id": f"photo {i:02d}", "image": stream.getvalue(), "split": "train"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus.parquet", row_group_size=PER_UNIT)
    return [WorkUnit(str(tmp_path / "corpus.parquet"), group) for group in range(UNITS)]


class KilledOnce(SlowScorer):
    """Kills the process that is the first to come to its third batch, within a unit of work."""

    def __init__(self, marker):
        super().__init__(0.3)
        self.marker, self.batches = marker, 0

    def score(self, images):
        self.batches += 1
        if self.batches == 3:
            with suppress(FileExistsError), self.marker.open("x"):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().score(images)


@pytest.mark.faults
def test_a_round_labels_every_photograph_though_a_worker_is_killed(run, tmp_path, units):
    pool = start_pool(run, tmp_path / "pool")
    build = lambda _: (Teacher(), KilledOnce(tmp_path / "killed"))  # noqa: E731 - sent to the workers
    labeling = start_labeling(CONFIG, pool, units, (offset(0.0), 0), build=build)
    seen = []
    report = labeling.run_round(progress=seen.append)
    assert (tmp_path / "killed").exists()
    assert report["done"] == report["units"] == UNITS
    assert report["failed"] == []
    assert report["handed_again"] >= 1
    assert report["photographs"] == report["offered"] == UNITS * PER_UNIT
    assert sum(report["per_worker"].values()) == UNITS * PER_UNIT
    assert pool.stats().size == UNITS * PER_UNIT
    assert labeling.status()["deaths"] == 1
    assert labeling.status()["labeled_step"] == 0
    assert any(status["current"] for status in seen), "progress can be watched"
    labeling.stop()


class SickInOneProcess(SlowScorer):
    """Fails in the process that came first."""

    def __init__(self, marker):
        super().__init__(0.05)
        with suppress(FileExistsError), marker.open("x") as stream:
            stream.write(str(os.getpid()))
        self.sick = marker.read_text() == str(os.getpid())

    def score(self, images):
        if self.sick:
            raise RuntimeError("no kernel image is available")
        return super().score(images)


def test_a_sick_worker_is_replaced_and_costs_nothing(run, tmp_path, units):
    pool = start_pool(run, tmp_path / "pool")
    build = lambda _: (Teacher(), SickInOneProcess(tmp_path / "sick"))  # noqa: E731 - sent to the workers
    labeling = start_labeling(CONFIG, pool, units, (offset(0.0), 0), build=build)
    report = labeling.run_round()
    assert (report["done"], report["failed"]) == (UNITS, [])
    assert report["handed_again"] >= 3
    assert pool.stats().size == UNITS * PER_UNIT
    assert labeling.troubles() == (0, 0)
    labeling.stop()


def test_a_round_that_gives_units_up_counts_them(run, tmp_path, units):
    pool = start_pool(run, tmp_path / "pool")
    lost = WorkUnit(str(tmp_path / "gone.parquet"), 0)
    given = [*units, lost]
    labeling = start_labeling(CONFIG, pool, given, (offset(0.0), 0), build=lambda _: (Teacher(), SlowScorer(0)))
    report = labeling.run_round()
    assert [unit["uri"] for unit in report["failed"]] == [lost.uri]
    assert report["reasons"].startswith("1 x FileNotFoundError")
    assert labeling.troubles() == (1, 0)
    labeling.stop()


def test_labels_that_are_not_finite_are_no_success(run, tmp_path, units):
    pool = start_pool(run, tmp_path / "pool")
    config = CONFIG.model_copy(update={"workers": 1})
    broken, build = offset(float("nan")), lambda _: (Teacher(), SlowScorer(0))
    labeling = start_labeling(config, pool, units[:1], (broken, 0), build=build)
    with pytest.raises(LabelingError, match="nothing could be labeled: 1 x not one of its 4 labels is finite"):
        labeling.run_round()
    labeling.stop()


def test_labels_follow_the_teacher_and_only_get_better(run, tmp_path, units):
    pool = start_pool(run, tmp_path / "pool")
    config = CONFIG.model_copy(update={"workers": 1})
    labeling = start_labeling(config, pool, units[:2], (offset(0.1), 0), build=lambda _: (Teacher(), SlowScorer(0)))
    assert labeling.run_round()["accepted"] == 2 * PER_UNIT
    first = pool.stats()
    labeling.start()
    labeling.publish(offset(0.2), 10)
    wait_for(lambda: labeling.status()["labeled_step"] == 10)
    better = pool.stats()
    assert better.mean_clearness == pytest.approx(first.mean_clearness + 0.1, abs=0.005)
    assert better.mean_teacher_step == 10
    labeling.publish(offset(0.0), 20)
    wait_for(lambda: labeling.status()["labeled_step"] == 20)
    labeling.publish(offset(0.5), 15)
    assert pool.stats().mean_clearness == better.mean_clearness, "a worse teacher changes nothing"
    status = labeling.status()
    assert [report["teacher_step"] for report in status["history"]] == [0, 10, 20]
    assert [report["accepted"] for report in status["history"]] == [8, 8, 0]
    assert status["teacher_step"] == 20, "a step that is not newer is ignored"
    assert status["error"] is None
    labeling.stop()
    labeling.stop()


def test_a_round_in_vain_is_tried_again(run, tmp_path, units):
    corpus = tmp_path / "corpus.parquet"
    corpus.rename(tmp_path / "away")
    pool = start_pool(run, tmp_path / "pool")
    config = CONFIG.model_copy(update={"workers": 1, "attempts": 1})
    labeling = start_labeling(config, pool, units[:2], (offset(0.1), 0), build=lambda _: (Teacher(), SlowScorer(0)))
    labeling.start()
    wait_for(lambda: labeling.status()["error"] is not None)
    assert "nothing could be labeled" in labeling.status()["error"]
    assert labeling.status()["labeled_step"] is None
    (tmp_path / "away").rename(corpus)
    wait_for(lambda: labeling.status()["labeled_step"] == 0)
    assert pool.stats().size == 2 * PER_UNIT
    labeling.stop()


def test_a_run_with_nothing_to_label_is_refused():
    with pytest.raises(LabelingError, match="nothing to label"):
        start_labeling(CONFIG, LabelPoolClient("any", 1), [], (offset(0.0), 0))


def test_workers_that_cannot_start_say_why(run, tmp_path, units):
    pool = start_pool(run, tmp_path / "pool")

    def build(config):
        raise ValueError("unknown scorer 'clap'")

    config = CONFIG.model_copy(update={"workers": 1})
    labeling = start_labeling(config, pool, units, (offset(0.0), 0), build=build)
    with pytest.raises(LabelingError, match="unknown scorer 'clap'"):
        labeling.run_round()
    labeling.stop()
