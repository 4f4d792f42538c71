"""Blocks shared by the networks: channel attention, feed-forward, and the U-shaped transformer that CORUN calls MST.

Dimension letters: N images, C channels, H heads, D channels per head, S pixels (height x width).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad NCHW at the right and bottom to a multiple, by reflection (by replication where the image is too small)."""
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return image
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)


class ChannelAttention(nn.Module):
    """Spectral-wise multi-head self-attention (MST, Cai et al., CVPR 2022), rewritten through second moments.

    Textbook: ``q, k, v = W_q x, W_k x, W_v x``; q and k L2-normalised over the pixels;
    ``A_h = softmax(r_h k_h q_h^T)``; output ``W_p [A_h v_h] + b + pos(v)``.

    A depends on the image only through the C x C matrix ``M = x x^T``, because ``k q^T = W_k M W_q^T`` and
    ``|q_i|^2 = (W_q M W_q^T)_ii``; and ``W_p A W_v`` is one C x C matrix. So q, k and the attended v are never
    formed over the pixels: the result is the same to float32 rounding.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.rescale = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.project = nn.Linear(channels, channels)
        self.position = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        )

    def mixing_matrix(self, moment: Tensor) -> Tensor:
        """``W_p A W_v`` for second moments ``x x^T``: NCC -> NCC."""
        by_head = (self.heads, -1, moment.shape[-1])
        query, key, value = (part.weight.view(by_head) for part in (self.query, self.key, self.value))
        moment = moment[:, None]
        key_moment = key @ moment
        query_norm = ((query @ moment) * query).sum(-1).clamp(min=0).sqrt().clamp(min=1e-12)
        key_norm = (key_moment * key).sum(-1).clamp(min=0).sqrt().clamp(min=1e-12)
        similarity = key_moment @ query.transpose(-1, -2) / (key_norm[..., :, None] * query_norm[..., None, :])
        attention = (similarity * self.rescale).softmax(dim=-1)
        mixing: Tensor = self.project.weight @ (attention @ value).flatten(1, 2)
        return mixing

    def forward(self, x: Tensor) -> Tensor:
        """NCHW -> NCHW."""
        pixels = x.flatten(2)
        moment = pixels @ pixels.transpose(1, 2)
        mixed = self.mixing_matrix(moment) @ pixels + self.project.bias[:, None]
        value = F.conv2d(x, self.value.weight[:, :, None, None])
        attended: Tensor = mixed.view_as(x) + self.position(value)
        return attended


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def feed_forward(channels: int) -> nn.Sequential:
    """1x1 to 4C, GELU, depthwise 3x3, GELU, 1x1 back to C; no biases."""
    inner = 4 * channels
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.GELU(),
        nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False),
        nn.GELU(),
        nn.Conv2d(inner, channels, 1, bias=False),
    )


class AttentionBlock(nn.Module):
    """``x += attention(x)``, then ``x += ffn(layernorm(x))``."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.attention = ChannelAttention(channels, head_channels)
        self.norm = ChannelNorm(channels)
        self.feed_forward = feed_forward(channels)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW -> NCHW."""
        x = x + self.attention(x)
        out: Tensor = x + self.feed_forward(self.norm(x))
        return out


def downsample(channels: int) -> nn.Sequential:
    """Half the size, twice the channels: 3x3 convolution, then pixel-unshuffle."""
    return nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def upsample(channels: int) -> nn.Sequential:
    """Twice the size, half the channels: 3x3 convolution, then pixel-shuffle."""
    return nn.Sequential(nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))


class SpectralTransformer(nn.Module):
    """MST: a U-shaped transformer whose output is added to the first ``out_channels`` of its input.

    Three levels with one block each, a bottleneck block and the mirror; height and width are multiples of 8.
    """

    LEVELS = 3

    def __init__(self, in_channels: int, out_channels: int, dim: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        widths = [dim * 2**level for level in range(self.LEVELS)]
        self.embed = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False)
        self.encode = nn.ModuleList(AttentionBlock(width, dim) for width in widths)
        self.down = nn.ModuleList(downsample(width) for width in widths)
        self.bottleneck = AttentionBlock(dim * 2**self.LEVELS, dim)
        self.up = nn.ModuleList(upsample(2 * width) for width in reversed(widths))
        self.fuse = nn.ModuleList(nn.Conv2d(2 * width, width, 1, bias=False) for width in reversed(widths))
        self.decode = nn.ModuleList(AttentionBlock(width, dim) for width in reversed(widths))
        self.output = nn.Conv2d(dim, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """N, in_channels, height, width -> N, out_channels, height, width."""
        feature = self.embed(x)
        skips = []
        for encode, down in zip(self.encode, self.down, strict=True):
            feature = encode(feature)
            skips.append(feature)
            feature = down(feature)
        feature = self.bottleneck(feature)
        for up, fuse, decode in zip(self.up, self.fuse, self.decode, strict=True):
            feature = decode(fuse(torch.cat([up(feature), skips.pop()], dim=1)))
        refined: Tensor = self.output(feature) + x[:, : self.out_channels]
        return refined
