"""Each loss against its equation in numpy, and where its gradients go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models import losses


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    random = np.random.default_rng(7)
    return [torch.from_numpy(random.random(shape)).requires_grad_() for shape in shapes]


IMAGE, MAP = (2, 3, 5, 4), (2, 1, 5, 4)


def test_l1_is_the_mean_distance() -> None:
    scene, target = tensors(IMAGE, IMAGE)
    expected = np.abs(scene.detach().numpy() - target.detach().numpy()).mean()
    assert losses.l1(scene, target).item() == pytest.approx(expected)


def test_trust_weighs_pixels_and_does_not_renormalise() -> None:
    scene, target, trust = tensors(IMAGE, IMAGE, MAP)
    s, t, w = (x.detach().numpy() for x in (scene, target, trust))
    assert losses.l1(scene, target, trust).item() == pytest.approx((np.abs(s - t) * w).sum() / s.size)
    (gradient,) = torch.autograd.grad(losses.l1(scene, target, (trust > 0.5).double()), scene)
    moved = gradient.abs().amax(1, keepdim=True) > 0
    assert torch.equal(moved, trust > 0.5)


def test_reconstruction_is_the_scattering_model_at_airlight_1() -> None:
    scene, transmission, hazy, trust = tensors(IMAGE, MAP, IMAGE, MAP)
    J, T, P, w = (x.detach().numpy() for x in (scene, transmission, hazy, trust))
    residual = np.abs(J * T + 1 - T - P)
    assert losses.reconstruction(scene, transmission, hazy).item() == pytest.approx(residual.mean())
    assert losses.reconstruction(scene, transmission, hazy, trust).item() == pytest.approx((residual * w).mean())


def test_reconstruction_of_the_truth_is_nothing() -> None:
    scene, transmission = tensors(IMAGE, MAP)
    assert losses.reconstruction(scene, transmission, scene * transmission + 1 - transmission).item() < 1e-12


def test_contrastive_perceptual_is_near_over_far_layer_by_layer() -> None:
    layers = [(2, 4, 6, 6), (2, 8, 3, 3)]
    features = tensors(*layers * 3)
    anchor, positive, negative = features[:2], features[2:4], features[4:]
    expected = sum(
        w * np.mean([np.abs(a[i] - p[i]).mean() / np.abs(a[i] - n[i]).mean() for i in range(2)])
        for w, a, p, n in (
            (w, *(feature.detach().numpy() for feature in layer))
            for w, *layer in zip((0.25, 1.0), anchor, positive, negative, strict=True)
        )
    )
    loss = losses.contrastive_perceptual(anchor, positive, negative, (0.25, 1.0))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    gradients = torch.autograd.grad(loss, features, allow_unused=True)
    assert [g is not None for g in gradients] == [True] * 2 + [False] * 4  # references are pulled nowhere
    assert all(g.abs().sum() > 0 for g in gradients[:2])


def test_contrastive_perceptual_prefers_the_clear_image() -> None:
    clear, hazy = (x.detach() for x in tensors(IMAGE, IMAGE))
    by_share = [
        losses.contrastive_perceptual([torch.lerp(hazy, clear, share)], [clear], [hazy], [1.0]).item()
        for share in (0.0, 0.25, 0.75, 1.0)
    ]
    assert by_share == sorted(by_share, reverse=True)
    assert by_share[-1] == 0
    assert np.isfinite(by_share[0])  # the anchor is the negative: nothing divides by zero


def test_contrastive_perceptual_needs_a_weight_per_layer() -> None:
    (feature,) = tensors(IMAGE)
    with pytest.raises(ValueError, match="1, 1 and 1 layers with 2 weights"):
        losses.contrastive_perceptual([feature], [feature], [feature], [1.0, 1.0])


def test_haze_density_is_the_mean_over_valid_images_and_lets_gradients_through() -> None:
    scene = torch.tensor([-0.5, 0.2, 0.4, 2.0]).view(2, 1, 1, 2).repeat(1, 3, 1, 1).requires_grad_()
    loss = losses.haze_density(scene, lambda images: images.mean(dim=(1, 2, 3)))
    assert loss.item() == pytest.approx((0.0 + 0.2 + 0.4 + 1.0) / 4)
    (gradient,) = torch.autograd.grad(loss, scene)
    np.testing.assert_allclose(gradient[:, 0, 0], [[0, 1 / 12], [1 / 12, 0]], rtol=1e-6)


def test_gradients_are_the_equations_gradients() -> None:
    scene, transmission, hazy, trust = tensors(IMAGE, MAP, IMAGE, MAP)
    assert torch.autograd.gradcheck(losses.reconstruction, (scene, transmission, hazy, trust))


def test_losses_are_scalars_of_the_images_type() -> None:
    scene, target = (x.detach().float() for x in tensors(IMAGE, IMAGE))
    for loss in (losses.l1(scene, target), losses.contrastive_perceptual([scene], [target], [target + 1], [1.0])):
        assert (loss.shape, loss.dtype) == ((), torch.float32)
