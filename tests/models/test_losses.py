"""Each loss against its equation in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import losses


@pytest.fixture
def images() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.rand(2, 3, 5, 6, generator=generator) for name in ("scene", "target", "hazy")}
    return made | {name: torch.rand(2, 1, 5, 6, generator=generator) for name in ("transmission", "trust")}


def test_l1_and_its_trust(images: dict[str, torch.Tensor]) -> None:
    scene, target, trust = (images[name].numpy() for name in ("scene", "target", "trust"))
    assert losses.l1(images["scene"], images["target"]).item() == pytest.approx(np.abs(scene - target).mean())
    weighted = losses.l1(images["scene"], images["target"], images["trust"]).item()
    assert weighted == pytest.approx((np.abs(scene - target) * trust).mean())
    assert losses.l1(images["scene"], images["target"], torch.zeros(2, 1, 5, 6)).item() == 0


def test_reconstruction_is_zero_for_the_true_scene_and_transmission(images: dict[str, torch.Tensor]) -> None:
    scene, transmission = images["scene"], images["transmission"]
    hazy = scene * transmission + 1 - transmission
    assert losses.reconstruction(scene, transmission, hazy).item() == pytest.approx(0, abs=1e-6)
    brighter = losses.reconstruction(scene, transmission, hazy + 0.25).item()
    assert brighter == pytest.approx(0.25)
    assert losses.reconstruction(scene, transmission, hazy + 0.25, torch.full((2, 1, 5, 6), 0.5)).item() == (
        pytest.approx(0.125)
    )


def test_contrastive_perceptual_is_the_weighted_ratio_of_distances() -> None:
    anchor = [torch.zeros(1, 4), torch.ones(1, 2)]
    positive = [torch.full((1, 4), 1.0), torch.full((1, 2), 1.5)]
    negative = [torch.full((1, 4), 2.0), torch.full((1, 2), 3.0)]
    found = losses.contrastive_perceptual(anchor, positive, negative, [1.0, 2.0]).item()
    assert found == pytest.approx(1.0 * 1 / 2 + 2.0 * 0.5 / 2)
    with pytest.raises(ValueError, match="zip"):
        losses.contrastive_perceptual(anchor, positive, negative, [1.0])


def test_contrastive_perceptual_pulls_to_the_clear_image_only_through_the_anchor() -> None:
    anchor, positive, negative = (torch.rand(1, 4, requires_grad=True) for _ in range(3))
    losses.contrastive_perceptual([anchor], [positive], [negative], [1.0]).backward()
    assert anchor.grad is not None
    assert positive.grad is None
    assert negative.grad is None


def test_haze_density_has_gradients_and_sees_clamped_images() -> None:
    scene = torch.tensor([0.5, 2.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4).clone().requires_grad_()
    found = losses.haze_density(scene, lambda image: image.mean(dim=(1, 2, 3)))
    assert found.item() == pytest.approx(0.75)
    found.backward()
    assert scene.grad is not None
    assert scene.grad[0].abs().sum() > 0
    assert scene.grad[1].abs().sum() == 0
