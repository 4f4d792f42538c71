"""Training of the compact CLIP scorer: photographs with haze of known density and with defects, captioned accordingly.

Image-text contrast against captions of the haze level and of the defect, plus the two antonym pairs that the scorer
asks at run time, whose softmax is fitted to the density of the haze and to the quality.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.config import Settings
from pipelines.train.methods.optimization import Batch, Figures, OptimizerConfig, Predict, Stepper, Wrap, identity

HAZE_LEVELS = ("a photo without haze", "a photo with light haze", "a photo with heavy haze", "a photo in dense fog")
LEVEL_BOUNDS = (0.08, 0.35, 0.65)
DEFECTS = ("blurry", "noisy", "compressed", "badly exposed", "color-cast")
DEFECT_CAPTIONS = ("a flawless photo", *(f"a {defect} photo" for defect in DEFECTS))
ANTONYMS = (("a clear photo", "a hazy photo"), ("a good photo", "a bad photo"))
RESOLUTIONS = (64, 96, 128, 160)


class ScoringConfig(Settings):
    """What the scores are fitted to.

    Attributes:
        haze_in_quality: how much haze takes from the quality, from 0 (haze is no defect) to 1: the target is
            ``(1 - severity of the defect) * (1 - haze_in_quality * density)``.
    """

    haze_in_quality: float = Field(0.0, ge=0, le=1)


class _Logits(nn.Module):
    """Image against all captions, in one module so that a distributed wrapper sees every parameter."""

    tokens: Tensor

    def __init__(self, clip: nn.Module, tokens: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """N3HW in [0, 1] -> (N, captions)."""
        features = self.clip.encode_image((images - self.mean) / self.std, normalize=True)  # type: ignore[operator]
        texts = self.clip.encode_text(self.tokens, normalize=True)  # type: ignore[operator]
        logits: Tensor = self.clip.logit_scale.exp() * features @ texts.T  # type: ignore[operator]
        return logits


class ScorerTraining:
    """Fits a CLIP model; ``export`` gives the model itself."""

    def __init__(
        self,
        clip: nn.Module,
        tokenize: Any,
        *,
        mean: Tensor,
        std: Tensor,
        optimizer: OptimizerConfig,
        scoring: ScoringConfig,
        steps: int,
        seed: int,
        device: torch.device,
        wrap: Wrap = identity,
    ) -> None:
        captions = [*HAZE_LEVELS, *DEFECT_CAPTIONS, *ANTONYMS[0], *ANTONYMS[1]]
        self.network = _Logits(clip, tokenize(captions), mean, std).to(device)
        self.scoring, self.random = scoring, random.Random(seed)
        self.stepper = Stepper(self.network, self.objective, config=optimizer, steps=steps, wrap=wrap)

    def objective(self, predict: Predict, batch: Batch) -> tuple[Figures, Figures]:
        """Return losses of a batch, and the mean error of its densities."""
        logits = predict(batch["image"]).float()
        haze, rest = logits[:, : len(HAZE_LEVELS)], logits[:, len(HAZE_LEVELS) :]
        defects, clear_hazy, good_bad = rest.split([len(DEFECT_CAPTIONS), 2, 2], dim=1)
        density = batch["density"]
        quality = batch["quality"] * (1 - self.scoring.haze_in_quality * density)
        level = torch.bucketize(density, torch.tensor(LEVEL_BOUNDS, device=density.device))
        parts = {
            "level": F.cross_entropy(haze, level),
            "defect": 0.5 * F.cross_entropy(defects, batch["defect"]),
            "density": 2.0 * F.cross_entropy(clear_hazy, torch.stack([1 - density, density], dim=1)),
            "quality": F.cross_entropy(good_bad, torch.stack([quality, 1 - quality], dim=1)),
        }
        error = (clear_hazy.detach().softmax(1)[:, 1] - density).abs().mean()
        return parts, {"density_error": error}

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Take a step on ``image`` N3HW in [0, 1], ``density``, ``quality`` N in [0, 1], ``defect`` N -> losses."""
        side = self.random.choice(RESOLUTIONS)
        images = F.interpolate(batch["image"], size=(side, side), mode="bilinear", antialias=True)
        return self.stepper.step({**batch, "image": images}, step)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Stepper`; and the state of the choice of resolutions."""
        return {**self.stepper.state_dict(), "resolutions": self.random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.stepper.load_state_dict(state)
        version, words, spare = state["resolutions"]
        self.random.setstate((version, tuple(words), spare))

    def export(self) -> nn.Module:
        """Return the CLIP model with averaged weights."""
        clip: nn.Module = self.stepper.teacher.network.clip  # type: ignore[assignment]
        return clip
