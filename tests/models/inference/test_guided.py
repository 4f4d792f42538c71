"""Large photographs are dehazed from a smaller version, and keep their edges, grain and look."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import zoo
from models.inference import guided
from models.inference.dehazing import EXACT, dehaze
from models.networks.corun import Corun, CorunConfig
from models.options import InferenceConfig

LARGE = (1000, 1104)  # more than a megapixel


class Seen(nn.Module):
    """Dehazes by the scattering model with a given transmission, and keeps the size of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.size: tuple[int, ...] = ()

    def forward(self, image: Tensor) -> Tensor:
        self.size = tuple(image.shape[-2:])
        down = torch.linspace(0.4, 0.9, image.shape[-2])[:, None]
        return (image - 0.9 * (1 - down)) / down


def decibel(first: Tensor, second: Tensor) -> float:
    return -10 * math.log10(float((first - second).square().mean()))


def picture(size: tuple[int, int]) -> Tensor:
    """Blocks of color with hard edges, grain, under haze that thickens upwards: 13HW."""
    generator = torch.Generator().manual_seed(3)
    blocks = F.interpolate(torch.rand(1, 3, 9, 11, generator=generator), size=size, mode="nearest")
    scene = (blocks + 0.03 * torch.randn(1, 3, *size, generator=generator)).clamp(0, 1)
    down = torch.linspace(0.4, 0.9, size[0])[:, None]
    return scene * down + 0.9 * (1 - down)


def test_a_large_image_is_seen_small_and_comes_out_as_if_seen_whole() -> None:
    network, image = Seen(), picture(LARGE)
    found = dehaze(network, image)
    assert max(network.size) == 384
    exact = dehaze(network, image, EXACT)
    assert network.size == LARGE
    assert found.scene.shape == image.shape
    assert decibel(found.scene, exact.scene) > 36  # grain and edges too
    small = dehaze(network, guided.shrunk(image, 384)).scene
    assert decibel(F.interpolate(small, size=LARGE, mode="bilinear"), exact.scene) < 30


@pytest.mark.parametrize("config", [EXACT, InferenceConfig(tile=512), InferenceConfig(working_side=2048)])
def test_all_pixels_are_seen_where_that_is_asked_for(config: InferenceConfig) -> None:
    network = Seen()
    dehaze(network, picture(LARGE), config)
    assert max(network.size) > 384


def test_images_up_to_a_quarter_of_a_megapixel_are_exact() -> None:
    network = Seen()
    dehaze(network, torch.rand(1, 3, 512, 512))
    assert network.size == (512, 512)


def test_transmission_batches_and_bands_are_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, images = Corun(CorunConfig(stages=1, dim=2)).eval(), torch.cat([picture(LARGE), picture(LARGE).flip(2)])
    both = dehaze(network, images)
    monkeypatch.setattr(guided, "_BAND", 1 << 14)
    again = dehaze(network, images)
    torch.testing.assert_close(both.scene, again.scene, atol=1e-6, rtol=0)
    assert both.transmission is not None
    assert again.transmission is not None
    torch.testing.assert_close(both.transmission, again.transmission, atol=1e-6, rtol=0)
    alone = dehaze(network, images[1:])
    torch.testing.assert_close(alone.scene, again.scene[1:], atol=1e-4, rtol=0)


def test_a_large_gray_image_stays_gray() -> None:
    gray = picture(LARGE).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    scene = dehaze(zoo.load("corun-compact").network, gray).scene
    assert torch.equal(scene[:, 0], scene[:, 1])
    assert torch.equal(scene[:, 0], scene[:, 2])


def test_the_same_photograph_looks_alike_at_any_size() -> None:
    network = zoo.load("corun-compact").network
    sizes = [(480, 640), (1200, 1600), (2400, 3200)]
    made = [
        F.interpolate(dehaze(network, picture(size)).scene, size=(240, 320), mode="bilinear", antialias=True)
        for size in sizes
    ]
    assert decibel(made[0], made[1]) > 30
    assert decibel(made[1], made[2]) > 32
