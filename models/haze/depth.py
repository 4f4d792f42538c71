"""Depth maps for photographs that have none: plausible, random, and the same for the same seed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 64  # side of the square grid that everything is computed on
SITES = (8, 48)  # superpixels of a map
_DEPTH_DRAWS = ("horizon", "power", "tilt", "plane", "smooth", "objects", "sites")


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return a generator for each image, so that its draws do not depend on the rest of the batch."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(own: Sequence[torch.Generator], names: Sequence[str]) -> dict[str, Tensor]:
    """Draw one uniform number in [0, 1) per name and image, N each; an image's come from its own generator."""
    table = torch.stack([torch.rand(len(names), generator=generator) for generator in own])
    return dict(zip(names, table.unbind(1), strict=True))


def between(drawn: Tensor, low: float, high: float) -> Tensor:
    """Stretch uniform numbers in [0, 1) to [low, high)."""
    return low + (high - low) * drawn


def procedural_depth(image: Tensor, seed: int) -> Tensor:
    """Make a plausible depth map for a photograph without one.

    Args:
        image: 3HW in [0, 1]; object borders follow its colors.
        seed: same seed and image, same map.

    Returns:
        1HW in [0, 1], 1 = near; both ends are reached.
    """
    return procedural_depths(image[None], [seed])[0]


def procedural_depths(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Make the :func:`procedural_depth` of each of a batch, N3HW to N1HW; every map is what the image would get
    alone.
    """
    own = generators(seeds)
    drawn = {name: values[:, None, None] for name, values in draw(own, _DEPTH_DRAWS).items()}
    axis = torch.linspace(0, 1, GRID)
    horizon = between(drawn["horizon"], 0.0, 0.6)
    # 0 down to the horizon, and from there up to 1 at the bottom of the picture.
    ramp = ((axis[:, None] - horizon) / (1.0 - horizon)).clamp_(min=0.0)
    plane = _powers(ramp, between(drawn["power"], 0.6, 2.0)) + between(drawn["tilt"], -0.4, 0.4) * (axis - 0.5)
    smooth = torch.stack([smooth_field(generator) for generator in own])
    counts = between(drawn["sites"], *SITES).flatten().int().tolist()
    objects = torch.stack([_offsets(*of) for of in zip(_colors(images), counts, own, strict=True)])
    # Each map has its own share of the three.
    depth = 1.2 * drawn["plane"] * plane + 0.25 * drawn["smooth"] * smooth + 0.5 * drawn["objects"] * objects
    depth = F.interpolate(depth[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
    low, high = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
    return depth.sub_(low).div_((high - low).clamp_(min=1e-6)).clamp_(0.0, 1.0)


def _powers(bases: Tensor, exponents: Tensor) -> Tensor:
    """Raise each image's bases by itself: torch rounds the last numbers of an array differently, and those depend on
    the batch.
    """
    return torch.stack([base ** float(exponent) for base, exponent in zip(bases, exponents, strict=True)])


@functools.cache
def _cubic() -> Tensor:
    """Bicubic interpolation from 4 values to ``GRID`` as a (GRID, 4) matrix."""
    return F.interpolate(torch.eye(4)[None, None], size=(GRID, 4), mode="bicubic", align_corners=True)[0, 0]


def smooth_field(generator: torch.Generator) -> Tensor:
    """Draw a smooth random field, (GRID, GRID)."""
    # Interpolation is separable: down the columns, then along the rows.
    return _cubic() @ torch.randn(4, 4, generator=generator) @ _cubic().T


@functools.cache
def _places() -> tuple[Tensor, Tensor]:
    """Return row and column of every place of the grid, from 0 to 2: position counts twice as much as a color
    channel.
    """
    y, x = torch.meshgrid(torch.linspace(0, 2, GRID), torch.linspace(0, 2, GRID), indexing="ij")
    return y.flatten(), x.flatten()


def _colors(images: Tensor) -> Tensor:
    """The pixel in the middle of every place of the grid: N3HW to N3(GRID * GRID)."""
    rows, columns = ((torch.arange(GRID) * side + side // 2) // GRID for side in images.shape[2:])
    return images.float().index_select(2, rows).index_select(3, columns).flatten(2)


def _offsets(colors: Tensor, sites: int, generator: torch.Generator) -> Tensor:
    """A random offset per superpixel: places join the nearest of ``sites`` places in position and color.

    The nearest to p is the s with the largest ``p.s - |s|^2 / 2``. 3P to (GRID, GRID), softened over 3x3 places.
    """
    points = torch.stack([*_places(), *colors], dim=1)
    chosen = points[torch.randint(0, points.shape[0], (sites,), generator=generator)]
    likeness = torch.addmm(chosen.square().sum(1) * -0.5, points, chosen.T)
    nearest = torch.from_numpy(likeness.numpy().argmax(1))  # several times as fast as torch's
    offsets = between(torch.rand(sites, generator=generator), -1.0, 1.0)[nearest].view(1, GRID, GRID)
    return F.avg_pool2d(F.pad(offsets, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
