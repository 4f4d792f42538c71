"""Batches with labels, inline and from the pool; alignment; how old the label workers' weights may be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.config import ConfigError, LabelingError
from models.images import to_tensor, to_uint8
from pipelines.train.label_streams import REMEMBERED, InlineLabels, PooledLabels, Publisher, Stopwatch, with_labels
from pipelines.train.labels import check_seeded, labeling_config
from pipelines.train.recipe import LabelConfig, load_recipe
from pipelines.train.transforms import RealConfig, real_photographs, strong_augmentation
from pseudolabel.labeling.labeler import label_batch, read_unit
from pseudolabel.labeling.rounds import WorkUnit
from pseudolabel.pool import LabelEntry, LabelPool
from pseudolabel.scorer.scores import Scores
from tests.conftest import encoded

SIDE = 16
AS_IT_IS = RealConfig(size=SIDE, augmentation="symmetric", jpeg_probability=0.0)


class Brighter(nn.Module):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, hazy: Tensor) -> Tensor:
        return hazy + self.offset


class Brightness:
    """The brighter, the clearer; trust is red in blocks of 4."""

    def rate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        level = images.mean((1, 2, 3))
        return level, level

    def score(self, images: Tensor) -> Scores:
        return Scores(*self.rate(images), nn.functional.avg_pool2d(images[:, 0], 4))


class Answer:
    """A call to the pool that has come back."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value

    def done(self) -> bool:
        return True


class Pool(LabelPool):
    """A pool of this process, used like a client's."""

    def prefetch(self, ids: Sequence[str]) -> Answer:
        return Answer(self.fetch(ids))


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path / "pool", sync=False)
    yield pool
    pool.close()


def batch(levels: Sequence[int], first: int = 0) -> dict[str, Any]:
    photos = np.stack([np.full((SIDE, SIDE, 3), level, np.uint8) for level in levels])
    ids = np.array([f"photo {first + index}" for index in range(len(levels))])
    return {"image_id": ids, "photo": to_tensor(photos), "strong": to_tensor(photos // 2)}


def entry(image_id: str, level: int, trust: float = 0.5) -> LabelEntry:
    label = np.full((SIDE, SIDE, 3), level, np.uint8)
    return LabelEntry(image_id, label, label[..., 0], np.full((2, 2), trust, np.float32), 0.5, 0.5, 0)


def test_a_photograph_without_a_label_is_not_trusted() -> None:
    found = with_labels(batch([10, 20]), [None, entry("photo 1", 60, 0.25)])
    assert torch.equal(found["label"][0], batch([10])["photo"][0])
    assert (found["trust"][0] == 0).all()
    assert found["labeled"].flatten().tolist() == [0.0, 1.0]
    assert (to_uint8(found["label"])[1] == 60).all()
    assert (found["trust"][1] == 0.25).all()
    assert torch.equal(found["strong"], batch([10, 20])["strong"])


def test_labels_of_others_are_asked_for_a_batch_ahead(pool: Pool) -> None:
    pool.offer([entry("photo 0", 100)])
    labels = PooledLabels(iter([batch([10]), batch([20], 1), batch([30], 2)]), pool, Stopwatch())
    pool.offer([entry("photo 1", 200)])
    assert (to_uint8(labels.take(0)["label"]) == 100).all()
    second = labels.take(1)
    assert (to_uint8(second["label"]) == 200).all()
    assert (to_uint8(second["strong"]) == 10).all()


def test_inline_labels_are_of_the_teacher_of_now_and_the_pool_keeps_the_best(pool: Pool) -> None:
    teacher, waiting = Brighter(0.0), Stopwatch()
    labels = InlineLabels(iter([batch([51])] * 3), pool, waiting, (teacher, Brightness()))
    assert (to_uint8(labels.take(0)["label"]) == 51).all()
    teacher.offset.data.fill_(0.2)
    better = labels.take(1)
    assert (to_uint8(better["label"]) == 102).all()
    torch.testing.assert_close(better["trust"], torch.full((1, 1, SIDE, SIDE), 0.4))
    teacher.offset.data.fill_(0.1)
    assert (to_uint8(labels.take(2)["label"]) == 102).all(), "a worse candidate changes nothing"
    (kept,) = pool.fetch(["photo 0"])
    assert kept is not None
    assert kept.teacher_step == 1
    assert pool.stats().offered == 3
    assert waiting.seconds > 0


@pytest.mark.parametrize("passes", [1, 3])
def test_inline_and_asynchronous_labels_are_the_same(pool: Pool, tmp_path: Path, passes: int) -> None:
    """What label workers make of a photograph is what the step makes of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    (_, whole), *_ = stored(pixels, tmp_path)
    sample = real_photographs([{"image_id": "photo 0", "image": encoded(pixels)}], AS_IT_IS, seed=0)
    assert np.array_equal(sample["photo"][0], whole)
    told = labeling_config(load_recipe("colabator_corun_compact", [f"labels.passes={passes}"])).passes
    (made,) = label_batch(Brighter(0.1), Brightness(), whole[None], ["photo 0"], 3, passes=told)
    real = {"image_id": sample["image_id"], "photo": to_tensor(sample["photo"]), "strong": to_tensor(sample["strong"])}
    inline = InlineLabels(iter([real]), pool, Stopwatch(), (Brighter(0.1), Brightness()), passes).take(3)
    assert np.array_equal(to_uint8(inline["label"])[0], made.label)
    further = made.label.astype(int) - np.minimum(whole.astype(int) + 26 * passes, 255)
    assert np.abs(further).max() <= passes, "each pass goes over what the last one left"


def stored(pixels: np.ndarray[Any, Any], folder: Path) -> list[tuple[str, Any]]:
    """What label workers read of a photograph."""
    rows = [{"image_id": "photo 0", "image": encoded(pixels), "split": "train"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")
    return list(read_unit(WorkUnit(str(folder / "corpus.parquet"), 0), SIDE, 4, lambda *_: None))


@given(st.integers(0, 2**32 - 1), st.integers(8, 39), st.integers(8, 39), st.sampled_from([(90, 230), (160, 20)]))
def test_no_symmetric_augmentation_moves_a_pixel(seed: int, row: int, column: int, levels: tuple[int, int]) -> None:
    """One marked pixel on an even ground stays where it is; sharpening and blurring are even around it."""
    ground, mark = levels
    pixels = np.full((48, 48, 3), ground, np.uint8)
    pixels[row, column] = mark
    found = strong_augmentation(pixels, np.random.default_rng(seed), "symmetric").astype(int)
    assert found.shape == pixels.shape
    change = np.abs(found - found[0, 0]).sum(axis=2)
    assert change.max() > 0, "the mark is still seen"
    around = change[row - 6 : row + 7, column - 6 : column + 7]
    assert change.sum() == around.sum(), "nothing has changed elsewhere"
    assert change[row, column] == change.max()
    assert np.array_equal(around, around[::-1]) or abs(around - around[::-1]).max() <= 6  # rounding of two filters
    assert np.array_equal(around, around[:, ::-1]) or abs(around - around[:, ::-1]).max() <= 6


def test_photograph_label_and_trust_have_their_mark_in_one_place(pool: Pool) -> None:
    row, column = 9, 5
    pixels = np.full((SIDE, SIDE, 3), 40, np.uint8)
    pixels[row, column] = 250
    for seed in range(20):
        sample = real_photographs([{"image_id": "photo 0", "image": encoded(pixels)}], AS_IT_IS, seed=seed)
        tensors = {"photo": to_tensor(sample["photo"]), "strong": to_tensor(sample["strong"])}
        stream = iter([{"image_id": sample["image_id"], **tensors}])
        found = InlineLabels(stream, pool, Stopwatch(), (Brighter(0.0), Brightness())).take(seed)
        for name in ("strong", "label"):
            place = found[name].sum(1).flatten().argmax().item()
            assert divmod(place, SIDE) == (row, column), (name, seed)
        top, left = divmod(found["trust"].flatten().argmax().item(), SIDE)
        assert (top // 4, left // 4) == (row // 4, column // 4)


class Labeling:
    """Label workers that are `behind` steps behind, and catch up after so many questions."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights, self.published = list(weights), list[int]()

    def publish(self, _state: object, step: int) -> None:
        self.published.append(step)

    def weights_step(self) -> Answer:
        return Answer(self.weights.pop(0) if len(self.weights) > 1 else self.weights[0])


def publisher(labeling: Labeling, **options: Any) -> Publisher:
    config = LabelConfig(**{"publish_every": 5, "max_teacher_lag": 8, "lag_patience": 0.2, **options})
    return Publisher(labeling, config, Stopwatch())


def test_the_teacher_is_published_in_time() -> None:
    labeling = Labeling([0])
    keeper = publisher(labeling, max_teacher_lag=100)
    for step in range(1, 13):
        keeper.after(step, dict)
    assert labeling.published == [5, 10]
    assert keeper.lag == 12


def test_training_waits_for_weights_that_are_too_old(capsys: pytest.CaptureFixture[str]) -> None:
    labeling = Labeling([0] * 10 + [5])
    waiting = Stopwatch()
    keeper = Publisher(labeling, LabelConfig(publish_every=5, max_teacher_lag=8, lag_patience=60.0), waiting)
    for step in range(1, 10):
        keeper.after(step, dict)
        assert keeper.lag <= 8
    assert waiting.seconds > 0
    assert labeling.published == [5, 9], "they may have been lost"
    assert capsys.readouterr().out == ""


def test_training_goes_on_without_label_workers_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    labeling = Labeling([0])
    keeper = publisher(labeling)
    for step in range(1, 20):
        keeper.after(step, dict)
    out = capsys.readouterr().out
    assert out.count("labels.max_teacher_lag") == 1
    assert "weights that are 9 steps old, 8 are allowed" in out
    labeling.weights = [19, 20, 0]
    for step in range(20, 40):
        keeper.after(step, dict)
    assert capsys.readouterr().out.count("labels.max_teacher_lag") == 1, "again, as they had caught up"


def test_publishing_less_often_than_weights_may_be_old_is_refused() -> None:
    with pytest.raises(ConfigError, match="publish at least as often"):
        load_recipe("demo_colabator", ["labels.max_teacher_lag=5"])


def test_the_first_photographs_are_remembered_for_pictures(pool: Pool) -> None:
    labels = PooledLabels((batch([first, first + 1], 2 * first) for first in range(9)), pool, Stopwatch())
    for step in range(5):
        labels.take(step)
    assert list(labels.remembered) == [f"photo {index}" for index in range(REMEMBERED)]
    assert [int(pixels[0, 0, 0]) for pixels in labels.remembered.values()] == [0, 1, 1, 2]


def test_seeding_that_lost_too_much_is_refused_with_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"failed": [{}] * 3, "reasons": "2 x CUDA error; 1 x killed", "unreadable": 1}
    check_seeded(400, 400, report, 0.0)
    assert capsys.readouterr().err == ""
    check_seeded(400, 396, report, 0.01)
    told = "4 of 400 photographs have no label: 3 row groups were given up (2 x CUDA error; 1 x killed); 1 photographs"
    assert f"note: {told} cannot be read" in capsys.readouterr().err
    with pytest.raises(LabelingError, match=rf"{re.escape(told)} cannot be read. labels.max_lost=0.005 allows fewer"):
        check_seeded(400, 396, report, 0.005)
    with pytest.raises(LabelingError, match="not finite"):
        check_seeded(400, 0, {"failed": [], "reasons": "", "unreadable": 0}, 0.01)
