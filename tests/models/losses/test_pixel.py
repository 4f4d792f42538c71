"""Each loss against its equation in numpy, and where its gradients go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from models.losses import pixel as losses


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    random = np.random.default_rng(7)
    return [torch.from_numpy(random.random(shape)).requires_grad_() for shape in shapes]


IMAGE, MAP = (2, 3, 5, 4), (2, 1, 5, 4)


def test_l1_is_the_mean_distance() -> None:
    scene, target = tensors(IMAGE, IMAGE)
    expected = np.abs(scene.detach().numpy() - target.detach().numpy()).mean()
    assert losses.l1(scene, target).item() == pytest.approx(expected)


def test_trust_weighs_pixels_and_does_not_renormalize() -> None:
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


def test_reconstruction_with_an_airlight_of_the_truth_is_nothing() -> None:
    scene, transmission, airlight = torch.rand(2, 3, 5, 4), torch.rand(2, 1, 5, 4), torch.rand(2, 3, 1, 1)
    hazy = scene * transmission + airlight * (1 - transmission)
    assert losses.reconstruction(scene, transmission, hazy, airlight=airlight).item() < 1e-7
    assert losses.reconstruction(scene, transmission, hazy).item() > 0.01


def test_light_counts_by_how_much_haze_there_is() -> None:
    true, tint = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.9, 0.9]]), torch.ones(2, 3)
    found, sure = torch.full((2, 3, 1, 1), 0.6), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    transmission = torch.stack([torch.full((1, 4, 4), 0.2), torch.ones(1, 4, 4)])
    right = (found, found, sure, true, tint, transmission)
    assert losses.light(*right).item() == pytest.approx(0.5 * 0.8 * 0.1, abs=1e-6)
    brighter = (found, 1.3 * found, *right[2:])
    assert losses.light(*brighter).item() == pytest.approx(losses.light(*right).item()), "the level's color counts"
    unsure = (found, found, torch.full((2, 1, 1, 1), 0.5), *right[3:])
    assert losses.light(*unsure).item() == pytest.approx(0.04 + 0.1 * np.log(2), abs=1e-6)
    with pytest.raises(ValueError, match="airlight"):
        losses.light(found[:1], *right[1:])


def test_light_on_the_scene_has_to_be_taken_back() -> None:
    true = torch.tensor([[0.9, 0.6, 0.3]])
    airlight, sure, transmission = true.view(1, 3, 1, 1), torch.ones(1, 1, 1, 1), torch.full((1, 1, 4, 4), 0.5)
    tint = true / 0.9

    def of(level: Tensor) -> float:
        return losses.light(airlight, level, sure, true, tint, transmission).item()

    assert of(torch.full((1, 3, 1, 1), 0.9)) == pytest.approx(0.0, abs=1e-6)
    assert of(airlight) > 0.1


@pytest.mark.parametrize(("true", "tint"), [((0.0, 0.3, 0.5), (0.0, 0.6, 1.0)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))])
def test_light_without_a_color_is_finite(true: tuple[float, ...], tint: tuple[float, ...]) -> None:
    airlight, sure = torch.full((1, 3, 1, 1), 0.5, requires_grad=True), torch.full((1, 1, 1, 1), 0.5)
    transmission = torch.full((1, 1, 4, 4), 0.5)
    loss = losses.light(airlight, airlight, sure, torch.tensor([true]), torch.tensor([tint]), transmission)
    loss.backward()
    assert airlight.grad is not None
    assert loss.isfinite()
    assert airlight.grad.isfinite().all()


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


# --- trust in the contrast ---


def features(*seeds: int) -> list[list[Tensor]]:
    """Features of two layers, 8 x 8 and 4 x 4, for two images; one list per seed."""
    made = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        made.append([torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64) for side in (8, 4)])
    return made


@pytest.mark.parametrize("trust", [0.0, 0.3, 1.0])
def test_a_uniform_trust_scales_the_contrast(trust: float) -> None:
    anchor, positive, negative = features(1, 2, 3)
    plain = losses.contrastive_perceptual(anchor, positive, negative, (0.5, 1.0))
    weighed = losses.contrastive_perceptual(
        anchor, positive, negative, (0.5, 1.0), torch.full((2, 1, 16, 16), trust).double()
    )
    assert weighed.item() == pytest.approx(trust * plain.item(), rel=1e-5)


def test_a_place_without_trust_is_neither_drawn_nor_pushed() -> None:
    anchor, positive, negative = features(1, 2, 3)
    anchor = [layer.requires_grad_() for layer in anchor]
    trust = torch.ones(2, 1, 16, 16, dtype=torch.float64)
    trust[..., :8] = 0.0  # the left half
    losses.contrastive_perceptual(anchor, positive, negative, (1.0, 1.0), trust).backward()
    for layer in anchor:
        assert layer.grad is not None
        half = layer.shape[-1] // 2
        assert layer.grad[..., :half].abs().sum() == 0
        assert (layer.grad[..., half:].abs() > 0).all()


def test_trust_weighs_both_distances_place_by_place() -> None:
    (anchor,), (positive,), (negative,) = ([layers[0]] for layers in features(1, 2, 3))
    trust = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    a, p, n, w = (x.numpy() for x in (anchor, positive, negative, trust))
    expected = np.mean(
        [w[i].mean() * (w[i] * np.abs(a - p)[i]).mean() / (w[i] * np.abs(a - n)[i]).mean() for i in (0, 1)]
    )
    found = losses.contrastive_perceptual([anchor], [positive], [negative], [1.0], trust)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_losses_of_a_batch_are_the_mean_of_its_images() -> None:
    scene, hazy, transmission, trust = (x.detach() for x in tensors(IMAGE, IMAGE, MAP, MAP))
    target = 1 - scene
    for loss in (
        lambda i: losses.l1(scene[i], target[i], trust[i]),
        lambda i: losses.reconstruction(scene[i], transmission[i], hazy[i], trust[i]),
        lambda i: losses.contrastive_perceptual([scene[i]], [target[i]], [hazy[i]], [1.0], trust[i]),
        lambda i: losses.contrastive_perceptual([scene[i]], [target[i]], [hazy[i]], [1.0]),
        lambda i: losses.haze_density(scene[i], lambda images: images.mean(dim=(1, 2, 3))),
    ):
        one, other, both = loss(slice(0, 1)), loss(slice(1, 2)), loss(slice(0, 2))
        assert both.item() == pytest.approx((one + other).item() / 2)


# --- shapes that disagree ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, m: losses.l1(x, x[:, :1]), r"target is \(2, 1, 5, 4\); expected \(2, 3, 5, 4\)"),
        (lambda x, m: losses.l1(x, x, x), r"trust is \(2, 3, 5, 4\); expected \(2, 1, 5, 4\)"),
        (lambda x, m: losses.l1(x, x, m[..., :2]), r"trust is \(2, 1, 5, 2\); expected \(2, 1, 5, 4\)"),
        (lambda x, m: losses.reconstruction(x, x, x), r"transmission is \(2, 3, 5, 4\); expected \(2, 1, 5, 4\)"),
        (
            lambda x, m: losses.contrastive_perceptual([x], [x], [x[:1]], [1.0]),
            r"negative feature 0 is \(1, 3, 5, 4\); expected \(2, 3, 5, 4\)",
        ),
        (
            lambda x, m: losses.contrastive_perceptual([x], [x], [x], [1.0], m[:1]),
            r"trust is \(1, 1, 5, 4\); expected \(2, 1, 5, 4\)",
        ),
        (lambda x, m: losses.contrastive_perceptual([], [], [], []), "0, 0 and 0 layers with 0 weights"),
        (lambda x, m: losses.haze_density(x, lambda images: images.mean()), r"haze density is \(\); expected \(2,\)"),
    ],
)
def test_shapes_that_disagree_are_named(call: Callable[[Tensor, Tensor], Tensor], message: str) -> None:
    image, trust = (x.detach() for x in tensors(IMAGE, MAP))
    with pytest.raises(ValueError, match=message):
        call(image, trust)
