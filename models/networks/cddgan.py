"""The generator of CDD-GAN (Chen et al., arXiv 2203.07677): one class dehazes (G) and, with other weights, hazes (F).

The ResNet generator of CycleGAN (Zhu et al., ICCV 2017), whose first half is the encoder that the contrastive loss
trains. :mod:`models.networks.cddgan_parts` has the networks that exist in training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import AliasChoices, Field
from torch import Tensor, nn

from models.config import ConfigError, Settings
from models.networks.bands import in_bands, pixel_mean
from models.networks.blocks import GlobalNorm, in_float32, pad_to_multiple, scaled

# The scattering skip: optical depth from 0 to 2, starting at 0.2; an airlight of 0.65 to 1, with channels at most 0.06
# off. A colored airlight paints the sky, and a dark one burns out the ground.
_DEEPEST, _SHALLOW = 2.0, 0.1
_DARKEST, _CAST = 0.65, 0.06

Normalization = Literal["instance", "group", "none"]


class CddganConfig(Settings):
    """The generator; defaults are those of CycleGAN at 256 pixels.

    Attributes:
        width: channels of the first layer; twice and four times as many after each downsampling.
        blocks: residual blocks at a quarter of the size.
        normalization: ``instance`` in the paper. It forgets the contrast and color of the whole image, which is what
            haze changes; ``group`` (one group: over channels and pixels together) keeps their proportion.
        skip: ``none`` (the paper) draws the image anew; ``add`` adds the last layer's output to the input;
            ``scattering`` moves the input away from an almost gray airlight as the scattering model solved for the
            scene does, ``A + (x - A) / t``, t per pixel, A per image. Both start at or near the identity.
        direction: ``haze`` makes the scattering skip ``A + (x - A) t``; F has it. No effect on other skips.
    """

    width: int = Field(64, ge=4, multiple_of=4)
    blocks: int = Field(9, ge=1)
    normalization: Normalization = Field(
        "instance",
        validation_alias=AliasChoices("normalization", "normalisation"),  # of checkpoints made before
    )
    skip: Literal["none", "add", "scattering"] = "none"
    direction: Literal["dehaze", "haze"] = "dehaze"


class Convolution(nn.Module):
    """Convolution with reflection at the borders, a normalization, and ReLU where asked for.

    Instance normalization needs at least two pixels. ``enlarge`` doubles the size first, by interpolation: a transposed
    convolution leaves a checkerboard.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        normalization: Normalization,
        *,
        stride: int = 1,
        enlarge: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect")
        self.norm = normalized(outputs, normalization)
        self.halo = kernel // 2 + (kernel // 2) % stride  # even where the size is halved
        self.enlarge, self.relu = enlarge, relu

    def _convolved(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest") if self.enlarge else x
        out: Tensor = self.conv(x)
        return out

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Convolve and normalize, NCHW -> NCHW; ``skip`` is added at the end."""
        x = in_bands(self._convolved, x, halo=self.halo)
        scale, shift = (x.new_ones(1), x.new_zeros(1)) if self.norm is None else self.norm.affine(x)

        def local(x: Tensor, *skip: Tensor) -> Tensor:
            x = scaled(x, scale, shift)
            x = F.relu(x) if self.relu else x
            return x + skip[0] if skip else x

        return in_bands(local, x, *(() if skip is None else (skip,)), halo=0)


def normalized(channels: int, kind: Normalization) -> GlobalNorm | None:
    """Make a normalization without running statistics, so that training and evaluation compute the same; None for
    none.
    """
    if kind == "none":
        return None
    return GlobalNorm(channels, per_channel=kind == "instance", affine=kind == "group")


class ResidualBlock(nn.Module):
    """``x + norm(conv(relu(norm(conv(x)))))``, 3x3 with reflection."""

    def __init__(self, channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3, normalization)
        self.second = Convolution(channels, channels, 3, normalization, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions and add ``x``: NCHW -> NCHW."""
        out: Tensor = self.second(self.first(x), x)
        return out


class Cddgan(nn.Module):
    """The generator: 7x7, two downsamplings, residual blocks, two upsamplings, 7x7.

    Inputs and outputs are in [0, 1]; inside, the input is ``2 x - 1``. Without a skip the output is
    ``(tanh + 1) / 2``; with one it is clamped.
    """

    BANDED = True
    MULTIPLE = 8  # the encoder's smallest feature then has at least 2x2 pixels, as instance normalization needs

    def __init__(self, config: CddganConfig | None = None) -> None:
        super().__init__()
        self.config = config or CddganConfig()
        width, kind = self.config.width, self.config.normalization
        stages: list[nn.Module] = [Convolution(3, width, 7, kind)]
        stages += [Convolution(width * k, 2 * width * k, 3, kind, stride=2) for k in (1, 2)]
        stages += [ResidualBlock(4 * width, kind) for _ in range(self.config.blocks)]
        self.encoder = nn.ModuleList(stages)
        self.decoder = nn.Sequential(*(Convolution(2 * width * k, width * k, 3, kind, enlarge=True) for k in (2, 1)))
        outputs = 5 if self.config.skip == "scattering" else 3
        self.output = nn.Conv2d(width, outputs, 7, padding=3, padding_mode="reflect")
        self.start_at_skip()

    def start_at_skip(self) -> None:
        """Let a network with a skip begin at or near the identity: its last layer is 0. No effect without a skip."""
        if self.config.skip != "none":
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def channels(self, layer: int) -> int:
        """Return the channels of the feature that :meth:`encode` gives for ``layer``.

        Raises:
            ConfigError: the encoder has no such layer.
        """
        if not 0 <= layer < len(self.encoder):
            last = len(self.encoder) - 1
            raise ConfigError(
                f"the encoder has no layer {layer}: take layers from 0 to {last}, or raise network.blocks"
            )
        return self.config.width * (1, 2, 4)[min(2, layer)]

    def encode(self, image: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return features of the encoder, in the order of ``layers``.

        Args:
            image: N3HW in [0, 1], any size; padded at the right and bottom to a multiple of 8.
            layers: 0 the first convolution, 1 and 2 the downsamplings, 3 and on the residual blocks.

        Raises:
            ConfigError: the encoder has no such layer.
        """
        for layer in layers:
            self.channels(layer)
        _last, found = self._features(pad_to_multiple(image, self.MULTIPLE), layers, max(layers))
        return [found[layer] for layer in layers]

    def _features(self, padded: Tensor, layers: Sequence[int], last: int) -> tuple[Tensor, dict[int, Tensor]]:
        """The feature of layer ``last``, and of those before it the ones that are asked for."""
        feature, found = in_bands(lambda x: 2.0 * x - 1.0, padded, halo=0), {}
        for layer, stage in enumerate(self.encoder):
            feature = stage(feature)
            if layer in layers:
                found[layer] = feature
            if layer == last:
                break
        return feature, found

    def forward(self, image: Tensor) -> Tensor:
        """Translate N3HW in [0, 1], any size -> N3HW in [0, 1] of the same size."""
        return self.translate(image, ())[0]

    def translate(self, image: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Do :meth:`forward` and :meth:`encode` of one image in one pass."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.MULTIPLE)
        feature, found = self._features(padded, layers, len(self.encoder) - 1)
        drawn = self._compose(padded, in_bands(lambda x: in_float32(self.output, x), self.decoder(feature), halo=3))
        return drawn[..., :height, :width], [found[layer] for layer in layers]

    def _compose(self, padded: Tensor, drawn: Tensor) -> Tensor:
        """The image from the last layer's output."""
        if self.config.skip == "none":
            return in_bands(lambda drawn: 0.5 * (torch.tanh(drawn) + 1.0), drawn, halo=0)
        if self.config.skip == "add":
            return in_bands(lambda image, drawn: _clamp(image + drawn), padded, drawn, halo=0)
        # Of the last layer's channels one is the depth, one the gray of A, three its cast.
        whole = pixel_mean(lambda part: part.sum((2, 3), keepdim=True), drawn[:, 1:])
        airlight = _DARKEST + (1.0 - _DARKEST) * torch.sigmoid(whole[:, :1]) + _CAST * torch.tanh(whole[:, 1:])
        sign = 1.0 if self.config.direction == "dehaze" else -1.0

        def scattered(image: Tensor, drawn: Tensor) -> Tensor:
            depth = sign * _DEEPEST * _clamp(drawn[:, :1] + _SHALLOW)
            # exp(depth) is 1/t where it dehazes, and t where it hazes.
            return _clamp(airlight + (image - airlight) * depth.exp())

        return in_bands(scattered, padded, drawn, halo=0)


def _clamp(image: Tensor) -> Tensor:
    """Clamp to [0, 1] with the gradient of the identity: values that have left the range could never come back
    otherwise.
    """
    return image.clamp(0.0, 1.0).detach() + (image - image.detach())
