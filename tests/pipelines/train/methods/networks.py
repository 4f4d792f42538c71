"""Networks such as a user brings along, and tiny batches. Not a test: other tests, and their processes, import it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

OF_A_STEP = {"learning_rate", "gradient_norm"}
"""What a step tells beside its losses."""


class Plain(nn.Module):
    """An image in, an image out; dropout, so that the random state matters."""

    def __init__(self, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = image + self.body(image)
        return out


class Physical(nn.Module):
    """An image in, an object with scene and transmission out, of a class that torch knows nothing about."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(dropout))
        self.scene, self.transmission = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 1, 1)

    def forward(self, image: Tensor) -> SimpleNamespace:
        feature = self.body(image)
        return SimpleNamespace(scene=self.scene(feature), transmission=self.transmission(feature).sigmoid())


class Forgetful(Plain):
    """Has a head that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(3, 3, 1)


class Brightness:
    """Stands for the scorer: the brighter, the hazier."""

    def haze_density(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))


def same(one: Any, other: Any) -> bool:
    """Whether two states are the same to the last bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def batch(seed: int, count: int = 2, side: int = 16) -> dict[str, Tensor]:
    """Synthetic and real samples in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    names = ("hazy", "clear", "strong", "label")
    made = {name: torch.rand(count, 3, side, side, generator=generator) for name in names}
    maps = {name: torch.rand(count, 1, side, side, generator=generator) for name in ("trust", "transmission")}
    return made | maps | {name: torch.rand(count, 3, generator=generator) for name in ("airlight", "tint")}
