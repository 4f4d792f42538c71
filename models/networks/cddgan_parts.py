"""The networks of CDD-GAN that exist in training only: discriminators, projection heads and negative generators.

Dimension letters: N images, P patch positions per image, C channels of a feature, D of the projection, Z of the noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import AliasChoices, Field
from torch import Tensor, nn

from models.config import ConfigError, Settings
from models.networks.cddgan import Cddgan, Normalization, normalized


class NegativeQueue:
    """First in, first out: the latest ``size`` negatives of one encoder layer, (K, D) with K up to ``size``."""

    def __init__(self, size: int, dimension: int, device: torch.device | None = None) -> None:
        self.size = size
        self.content = torch.empty(0, dimension, device=device)

    def push(self, negatives: Tensor) -> None:
        """Append (M, D) negatives; the oldest beyond ``size`` leave."""
        content = torch.cat([self.content.to(negatives.device), negatives.detach()])
        self.content = content[max(0, len(content) - self.size) :]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the negatives, oldest first."""
        return {"content": self.content}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.content = state["content"].to(self.content.device)


class ImageHistory:
    """Images that a generator made, so that a discriminator does not only see the latest.

    Shrivastava et al. (CVPR 2017), 50 images in CycleGAN: until it is full an image is kept and given back; then, with
    probability 1/2, a kept one is given and replaced. Random numbers are its own.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.images: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(seed)

    def exchange(self, images: Tensor) -> Tensor:
        """Return for each image itself or an older one, N3HW -> N3HW, on the same device; without gradients. ``size`` 0
        gives the images back.
        """
        if not self.size:
            return images.detach()
        self.images = [kept.to(images.device) for kept in self.images]  # those of a checkpoint come on the CPU
        return torch.stack([self._one(image.clone()) for image in images.detach()])

    def _one(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        if float(torch.rand(1, generator=self.generator)) < 0.5:
            return image
        place = int(torch.randint(self.size, (1,), generator=self.generator))
        older, self.images[place] = self.images[place], image
        return older

    def state_dict(self) -> dict[str, Any]:
        """Return the images (K, 3, H, W) or None when there are none yet, and the state of the random numbers."""
        return {
            "images": torch.stack(self.images) if self.images else None,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.images = [] if state["images"] is None else list(state["images"])
        self.generator.set_state(state["generator"].cpu())


class DiscriminatorConfig(Settings):
    """The discriminators.

    Attributes:
        width: channels of the first layer.
        layers: downsampling layers; 3 makes the 70x70 patch discriminator of pix2pix and CycleGAN.
        normalization: as in the generator.
    """

    width: int = Field(64, ge=1)
    layers: int = Field(3, ge=1)
    normalization: Normalization = Field(
        "instance",
        validation_alias=AliasChoices("normalization", "normalisation"),  # of checkpoints made before
    )


class ContrastConfig(Settings):
    """What the contrastive loss compares.

    Attributes:
        layers: of the encoder (see :meth:`models.networks.cddgan.Cddgan.encode`) whose features are compared; each has
            its own projection head, negative generator and queue.
        patches: positions per image.
        projection: dimension of the unit sphere's space.
        positives: ``exemplars`` (the paper) are all patches of the clear crops of the step, for every query alike;
            ``same_place`` is the hazy crop at the query's own place, as in CUT.
        negatives: what they are made of besides noise: ``image`` (NEGCUT), the mean of the hazy crop's feature through
            a momentum copy of the projection head; or ``patch``, each hazy patch through the head itself, which the
            negative generator then only adds to.
        momentum: of that copy.
        identity: half of the contrast's weight goes to what the generator makes of clear crops (as in CUT): the
            positives are those clear crops, the negatives the same.
        noise: dimension of the noise that negatives are made of.
        draws: negatives for each patch, each from another noise; the diversity term compares the first two.
        queue: negatives of earlier steps that are kept, per layer; 0 for none.
        temperature: of InfoNCE.
    """

    layers: tuple[int, ...] = Field((0, 1, 2, 5, 9), min_length=1)
    patches: int = Field(256, ge=1)
    projection: int = Field(256, ge=2)
    positives: Literal["exemplars", "same_place"] = "exemplars"
    negatives: Literal["image", "patch"] = "image"
    momentum: float = Field(0.9, ge=0, lt=1)
    identity: bool = True
    noise: int = Field(64, ge=1)
    draws: int = Field(2, ge=2)
    queue: int = Field(4096, ge=0)
    temperature: float = Field(0.07, gt=0)


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., CVPR 2017): one unbounded score for every overlapping patch, for least squares."""

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        super().__init__()
        config = config or DiscriminatorConfig()
        channels = [config.width * min(8, 2**k) for k in range(config.layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for k, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            # The last one keeps the size, as in pix2pix.
            stride = 1 if k == config.layers - 1 else 2
            body += [
                nn.Conv2d(inputs, outputs, 4, stride, 1),
                normalized(outputs, config.normalization) or nn.Identity(),
            ]
            body += [nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(channels[-1], 1, 4, 1, 1))
        self.smallest = 4 * 2**config.layers  # leaves 2x2 scores, and more than a pixel to normalize

    def forward(self, image: Tensor) -> Tensor:
        """Score patches of N3HW in [0, 1] -> N1hw; high is real.

        Raises:
            ConfigError: the image is too small to have a patch.
        """
        if min(image.shape[-2:]) < self.smallest:
            raise ConfigError(
                f"a crop of {tuple(image.shape[-2:])} pixels is too small for the discriminator: raise crop.size to "
                f"{self.smallest}, or lower cddgan.discriminator.layers"
            )
        scores: Tensor = self.body(2.0 * image - 1.0)
        return scores


def sample_patches(feature: Tensor, positions: Tensor) -> Tensor:
    """Return the feature vectors under some positions, image after image.

    Args:
        feature: NCHW.
        positions: (P, 2) in [0, 1): down and across, as shares of height and width.

    Returns:
        (N * P, C).
    """
    height, width = feature.shape[-2:]
    down, across = (positions[:, 0] * height).long(), (positions[:, 1] * width).long()
    # Two index lists side by side pick P places: NCP.
    return feature[:, :, down, across].transpose(1, 2).flatten(0, 1)


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


class ProjectionHeads(nn.Module):
    """A two-layer MLP per encoder layer, onto the unit sphere (as in CUT, Park et al., ECCV 2020)."""

    def __init__(self, channels: Sequence[int], projection: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_mlp(inputs, projection) for inputs in channels)

    def forward(self, features: Sequence[Tensor], positions: Tensor) -> list[Tensor]:
        """Project features NCHW of each layer at positions (P, 2) in [0, 1) -> (N * P, D) of length 1, layer by
        layer.
        """
        pairs = zip(self.heads, features, strict=True)
        return [F.normalize(head(sample_patches(feature, positions)), dim=1) for head, feature in pairs]

    def of_images(self, features: Sequence[Tensor], positions: Tensor) -> list[Tensor]:
        """Do as :meth:`forward`, of each image's mean over the positions, which stands at all of them: (N * P, D)."""
        found, count = [], len(positions)
        for head, feature in zip(self.heads, features, strict=True):
            # The P rows of an image stand together: (N, P, C), whose mean is NC.
            means = sample_patches(feature, positions).view(len(feature), count, -1).mean(dim=1)
            found.append(F.normalize(head(means), dim=1).repeat_interleave(count, dim=0))
        return found


class NegativeGenerators(nn.Module):
    """Per encoder layer a network from the projection h of haze and noise z to ``mlp(h, z) / |...|``.

    CDD-GAN's negative generators, conditional as in NEGCUT (Wang et al., ICCV 2021). With ``negatives: patch`` they
    make ``(h + mlp(h, z)) / |...|``, which starts near the patch.
    """

    def __init__(self, layers: int, config: ContrastConfig) -> None:
        super().__init__()
        self.adds = config.negatives == "patch"
        size = config.projection
        self.makers = nn.ModuleList(
            nn.Sequential(nn.Linear(size + config.noise, size), nn.ReLU(), _mlp(size, size)) for _ in range(layers)
        )

    def forward(self, hazy: Sequence[Tensor], noise: Tensor) -> list[Tensor]:
        """Make negatives of projections (M, D) of haze, layer by layer, and noise (layers, draws, M, Z) -> (draws, M,
        D) each.
        """
        made = []
        for maker, projected, z in zip(self.makers, hazy, noise, strict=True):
            # The same projections for each draw, with another noise: (draws, M, D + Z).
            inputs = torch.cat([projected.expand(len(z), -1, -1), z], dim=2)
            negatives = maker(inputs)
            made.append(F.normalize(projected + negatives if self.adds else negatives, dim=2))
        return made


def initialize(module: nn.Module, gain: float) -> None:
    """Initialize convolutions and linear layers by Xavier's normal rule (Glorot and Bengio, 2010); biases are 0.

    The weights before a normalization, or before a projection onto the sphere, may be of any size: the smaller, the
    more a step of Adam changes them.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(part.weight, gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        # Last of all, as the rule above has drawn weights for that layer too.
        if isinstance(part, Cddgan):
            part.start_at_skip()
