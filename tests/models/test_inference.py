"""Dehazing an image of any size with any network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.corun import Corun, CorunConfig
from models.inference import MULTIPLE, as_dehazed, blend, dehaze
from models.physics import DarkChannelPrior


class Brighten(nn.Module):
    """Maps an image to an image, refuses sizes that are no multiple, and leaves [0, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[-1] % MULTIPLE == image.shape[-2] % MULTIPLE == 0
        return image * 3 - 1


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 8), (33, 64), (50, 17)])
def test_any_size_and_any_kind_of_network(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    for network in (Corun(CorunConfig(stages=1, dim=2)), DarkChannelPrior()):
        found = dehaze(network.eval(), image)
        assert found.transmission is not None
        assert found.scene.shape == image.shape
        assert found.transmission.shape == (2, 1, *size)
        for part in (found.scene, found.transmission):
            assert part.min() >= 0
            assert part.max() <= 1
    plain = dehaze(Brighten(), image)
    assert plain.transmission is None
    assert torch.equal(plain.scene, (image * 3 - 1).clamp(0, 1))


def test_a_batch_is_its_images_one_by_one() -> None:
    torch.manual_seed(0)
    network = Corun(CorunConfig(stages=2, dim=2)).eval()
    images = torch.rand(3, 3, 20, 28)
    together = dehaze(network, images).scene
    for index in range(3):
        torch.testing.assert_close(together[index], dehaze(network, images[index : index + 1]).scene[0])


def test_no_graph_is_kept() -> None:
    assert not dehaze(Corun(CorunConfig(stages=1, dim=2)), torch.rand(1, 3, 8, 8)).scene.requires_grad


def test_other_outputs_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"it returned dict without \.scene"):
        as_dehazed({"scene": torch.zeros(1)})


def test_strength_goes_from_the_photograph_to_the_scene() -> None:
    hazy, scene = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert torch.equal(blend(hazy, scene, 0.0), hazy)
    assert torch.equal(blend(hazy, scene, 1.0), scene)
    assert torch.equal(blend(hazy, scene, 0.25), torch.full_like(hazy, 0.25))
