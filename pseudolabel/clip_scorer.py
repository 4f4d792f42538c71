"""Haze density and quality of a photograph from CLIP image-text similarity, through ``open_clip``.

A softmax over prompts about haze gives P(hazy), so ``clearness = 1 - P(hazy)``; antonym prompts about quality
(CLIP-IQA, Wang et al., AAAI 2023) give ``quality``. One image encoding serves both. The packaged scorer, any
``open_clip`` architecture and a local folder load through the same code.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.settings import ConfigError, Settings, nearest
from pseudolabel.coherence import blocks, trust_from_blocks
from pseudolabel.scores import Scores

WEIGHTS = Path(__file__).parent / "weights"
PACKAGED = ("clip-compact",)


class Prompts(Settings):
    """What the scorer asks. A group's probability is the sum over its prompts."""

    hazy: tuple[str, ...] = ("a hazy photo",)
    clear: tuple[str, ...] = ("a clear photo",)
    good: tuple[str, ...] = ("a good photo",)
    bad: tuple[str, ...] = ("a bad photo",)


class ScorerConfig(Settings):
    """Which CLIP, and how it looks at an image.

    Attributes:
        architecture: an ``open_clip`` name (``ViT-B-32``), ``hf-hub:org/repo`` or ``local-dir:/path``; a packaged
            name (``clip-compact``) and a plain folder path are short for ``local-dir:``.
        pretrained: tag or weights file for an architecture name; not used with a folder or a hub name.
        resolution: side in pixels that the whole image is resized to; None takes the architecture's own.
        block: side in pixels of the blocks of the trust map (32 in the paper).
        block_resolution: side that a block is resized to before it is encoded; None takes ``resolution``.
        block_batch: how many blocks are encoded at once; bounds memory.
    """

    architecture: str = "clip-compact"
    pretrained: str | None = None
    resolution: int | None = Field(None, ge=32)
    block: int = Field(32, ge=8)
    block_resolution: int | None = Field(64, ge=32)
    block_batch: int = Field(256, ge=1)
    prompts: Prompts = Prompts()


def _open_clip_name(config: ScorerConfig) -> str:
    """The name that ``open_clip`` understands, with packaged names and folders turned into ``local-dir:``."""
    name = config.architecture
    if name in PACKAGED:
        return f"local-dir:{WEIGHTS / name}"
    if ":" not in name and Path(name).is_dir():
        return f"local-dir:{Path(name).resolve()}"
    return name


def _check_name(name: str, pretrained: str | None) -> None:
    import open_clip

    if name.startswith(("local-dir:", "hf-hub:")):
        return
    known = open_clip.list_models()
    if name not in known:
        raise ConfigError(f"unknown scorer {name!r}{nearest(name, [*PACKAGED, *known])}")
    if pretrained is None:
        raise ConfigError(f"scorer {name!r} has no weights: set 'pretrained' to a tag or to a weights file")


class ClipScorer(nn.Module):
    """Scores images with a CLIP model; differentiable, frozen, on any device.

    Args:
        clip: an ``open_clip`` model.
        tokenize: its tokenizer.
        config: prompts and sizes.
        mean, std: the normalisation that the model was trained with.
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
    ) -> None:
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        self.tokenize = tokenize
        self.config = config
        self.resolution = config.resolution or resolution
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        prompts = config.prompts
        self.register_buffer("haze_text", self.encode_text([*prompts.clear, *prompts.hazy]))
        self.register_buffer("quality_text", self.encode_text([*prompts.good, *prompts.bad]))

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit text features: K texts -> (K, E)."""
        tokens = self.tokenize(texts).to(self.mean.device)  # type: ignore[operator]
        features: Tensor = self.clip.encode_text(tokens, normalize=True)  # type: ignore[operator]
        return features

    def encode(self, images: Tensor, resolution: int | None = None) -> Tensor:
        """Unit image features of N3HW in [0, 1], resized to a square: -> (N, E). Gradients flow to the images."""
        side = resolution or self.resolution
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        normal = (images - self.mean) / self.std
        features: Tensor = self.clip.encode_image(normal, normalize=True)  # type: ignore[operator]
        return features

    def _probability(self, features: Tensor, texts: Tensor, positive: int) -> Tensor:
        scale = self.clip.logit_scale.exp()  # type: ignore[operator]
        probabilities = (scale * features @ texts.T).softmax(dim=-1)
        return probabilities[:, :positive].sum(dim=-1).float()

    def judge(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Clearness and quality, each N in [0, 1], of unit features (N, E)."""
        clearness = self._probability(features, self.haze_text, len(self.config.prompts.clear))
        quality = self._probability(features, self.quality_text, len(self.config.prompts.good))
        return clearness, quality

    def haze_density(self, images: Tensor) -> Tensor:
        """P(hazy) of N3HW in [0, 1]: N in [0, 1], lower is better, with gradients to the images."""
        return 1.0 - self.judge(self.encode(images))[0]

    @torch.inference_mode()
    def clearness(self, images: Tensor) -> Tensor:
        """``1 - P(hazy)`` of N3HW in [0, 1]: N, higher is better."""
        return 1.0 - self.haze_density(images)

    @torch.inference_mode()
    def trust(self, images: Tensor) -> Tensor:
        """Block-wise mean of clearness and quality: N3HW -> N, H/block, W/block in [0, 1]; high where haze-free."""
        cut = blocks(images, self.config.block)
        count, rows, columns = cut.shape[:3]
        side = self.config.block_resolution or self.resolution
        parts = [
            self.judge(self.encode(chunk, side)) for chunk in torch.split(cut.flatten(0, 2), self.config.block_batch)
        ]
        clearness, quality = (torch.cat(values).view(count, rows, columns) for values in zip(*parts, strict=True))
        return trust_from_blocks(clearness, quality)

    @torch.inference_mode()
    def score(self, images: Tensor) -> Scores:
        """Clearness, quality and trust map of N3HW in [0, 1]; see :class:`pseudolabel.scores.Scores`."""
        clearness, quality = self.judge(self.encode(images))
        return Scores(clearness, quality, self.trust(images))


def create_clip(architecture: str, pretrained: str | None = None, *, load_weights: bool = True) -> nn.Module:
    """An ``open_clip`` model by its ``open_clip`` name. Weights are never silently random: see ``load_weights``."""
    import open_clip

    model: nn.Module = open_clip.create_model(
        architecture, pretrained=pretrained, load_weights=load_weights, require_pretrained=load_weights
    )
    return model


def load_scorer(name: str | ScorerConfig = "clip-compact", device: str | torch.device = "cpu") -> ClipScorer:
    """Load a scorer: a packaged name, a folder in ``open_clip`` layout, a hub name, or a full configuration.

    Raises:
        ConfigError: an unknown name (with its nearest neighbour), or an architecture without weights.
    """
    import open_clip

    config = name if isinstance(name, ScorerConfig) else ScorerConfig(architecture=name)
    full_name = _open_clip_name(config)
    _check_name(full_name, config.pretrained)
    clip = create_clip(full_name, config.pretrained)
    look = open_clip.get_model_preprocess_cfg(clip)
    size = look.get("size", 224)
    resolution = int(size if isinstance(size, int) else size[0])
    tokenize = open_clip.get_tokenizer(full_name)
    scorer = ClipScorer(clip, tokenize, config, mean=look["mean"], std=look["std"], resolution=resolution)
    return scorer.to(device).eval()
