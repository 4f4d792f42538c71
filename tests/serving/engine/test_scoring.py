"""The scorer rates all pictures of a batch together, whatever their sizes, on the replica's device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.config import parse
from models.images.photo import Photo
from models.inference.controls import blend, controlled
from models.inference.runner import Dehazed
from models.options import Controls, DehazeOptions
from models.predictor import render
from pseudolabel.scorer.clip import ClipScorer
from pseudolabel.scorer.loading import load_scorer
from serving.config import ServingConfig
from serving.engine import batching
from serving.engine.batching import Done, Work
from serving.engine.replica import Replica

SIZES = ((96, 128), (300, 200), (64, 64), (1, 500), (224, 224), (96, 128))


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return load_scorer()


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, *size, generator=generator) for size in SIZES]


@torch.inference_mode()
def test_together_they_get_the_scores_that_each_gets_alone(scorer: ClipScorer) -> None:
    clearness, quality = scorer.rate_each(pictures())
    alone = [scorer.rate(picture) for picture in pictures()]
    assert torch.allclose(clearness, torch.cat([one for one, _ in alone]), atol=1e-5)
    assert torch.allclose(quality, torch.cat([one for _, one in alone]), atol=1e-5)
    assert len({round(float(value), 4) for value in clearness[:4]}) == 4


@torch.inference_mode()
def test_a_metric_looks_at_whole_pictures(scorer: ClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Height(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images),), images.shape[-2] / 1000)

    monkeypatch.setattr(scorer, "iqa", Height())
    _, quality = scorer.rate_each(pictures())
    assert quality.tolist() == pytest.approx([height / 1000 for height, _ in SIZES])


class Counted:
    """A scorer that counts its calls; clearness is the mean of a picture. One of a size may be refused."""

    def __init__(self, refused: int = 0) -> None:
        self.calls: list[int] = []
        self.refused = refused

    def rate_each(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self.calls.append(len(images))
        if any(image.shape[-1] == self.refused for image in images):
            raise RuntimeError("not this one")
        values = torch.stack([image.mean() for image in images])
        return values, 1 - values


class Half:
    """A network that halves everything."""

    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        return Dehazed(hazy / 2, None)


def works() -> list[Work]:
    network = Half()
    return [Work(network, picture, controls=Controls(strength=index / 10)) for index, picture in enumerate(pictures())]


def test_inputs_and_results_of_a_batch_are_one_call() -> None:
    counted = Counted()
    done = batching.run([*works(), Work(None, pictures()[0])], counted, stack=True)
    assert counted.calls == [2 * len(SIZES) + 1]
    for work, one in zip(works(), done, strict=False):
        assert isinstance(one, Done)
        assert one.clearness_before == pytest.approx(float(work.hazy.mean()))
        assert one.quality_before == pytest.approx(1 - float(work.hazy.mean()))
        after = blend(work.hazy, work.hazy / 2, float(work.controls.strength))
        assert one.clearness_after == pytest.approx(float(after.mean()))
    last = done[-1]
    assert isinstance(last, Done)
    assert last.clearness_after is None


@pytest.mark.parametrize("scored", [True, False])
def test_the_controls_are_applied_once(scored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []

    def counted(*args: Any) -> Tensor:
        times.append(args)
        return controlled(*args)

    for module in ("models.inference.controlled", "serving.engine.batching.controlled"):
        monkeypatch.setattr(module, counted)
    options = DehazeOptions(strength=1.5, protect=True)
    hazy = pictures()[0]
    (done,) = batching.run([Work(Half(), hazy, options)], Counted() if scored else None, stack=False)
    assert isinstance(done, Done)
    assert done.found is not None
    photo = Photo(np.zeros((96, 128, 3), np.uint8))
    written = render(photo, hazy, done.found, options, done.picture)
    assert len(times) == 1
    expected = photo.with_tensor(controlled(hazy, hazy / 2, None, options))
    assert np.array_equal(written.pixels, expected.pixels)


def test_a_picture_that_cannot_be_scored_fails_alone() -> None:
    done = batching.run(works(), Counted(refused=500), stack=True)
    assert [isinstance(one, Done) for one in done] == [True, True, True, False, True, True]
    assert isinstance(done[3], RuntimeError)


def test_want_of_memory_on_a_gpu_is_want_of_memory() -> None:
    class Full(Counted):
        def rate_each(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    (one,) = batching.run(works()[:1], Full(), stack=False)
    assert isinstance(one, MemoryError)


def test_the_scorer_is_where_the_network_is() -> None:
    replica: Any = object.__new__(Replica)
    replica._config, replica._device = parse(ServingConfig, {"model": "dcp"}), "meta"
    assert {parameter.device.type for parameter in replica._load_scorer().parameters()} == {"meta"}
