"""One function dehazes any size with any network; what it pads, it crops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.corun import Corun, CorunConfig
from models.inference import as_dehazed, blend, dehaze
from models.physics import DarkChannelPrior

SIZES = [(1, 1), (7, 5), (8, 16), (9, 1), (3, 31)]


class Recorder(nn.Module):
    """Returns what it is told to, and keeps what it saw."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.seen = torch.empty(0)

    def forward(self, image: Tensor) -> Any:
        self.seen = image
        return self.answer(image)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 26), width=st.integers(1, 26), count=st.integers(1, 3))
def test_padding_is_whole_eights_and_leaves_no_trace(height: int, width: int, count: int) -> None:
    image, network = torch.rand(count, 3, height, width), Recorder(lambda x: x)
    found = dehaze(network, image)
    assert torch.equal(found.scene, image)
    assert found.transmission is None
    assert network.seen.shape == (count, 3, -(-height // 8) * 8, -(-width // 8) * 8)


def test_an_image_of_whole_eights_is_not_padded() -> None:
    image, network = torch.rand(1, 3, 16, 24), Recorder(lambda x: x)
    dehaze(network, image)
    assert torch.equal(network.seen, image)


def test_padding_mirrors_the_image() -> None:
    image, network = torch.rand(1, 3, 7, 5), Recorder(lambda x: x)
    dehaze(network, image)
    assert torch.equal(network.seen[..., :7, 5:], image[..., [3, 2, 1]])
    assert torch.equal(network.seen[..., 7, :5], image[..., 5, :])


def test_scene_and_transmission_are_cropped_alike_and_clamped() -> None:
    image = torch.rand(1, 3, 7, 5)
    network = Recorder(lambda x: SimpleNamespace(scene=3 * x - 1, transmission=2 * x[:, :1] - 0.5))
    found = dehaze(network, image)
    torch.testing.assert_close(found.scene, (3 * image - 1).clamp(0, 1))
    assert found.transmission is not None
    torch.testing.assert_close(found.transmission, (2 * image[:, :1] - 0.5).clamp(0, 1))


@pytest.mark.parametrize("size", SIZES)
def test_corun_is_padded_only_once(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, image = Corun(CorunConfig(stages=2, dim=2)).eval(), torch.rand(2, 3, *size)
    found, direct = dehaze(network, image), network(image)
    torch.testing.assert_close(found.scene, direct.scene.detach().clamp(0, 1), atol=1e-5, rtol=0)
    assert found.transmission is not None
    torch.testing.assert_close(found.transmission, direct.transmission.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(dehaze(network, image[1:]).scene[0], found.scene[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_dark_channel_prior_takes_any_size(size: tuple[int, int]) -> None:
    found = dehaze(DarkChannelPrior(), torch.rand(1, 3, *size))
    assert found.transmission is not None
    assert (found.scene.shape, found.transmission.shape) == ((1, 3, *size), (1, 1, *size))
    for part in (found.scene, found.transmission):
        assert 0 <= part.min() <= part.max() <= 1


def test_no_gradients_are_kept_and_none_are_spoilt() -> None:
    network = nn.Conv2d(3, 3, 1)
    assert not dehaze(network, torch.rand(1, 3, 4, 4)).scene.requires_grad
    assert torch.is_grad_enabled()
    assert network.training


@pytest.mark.parametrize("answer", [None, "scene", {"scene": torch.zeros(1)}, SimpleNamespace(scene=None), (1, 2)])
def test_an_answer_without_a_scene_is_named(answer: Any) -> None:
    with pytest.raises(TypeError, match=type(answer).__name__):
        as_dehazed(answer)


def test_strength_goes_from_hazy_to_dehazed() -> None:
    hazy, scene = torch.rand(2, 1, 3, 4, 4)
    assert torch.equal(blend(hazy, scene, 1.0), scene)
    assert torch.equal(blend(hazy, scene, 0.0), hazy)
    torch.testing.assert_close(blend(hazy, scene, 0.25), 0.75 * hazy + 0.25 * scene)
