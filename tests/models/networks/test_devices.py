"""Networks, controls and losses on a GPU that is not there: its tensors know their device, and hold no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.haze import DarkChannelPrior
from models.inference import adjusted
from models.inference.controls import Look, estimate_airlight
from models.inference.guided import color_coefficients
from models.losses import adversarial, pixel
from models.networks import Cddgan, CddganConfig, Corun, CorunConfig, Dgun, DgunConfig, PatchDiscriminator

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "corun": lambda: Corun(CorunConfig(stages=2, dim=4, airlight=True)),
    "dgun": lambda: Dgun(DgunConfig(stages=3, dim=8, growth=2, subspace=2, tail=2)),
    "cddgan": lambda: Cddgan(CddganConfig(width=4, blocks=1, skip="scattering", normalization="group")),
    "discriminator": PatchDiscriminator,
    "dcp": DarkChannelPrior,
}


@pytest.fixture
def gpu() -> Iterator[None]:
    with FakeTensorMode():
        yield


def on_gpu(*found: Tensor | None) -> bool:
    return {part.device.type for part in found if part is not None} == {"cuda"}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_stay_on_their_device(name: str) -> None:
    with torch.device("cuda"):
        network, image = NETWORKS[name](), torch.rand(1, 3, 40, 44)
    found = network(image)
    assert on_gpu(getattr(found, "scene", found), getattr(found, "transmission", None))


@pytest.mark.usefixtures("gpu")
def test_controls_and_losses_stay_on_their_device() -> None:
    with torch.device("cuda"):
        hazy, scene, transmission = torch.rand(1, 3, 40, 44), torch.rand(1, 3, 40, 44), torch.rand(1, 1, 40, 44)
        light, color = torch.rand(1, 3, 1, 1), torch.rand(1, 3)
        features = [torch.rand(1, 4, 20, 22)]
    share = color_coefficients(hazy, transmission, 4, 1e-4)
    airlight = estimate_airlight(hazy, scene, transmission)
    for strength in (-0.5, 1.5):
        look = Look(strength, airlight, gain=1.2, share=share, highlights=True)
        assert on_gpu(adjusted(hazy, scene, transmission, look))
    found = (
        pixel.l1(scene, hazy, transmission),
        pixel.reconstruction(scene, transmission, hazy, airlight=light),
        pixel.light(light, light, transmission[..., :1, :1], color, color, transmission),
        pixel.contrastive_perceptual(features, features, features, [1.0], transmission),
        adversarial.adversarial_contrastive(color, color, color),
    )
    assert on_gpu(*found)
