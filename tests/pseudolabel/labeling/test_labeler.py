"""From photographs to candidates, with a made-up teacher and scorer."""

from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from models.images import resize
from models.networks.corun import CorunOutput
from pseudolabel.labeling.labeler import Labeler, implied_transmission, label_batch, pack_state, read_unit
from pseudolabel.labeling.rounds import LabelingConfig, WorkUnit
from pseudolabel.pool.label_pool import LabelPool
from pseudolabel.scorer.scores import Scorer, Scores
from tests.conftest import encoded


class Teacher(nn.Module):
    """Adds `offset` to the photograph, with half of the light transmitted."""

    def __init__(self, offset: float = 0.0):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, hazy):
        scene = hazy + self.offset
        return CorunOutput([scene], [torch.full_like(scene[:, :1], 0.5)])


class BrightnessScorer:
    """Clearness is the mean of red, quality that of green; trust is red in 4x4 blocks."""

    def rate(self, images):
        return images[:, 0].mean((1, 2)), images[:, 1].mean((1, 2))

    def score(self, images):
        clearness, quality = self.rate(images)
        return Scores(clearness, quality, nn.functional.avg_pool2d(images[:, 0], 4))


@pytest.fixture
def corpus(tmp_path, photo):
    """Two row groups: four photographs of the training split, a held-out one and one that is damaged."""
    rows = [
        {"image_id": f"photo{i}", "image": encoded(photo(seed=i, height=40 + i, width=64)), "split": "train"}
        for i in range(4)
    ]
    rows.append({"image_id": "held-out", "image": rows[0]["image"], "split": "test"})
    rows.append({"image_id": "damaged", "image": rows[0]["image"][:100], "split": "train"})
    path = tmp_path / "a corpus" / "train.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([{**row, "uri": "x"} for row in rows]), path, row_group_size=3)
    return path


def config(**changes):
    return LabelingConfig(network={}, **{"size": 16, "worker_batch": 2, "threads": 2, **changes})


def make_labeler(**changes):
    return Labeler(config(**changes), lambda _: (Teacher(), BrightnessScorer()))


def test_a_candidate_is_the_teachers_output_and_its_score():
    photos = np.full((2, 16, 16, 3), 51, dtype=np.uint8)
    photos[1, ..., 0] = 102
    entries = label_batch(Teacher(0.2), BrightnessScorer(), photos, ["a", "b"], step=3)
    assert isinstance(BrightnessScorer(), Scorer)
    assert [entry.image_id for entry in entries] == ["a", "b"]
    assert entries[0].label.dtype == np.uint8
    np.testing.assert_array_equal(entries[0].label, photos[0] + 51)
    np.testing.assert_array_equal(entries[1].label, photos[1] + 51)
    assert (entries[0].transmission == 128).all()
    assert entries[0].transmission.shape == (16, 16)
    assert entries[1].clearness == pytest.approx(153 / 255)
    assert entries[1].quality == pytest.approx(102 / 255)
    np.testing.assert_allclose(entries[1].trust, np.full((4, 4), 0.6), atol=1e-6)
    assert entries[1].teacher_step == 3


def test_what_is_scored_is_what_is_stored():
    photos = np.full((1, 16, 16, 3), 250, dtype=np.uint8)
    (entry,) = label_batch(Teacher(0.5), BrightnessScorer(), photos, ["a"], step=0)
    assert (entry.label == 255).all()
    assert entry.clearness == 1.0, "the clamped label is scored, not the teacher's 1.48"


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"]])
def test_each_photograph_has_an_identifier(ids):
    with pytest.raises(ValueError, match=f"2 photographs and {len(ids)} identifiers"):
        label_batch(Teacher(), BrightnessScorer(), np.zeros((2, 8, 8, 3), np.uint8), ids, 0)


def test_a_teacher_without_transmission_gives_the_one_it_implies():
    class Plain(nn.Module):
        def forward(self, hazy):
            return (1 - (1 - hazy) / 0.4).clamp(0, 1)

    photos = np.full((1, 16, 16, 3), 204, dtype=np.uint8)
    (entry,) = label_batch(Plain(), BrightnessScorer(), photos, ["a"], step=0)
    np.testing.assert_allclose(entry.transmission / 255, 0.4, atol=0.01)


class Thinner(nn.Module):
    """Takes half of the haze away: T = 0.5 of what is there, airlight 1; tells its transmission or not."""

    def __init__(self, tells=True):
        super().__init__()
        self.tells, self.seen = tells, []

    def forward(self, hazy):
        self.seen.append(len(hazy))
        scene = (1 - (1 - hazy) / 0.5).clamp(0, 1)
        return CorunOutput([scene], [torch.full_like(scene[:, :1], 0.5)]) if self.tells else scene


class DarknessScorer(BrightnessScorer):
    """Clearness is darkness of red; quality is the same down to ``floor``, and falls below it."""

    def __init__(self, floor):
        self.floor = floor

    def rate(self, images):
        darkness = 1 - images[:, 0].mean((1, 2))
        return darkness, torch.where(darkness <= 1 - self.floor, darkness, 0.0)


@pytest.mark.parametrize("tells", [True, False], ids=["tells", "implied"])
def test_further_passes_go_as_far_as_both_scores_allow(tells):
    photos = np.stack([np.full((16, 16, 3), level, dtype=np.uint8) for level in (204, 238)])
    # 0.8 -> 0.6 -> 0.2 and 0.933 -> 0.867 -> 0.733 -> 0.467: quality falls where red goes below 0.5
    thinner = Thinner(tells)
    entries = label_batch(thinner, DarknessScorer(0.5), photos, ["near", "far"], step=7, passes=3)
    assert [entry.label[0, 0, 0] for entry in entries] == [153, 187]
    np.testing.assert_allclose([entry.transmission.mean() / 255 for entry in entries], [0.5, 0.25], atol=0.01)
    np.testing.assert_allclose([entry.clearness for entry in entries], [0.4, 1 - 187 / 255], atol=1e-6)
    assert entries[1].quality == entries[1].clearness
    assert thinner.seen == [2, 2, 1], "what gains nothing is not dehazed again"
    np.testing.assert_allclose(entries[1].trust, 187 / 255, atol=1e-6)
    (once,) = label_batch(Thinner(tells), DarknessScorer(0.5), photos[1:], ["far"], step=7)
    assert once.label[0, 0, 0] == 221


def test_a_pass_that_is_not_finite_is_not_taken():
    class Second(Thinner):
        def forward(self, hazy):
            out = super().forward(hazy)
            return out if len(self.seen) == 1 else CorunOutput([out.scenes[-1] * torch.nan], out.transmissions)

    photos = np.full((1, 16, 16, 3), 238, dtype=np.uint8)
    (entry,) = label_batch(Second(), DarknessScorer(0.0), photos, ["a"], step=0, passes=2)
    assert entry.label[0, 0, 0] == 221
    assert np.isfinite(entry.clearness)


def test_the_implied_transmission_inverts_the_scattering_model():
    scene, transmission = torch.rand(2, 3, 8, 8) * 0.9, torch.rand(2, 1, 8, 8) * 0.9 + 0.06
    hazy = scene * transmission + 1 - transmission
    torch.testing.assert_close(implied_transmission(hazy, scene), transmission, atol=1e-4, rtol=1e-4)
    assert (implied_transmission(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2)) == 1).all()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_an_output_that_is_not_finite_never_gets_into_the_pool(tmp_path, wrong):
    photos = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    photos[1] = 255

    class Diverged(Teacher):
        def forward(self, hazy):
            out = super().forward(hazy)
            out.scenes[-1][1, 0, 0, 0] = wrong
            return out

    pool = LabelPool(tmp_path, sync=False)
    assert pool.offer(label_batch(Diverged(), BrightnessScorer(), photos, ["fine", "wrong"], step=0)) == [True, False]
    assert pool.ids() == ["fine"]
    pool.close()


def test_a_trust_that_is_not_finite_never_gets_into_the_pool(tmp_path):
    class Blind(BrightnessScorer):
        def score(self, images):
            found = super().score(images)
            found.trust[1, 0, 0] = torch.nan
            return found

    with closing(LabelPool(tmp_path, sync=False)) as pool:
        photos = np.zeros((2, 16, 16, 3), dtype=np.uint8)
        assert pool.offer(label_batch(Teacher(), Blind(), photos, ["fine", "wrong"], step=0)) == [True, False]


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_unit_gives_its_training_photographs_whole_and_resized(corpus, photo, as_uri):
    uri = corpus.as_uri() if as_uri else str(corpus)
    broken = []
    found = dict(read_unit(WorkUnit(uri, 0), 16, 2, lambda image_id, problem: broken.append(image_id)))
    assert list(found) == ["photo0", "photo1", "photo2"]
    for i, pixels in enumerate(found.values()):
        np.testing.assert_array_equal(pixels, resize(photo(seed=i, height=40 + i, width=64), 16, 16))
    assert broken == []
    assert [image_id for image_id, _ in read_unit(WorkUnit(uri, 1), 16, 2, lambda i, _: broken.append(i))] == ["photo3"]
    assert broken == ["damaged"]


def test_sixteen_bit_photographs_are_labeled_too(tmp_path):
    gray = np.full((20, 20), 0x8000, dtype=np.uint16)
    rows = [{"image_id": "deep", "image": encoded(gray, "PNG"), "split": "train"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "deep.parquet")
    ((_, pixels),) = read_unit(WorkUnit(str(tmp_path / "deep.parquet"), 0), 8, 1, lambda *_: None)
    assert pixels.dtype == np.uint8
    assert (pixels == 128).all()


def test_a_labeler_labels_in_batches_with_the_weights_it_was_given(corpus):
    labeler = make_labeler()
    with pytest.raises(RuntimeError, match="load a teacher"):
        next(labeler.label(WorkUnit(str(corpus), 0)))
    labeler.load(pack_state(Teacher(1.0).state_dict()), step=9)
    batches = list(labeler.label(WorkUnit(str(corpus), 0)))
    assert [len(batch) for batch in batches] == [2, 1]
    assert all((entry.label == 255).all() and entry.teacher_step == 9 for batch in batches for entry in batch)
    ((last,),) = labeler.label(WorkUnit(str(corpus), 1))
    assert last.image_id == "photo3"
    assert labeler.unreadable == ["damaged"]


def test_a_labeler_dehazes_as_often_as_configured(corpus):
    def first(passes):
        labeler = make_labeler(passes=passes)
        labeler.load(pack_state(Teacher(0.1).state_dict()), step=0)
        return next(labeler.label(WorkUnit(str(corpus), 0)))[0]

    assert first(2).clearness > first(1).clearness


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match="offset"):
        make_labeler().load(pack_state({"other": torch.zeros(1)}), step=0)
