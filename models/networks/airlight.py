"""The airlight of a photograph, estimated from a thumbnail, and how a network that takes it for 1 gets along with any.

CORUN's equations fold the airlight A to 1. A photograph divided by its airlight, ``P/A = (J/A) T + 1 - T``, obeys them
whatever its haze looks like: dark, orange, blue. What the network makes of it is J/A, which goes back to a picture at a
*level*: A itself where only the haze was colored, gray where all of the light was.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.bands import in_bands, shared

SIDE = 64  # of the thumbnail, in pixels, whatever the shape of the photograph
_DARKEST = 0.15  # an airlight below would make noise of a photograph
_WIDTHS = (24, 32, 48, 64)


@dataclass(frozen=True)
class Light:
    """What a photograph was taken in.

    Attributes:
        airlight: A, N311 in (0, 1].
        level: what white in the folded scene becomes, N311.
        amount: N111 in [0, 1]; 0 where there is no haze, and the photograph is left as it is.
    """

    airlight: Tensor
    level: Tensor
    amount: Tensor


class AirlightHead(nn.Module):
    """Estimate the light of a photograph, and translate pictures to airlight 1 and back."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, *_WIDTHS)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.hidden = nn.Linear(2 * widths[-1], 64)
        self.output = nn.Linear(64, 7)
        for layer in (*self.layers, self.hidden):
            nn.init.kaiming_normal_(layer.weight)  # torch's own starts lose what tells pictures apart
        nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            # At first: an airlight of 0.9, a level that is the airlight, and much haze.
            self.output.bias.copy_(torch.tensor([2.0] * 3 + [0.0] * 3 + [2.0]))

    def forward(self, hazy: Tensor) -> Light:
        """Estimate the light of N3HW in [0, 1]. The whole image decides, also for a piece of it."""
        found = shared(lambda: self._estimate(hazy))[:, :, None, None]
        airlight = _DARKEST + (1.0 - _DARKEST) * torch.sigmoid(found[:, :3])
        # A level is 1/e to e times the airlight, channel by channel.
        return Light(airlight, airlight * torch.exp(torch.tanh(found[:, 3:6])), torch.sigmoid(found[:, 6:]))

    def _estimate(self, hazy: Tensor) -> Tensor:
        """N3HW -> N7, in float32: a level of an 8-bit picture is less than bfloat16 can tell."""
        with torch.autocast(hazy.device.type, enabled=False):
            small = F.interpolate(hazy.float(), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
            # The least of the three colors is a dark channel: low where there is no haze.
            x = torch.cat([small, small.amin(dim=1, keepdim=True)], dim=1) - 0.5
            for layer in self.layers:
                x = F.gelu(layer(x))
            pooled: Tensor = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
            found: Tensor = self.output(F.gelu(self.hidden(pooled)))
            return found

    @staticmethod
    def fold(hazy: Tensor, light: Light) -> Tensor:
        """Return ``P/A``, at most 1: the part that is brighter than the airlight is left for :meth:`unfold`."""
        return in_bands(lambda part: (part / light.airlight).clamp(max=1.0), hazy, halo=0)

    @staticmethod
    def unfold(scene: Tensor, hazy: Tensor, light: Light) -> Tensor:
        """Return the scene J/A at its level, as much of it as there was haze; pixels brighter than the airlight stay
        so:

        ``P + amount (level (J/A + max(0, P/A - 1)) - P)``
        """

        def restored(scene: Tensor, hazy: Tensor) -> Tensor:
            brighter = (hazy / light.airlight - 1.0).clamp(min=0.0)
            return torch.lerp(hazy, light.level * (scene + brighter), light.amount)

        return in_bands(restored, scene, hazy, halo=0)
