"""Models that follow an alias, and work that is done together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import ConfigError
from models.inference.runner import Dehazed
from models.registry import RefusedError
from serving.engine import batching
from serving.engine.batching import Done, DroppedError, Work
from serving.engine.slots import ModelSlot, Refused, WarmUpError


class Network:
    """Adds a constant; counts and remembers what it was asked."""

    def __init__(self, add: float = 0.1) -> None:
        self.add = add
        self.seen: list[tuple[int, ...]] = []

    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        self.seen.append(tuple(hazy.shape))
        return Dehazed((hazy + self.add).clamp(0, 1), hazy[:, :1])


class Registry:
    """An alias that a test moves."""

    def __init__(self) -> None:
        self.version: str | Exception = "v1"
        self.networks: dict[str, Any] = {"v1": Network(), "v2": Network()}
        self.loads: list[str] = []

    def resolve(self, source: str) -> str:
        if isinstance(self.version, Exception):
            raise self.version
        return self.version

    def load(self, version: str) -> Any:
        self.loads.append(version)
        if version not in self.networks:
            raise ConfigError(f"no {version}")
        if isinstance(self.networks[version], Exception):
            raise self.networks[version]
        return self.networks[version]

    def slot(self) -> ModelSlot:
        return ModelSlot("dehazer", "models:/dehazer@champion", self.load, self.resolve)


class Nan(Network):
    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        return Dehazed(hazy * float("nan"), None)


class Small(Network):
    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        return Dehazed(hazy[:, :, 1:], None)


class Raises(Network):
    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        raise RuntimeError("bad weights")


class Hungry(Network):
    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        raise MemoryError


class TestSlot:
    def test_the_alias_is_followed(self) -> None:
        registry = Registry()
        slot = registry.slot()
        held = slot.current
        assert not slot.refresh()
        registry.version = "v2"
        assert slot.refresh()
        assert slot.current == ("v2", registry.networks["v2"])
        assert held == ("v1", registry.networks["v1"])  # a request that began before keeps its model
        assert registry.loads == ["v1", "v2"]
        assert registry.networks["v2"].seen == [(1, 3, 64, 64)]  # it was warm before it was taken

    @pytest.mark.parametrize("network", [Nan(), Small(), Raises()])
    def test_what_fails_its_warm_up_is_not_taken(self, network: Network) -> None:
        registry = Registry()
        slot = registry.slot()
        registry.networks["bad"], registry.version = network, "bad"
        for _ in range(3):
            assert not slot.refresh()
        state = slot.state()
        assert state.version == "v1"
        assert state.problem is not None
        assert "bad is not taken" in state.problem
        assert registry.loads == ["v1", "bad"]  # not again and again
        registry.version = "v1"
        slot.refresh()
        assert slot.state().problem is None
        registry.version = "v2"
        assert slot.refresh()

    def test_what_cannot_be_loaded_is_not_tried_again(self) -> None:
        registry = Registry()
        slot = registry.slot()
        registry.networks["bad"], registry.version = RefusedError("/a/folder is no checkpoint"), "bad"
        for _ in range(3):
            assert not slot.refresh()
        assert registry.loads == ["v1", "bad"]
        assert slot.state().problem == "bad is not taken: it cannot be loaded; the log says why"
        for _ in range(2):  # nor for those who ask for it by another name
            with pytest.raises(RefusedError, match="is no checkpoint"):
                ModelSlot("other", "models:/dehazer/2", registry.load, registry.resolve, slot._refused)
        assert registry.loads == ["v1", "bad"]
        registry.version = "v2"
        assert slot.refresh()

    def test_a_folder_may_be_mended(self) -> None:
        registry = Registry()
        registry.networks["v1"] = RefusedError("no checkpoint yet")
        refused: Refused = {}
        for _ in range(2):
            with pytest.raises(RefusedError):
                ModelSlot("mine", "/a/folder", registry.load, registry.resolve, refused)
        assert registry.loads == ["v1", "v1"]

    def test_a_lack_of_memory_passes(self) -> None:
        registry = Registry()
        slot = registry.slot()
        registry.networks["big"], registry.version = Hungry(), "big"
        assert not slot.refresh()
        assert not slot.refresh()
        assert registry.loads == ["v1", "big", "big"]

    def test_what_cannot_be_had_is_tried_again(self) -> None:
        registry = Registry()
        slot = registry.slot()
        registry.version = ConfigError("registry gone")
        assert not slot.refresh()
        assert slot.state().problem is not None
        assert "log" in slot.state().problem  # where it is may be nobody's business
        registry.version = "v3"
        assert not slot.refresh()
        registry.networks["v3"] = Network()
        assert slot.refresh()

    def test_at_the_start_there_is_nothing_to_keep(self) -> None:
        registry = Registry()
        registry.networks["v1"] = Nan()
        with pytest.raises(WarmUpError, match="not finite"):
            registry.slot()


class Scorer:
    def rate_each(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.stack([image.mean() for image in images]), torch.full((len(images),), 0.5)


def pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.full((1, 3, *size), 0.1 * (index + 1)) for index, size in enumerate(sizes)]


class TestBatches:
    SIZES = ((8, 8), (8, 16), (8, 8), (8, 8))

    @pytest.mark.parametrize("stack", [False, True])
    def test_each_gets_its_own(self, stack: bool) -> None:
        network = Network(0.25)
        works = [Work(network, image) for image in pictures(*self.SIZES)]
        for work, done in zip(works, batching.run(works, Scorer(), stack=stack), strict=True):
            assert isinstance(done, Done)
            assert done.found is not None
            assert torch.equal(done.found.scene, work.hazy + 0.25)
            assert torch.equal(done.found.transmission, work.hazy[:, :1])
            assert done.clearness_before == pytest.approx(work.hazy.mean().item())
            assert done.clearness_after == pytest.approx(work.hazy.mean().item() + 0.25)
        assert len(network.seen) == (2 if stack else 4)

    def test_models_are_not_mixed(self) -> None:
        networks = Network(0.1), Network(0.2)
        works = [Work(network, image) for network in networks for image in pictures((8, 8), (8, 8))]
        batching.run(works, None, stack=True)
        assert [network.seen for network in networks] == [[(2, 3, 8, 8)]] * 2

    def test_what_nobody_waits_for_is_not_done(self) -> None:
        network = Network()
        works = [Work(network, image) for image in pictures((8, 8), (8, 8))]
        works[0].dropped = True
        outcomes = batching.run(works, None, stack=False)
        assert isinstance(outcomes[0], DroppedError)
        assert isinstance(outcomes[1], Done)
        assert len(network.seen) == 1

    def test_what_fails_alone_fails_alone(self) -> None:
        class Picky(Network):
            def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
                if hazy.max() > 0.25:
                    raise MemoryError("too bright")
                return super().run(hazy)

        network = Picky()
        works = [Work(network, image) for image in pictures((8, 8), (8, 8), (8, 8))]
        kinds = [type(outcome) for outcome in batching.run(works, None, stack=True)]
        assert kinds == [Done, Done, MemoryError]

    def test_a_score_needs_no_network(self) -> None:
        (done,) = batching.run([Work(None, pictures((8, 8))[0])], Scorer(), stack=False)
        assert isinstance(done, Done)
        assert (done.found, done.clearness_after, done.quality_before) == (None, None, 0.5)
