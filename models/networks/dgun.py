"""DGUN: the deep generalized unfolding network, DGUNet (Mou et al., CVPR 2022, arXiv 2204.13348).

Stages of gradient descent with a learned degradation, each followed by a learned proximal mapping. Colabator is applied
to it as well (Fang et al., NeurIPS 2024). First and last stage have weights of their own, those between share theirs.

Where paper and program differ: the program's stages have no attention map between image and features in the supervised
attention module, and normalize the subspace before projecting, which changes nothing but rounding. Here the projection
is solved in float64. The program makes all learned ReLUs of a kind share one slope; here each has its own, which loads
the released weights just as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import Settings
from models.networks.bands import in_bands
from models.networks.blocks import in_float32, pad_to_multiple
from models.networks.dgun_blocks import (
    DecoderBlock,
    EncoderBlock,
    GradientStep,
    ShallowFeatures,
    SubspaceFusion,
    conv,
)
from models.networks.released import load_renamed, renamed

LEVELS = 3


class DgunConfig(Settings):
    """DGUN.

    Attributes:
        stages: with the first and the last.
        dim: channels of the first level.
        growth: channels that each further level adds.
        subspace: number of basis vectors that a stage's features are projected to.
        tail: channels that the last stage adds.
    """

    stages: int = Field(7, ge=2)
    dim: int = Field(40, ge=4, multiple_of=4)
    growth: int = Field(20, ge=0, multiple_of=2)
    subspace: int = Field(16, ge=1)
    tail: int = Field(16, ge=0)


@dataclass(frozen=True)
class DgunOutput:
    """Scenes (N3HW, not clamped) of every stage, from the first to the last."""

    scenes: list[Tensor]

    @property
    def scene(self) -> Tensor:
        """Return the last stage's scene."""
        return self.scenes[-1]


Memory = tuple[list[Tensor], list[Tensor]]


class Stage(nn.Module):
    """Gradient step, then the proximal U-Net; ``later`` stages take over features of the one before."""

    def __init__(self, config: DgunConfig, *, later: bool) -> None:
        super().__init__()
        widths = [config.dim + config.growth * level for level in range(LEVELS + 1)]
        self.gradient = GradientStep()
        self.shallow = ShallowFeatures(config.dim)
        self.merge = SubspaceFusion(config.dim, config.subspace) if later else None
        levels = [EncoderBlock(a, b, down=True, fuse=later) for a, b in pairwise(widths)]
        self.encoder = nn.ModuleList([*levels, EncoderBlock(widths[-1], widths[-1], down=False, fuse=False)])
        self.decoder = nn.ModuleList(DecoderBlock(a, b) for a, b in pairwise(reversed(widths)))
        self.features = nn.Conv2d(config.dim, config.dim, 1, bias=False)
        self.image = nn.Conv2d(config.dim, 3, 1, bias=False)

    def forward(
        self, scene: Tensor, hazy: Tensor, before: Tensor | None = None, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor, Memory]:
        """Return the scene of this stage, features for the next one, and its encoder's and decoder's features."""
        rough = self.gradient(scene, hazy)
        x = self.shallow(rough)
        if self.merge is not None and before is not None:
            x = self.merge(x, before)
        encoded: list[Tensor] = []
        *levels, lowest = self.encoder
        for level, block in enumerate(levels):
            # The decoder's features are listed from below, the encoder's from above.
            x = block(x, None if memory is None else (memory[0][level], memory[1][-1 - level]))
            encoded.append(x)
            x = in_bands(cast("nn.Module", block.down), x, halo=2)
        x = lowest(x)
        decoded: list[Tensor] = []
        for block, skip in zip(self.decoder, reversed(encoded), strict=True):
            x = block(x, skip)
            decoded.append(x)
        scene = in_bands(lambda x, rough: self.image(x) + rough, x, rough, halo=0)
        return scene, in_bands(lambda x: self.features(x) + x, x, halo=0), (encoded, decoded)


class LastStage(nn.Module):
    """Gradient step, shallow features fused with those of the stage before, and the correction of the hazy image."""

    def __init__(self, config: DgunConfig) -> None:
        super().__init__()
        self.gradient = GradientStep()
        self.shallow = ShallowFeatures(config.dim)
        self.fuse = conv(2 * config.dim, config.dim + config.tail, bias=False)
        self.tail = conv(config.dim + config.tail, 3, bias=False)

    def forward(self, scene: Tensor, hazy: Tensor, before: Tensor) -> Tensor:
        """Return the last scene."""
        x = self.shallow(self.gradient(scene, hazy))

        def local(x: Tensor, before: Tensor, hazy: Tensor) -> Tensor:
            return in_float32(self.tail, self.fuse(torch.cat([x, before], dim=1))) + hazy

        return in_bands(local, x, before, hazy, halo=2)


class Dgun(nn.Module):
    """The network: hazy photograph in, every stage's scene out."""

    BANDED = True
    MULTIPLE = 2**LEVELS

    def __init__(self, config: DgunConfig | None = None) -> None:
        super().__init__()
        self.config = config or DgunConfig()
        self.first = Stage(self.config, later=False)
        self.middle = Stage(self.config, later=True) if self.config.stages > 2 else None
        self.last = LastStage(self.config)

    def forward(self, hazy: Tensor) -> DgunOutput:
        """Dehaze N3HW in [0, 1], any size -> scenes N3HW (not clamped) of every stage."""
        height, width = hazy.shape[-2:]
        padded = pad_to_multiple(hazy, self.MULTIPLE)
        scene, features, memory = self.first(padded, padded)
        scenes = [scene]
        for _ in range(self.config.stages - 2):
            scene, features, memory = cast("Stage", self.middle)(scene, padded, features, memory)
            scenes.append(scene)
        del memory
        scenes.append(self.last(scene, padded, features))
        return DgunOutput([scene[..., :height, :width] for scene in scenes])


# --- the authors' names ---

# Phi, Phi^T, step, shallow features, U-Net, supervised attention; and what comes before all.
_PLACES = {
    "first": ("phi_0", "phit_0", "r0", "shallow_feat1", "stage1", "sam12", ""),
    "middle": ("phi_1", "phit_1", "r1", "shallow_feat2", "stage2", "sam23", "basic."),
    "last": ("phi_6", "phit_6", "r6", "shallow_feat7", "", "", ""),
}
_UNUSED = frozenset({"basic.concat12.weight"})  # the authors' program makes it and never uses it
_ENCODER = {
    "shortcut": "identity",
    "first": "conv_1",
    "second": "conv_2",
    "norm": "norm",
    "down": "downsample",
    "fusion.encoded": "csff_enc",
    "fusion.decoded": "csff_dec",
    "fusion.scale": "phi",
    "fusion.shift": "gamma",
}
_DECODER = {
    "up": "up",
    "shortcut": "conv_block.identity",
    "first": "conv_block.conv_1",
    "second": "conv_block.conv_2",
}


def released_name(name: str) -> str:
    """Return the name that the authors' program gives to parameter ``name`` of a :class:`Dgun`.

    Raises:
        ValueError: there is none.
    """
    place, _, rest = name.partition(".")
    degrade, transpose, step, shallow, net, supervised, prefix = _PLACES[place]
    if rest.startswith("encoder."):
        _, level, part = rest.split(".", 2)
        return f"{prefix}{net}_encoder.body.{level}.{renamed(part, _ENCODER)}"
    if rest.startswith("decoder."):
        _, level, part = rest.split(".", 2)
        if part.startswith("skip."):
            return f"{prefix}{net}_decoder.skip_conv.{level}.{part.removeprefix('skip.')}"
        return f"{prefix}{net}_decoder.body.{level}.{renamed(part, _DECODER)}"
    return prefix + renamed(
        rest,
        {
            "gradient.degrade": degrade,
            "gradient.transpose": transpose,
            "gradient.step": step,
            "shallow.embed": f"{shallow}.0",
            "shallow.body": f"{shallow}.1.body",
            "shallow.gate": f"{shallow}.1.CA.conv_du",
            "merge.basis": "merge12.subnet",
            "merge.fuse": "merge12.conv_block",
            "features": f"{supervised}.conv1",
            "image": f"{supervised}.conv2",
            "fuse": "concat67",
            "tail": "tail",
        },
    )


def _config_of(state_dict: Mapping[str, Tensor]) -> DgunConfig:
    """Read the widths from shapes; the number of stages is in no weight."""
    try:
        dim = state_dict["shallow_feat1.0.weight"].shape[0]
        wide = state_dict["stage1_encoder.body.0.conv_1.weight"].shape[0]
        subspace = state_dict["basic.merge12.subnet.weight"].shape[0]
        tail = state_dict["concat67.weight"].shape[0] - dim
    except KeyError as missing:
        raise ValueError(f"not a released DGUNet state dict: {missing} is missing") from None
    return DgunConfig(stages=7, dim=dim, growth=wide - dim, subspace=subspace, tail=tail)


def load_released_dgunet(state_dict: Mapping[str, Tensor]) -> Dgun:
    """Make a :class:`Dgun` of 7 stages, as the released network has, with the weights of the authors' DGUNet.

    Raises:
        ValueError: names that do not match, each listed.
        RuntimeError: shapes that do not match, each listed.
    """
    network = Dgun(_config_of(state_dict))
    load_renamed(network, state_dict, {name: released_name(name) for name in network.state_dict()}, _UNUSED)
    return network
