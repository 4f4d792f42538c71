"""Haze density and quality of a photograph from CLIP image-text similarity, through ``open_clip``.

A softmax over prompts about haze gives P(hazy), so ``clearness = 1 - P(hazy)``; antonym prompts about quality
(CLIP-IQA, Wang et al., AAAI 2023) give ``quality``. One image encoding serves both. The packaged scorer, any
``open_clip`` architecture, a local folder and released DA-CLIP weights load through the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ConfigError
from models.images import floats
from pseudolabel.coherence import blocks, trust_from_blocks
from pseudolabel.scorer.config import Prompts, ScorerConfig
from pseudolabel.scorer.musiq import load_iqa
from pseudolabel.scorer.scores import Scores

DACLIP = "daclip"


class ClipScorer(nn.Module):
    """Scores images with a CLIP model; differentiable, frozen, on any device.

    Args:
        clip: an ``open_clip`` model.
        tokenize: its tokenizer.
        config: prompts and sizes.
        mean, std: the normalization that the model was trained with.
        resolution: the side that it was trained with, for where `config` names none.
        prompts: for where `config` has none.

    Raises:
        ConfigError: a resolution that the image tower does not take.
    """

    mean: Tensor
    std: Tensor
    haze_text: Tensor
    quality_text: Tensor

    def __init__(
        self,
        clip: nn.Module,
        tokenize: object,
        config: ScorerConfig,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resolution: int,
        prompts: Prompts | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        self.tokenize = tokenize
        self.config = config
        self.prompts = config.prompts or prompts or Prompts()
        self.iqa: nn.Module | None = None
        self.resolution = config.resolution or resolution
        self.block_resolution = self._block_side(config.block_resolution, 2 * config.block)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        # Prompts are encoded once; later only images are.
        self.register_buffer("haze_text", self.encode_text([*self.prompts.clear, *self.prompts.hazy]))
        self.register_buffer("quality_text", self.encode_text([*self.prompts.good, *self.prompts.bad]))
        self.dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self.clip.visual.to(self.dtype)
        if not has_positions(self.clip.visual):
            self._try("resolution", self.resolution)
            self._try("block_resolution", self.block_resolution)

    def _block_side(self, asked: int | None, otherwise: int) -> int:
        """The resolution of blocks, checked: a tower that holds a position per patch takes one size only."""
        if not has_positions(self.clip.visual):
            return asked or otherwise
        if asked not in (None, self.resolution):
            raise ConfigError(
                f"scorer.block_resolution is {asked}, but {self.config.architecture!r} takes images of "
                f"{self.resolution} pixels only; leave it out"
            )
        return self.resolution

    @torch.no_grad()
    def _try(self, key: str, side: int) -> None:
        """Find out whether the tower takes images of this size: some towers without positions take one size only."""
        try:
            self.encode(torch.zeros(1, 3, side, side), side)
        except (AssertionError, RuntimeError, ValueError) as problem:
            remedy = "leave it out" if key == "resolution" else f"set it to {self.resolution}"
            raise ConfigError(
                f"scorer.{key} is {side}, and the image tower of {self.config.architecture!r} takes no images of that "
                f"size ({' '.join(str(problem).split())}): {remedy}, or choose another scorer"
            ) from problem

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Return unit text features: K texts -> (K, E)."""
        tokens = self.tokenize(texts).to(self.mean.device)  # type: ignore[operator]
        features: Tensor = self.clip.encode_text(tokens, normalize=True)  # type: ignore[operator]
        return features

    def normalized(self, images: Tensor, resolution: int | None = None) -> Tensor:
        """Return N3HW in [0, 1] as the image tower takes it: a square, normalized, in the tower's precision."""
        images = _resized(images, resolution or self.resolution)
        return ((images - self.mean) / self.std).to(self.dtype)

    def encode(self, images: Tensor, resolution: int | None = None) -> Tensor:
        """Return unit image features of N3HW in [0, 1], resized to a square: -> (N, E). Gradients flow to the
        images.
        """
        features: Tensor = self.clip.encode_image(self.normalized(images, resolution))  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1)

    def _probability(self, features: Tensor, texts: Tensor, positive: int) -> Tensor:
        scale = self.clip.logit_scale.exp()  # type: ignore[operator]
        # (..., K): a probability per prompt, those of the positive side first.
        probabilities = (scale * features @ texts.T).softmax(dim=-1)
        return probabilities[..., :positive].sum(dim=-1)

    def judge(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return clearness and quality, each (...) in [0, 1], of unit features (..., E)."""
        clearness = self._probability(features, self.haze_text, len(self.prompts.clear))
        quality = self._probability(features, self.quality_text, len(self.prompts.good))
        return clearness, quality

    def rate(self, images: Tensor, resolution: int | None = None) -> tuple[Tensor, Tensor]:
        """Return clearness and quality of N3HW in [0, 1], N each, from one encoding and, where configured, the
        metric.
        """
        clearness, quality = self.judge(self.encode(images, resolution))
        return clearness, quality if self.iqa is None else self.iqa(images)

    def rate_each(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Do :meth:`rate` for pictures of any sizes, each (1, 3, H, W) on any device: they are resized one by one, then
        encoded together. A metric, which looks at whole pictures, takes them one by one.
        """
        device = self.mean.device
        small = [_resized(image.to(device), self.resolution) for image in images]
        clearness, quality = self.judge(self.encode(torch.cat(small)))
        return clearness, quality if self.iqa is None else torch.cat([self.iqa(image.to(device)) for image in images])

    def haze_density(self, images: Tensor) -> Tensor:
        """Return P(hazy) of N3HW in [0, 1]: N in [0, 1], lower is better, with gradients to the images."""
        return 1.0 - self.judge(self.encode(images))[0]

    @torch.inference_mode()
    def clearness(self, images: Tensor) -> Tensor:
        """Return ``1 - P(hazy)`` of N3HW in [0, 1]: N, higher is better."""
        return 1.0 - self.haze_density(images)

    @torch.inference_mode()
    def trust(self, images: Tensor) -> Tensor:
        """Return local clearness and quality as one, by ``trust_rule``: N3HW -> N, H//block, W//block in [0, 1].

        It is high where the image is free of haze.

        Raises:
            ValueError: images smaller than a block.
        """
        # (N, gh, gw, 3, s, s): flattened, the blocks of all images are one batch.
        cut = blocks(images, self.config.block)
        parts = [
            self.rate(chunk, self.block_resolution) for chunk in torch.split(cut.flatten(0, 2), self.config.block_batch)
        ]
        clearness, quality = (torch.cat(values).view(cut.shape[:3]) for values in zip(*parts, strict=True))
        return trust_from_blocks(clearness, quality, self.config.trust_rule)

    @torch.inference_mode()
    def score(self, images: Tensor) -> Scores:
        """Return clearness, quality and trust map of N3HW in [0, 1]; see :class:`pseudolabel.scorer.scores.Scores`."""
        return Scores(*self.rate(images), self.trust(images))


def has_positions(tower: Any) -> bool:
    """Return whether an image tower has an embedding per position, and so one size of image."""
    return any(name.rpartition(".")[2] in ("positional_embedding", "pos_embed") for name, _ in tower.named_parameters())


def _resized(images: Tensor, side: int) -> Tensor:
    """Resize N3HW to squares, in float32; scores of whole numbers would mean nothing."""
    images = floats(images)
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def finished(scorer: ClipScorer, device: str | torch.device) -> ClipScorer:
    """Return `scorer` with the metric that its configuration names, on `device`.

    Raises:
        ConfigError: see :func:`pseudolabel.scorer.musiq.load_iqa`.
    """
    if scorer.config.iqa is not None:
        scorer.iqa = load_iqa(scorer.config.iqa, device)
    return scorer.to(device).eval()
