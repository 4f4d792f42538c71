"""The dark channel prior: dehazing without training, a baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models.inference import guided_filter
from models.networks import shared


@dataclass(frozen=True)
class Estimate:
    """A dehazed scene N3HW and its transmission N1HW, both in [0, 1]."""

    scene: Tensor
    transmission: Tensor


def dark_channel(image: Tensor, radius: int) -> Tensor:
    """Return the minimum over channels and a (2r+1)^2 window: N3HW -> N1HW."""
    lowest = image.amin(dim=1, keepdim=True)
    # torch pools maxima only: those of the negative.
    padded = F.pad(-lowest, (radius, radius, radius, radius), mode="replicate")
    rows = F.max_pool2d(padded, (2 * radius + 1, 1), stride=1)  # the minimum of a window is that of its rows' minima
    return -F.max_pool2d(rows, (1, 2 * radius + 1), stride=1)


def _airlight(hazy: Tensor, radius: int) -> Tensor:
    """Mean color of the pixels that are brightest in the dark channel: N3HW -> N311, at least 0.05."""
    dark = dark_channel(hazy, radius).flatten(1)
    brightest = dark.topk(max(1, dark.shape[1] // 1000), dim=1).indices
    # The same places in all three channels: N3K.
    colors = hazy.flatten(2).gather(2, brightest[:, None, :].expand(-1, 3, -1))
    return colors.mean(dim=2)[:, :, None, None].clamp(min=0.05)


class DarkChannelPrior(nn.Module):
    """Training-free baseline (He et al., TPAMI 2011): ``T = 1 - omega * dark(P / A)``, refined, ``J = (P - A)/T + A``.

    The airlight is the mean color of the ``1/1000`` of pixels that are brightest in the dark channel.
    """

    def __init__(self, radius: int = 7, omega: float = 0.95, floor: float = 0.1, guide_radius: int = 40) -> None:
        super().__init__()
        self.radius, self.omega, self.floor, self.guide_radius = radius, omega, floor, guide_radius

    def forward(self, hazy: Tensor) -> Estimate:
        """Dehaze N3HW in [0, 1]: -> scene N3HW and transmission N1HW."""
        radius = min(self.radius, min(hazy.shape[-2:]) - 1)
        airlight = shared(lambda: _airlight(hazy, radius))
        rough = 1.0 - self.omega * dark_channel(hazy / airlight, radius)
        gray = hazy.mean(dim=1, keepdim=True)
        transmission = guided_filter(gray, rough, self.guide_radius, 1e-3).clamp(self.floor, 1.0)
        scene = ((hazy - airlight) / transmission + airlight).clamp(0.0, 1.0)
        return Estimate(scene, transmission)
