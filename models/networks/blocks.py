"""Blocks shared by the networks: channel attention, feed-forward, and the U-shaped transformer that CORUN calls MST.

Dimension letters: N images, C channels, H heads, D channels per head, S pixels (height x width).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.bands import in_bands, pixel_mean


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad NCHW at the right and bottom to a multiple, by reflection (by replication where the image is too small)."""
    height, width = image.shape[-2:]
    # -n % m is what n lacks to the next multiple of m.
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return image
    # A reflection needs more pixels than it adds.
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)


def _fused(x: Tensor) -> bool:
    """Whether oneDNN can apply the GELU while it still holds the convolution's output."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and not torch.is_autocast_enabled("cpu")
    )


def conv_gelu(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``gelu(conv(x))``, NCHW -> NCHW; without gradients in one pass on a CPU, and in place elsewhere.

    The fused operation is what ``torch.compile`` uses on CPUs; it halves the time of the pair.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(conv(x))
    if not _fused(x):
        activated: Tensor = torch.ops.aten.gelu_(conv(x))
        return activated
    fused: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001  # torch has no public name for it
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "gelu", [], "none"
    )
    return fused


class ConvGelu(nn.Sequential):
    """Convolutions with a GELU between any two."""

    def __init__(self, *convolutions: nn.Conv2d) -> None:
        layers: list[nn.Module] = []
        for conv in convolutions:
            layers += [conv, nn.GELU()]
        super().__init__(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolutions with GELU between them: NCHW -> NCHW."""
        *inner, last = (layer for layer in self if isinstance(layer, nn.Conv2d))
        for conv in inner:
            x = conv_gelu(conv, x)
        out: Tensor = last(x)
        return out


def second_moment(x: Tensor) -> Tensor:
    """Return ``x x^T`` over the pixels, in float32: NCHW -> NCC."""
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    with torch.autocast(x.device.type, enabled=False):
        # Half precision would lose digits in a sum over all pixels.
        rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        return rows.transpose(1, 2) @ rows


class ChannelAttention(nn.Module):
    """Spectral-wise multi-head self-attention (MST, Cai et al., CVPR 2022), rewritten through second moments.

    Textbook: ``q, k, v = W_q x, W_k x, W_v x``; q and k L2-normalized over the pixels;
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
        self.position = ConvGelu(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        )

    def mixing_matrix(self, moment: Tensor) -> Tensor:
        """Return ``W_p A W_v`` for second moments ``x x^T``: NCC -> NCC."""
        with torch.autocast(moment.device.type, enabled=False):
            return self._mixing_matrix(moment)

    def _mixing_matrix(self, moment: Tensor) -> Tensor:
        by_head = (self.heads, -1, moment.shape[-1])
        # Weights HDC, moments N1CC: what follows is batched over images and heads.
        query, key, value = (part.weight.view(by_head) for part in (self.query, self.key, self.value))
        moment = moment[:, None]
        key_moment = key @ moment
        # The diagonal of W M W^T without the rest of it; rounding may leave a square just below 0.
        query_norm = ((query @ moment) * query).sum(-1).clamp(min=0).sqrt().clamp(min=1e-12)
        key_norm = (key_moment * key).sum(-1).clamp(min=0).sqrt().clamp(min=1e-12)
        # NHDD, the products over the pixels; the lengths of k are by row, of q by column.
        similarity = key_moment @ query.transpose(-1, -2) / (key_norm[..., :, None] * query_norm[..., None, :])
        attention = (similarity * self.rescale).softmax(dim=-1)
        # W_v's rows stand head after head, so flattening NHDC puts the heads together: NCC.
        mixing: Tensor = self.project.weight @ (attention @ value).flatten(1, 2)
        return mixing

    def mix(self, x: Tensor, mixing: Tensor) -> Tensor:
        """Return the attention's output from its mixing matrix: NCHW, NCC -> NCHW; a local operation, halo 2."""
        pixels = x.permute(0, 2, 3, 1)
        rows = pixels.flatten(1, 2)
        # A 1x1 convolution with another kernel for each image, and the bias of the projection.
        mixed = torch.baddbmm(self.project.bias, rows, mixing.transpose(1, 2).to(rows.dtype))
        # The positional branch alone needs v over the pixels.
        value = (rows @ self.value.weight.T).view(pixels.shape).permute(0, 3, 1, 2)
        return mixed.view(pixels.shape).permute(0, 3, 1, 2).add_(self.position(value))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention: NCHW -> NCHW."""
        mixing = self.mixing_matrix(pixel_mean(second_moment, x))
        return in_bands(lambda part: self.mix(part, mixing), x, halo=2)


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalNorm(nn.Module):
    """Normalization over all pixels, whose moments the pieces of an image share; computes the same in training.

    Args:
        channels: of the input.
        per_channel: each channel by itself is instance normalization (Ulyanov et al., 2016); all together is group
            normalization with one group (Wu and He, ECCV 2018), which keeps the channels' proportions.
        affine: whether a scale and a shift are learned.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, *, per_channel: bool = True, affine: bool = True) -> None:
        super().__init__()
        self.channels, self.per_channel = channels, per_channel
        if affine:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.register_buffer("weight", torch.ones(channels), persistent=False)
            self.register_buffer("bias", torch.zeros(channels), persistent=False)

    def affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``scale, shift`` NC11 in float32 with which ``scale * x + shift`` is the normalized NCHW ``x``."""
        moments = pixel_mean(_first_two_moments, x)
        # N2C. All channels have as many pixels: the mean of their means is the mean of all.
        mean, square = (moments if self.per_channel else moments.mean(2, keepdim=True)).unbind(1)
        # Rounding may leave the variance of a flat picture just below 0.
        scale = (square - mean * mean).clamp(min=0.0).add(1e-5).rsqrt() * self.weight
        return scale[..., None, None], (self.bias - mean * scale)[..., None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Normalize: NCHW -> NCHW."""
        scale, shift = self.affine(x)
        return in_bands(lambda part: scaled(part, scale, shift), x, halo=0)


def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``scale * x + shift`` in the precision of NCHW ``x``, computed in that of the NC11 numbers."""
    # Both terms are large where the mean is, and cancel: in half precision the difference would be mostly rounding.
    return torch.addcmul(shift, scale, x).to(x.dtype)


def _first_two_moments(x: Tensor) -> Tensor:
    """Sums of x and of its square over the pixels, in float32: NCHW -> N2C."""
    x = x.float()
    return torch.stack([x.sum((2, 3)), x.square().sum((2, 3))], dim=1)


def feed_forward(channels: int) -> ConvGelu:
    """Make the feed-forward part: 1x1 to 4C, GELU, depthwise 3x3, GELU, 1x1 back to C; no biases."""
    inner = 4 * channels
    return ConvGelu(
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False),
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
        """Apply attention, then the feed-forward part, each with a skip: NCHW -> NCHW."""
        mixing = self.attention.mixing_matrix(pixel_mean(second_moment, x))

        def local(part: Tensor) -> Tensor:
            # In place: nobody else has these tensors, and no gradient needs what they were.
            attended = self.attention.mix(part, mixing).add_(part)
            out: Tensor = self.feed_forward(self.norm(attended)).add_(attended)
            return out

        # Two rows for the positional branch, one for the feed-forward part.
        return in_bands(local, x, halo=3)


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer whose output is composed into an image in float32: half precision would leave steps in smooth
    places.
    """
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = layer(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)
    return out


def downsample(channels: int) -> nn.Sequential:
    """Make a layer to half the size and twice the channels: 3x3 convolution, then pixel-unshuffle."""
    return nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def upsample(channels: int) -> nn.Sequential:
    """Make a layer to twice the size and half the channels: 3x3 convolution, then pixel-shuffle."""
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

    def forward(self, first: Tensor, *more: Tensor) -> Tensor:
        """Map images that have ``in_channels`` together, NCHW -> N, out_channels, height, width."""
        feature = in_bands(lambda *parts: self.embed(torch.cat(parts, dim=1)), first, *more, halo=1)
        skips = []
        for encode, down in zip(self.encode, self.down, strict=True):
            feature = encode(feature)
            skips.append(feature)
            # Its convolution looks one row away; where the height is halved, a halo is even.
            feature = in_bands(down, feature, halo=2)
        feature = self.bottleneck(feature)
        for up, fuse, decode in zip(self.up, self.fuse, self.decode, strict=True):
            # Defaults bind the layers of this level; a closure would see those that the loop has come to.
            def join(low: Tensor, skip: Tensor, up: nn.Module = up, fuse: nn.Module = fuse) -> Tensor:
                joined: Tensor = fuse(torch.cat([up(low), skip], dim=1))
                return joined

            feature = decode(in_bands(join, feature, skips.pop(), halo=1))
        base = first[:, : self.out_channels]
        return in_bands(lambda feature, base: in_float32(self.output, feature) + base, feature, base, halo=1)
