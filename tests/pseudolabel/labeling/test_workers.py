"""Label workers that are held, set back and given news of weights in the middle of a round."""

import io
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from ray import cloudpickle
from torch import nn

from models.config import PoolError
from pseudolabel.crew.dispatch import Crew
from pseudolabel.labeling.client import COORDINATOR, LabelingClient
from pseudolabel.labeling.rounds import LabelingConfig, Round, UnitCounts, WorkUnit
from pseudolabel.labeling.workers import start_labeling
from pseudolabel.pool.actors import start_pool
from pseudolabel.pool.client import namespace_of
from pseudolabel.scorer.scores import Scores
from tests.waiting import wait_for

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import test modules

UNITS = [WorkUnit("a.parquet", group) for group in range(6)]


class Brighter(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, hazy):
        return hazy + self.offset


class SlowScorer:
    def score(self, images):
        time.sleep(0.2)
        brightness = images.mean((1, 2, 3))
        return Scores(brightness, brightness, brightness[:, None, None])


def offset(value):
    return {"offset": torch.tensor(value)}


def test_a_publication_that_failed_is_told_once(monkeypatch):
    client = LabelingClient("run")
    client._publishing = "under way"

    def fails(answer):
        raise PoolError(f"{answer} no more")

    monkeypatch.setattr(client, "_answer", fails)
    with pytest.raises(PoolError, match="under way no more"):
        client._settle()
    client._settle()


def test_a_round_knows_the_oldest_weights_that_are_out():
    current = Round(1, 10, UNITS)
    assert current.oldest_step is None
    first, second = current.take("worker 0"), current.take("worker 1")
    current.sent(first, 10)
    current.sent(second, 20)
    assert current.oldest_step == 10
    current.finish(first, "worker 0", UnitCounts(4, 4, 4))
    assert current.oldest_step == 20
    current.fail(second, "died")
    assert current.oldest_step is None


def test_a_round_that_is_broken_off_gets_back_what_is_out_and_no_more():
    sent = []

    class Workers:
        size = 1

        def call_up(self, index):
            return "ready"

        def wait(self, tickets, seconds):
            return tickets[:1]

        def answer(self, ticket):
            return UnitCounts(4, 4, 4)

    def send(index, unit):
        sent.append(unit)
        return unit

    current = Round(1, 0, UNITS)
    Crew(Workers(), 1).work_off(current, send, outstanding=2, stopped=lambda: False, held=lambda: len(sent) >= 2)
    report = current.report()
    assert (report["done"], report["left"], report["units"]) == (2, 4, 6)
    assert sent == UNITS[:2]
    assert current.finished


@pytest.fixture
def labeled(ray_cluster, run, tmp_path):
    """A pool and two label workers on six units of two photographs, of which only the first round is done."""
    rows = []
    for index in range(12):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (100 + index,) * 3).save(stream, "PNG")
        rows.append({"image_id": f"photo {index:02d}", "image": stream.getvalue(), "split": "train"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus.parquet", row_group_size=2)
    units = [WorkUnit(str(tmp_path / "corpus.parquet"), group) for group in range(6)]
    config = LabelingConfig(network={}, size=8, worker_batch=2, threads=1, workers=2, worker_cpus=0.1)
    pool = start_pool(run, tmp_path / "pool")
    labeling = start_labeling(config, pool, units, (offset(0.0), 0), build=lambda _: (Brighter(), SlowScorer()))
    labeling.run_round()
    return pool, labeling, run


def test_a_restored_pool_stays_as_it_is_until_the_run_is_set_back(labeled, tmp_path):
    pool, labeling, _run = labeled
    pool.snapshot(tmp_path / "snapshot")
    then = pool.stats()
    labeling.start()
    labeling.publish(offset(0.3), 100)
    wait_for(lambda: pool.stats().mean_teacher_step > 0)  # in the middle of a round
    labeling.hold()
    pool.restore(tmp_path / "snapshot")
    time.sleep(1.0)
    assert pool.stats() == then, "nothing was on its way any more"
    labeling.publish(offset(0.3), 110)
    time.sleep(0.5)
    assert pool.stats() == then, "nor does anything begin"
    labeling.rewind(offset(0.1), 50)
    wait_for(lambda: labeling.status()["labeled_step"] == 50)
    now = pool.stats()
    assert now.mean_teacher_step == 50, "with the weights of the checkpoint, though later ones were published"
    assert now.mean_clearness == pytest.approx(then.mean_clearness + 0.1, abs=0.005)
    labeling.publish(offset(0.2), 100)
    wait_for(lambda: labeling.status()["labeled_step"] == 100)
    assert pool.stats().mean_clearness == pytest.approx(then.mean_clearness + 0.2, abs=0.005), "not those of before"


def test_weights_are_put_into_the_object_store_once_and_reach_a_round_under_way(labeled):
    pool, labeling, run = labeled
    coordinator = ray.get_actor(COORDINATOR, namespace=namespace_of(run))

    def count_puts(self):
        import pseudolabel.labeling.workers as module

        self.puts, original = [], module.ray.put

        def put(value):
            self.puts.append(len(value))
            return original(value)

        module.ray.put = put

    ray.get(coordinator.__ray_call__.remote(count_puts))
    labeling.start()
    labeling.publish(offset(0.1), 10)
    wait_for(lambda: pool.stats().mean_teacher_step > 0)
    assert labeling.weights_step().result() == 10
    labeling.publish(offset(0.2), 20)
    wait_for(lambda: labeling.status()["labeled_step"] == 20)
    status = labeling.status()
    assert status["weights_step"] == 20
    under_way = next(report for report in status["history"] if report["teacher_step"] == 10)
    assert under_way["accepted"] == 12
    assert len(under_way["per_worker"]) == 2
    assert len(ray.get(coordinator.__ray_call__.remote(lambda self: self.puts))) == 2, "two publications, two workers"
