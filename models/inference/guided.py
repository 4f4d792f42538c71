"""Estimate on a small picture, apply at full size.

Haze is a matter of the large scale, so a network need not see every pixel of a large photograph. It dehazes a smaller
version; what it did there is fitted, around each pixel, as an affine map of color (a guided filter with a color guide:
He et al., TPAMI 2013; on a small picture, as in He and Sun, arXiv 1505.00996); these maps are enlarged and applied to
the large photograph, pixel by pixel, so that its edges and its grain stay. This holds for every network, and time and
memory beyond the image itself no longer depend on what a network needs for each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 1 << 18
"""Pixels from which a photograph is dehazed from a smaller version of it."""
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green, blue (ITU-R BT.709), on encoded values, as of luma
_RADIUS = 4  # of the fit, in pixels of the small picture
_EPSILON = 1e-5  # of the fit: a contrast of a few thousandths still counts
_BAND = 1 << 17  # pixels at a time: what is in between stays in a processor's cache


def box_mean(field: Tensor, radius: int) -> Tensor:
    """Return the mean over (2r+1)^2 windows of an HW or NCHW field, its border replicated.

    It comes from running sums, so its time does not grow with the radius. They are float64 where the device has it:
    differences of long float32 sums would lose digits.
    """
    flat = field.view(1, 1, *field.shape[-2:]) if field.dim() == 2 else field
    exact = flat if field.device.type == "mps" else flat.double()
    side, before = 2 * radius + 1, radius + 1  # one place more in front, so that every window begins at a difference
    rows = F.pad(exact, (0, 0, before, radius), mode="replicate").cumsum(-2)
    # Sums up to the end of a window less sums up to its beginning.
    rows = rows[..., side:, :] - rows[..., :-side, :]
    sums = F.pad(rows, (before, radius, 0, 0), mode="replicate").cumsum(-1)
    return ((sums[..., side:] - sums[..., :-side]) / side**2).to(field.dtype).view(field.shape)


def guided_coefficients(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return slope and offset of the guided filter (He et al., TPAMI 2013): within (2r+1)^2 windows ``target`` is about
    ``slope * guide + offset``. NCHW, channel by channel; fields of the same shape.
    """
    radius = min(radius, min(guide.shape[-2:]) - 1)
    mean_g, mean_t = box_mean(guide, radius), box_mean(target, radius)
    covariance = box_mean(guide * target, radius) - mean_g * mean_t
    variance = box_mean(guide * guide, radius) - mean_g * mean_g
    slope = covariance / (variance + epsilon)
    return box_mean(slope, radius), box_mean(mean_t - slope * mean_g, radius)


def guided_filter(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """Filter with a gray guide (He et al., TPAMI 2013): both N1HW."""
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
    # Each color times each channel, N31HW * N1(3+C)HW.
    products = box_mean((guide[:, :, None] * both[:, None]).flatten(1, 2), radius)
    # Covariances, E[gx] - E[g] E[x]: of the guide with itself in the first three columns, with the target in the rest.
    moments = products.view(images, 3, 3 + channels, height, width) - means[:, :3, None] * means[:, None]
    moments = moments.permute(0, 3, 4, 1, 2)  # of each pixel a matrix of 3 by 3 + C
    variance = moments[..., :3] + epsilon * torch.eye(3, dtype=guide.dtype, device=guide.device)
    # Never singular, and `solve` would wait for a GPU to hear so.
    slopes = torch.linalg.solve_ex(variance, moments[..., 3:])[0].permute(0, 4, 3, 1, 2)  # NC3HW
    offsets = means[:, 3:] - (slopes * means[:, None, :3]).sum(dim=2)
    fields = torch.cat([slopes, offsets[:, :, None]], dim=2)
    # Every pixel lies in many windows, and takes the mean of their maps.
    return box_mean(fields.flatten(1, 2), radius).view(fields.shape)


def is_gray(image: Tensor) -> bool:
    """Return whether the channels of 3HW are equal."""
    return torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def is_large(size: Sequence[int], side: int) -> bool:
    """Return whether height and width are more pixels than a network needs, and more than ``side`` would have."""
    return size[0] * size[1] > LARGE and max(size) > side


def small_size(size: Sequence[int], side: int) -> tuple[int, int]:
    """Return height and width with the long side ``side`` pixels."""
    height, width = (max(1, round(length * (side / max(size)))) for length in size)
    return height, width


def shrunk(image: Tensor, side: int) -> Tensor:
    """Return NCHW in [0, 1] with its long side ``side`` pixels, antialiased."""
    size = small_size(image.shape[-2:], side)
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def enlarged(image: Tensor, small: Tensor, target: Tensor) -> Tensor:
    """Do to a large image what was done to a small version of it.

    Args:
        image: N3HW in [0, 1].
        small: N3hw, the same smaller.
        target: NChw in [0, 1], what was made of ``small``.

    Returns:
        NCHW in [0, 1].
    """
    fields = coefficients(small, target)
    height, width = image.shape[-2:]
    out = image.new_empty(len(image), target.shape[1], height, width)
    for top, bottom in bands(height, width):
        mapped(fields, image[:, :, top:bottom], top, height, out=out[:, :, top:bottom])
    return out


def coefficients(small: Tensor, target: Tensor) -> Tensor:
    """Return what was done to a small photograph N3hw, as maps of color around each of its pixels: (N, C, 4, h, w)."""
    return color_coefficients(small, target, _RADIUS, _EPSILON)


def gray(fields: Tensor) -> Tensor:
    """Return coefficients (N, C, 4, h, w) whose three colors are the luminance of what they were."""
    luminance = torch.einsum("nckhw,c->nkhw", fields[:, :3], fields.new_tensor(LUMINANCE))
    return torch.cat([luminance[:, None].expand_as(fields[:, :3]), fields[:, 3:]], dim=1)


def bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield first and last row, excluded, of each part of an image that a processor's cache holds."""
    # Even of the widest image a row at a time.
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def mapped(fields: Tensor, band: Tensor, top: int, height: int, out: Tensor | None = None) -> Tensor:
    """Apply coefficients (N, C, 4, h, w) of :func:`color_coefficients` to the rows of a large image N3HW from ``top``.

    Args:
        fields: the coefficients of a smaller version of the whole image.
        band: N3RW in [0, 1], the rows.
        top: the first of them.
        height: of the whole image.
        out: where the result goes, NCRW; None makes it.

    Returns:
        NCRW in [0, 1].
    """
    size, bottom = (height, band.shape[-1]), top + band.shape[-2]
    maps = fields[..., top:bottom, :] if fields.shape[-2:] == size else _rows_of(fields, top, bottom, size)
    return applied(maps, band, out)


def applied(maps: Tensor, image: Tensor, out: Tensor | None = None) -> Tensor:
    """Apply to each pixel of N3HW the map of color it has in (N, C, 4, H, W): NCHW in [0, 1], written to ``out``."""
    # b + a . (R, G, B), a color at a time and in place.
    made = torch.addcmul(maps[:, :, 3], maps[:, :, 0], image[:, None, 0], out=out)
    return made.addcmul_(maps[:, :, 1], image[:, None, 1]).addcmul_(maps[:, :, 2], image[:, None, 2]).clamp_(0.0, 1.0)


def _rows_of(fields: Tensor, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
    """Rows ``top`` to ``bottom`` of the fields NCKhw enlarged bilinearly to ``size``: NCKHW."""
    rows = fields.shape[-2]
    scale = rows / size[0]
    # Between pixel centers, as `F.interpolate` does. Few rows of the fields lie near these: they are enlarged to the
    # width first, and then mixed by a matrix, which is cheaper than two dimensions at once.
    places = ((torch.arange(top, bottom, device=fields.device) + 0.5) * scale - 0.5).clamp_(0.0, rows - 1.0)
    first = max(0, math.floor((top + 0.5) * scale - 0.5))
    last = min(rows, math.floor((bottom - 0.5) * scale - 0.5) + 2)
    weights = (1.0 - (places[:, None] - torch.arange(first, last, device=fields.device)).abs()).clamp_(min=0.0)
    near = fields[..., first:last, :]
    wide = F.interpolate(near.flatten(1, 3), size=size[1], mode="linear", align_corners=False)
    return weights.to(fields.dtype) @ wide.view(*near.shape[:-1], size[1])
