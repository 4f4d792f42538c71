"""What a training run is asked for, and what comes of it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from models.paths import child
from pipelines.train.recipe import Recipe


@dataclass(frozen=True)
class TrainJob:
    """What to train, on what, and where to.

    Attributes:
        out: folder or URI.
        tracking: an MLflow tracking URI and run id, or None.
        allow_networks: packages whose networks the checkpoint ``init`` may name.
    """

    recipe: Recipe
    out: str
    clear: str | None = None
    hazy: str | None = None
    tracking: tuple[str, str] | None = None
    allow_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", os.fspath(self.out))  # paths are taken too

    @property
    def trained(self) -> dict[str, Any]:
        """Return what is trained, on what; without the keys that only say how it runs."""
        return self.recipe.trained() | {"clear": self.clear, "hazy": self.hazy}

    @property
    def digest(self) -> str:
        """Return a digest of what is trained: another digest is another run."""
        return hashlib.sha256(json.dumps(self.trained, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """Name of the run below ``out``."""
        return f"{self.recipe.method}-{self.digest}"

    @property
    def pins(self) -> str:
        """Return where the run keeps the manifests of its corpora: it reads what it began with to its end."""
        return child(self.out, f"corpora/{self.name}")

    @property
    def cluster_name(self) -> str:
        """Name of the run on the cluster, where others may train the same recipe into other folders."""
        return f"{self.name}-{hashlib.sha256(self.out.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model is, its last losses, and for Colabator what the label pool came to."""

    model: str
    metrics: dict[str, float]
    labels: dict[str, Any]
