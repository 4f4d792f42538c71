"""Pure losses of CDD-GAN, each naming its equation; losses are scalars."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.pixel import l1


def generator_gan(fake: Tensor) -> Tensor:
    """Return ``mean (D(G(x)) - 1)^2``, least squares (LSGAN, Mao et al., ICCV 2017), of scores of any shape."""
    return (fake - 1.0).square().mean()


def discriminator_gan(real: Tensor, fake: Tensor) -> Tensor:
    """Return ``(mean (D(y) - 1)^2 + mean D(G(x))^2) / 2``, least squares (LSGAN), of scores of any shape."""
    return 0.5 * ((real - 1.0).square().mean() + fake.square().mean())


def cycle(again: Tensor, image: Tensor) -> Tensor:
    """Return ``mean |F(G(x)) - x|`` (CycleGAN), N3HW in [0, 1]; half of its value over [-1, 1]."""
    return l1(again, image)


def identity(same: Tensor, image: Tensor) -> Tensor:
    """Return ``mean |G(y) - y|``, N3HW in [0, 1]: an image that is clear already should stay as it is (CycleGAN)."""
    return l1(same, image)


def adversarial_contrastive(
    query: Tensor, positives: Tensor, negatives: Tensor, *, temperature: float = 0.07, partners: bool = False
) -> Tensor:
    """Return InfoNCE with many positives, ``mean_q -log( S+ / (S+ + S-) )``, ``S = sum exp(q k / temperature)``.

    CDD-GAN's adversarial contrastive loss: the encoder minimizes it, the negative generators maximize it. The positives
    are a set, not partners of the queries: their order changes nothing.

    Args:
        query: (N, D) of length 1, patches of dehazed images.
        positives: (M, D) of length 1, patches of clear exemplars.
        negatives: (K, D) of length 1.
        temperature: positive.
        partners: each query has one positive, the one in its row (M is N), as in CUT.

    Raises:
        ValueError: no positives or no negatives.
    """
    # -log(S+ / (S+ + S-)) is log(1 + S- / S+).
    return F.softplus(_log_odds(query, positives, negatives, temperature, partners)).mean()


def negatives_contrastive(
    query: Tensor, positives: Tensor, negatives: Tensor, *, temperature: float = 0.07, partners: bool = False
) -> Tensor:
    """Return ``mean_q -log( S- / (S+ + S-) )``, which the negative generators minimize; arguments as in the loss they
    oppose.

    Query by query it falls as :func:`adversarial_contrastive` rises. That loss itself, negated, is flat where the
    negatives are easy, where they most need to move: the remedy is Goodfellow's for a GAN's generator (2014).
    """
    return F.softplus(-_log_odds(query, positives, negatives, temperature, partners)).mean()


def similarity(query: Tensor, others: Tensor, *, partners: bool = False) -> Tensor:
    """Return the mean cosine of unit vectors (N, D) to all of (M, D); with ``partners`` to the one in the same row."""
    # The mean of all products is the product of the means.
    return (query * others).sum(dim=1).mean() if partners else query.mean(dim=0) @ others.mean(dim=0)


def _log_odds(query: Tensor, positives: Tensor, negatives: Tensor, temperature: float, partners: bool) -> Tensor:
    """``log(S- / S+)`` of each query, (N,)."""
    if not len(positives) or not len(negatives):
        raise ValueError(
            f"got {len(positives)} positives and {len(negatives)} negatives; expected at least one of each"
        )
    # In logarithms, as exp(1 / temperature) alone is a million.
    if partners:
        alike = (query * positives).sum(dim=1) / temperature
    else:
        alike = (query @ positives.T / temperature).logsumexp(dim=1)
    unlike = (query @ negatives.T / temperature).logsumexp(dim=1)
    return unlike - alike


def diversity(first: Tensor, second: Tensor, noise_first: Tensor, noise_second: Tensor) -> Tensor:
    """Return ``-mean |n(z1) - n(z2)| / |z1 - z2|``, the mode-seeking term (Mao et al., CVPR 2019).

    Lengths in the noise are per square root of its dimension. 0 when the noise changes nothing, about -1 when the two
    negatives are at right angles.

    Args:
        first, second: (M, D) of length 1, negatives of the same patches.
        noise_first, noise_second: (M, Z), what they were made of.
    """
    apart = torch.linalg.vector_norm(first - second, dim=1)
    noise = torch.linalg.vector_norm(noise_first - noise_second, dim=1) / noise_first.shape[1] ** 0.5
    ratio: Tensor = apart / noise.clamp(min=1e-6)
    return -ratio.mean()
