"""Pure loss functions, each naming its equation. Images N3HW, transmissions and trust maps N1HW, in [0, 1].

Every loss is a scalar, and the mean over the images of what each image alone would give: so it does not matter how a
batch is spread over workers or micro-batches. Shapes that disagree are a ``ValueError`` that names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_ZERO = 1e-7
_HAZE = 0.01  # 1 - mean T, above rounding to 8 bits


def l1(scene: Tensor, target: Tensor, trust: Tensor | None = None) -> Tensor:
    """Return ``mean |J - gt|``; with a trust map ``mean(W |J - gt|)`` (CORUN + Colabator, Fang et al., NeurIPS 2024).

    Trust is not renormalized: a label that is trusted half as much teaches half as much.

    Args:
        scene: J, N3HW.
        target: the clear image or the label, N3HW.
        trust: W, N1HW in [0, 1].

    Raises:
        ValueError: shapes disagree.
    """
    _expect("target", target, tuple(scene.shape))
    difference = (scene - target).abs()
    if trust is None:
        return difference.mean()
    _expect("trust", trust, _map_of(scene))
    return (difference * trust).mean()


def reconstruction(
    scene: Tensor, transmission: Tensor, hazy: Tensor, trust: Tensor | None = None, airlight: Tensor | float = 1.0
) -> Tensor:
    """Return the loss of global physical coherence: ``mean(W |J T + A (1 - T) - P|)``, W = 1 without trust (CORUN,
    where A = 1).

    Args:
        scene: J, N3HW.
        transmission: T, N1HW in [0, 1].
        hazy: P, N3HW.
        trust: W, N1HW in [0, 1].
        airlight: A, N311 where it was estimated.

    Raises:
        ValueError: shapes disagree.
    """
    _expect("transmission", transmission, _map_of(scene))
    return l1(scene * transmission + airlight * (1.0 - transmission), hazy, trust)


def light(airlight: Tensor, level: Tensor, amount: Tensor, true: Tensor, tint: Tensor, transmission: Tensor) -> Tensor:
    """Return how far the light that a network found is from the one that the haze was made in.

    ``mean (1 - mean T) (|A - A_true| + |c(L) - c(A_true / tint)|) + 0.1 H(h, haze or none)``: an image says as much of
    its airlight as it has haze. c is a color without its brightness, which the L1 of the scene decides; H the cross
    entropy.

    Args:
        airlight: A, N311.
        level: L, N311.
        amount: h, N111 in [0, 1].
        true: the airlight that the haze was made with, N3.
        tint: color of the light on the scene, N3.
        transmission: T, N1HW in [0, 1]; haze is where its mean is below 0.99.

    Raises:
        ValueError: shapes disagree.
    """
    _expect("airlight", airlight, (*true.shape, 1, 1))
    haze = 1.0 - transmission.mean(dim=(1, 2, 3))
    # A channel that the light lacks is 0 in the airlight and in the tint of it.
    neutral, found = true / tint.clamp(min=_ZERO), level.flatten(1)
    color = found / found.mean(dim=1, keepdim=True) - neutral / neutral.mean(dim=1, keepdim=True).clamp(min=_ZERO)
    away = ((airlight.flatten(1) - true).abs() + color.abs()).mean(dim=1)
    there = (haze > _HAZE).to(haze.dtype)
    entropy = F.binary_cross_entropy(amount.flatten().clamp(_ZERO, 1.0 - _ZERO), there)
    return (away * haze).mean() + 0.1 * entropy


def contrastive_perceptual(
    anchor: Sequence[Tensor],
    positive: Sequence[Tensor],
    negative: Sequence[Tensor],
    weights: Sequence[float],
    trust: Tensor | None = None,
) -> Tensor:
    """Return ``sum_i w_i |f_i(J) - f_i(gt)|_1 / |f_i(J) - f_i(P)|_1`` (AECR-Net, Wu et al., CVPR 2021; used by CORUN).

    The quotient is taken image by image, as in the equation. AECR-Net's program divides means over the batch, whose
    value depends on what else is in the batch, and on how many workers share it.

    With a trust map W, brought to each layer's size by averaging to ``W_i``, both distances count a place by its
    trust, and the quotient by how much trust there is: ``w_i mean(W_i) |W_i (f_i(J) - f_i(label))|_1 /
    |W_i (f_i(J) - f_i(P))|_1``. So trust 1 is the plain loss, a uniform trust t is t times it, and a place without
    trust is neither drawn to its label nor pushed off the photograph. How trust enters a quotient of features is a
    choice of ours; weighing the attraction alone would leave untrusted places to the repulsion.

    Args:
        anchor, positive, negative: features of the dehazed, the clear (or label) and the hazy image, NCHW by layer.
            No gradient goes to the latter two.
        weights: one per layer.
        trust: N1HW in [0, 1], of any size.

    Returns:
        a scalar, 0 or more.

    Raises:
        ValueError: the numbers of layers or the shapes disagree.
    """
    if not len(anchor) == len(positive) == len(negative) == len(weights) > 0:
        counts = f"{len(anchor)}, {len(positive)} and {len(negative)} layers with {len(weights)} weights"
        raise ValueError(f"{counts}; expected as many features of each image as there are weights, at least one")
    total = torch.zeros((), device=anchor[0].device)
    for index, (a, p, n) in enumerate(zip(anchor, positive, negative, strict=True)):
        _expect(f"positive feature {index}", p, tuple(a.shape))
        _expect(f"negative feature {index}", n, tuple(a.shape))
        total = total + weights[index] * _near_over_far(a, p.detach(), n.detach(), trust)
    return total


def perceptual(anchor: Sequence[Tensor], target: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return ``sum_i w_i |f_i(J) - f_i(gt)|_1`` (Johnson et al., ECCV 2016), without a negative.

    Args:
        anchor, target: features of the dehazed and the clear image, NCHW by layer. No gradient goes to the latter.
        weights: one per layer.

    Raises:
        ValueError: the numbers of layers or the shapes disagree.
    """
    if not len(anchor) == len(target) == len(weights) > 0:
        counts = f"{len(anchor)} and {len(target)} layers with {len(weights)} weights"
        raise ValueError(f"{counts}; expected as many features of each image as there are weights, at least one")
    parts = [weight * l1(a, t.detach()) for weight, a, t in zip(weights, anchor, target, strict=True)]
    return torch.stack(parts).sum()


def _near_over_far(anchor: Tensor, positive: Tensor, negative: Tensor, trust: Tensor | None) -> Tensor:
    """Mean over the images of one layer's quotient."""
    # NHW each: how far the features of a place are apart, as a mean over the channels.
    near, far = ((anchor - other).abs().mean(dim=1) for other in (positive, negative))
    if trust is None:
        return (near.mean(dim=(1, 2)) / (far.mean(dim=(1, 2)) + _ZERO)).mean()
    _expect("trust", trust, (anchor.shape[0], 1, *trust.shape[2:]))
    # Trust at the layer's size, NHW.
    share = F.adaptive_avg_pool2d(trust, (anchor.shape[2], anchor.shape[3]))[:, 0]
    quotient = (share * near).mean(dim=(1, 2)) / ((share * far).mean(dim=(1, 2)) + _ZERO)
    return (share.mean(dim=(1, 2)) * quotient).mean()


def haze_density(scene: Tensor, density: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean P(hazy) of the dehazed images (CORUN's density loss, with its gradients).

    Args:
        scene: N3HW; clamped to [0, 1] first.
        density: maps N3HW to N in [0, 1] and lets gradients through.

    Raises:
        ValueError: ``density`` does not give one number per image.
    """
    found = density(scene.clamp(0.0, 1.0))
    _expect("haze density", found, (scene.shape[0],))
    return found.mean()


def _map_of(scene: Tensor) -> tuple[int, ...]:
    return (scene.shape[0], 1, *scene.shape[2:])


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} is {tuple(value.shape)}; expected {shape}")
