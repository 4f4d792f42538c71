"""DA-CLIP (Luo et al., ICLR 2024), which the Colabator paper scores haze with, from the file that its authors released.

Its image controller, `visual_control`, is an ordinary ViT-B/32 under names of its own, trained so that its features are
near the words for what is wrong with an image. The zero-initialized layers beside it only steer the plain image tower
and are not used. The plain tower, which DA-CLIP left as it was, gives quality: the controller knows no good photo.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoints import read_released
from models.config import ConfigError
from models.networks import load_renamed
from pseudolabel.scorer.clip import DACLIP, ClipScorer, finished
from pseudolabel.scorer.config import Prompts, ScorerConfig

ARCHITECTURE = "ViT-B-32"
DEGRADATIONS = (
    "motion-blurry",
    "hazy",
    "jpeg-compressed",
    "low-light",
    "noisy",
    "raindrop",
    "rainy",
    "shadowed",
    "snowy",
    "uncompleted",
)
"""The words that it was trained with, in the released order."""

PROMPTS = Prompts(hazy=("hazy",), clear=tuple(word for word in DEGRADATIONS if word != "hazy"))


class DaclipScorer(ClipScorer):
    """Clearness from the degradation features, quality from those of the plain tower; two encodings of each image.

    Where :class:`ClipScorer` has features of length E, this has both kinds one after the other, 2 E.

    Args:
        clip: text and plain image tower.
        control: the image controller.
        tokenize, config, mean, std, resolution: see :class:`ClipScorer`.
    """

    def __init__(
        self,
        clip: nn.Module,
        control: nn.Module,
        tokenize: object,
        config: ScorerConfig,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resolution: int,
    ) -> None:
        super().__init__(clip, tokenize, config, mean=mean, std=std, resolution=resolution, prompts=PROMPTS)
        self.control = control.eval().requires_grad_(False).to(self.dtype)

    def degradation_features(self, normal: Tensor) -> Tensor:
        """Return unit degradation features of normalized images (N, 3, 224, 224): -> (N, E)."""
        return F.normalize(self.control(normal.to(self.dtype)).float(), dim=-1)

    def encode(self, images: Tensor, resolution: int | None = None) -> Tensor:
        """Return degradation and plain features of N3HW in [0, 1]: -> (N, 2 E), each half of unit length."""
        degradation = self.degradation_features(self.normalized(images, resolution))
        return torch.cat([degradation, super().encode(images, resolution)], dim=-1)

    def judge(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return clearness and quality, each (...) in [0, 1], of features (..., 2 E)."""
        degradation, plain = features.chunk(2, dim=-1)
        clearness = self._probability(degradation, self.haze_text, len(self.prompts.clear))
        return clearness, self._probability(plain, self.quality_text, len(self.prompts.good))

    def haze_density(self, images: Tensor) -> Tensor:
        """Return P(hazy) of N3HW in [0, 1]: N in [0, 1], lower is better, with gradients to the images."""
        features = self.degradation_features(self.normalized(images))
        return 1.0 - self._probability(features, self.haze_text, len(self.prompts.clear))


def load_daclip(
    weights: str | Path | Mapping[str, Tensor], config: ScorerConfig | None = None, device: str | torch.device = "cpu"
) -> DaclipScorer:
    """Load a scorer with released DA-CLIP weights.

    Args:
        weights: the released file (``torch.save`` or safetensors), or its state dict.
        config: prompts, precision and trust map; without prompts, the words that DA-CLIP was trained with.
        device: where it goes.

    Raises:
        ConfigError: the file cannot be read, or names or shapes do not match (each is listed).
    """
    import open_clip

    clip = open_clip.CLIP(**open_clip.get_model_config(ARCHITECTURE))
    # Of the same shape; both get their weights below.
    control = copy.deepcopy(clip.visual)
    towers = nn.ModuleDict({"clip": clip, "control": control})
    where = "the weights" if isinstance(weights, Mapping) else str(weights)
    state = weights if isinstance(weights, Mapping) else read_released(weights)
    try:
        load_renamed(towers, state, {name: _released_name(name) for name in towers.state_dict()}, _unused(state))
    except (ValueError, RuntimeError) as problem:
        raise ConfigError(f"{where} are not DA-CLIP's {ARCHITECTURE}: {' '.join(str(problem).split())}") from problem
    config = config or ScorerConfig(architecture=DACLIP)
    tokenize = open_clip.get_tokenizer(ARCHITECTURE)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    scorer = DaclipScorer(clip, control, tokenize, config, mean=mean, std=std, resolution=224)
    finished(scorer, device)
    return scorer


def _released_name(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "clip":
        return name
    return "visual_control." + rest.replace("transformer.", "transformer.transformer.", 1)


def _unused(names: Mapping[str, Tensor]) -> list[str]:
    """A second name of the plain tower and of the scale, and the layers that steer it."""
    return [
        name
        for name in names
        if name == "logit_scale" or name.startswith(("visual.", "visual_control.transformer.zero_modules."))
    ]
