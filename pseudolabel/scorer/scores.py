"""What a scorer gives back, and what counts as a scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Scores of N images, float32, all in [0, 1], higher is better.

    `clearness` (N,) is one minus the probability of haze, `quality` (N,) is how good the photograph looks, and
    `trust` (N, gh, gw) is the mean (or product) of both per block: high where the image is free of haze.
    """

    clearness: Tensor
    quality: Tensor
    trust: Tensor


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores images; `pseudolabel.scorer.clip.ClipScorer` is the usual one."""

    def rate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return clearness and quality alone, N each."""
        ...

    def score(self, images: Tensor) -> Scores:
        """Score `images` (N, 3, H, W), RGB in [0, 1], on whatever device they are."""
        ...
