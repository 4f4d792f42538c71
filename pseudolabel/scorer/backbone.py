"""The scorer's image tower as a backbone of the contrastive perceptual loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ConfigError
from pseudolabel.scorer.clip import ClipScorer, has_positions

LAYERS = 5


class ScorerFeatures(nn.Module):
    """Five feature maps of an ``open_clip`` image tower, from the finest to the coarsest; frozen like the scorer.

    Convolutional towers, such as that of ``clip-compact`` (RegNetX-200MF: stem and four stages, strides 2 to 32), see
    images at their own size. Vision transformers hold a position per patch, so they see the image as a square of the
    scorer's resolution; of their blocks, five are taken evenly.

    Args:
        scorer: its tower, normalization and resolution are used, its texts are not.

    Raises:
        ConfigError: the tower has no intermediate features, or fewer than five.
    """

    def __init__(self, scorer: ClipScorer) -> None:
        super().__init__()
        self.scorer = scorer
        tower: Any = scorer.clip.visual
        self.tower = tower
        self.side = scorer.resolution if has_positions(tower) else None
        self.indices = self._choose()

    def _choose(self) -> list[int]:
        side = self.scorer.resolution
        name = self.scorer.config.architecture
        try:
            with torch.no_grad():
                blank = torch.zeros(1, 3, side, side, device=self.scorer.mean.device, dtype=self.scorer.dtype)
                # How many maps a tower gives, only a run tells.
                depth = len(self._intermediates(blank, None))
        except (AttributeError, NotImplementedError, AssertionError, TypeError) as problem:
            raise ConfigError(
                f"perceptual.backbone is 'scorer', but the image tower of {name!r} gives no intermediate features "
                f"({problem}); use vgg19, or a scorer whose tower is a transformer, a ResNet or of timm"
            ) from problem
        if depth < LAYERS:
            raise ConfigError(
                f"perceptual.backbone is 'scorer', but the image tower of {name!r} has {depth} feature maps and "
                f"{LAYERS} are needed; use vgg19 or a deeper scorer"
            )
        # The first, the last, and three between.
        return [round(place) for place in torch.linspace(0, depth - 1, LAYERS).tolist()]

    def _intermediates(self, normal: Tensor, indices: list[int] | None) -> list[Tensor]:
        found = self.tower.forward_intermediates(
            normal, indices=indices, intermediates_only=True, stop_early=True, output_fmt="NCHW"
        )
        maps: list[Tensor] = found["image_intermediates"]
        return [layer.float() for layer in maps]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return five feature maps NCHW of N3HW in [0, 1]. Gradients flow to the images."""
        if self.side is not None and images.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        normal = (images - self.scorer.mean) / self.scorer.std
        return self._intermediates(normal.to(self.scorer.dtype), self.indices)
