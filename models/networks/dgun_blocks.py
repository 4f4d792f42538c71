"""Blocks of DGUN (Mou et al., CVPR 2022): gradient step, shallow features, proximal U-Net and fusions between stages.

Every block names its local operations and its global
statistics; see :mod:`models.networks.bands`. "Halo" is how many rows
away a row of the output looks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.bands import in_bands, pixel_mean
from models.networks.blocks import GlobalNorm, scaled

_SLOPE, _FUSE_SLOPE = 0.2, 0.1
_OPERATOR_CHANNELS, _REDUCTION = 64, 4


def conv(inside: int, outside: int, *, bias: bool = True) -> nn.Conv2d:
    """Make a 3x3 convolution that keeps the size."""
    return nn.Conv2d(inside, outside, 3, padding=1, bias=bias)


class ResidualOperator(nn.Module):
    """A learned linear-like operator on images: ``x + conv(prelu(conv(x)))``, 64 channels inside; halo 2."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, _OPERATOR_CHANNELS), nn.PReLU(), conv(_OPERATOR_CHANNELS, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to ``x``: N3HW -> N3HW."""
        out: Tensor = x + self.body(x)
        return out


class GradientStep(nn.Module):
    """``x - r * Phi^T(Phi(x) - y)`` (eq. 5 of the paper) with learned r, Phi and Phi^T."""

    def __init__(self) -> None:
        super().__init__()
        self.degrade = ResidualOperator()
        self.transpose = ResidualOperator()
        self.step = nn.Parameter(torch.tensor([0.5]))

    def forward(self, scene: Tensor, hazy: Tensor) -> Tensor:
        """Take a gradient step from scene x, given the hazy image y: N3HW -> N3HW."""

        def local(x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = x - self.step * self.transpose(self.degrade(x) - y)
            return out

        # Two operators, each of two convolutions.
        return in_bands(local, scene, hazy, halo=4)


class ShallowFeatures(nn.Module):
    """3x3 embedding, then a channel attention block: ``f + g * body(f)`` with gates g from the pooled body."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = conv(3, dim, bias=False)
        self.body = nn.Sequential(conv(dim, dim, bias=False), nn.PReLU(), conv(dim, dim, bias=False))
        squeezed = dim // _REDUCTION
        self.gate = nn.Sequential(
            nn.Conv2d(dim, squeezed, 1, bias=False), nn.ReLU(), nn.Conv2d(squeezed, dim, 1, bias=False), nn.Sigmoid()
        )

    def forward(self, image: Tensor) -> Tensor:
        """Extract features: N3HW -> N, dim, H, W."""
        feature = in_bands(self.embed, image, halo=1)
        body = in_bands(self.body, feature, halo=2)
        gate = self.gate(pixel_mean(lambda part: part.sum((2, 3), keepdim=True, dtype=torch.float32), body))
        return in_bands(lambda part, skip: part * gate.to(part.dtype) + skip, body, feature, halo=0)


class StageFusion(nn.Module):
    """Cross-stage feature fusion: the previous stage's encoder and decoder features scale and shift this one's."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.encoded, self.decoded = conv(outside, outside), conv(inside, outside)
        self.scale, self.shift = conv(outside, outside), conv(outside, outside)

    def forward(self, x: Tensor, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Return ``x + x * sigmoid(scale(s)) + shift(s)``; halo 2."""
        memory = F.leaky_relu(self.encoded(encoded) + self.decoded(decoded), _FUSE_SLOPE)
        out: Tensor = x + x * torch.sigmoid(self.scale(memory)) + self.shift(memory)
        return out


class EncoderBlock(nn.Module):
    """Half-instance-norm block: conv, instance norm of half of the channels, conv, plus a 1x1 shortcut."""

    def __init__(self, inside: int, outside: int, *, down: bool, fuse: bool) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inside, outside, 1)
        self.first, self.second = conv(inside, outside), conv(outside, outside)
        self.norm = GlobalNorm(outside // 2)
        self.fusion = StageFusion(inside, outside) if fuse and down else None
        self.down = nn.Conv2d(outside, outside, 4, stride=2, padding=1, bias=False) if down else None

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return features before downsampling; ``memory`` are encoder and decoder features of the stage before."""
        normed = self.norm.channels
        inner = in_bands(self.first, x, halo=1)
        scale, shift = self.norm.affine(inner[:, :normed])

        def local(x: Tensor, inner: Tensor, *memory: Tensor) -> Tensor:
            half = scaled(inner[:, :normed], scale, shift)
            inner = F.leaky_relu(torch.cat([half, inner[:, normed:]], dim=1), _SLOPE)
            out: Tensor = F.leaky_relu(self.second(inner), _SLOPE) + self.shortcut(x)
            return out if self.fusion is None or not memory else self.fusion(out, *memory)

        # `second` looks one row away, and the fusion two, at the memory.
        return in_bands(local, x, inner, *(memory or ()), halo=2)


class DecoderBlock(nn.Module):
    """Upsampling, a convolved skip connection, two convolutions and a 1x1 shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inside, outside, 2, stride=2)
        self.skip = conv(inside, outside)
        self.shortcut = nn.Conv2d(2 * outside, outside, 1)
        self.first, self.second = conv(2 * outside, outside), conv(outside, outside)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join the lower level's features with the encoder's of this one -> features of this level."""

        def local(x: Tensor, skip: Tensor) -> Tensor:
            joined = torch.cat([self.up(x), self.skip(skip)], dim=1)
            inner = self.second(F.leaky_relu(self.first(joined), _SLOPE))
            out: Tensor = F.leaky_relu(inner, _SLOPE) + self.shortcut(joined)
            return out

        # Three convolutions look three rows away, which are two of the lower level.
        return in_bands(local, x, skip, halo=2)


class SubspaceFusion(nn.Module):
    """Projects the previous stage's features to a subspace learned from both stages, and fuses what is left.

    ``b' = V^T (V V^T)^-1 V b`` over the pixels, then ``x + conv([x, b'])``. V V^T and V b^T are means over pixels.
    """

    def __init__(self, dim: int, subspace: int) -> None:
        super().__init__()
        self.basis = conv(2 * dim, subspace)
        self.fuse = conv(2 * dim, dim)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Fuse features of this stage and of the one before, N, dim, H, W -> the same."""
        basis = in_bands(lambda x, b: self.basis(torch.cat([x, b], dim=1)), x, before, halo=1)
        moments = pixel_mean(_basis_moments, basis, before)
        with torch.autocast(x.device.type, enabled=False):
            weights = _least_squares(moments, basis.shape[1])

        def local(x: Tensor, basis: Tensor) -> Tensor:
            # b': each of C channels is a sum of the K basis images.
            projected = torch.einsum("nkc,nkhw->nchw", weights.to(basis.dtype), basis)
            out: Tensor = x + self.fuse(torch.cat([x, projected], dim=1))
            return out

        return in_bands(local, x, basis, halo=1)


def _basis_moments(basis: Tensor, features: Tensor) -> Tensor:
    """``V [V, b]^T`` over the pixels: NKHW, NCHW -> N, K, K + C."""
    with torch.autocast(basis.device.type, enabled=False):
        # NKS: one product gives V V^T and V b^T side by side.
        rows = basis.float().flatten(2)
        return rows @ torch.cat([rows, features.float().flatten(2)], dim=1).transpose(1, 2)


def _least_squares(moments: Tensor, size: int) -> Tensor:
    """``(V V^T)^-1 V b^T`` from both moments, in float64, with a unit diagonal and a trace of damping."""
    gram, cross = moments.double().tensor_split([size], dim=-1)
    # With S = diag(G)^-1/2, G^-1 = S (S G S)^-1 S. S G S has a unit diagonal, so the damping is relative to each row.
    scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30).rsqrt()[..., None]
    damped = gram * scale * scale.transpose(-1, -2) + 1e-9 * torch.eye(size, dtype=gram.dtype, device=gram.device)
    # It cannot be singular, and `solve` would wait for a GPU to hear so, which CUDA graphs do not allow.
    weights: Tensor = torch.linalg.solve_ex(damped, cross * scale)[0] * scale
    return weights.float()
