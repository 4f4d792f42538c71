"""CDD-GAN's losses against their equations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import adversarial as gan_losses

LOSSES = (gan_losses.adversarial_contrastive, gan_losses.negatives_contrastive)


def sphere(count: int, dimension: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_least_squares() -> None:
    real, fake = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0])
    assert float(gan_losses.discriminator_gan(real, fake)) == pytest.approx(0.5 * (0.125 + 2.0))
    assert float(gan_losses.generator_gan(fake)) == pytest.approx(1.0)
    assert float(gan_losses.discriminator_gan(torch.ones(3), torch.zeros(3))) == 0
    assert float(gan_losses.generator_gan(torch.ones(3))) == 0


def test_cycle_and_identity_are_mean_absolute_differences() -> None:
    one, other = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.25)
    assert float(gan_losses.cycle(one, other)) == float(gan_losses.identity(one, other)) == 0.25


def test_contrastive_is_the_softmax_of_its_equation() -> None:
    query, positives, negatives = sphere(4, seed=0), sphere(3, seed=1), sphere(7, seed=2)
    good = torch.exp(query @ positives.T / 0.2).sum(1)
    bad = torch.exp(query @ negatives.T / 0.2).sum(1)
    found = gan_losses.adversarial_contrastive(query, positives, negatives, temperature=0.2)
    assert float(found) == pytest.approx(float(-(good / (good + bad)).log().mean()), rel=1e-5)


def test_contrastive_is_small_near_the_positives_and_finite_at_the_negatives() -> None:
    positives, negatives = sphere(1), -sphere(1)
    near = gan_losses.adversarial_contrastive(positives, positives, negatives)
    far = gan_losses.adversarial_contrastive(negatives, positives, negatives)
    assert float(near) < 1e-6
    assert float(far) == pytest.approx(2 / 0.07, rel=1e-3)


def test_the_negatives_loss_falls_as_the_contrastive_one_rises_and_is_felt_by_easy_negatives() -> None:
    query, positives = sphere(1), sphere(1)
    negatives = F.normalize(torch.stack([-query[0], -query[0] + 0.6 * sphere(1, seed=9)[0]]), dim=1)
    easy, hard = ([loss(query, positives, n[None]) for n in negatives] for loss in LOSSES)
    assert easy[0] < easy[1]
    assert hard[0] > hard[1]
    negative = negatives[:1].clone().requires_grad_()
    slopes = [torch.autograd.grad(loss(query, positives, negative), negative)[0].norm() for loss in LOSSES]
    assert float(slopes[0]) < 1e-6
    assert float(slopes[1]) == pytest.approx(1 / 0.07, rel=1e-3)


def test_partners_make_it_infonce_row_by_row() -> None:
    query, positives, negatives = sphere(4), sphere(4, seed=1), sphere(6, seed=2)
    logits = torch.cat([(query * positives).sum(1, keepdim=True), query @ negatives.T], dim=1) / 0.07
    found = gan_losses.adversarial_contrastive(query, positives, negatives, partners=True)
    assert float(found) == pytest.approx(float(F.cross_entropy(logits, torch.zeros(4).long())), rel=1e-5)
    opposed = gan_losses.negatives_contrastive(query, positives, negatives, partners=True)
    good, bad = logits[:, 0].exp(), logits[:, 1:].exp().sum(1)
    assert float(opposed) == pytest.approx(float(-(bad / (good + bad)).log().mean()), rel=1e-5)


@pytest.mark.parametrize(("positives", "negatives"), [(0, 3), (3, 0)])
def test_contrastive_needs_both_sides(positives: int, negatives: int) -> None:
    with pytest.raises(ValueError, match=f"got {positives} positives and {negatives} negatives"):
        gan_losses.adversarial_contrastive(sphere(2), sphere(3)[:positives], sphere(3)[:negatives])


def test_diversity_rewards_negatives_that_differ() -> None:
    first, second = torch.eye(2)[:1], torch.eye(2)[1:]
    z1, z2 = torch.zeros(1, 9), torch.ones(1, 9)
    assert float(gan_losses.diversity(first, second, z1, z2)) == pytest.approx(-math.sqrt(2))
    assert float(gan_losses.diversity(first, second, z1, 2 * z2)) == pytest.approx(-math.sqrt(2) / 2)
    assert float(gan_losses.diversity(first, first, z1, z2)) == 0
