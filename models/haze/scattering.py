"""The atmospheric scattering model (Koschmieder): ``P = J*T + A*(1 - T)``, ``T = exp(-beta * d)``.

With hazy photograph P, scene J, transmission T, airlight A and scene distance d. All images are RGB float32 NCHW in
[0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor


def scatter(scene: Tensor, transmission: Tensor, airlight: Tensor | float) -> Tensor:
    """Add haze to a scene: ``P = J*T + A*(1 - T)``.

    Args:
        scene: J, N3HW in [0, 1].
        transmission: T, N1HW in [0, 1].
        airlight: A, a number or N3 / N311.
    """
    if isinstance(airlight, Tensor) and airlight.dim() == 2:
        airlight = airlight[:, :, None, None]
    return scene * transmission + airlight * (1.0 - transmission)


def transmission_from_depth(depth: Tensor, beta: Tensor | float) -> Tensor:
    """Return ``T = exp(-2 * beta * (1 - depth))``: depth N1HW in [0, 1] with 1 = near, beta a number or N."""
    if isinstance(beta, Tensor) and beta.dim() == 1:
        beta = beta[:, None, None, None]
    return torch.exp(-2.0 * beta * (1.0 - depth))
