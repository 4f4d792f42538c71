"""Pure loss functions, each naming its equation. Images N3HW, transmissions N1HW, in [0, 1]; losses are scalars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def l1(scene: Tensor, target: Tensor, trust: Tensor | None = None) -> Tensor:
    """``mean |J - gt|``, weighted per pixel by a trust map N1HW where there is one (Colabator)."""
    difference = (scene - target).abs()
    return difference.mean() if trust is None else (difference * trust).mean()


def reconstruction(scene: Tensor, transmission: Tensor, hazy: Tensor, trust: Tensor | None = None) -> Tensor:
    """Global physical coherence: ``mean |J T + 1 - T - P|`` (CORUN, with the airlight folded to 1)."""
    return l1(scene * transmission + 1.0 - transmission, hazy, trust)


def contrastive_perceptual(
    anchor: Sequence[Tensor], positive: Sequence[Tensor], negative: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """``sum_i w_i |f_i(J) - f_i(gt)|_1 / |f_i(J) - f_i(P)|_1`` (AECR-Net, Wu et al., CVPR 2021).

    Args:
        anchor, positive, negative: features of the dehazed, the clear and the hazy image, layer by layer.
        weights: one per layer.
    """
    total = torch.zeros((), device=anchor[0].device)
    for weight, a, p, n in zip(weights, anchor, positive, negative, strict=True):
        near, far = (a - p.detach()).abs().mean(), (a - n.detach()).abs().mean()
        total = total + weight * near / (far + 1e-7)
    return total


def haze_density(scene: Tensor, density: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean P(hazy) of the dehazed images; ``density`` maps N3HW to N and lets gradients through."""
    return density(scene.clamp(0.0, 1.0)).mean()
