"""Atmospheric scattering model, haze synthesis and the dark channel prior.

Scattering model (Koschmieder): ``P = J*T + A*(1 - T)``, ``T = exp(-beta * d)`` with hazy photograph P, scene J,
transmission T, airlight A and scene distance d. All images are RGB float32 NCHW in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from models.execution import shared
from models.settings import Settings


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0.0 <= ends[0] <= ends[1]:
        raise ValueError("expected two numbers, 0 or more, the smaller one first")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


class HazeConfig(Settings):
    """Haze synthesis of RIDCP (Wu et al., CVPR 2023), which CORUN trains on. Ranges are uniform.

    ``depth_range_min`` is the least share of the depth axis that one crop may span: below 1, a crop gets a random
    sub-range, because a crop of a photograph seldom sees everything from the lens to the horizon.
    """

    beta: Range = (0.2, 2.8)
    airlight: Range = (0.25, 1.0)
    airlight_cast: float = Field(0.025, ge=0.0)
    darken_probability: float = Field(0.5, ge=0.0, le=1.0)
    darken_exponent: Range = (1.5, 3.0)
    noise_probability: float = Field(0.5, ge=0.0, le=1.0)
    noise_sigma: Range = (0.0, 0.04)
    jpeg_probability: float = Field(0.5, ge=0.0, le=1.0)
    jpeg_quality: Range = (30, 95)
    depth_range_min: float = Field(1.0, gt=0.0, le=1.0)


@dataclass(frozen=True)
class Synthesized:
    """Pairs: ``hazy``, ``clear`` N3HW, ``transmission``, ``depth`` N1HW in [0, 1]; ``beta`` N, ``airlight`` N3."""

    hazy: Tensor
    clear: Tensor
    transmission: Tensor
    depth: Tensor
    beta: Tensor
    airlight: Tensor


def scatter(scene: Tensor, transmission: Tensor, airlight: Tensor | float) -> Tensor:
    """``P = J*T + A*(1 - T)``.

    Args:
        scene: J, N3HW in [0, 1].
        transmission: T, N1HW in [0, 1].
        airlight: A, a number or N3 / N311.
    """
    if isinstance(airlight, Tensor) and airlight.dim() == 2:
        airlight = airlight[:, :, None, None]
    return scene * transmission + airlight * (1.0 - transmission)


def transmission_from_depth(depth: Tensor, beta: Tensor | float) -> Tensor:
    """``T = exp(-2 * beta * (1 - depth))``: depth N1HW in [0, 1] with 1 = near, beta a number or N."""
    if isinstance(beta, Tensor) and beta.dim() == 1:
        beta = beta[:, None, None, None]
    return torch.exp(-2.0 * beta * (1.0 - depth))


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape or (1,), generator=generator)


def _coin(generator: torch.Generator, probability: float) -> bool:
    return bool(torch.rand(1, generator=generator) < probability)


def _superpixel_offsets(image: Tensor, generator: torch.Generator, sites: int) -> Tensor:
    """A random offset per superpixel: pixels join the nearest of ``sites`` in position and colour. 3HW -> HW."""
    _, height, width = image.shape
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    points = torch.cat([torch.stack([y, x]) * 2.0, image], dim=0).flatten(1).T
    chosen = points[torch.randint(0, points.shape[0], (sites,), generator=generator)]
    nearest = torch.cdist(points, chosen).argmin(dim=1)
    return _uniform(generator, -1.0, 1.0, sites)[nearest].view(height, width)


def _blur(field: Tensor, radius: int) -> Tensor:
    """Box mean of an HW or N1HW field, border replicated."""
    flat = field.view(1, 1, *field.shape[-2:]) if field.dim() == 2 else field
    padded = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1).view(field.shape)


def procedural_depth(image: Tensor, seed: int) -> Tensor:
    """A plausible depth map for a photograph without one: ground plane + smooth fields + superpixel-wise offsets.

    Args:
        image: 3HW in [0, 1]; object borders follow its colours.
        seed: same seed and image, same map.

    Returns:
        1HW in [0, 1], 1 = near; both ends are reached.
    """
    generator = torch.Generator().manual_seed(seed)
    _, height, width = image.shape
    side = 96
    small = F.interpolate(image[None].float(), size=(side, side), mode="area")[0]
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(-0.5, 0.5, side), indexing="ij")
    horizon = _uniform(generator, 0.0, 0.6)
    plane = ((y - horizon) / (1.0 - horizon)).clamp(min=0.0) ** _uniform(generator, 0.6, 2.0) + _uniform(
        generator, -0.4, 0.4
    ) * x
    coarse = torch.randn(1, 1, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)[0, 0]
    objects = _superpixel_offsets(small, generator, sites=int(torch.randint(8, 48, (1,), generator=generator)))
    weights = _uniform(generator, 0.0, 1.0, 3)
    depth = 1.2 * weights[0] * plane + 0.25 * weights[1] * smooth + 0.5 * weights[2] * _blur(objects, 1)
    depth = F.interpolate(depth[None, None], size=(height, width), mode="bilinear", align_corners=False)[0]
    low, high = depth.amin(), depth.amax()
    return ((depth - low) / (high - low).clamp(min=1e-6)).clamp(0.0, 1.0)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """3HW in [0, 1] through a JPEG encoder and back."""
    pixels = (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return torch.from_numpy(np.array(decoded)).permute(2, 0, 1).float() / 255


def _noise(image: Tensor, generator: torch.Generator, config: HazeConfig) -> Tensor:
    """Gaussian noise: white grey, independent per channel, or correlated between channels."""
    sigma = _uniform(generator, *config.noise_sigma)
    kind = int(torch.randint(0, 3, (1,), generator=generator))
    if kind == 0:
        return image + sigma * torch.randn(1, *image.shape[1:], generator=generator)
    noise = torch.randn(image.shape, generator=generator)
    if kind == 2:
        mix = torch.eye(3) + 0.5 * torch.rand(3, 3, generator=generator)
        noise = torch.einsum("ij,jhw->ihw", mix / mix.norm(dim=1, keepdim=True), noise)
    return image + sigma * noise


def _synthesize_one(clear: Tensor, depth: Tensor | None, seed: int, config: HazeConfig) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    if depth is None:
        depth = procedural_depth(clear, seed)
    if config.depth_range_min < 1.0:
        span = _uniform(generator, config.depth_range_min, 1.0)
        depth = depth * span + (1.0 - span) * torch.rand(1, generator=generator)
    beta = _uniform(generator, *config.beta)
    airlight = (_uniform(generator, *config.airlight) + _uniform(generator, -1, 1, 3) * config.airlight_cast).clamp(
        0, 1
    )
    scene = clear
    if _coin(generator, config.darken_probability):
        scene = scene ** _uniform(generator, *config.darken_exponent)
    if _coin(generator, config.noise_probability):
        scene = _noise(scene, generator, config).clamp(0, 1)
    transmission = transmission_from_depth(depth, float(beta))
    hazy = scatter(scene, transmission, airlight[:, None, None]).clamp(0, 1)
    if _coin(generator, config.jpeg_probability):
        hazy = jpeg(hazy, int(_uniform(generator, *config.jpeg_quality)))
    return hazy, transmission, depth, beta[0], airlight


def synthesize(
    clear: Tensor, depth: Tensor | None, seeds: Sequence[int], config: HazeConfig | None = None
) -> Synthesized:
    """Haze clear photographs on the fly.

    Args:
        clear: N3HW in [0, 1], on the CPU.
        depth: N1HW in [0, 1] with 1 = near, or None for a procedural map.
        seeds: one per photograph; the same seed gives the same haze.
        config: ranges and probabilities; the defaults are those of the RIDCP pipeline.

    Raises:
        ValueError: shapes of ``clear``, ``depth`` and ``seeds`` disagree.
    """
    if clear.dim() != 4 or clear.shape[1] != 3 or clear.shape[0] != len(seeds):
        raise ValueError(f"clear is {tuple(clear.shape)} with {len(seeds)} seeds; expected (N, 3, H, W) and N seeds")
    if depth is not None and depth.shape != (clear.shape[0], 1, *clear.shape[2:]):
        raise ValueError(f"depth is {tuple(depth.shape)}; expected {(clear.shape[0], 1, *clear.shape[2:])}")
    config = config or HazeConfig()
    ones = [
        _synthesize_one(clear[i], None if depth is None else depth[i], seed, config) for i, seed in enumerate(seeds)
    ]
    hazy, transmission, used_depth, beta, airlight = (torch.stack(parts) for parts in zip(*ones, strict=True))
    return Synthesized(hazy, clear, transmission, used_depth, beta, airlight)


@dataclass(frozen=True)
class Estimate:
    """A dehazed scene N3HW and its transmission N1HW, both in [0, 1]."""

    scene: Tensor
    transmission: Tensor


def dark_channel(image: Tensor, radius: int) -> Tensor:
    """Minimum over channels and a (2r+1)^2 window: N3HW -> N1HW."""
    lowest = image.amin(dim=1, keepdim=True)
    padded = F.pad(lowest, (radius, radius, radius, radius), mode="replicate")
    return -F.max_pool2d(-padded, 2 * radius + 1, stride=1)


def guided_filter(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """Guided filter (He et al., TPAMI 2013) with a grey guide: both N1HW."""
    radius = min(radius, min(guide.shape[-2:]) - 1)
    mean_g, mean_t = _blur(guide, radius), _blur(target, radius)
    covariance = _blur(guide * target, radius) - mean_g * mean_t
    variance = _blur(guide * guide, radius) - mean_g * mean_g
    slope = covariance / (variance + epsilon)
    return _blur(slope, radius) * guide + _blur(mean_t - slope * mean_g, radius)


def _airlight(hazy: Tensor, radius: int) -> Tensor:
    """Mean colour of the pixels that are brightest in the dark channel: N3HW -> N311, at least 0.05."""
    dark = dark_channel(hazy, radius).flatten(1)
    brightest = dark.topk(max(1, dark.shape[1] // 1000), dim=1).indices
    colours = hazy.flatten(2).gather(2, brightest[:, None, :].expand(-1, 3, -1))
    return colours.mean(dim=2)[:, :, None, None].clamp(min=0.05)


class DarkChannelPrior(nn.Module):
    """Training-free baseline (He et al., TPAMI 2011): ``T = 1 - omega * dark(P / A)``, refined, ``J = (P - A)/T + A``.

    The airlight is the mean colour of the ``1/1000`` of pixels that are brightest in the dark channel.
    """

    def __init__(self, radius: int = 7, omega: float = 0.95, floor: float = 0.1, guide_radius: int = 40) -> None:
        super().__init__()
        self.radius, self.omega, self.floor, self.guide_radius = radius, omega, floor, guide_radius

    def forward(self, hazy: Tensor) -> Estimate:
        """N3HW in [0, 1] -> scene N3HW and transmission N1HW."""
        radius = min(self.radius, min(hazy.shape[-2:]) - 1)
        airlight = shared(lambda: _airlight(hazy, radius))
        rough = 1.0 - self.omega * dark_channel(hazy / airlight, radius)
        grey = hazy.mean(dim=1, keepdim=True)
        transmission = guided_filter(grey, rough, self.guide_radius, 1e-3).clamp(self.floor, 1.0)
        scene = ((hazy - airlight) / transmission + airlight).clamp(0.0, 1.0)
        return Estimate(scene, transmission)


def dark_channel_prior(hazy: Tensor) -> Estimate:
    """Dehaze N3HW photographs with the dark channel prior at its usual settings."""
    estimate: Estimate = DarkChannelPrior()(hazy)
    return estimate
