"""Guided filters (He et al., TPAMI 2013): what an image is locally, as an affine map of another one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def box_mean(field: Tensor, radius: int) -> Tensor:
    """Return the mean over (2r+1)^2 windows of an HW or NCHW field, its border replicated.

    It comes from running sums, so its time does not grow with the radius. They are float64 where the device has it:
    differences of long float32 sums would lose digits.
    """
    flat = field.view(1, 1, *field.shape[-2:]) if field.dim() == 2 else field
    exact = flat if field.device.type == "mps" else flat.double()
    side, before = 2 * radius + 1, radius + 1  # one place more in front, so that every window begins at a difference
    rows = F.pad(exact, (0, 0, before, radius), mode="replicate").cumsum(-2)
    rows = rows[..., side:, :] - rows[..., :-side, :]
    sums = F.pad(rows, (before, radius, 0, 0), mode="replicate").cumsum(-1)
    return ((sums[..., side:] - sums[..., :-side]) / side**2).to(field.dtype).view(field.shape)


def guided_coefficients(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Slope and offset of the guided filter (He et al., TPAMI 2013): within (2r+1)^2 windows ``target`` is about
    ``slope * guide + offset``. NCHW, channel by channel; fields of the same shape.
    """
    radius = min(radius, min(guide.shape[-2:]) - 1)
    mean_g, mean_t = box_mean(guide, radius), box_mean(target, radius)
    covariance = box_mean(guide * target, radius) - mean_g * mean_t
    variance = box_mean(guide * guide, radius) - mean_g * mean_g
    slope = covariance / (variance + epsilon)
    return box_mean(slope, radius), box_mean(mean_t - slope * mean_g, radius)


def guided_filter(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """Guided filter (He et al., TPAMI 2013) with a gray guide: both N1HW."""
    slope, offset = guided_coefficients(guide, target, radius, epsilon)
    return slope * guide + offset


def color_coefficients(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """Return the coefficients of the guided filter with a color guide (He et al., TPAMI 2013, equations 19 to 21).

    Within (2r+1)^2 windows each channel of ``target`` is about ``a . guide + b``.

    Args:
        guide: N3HW.
        target: NCHW.
        radius: r, in pixels.
        epsilon: variance of the guide below which little is made of it.

    Returns:
        (N, C, 4, H, W): the three numbers of ``a``, then ``b``.
    """
    images, channels, height, width = target.shape
    radius = min(radius, min(height, width) - 1)
    both = torch.cat([guide, target], dim=1)
    means = box_mean(both, radius)
    products = box_mean((guide[:, :, None] * both[:, None]).flatten(1, 2), radius)
    moments = products.view(images, 3, 3 + channels, height, width) - means[:, :3, None] * means[:, None]
    moments = moments.permute(0, 3, 4, 1, 2)  # of each pixel a matrix of 3 by 3 + C
    variance = moments[..., :3] + epsilon * torch.eye(3, dtype=guide.dtype, device=guide.device)
    slopes = torch.linalg.solve(variance, moments[..., 3:]).permute(0, 4, 3, 1, 2)  # NC3HW
    offsets = means[:, 3:] - (slopes * means[:, None, :3]).sum(dim=2)
    fields = torch.cat([slopes, offsets[:, :, None]], dim=2)
    return box_mean(fields.flatten(1, 2), radius).view(fields.shape)
