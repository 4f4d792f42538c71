"""What a training run is asked for, and what comes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.paths import absolute, child
from pipelines.train.recipe import Recipe


@dataclass(frozen=True)
class TrainJob:
    """What to train, on what, and where to. Paths may be relative, and are made absolute: workers have another current
    folder.

    Attributes:
        recipe: of :func:`load_recipe`.
        out: folder or URI.
        clear, hazy: corpora, folders or URIs; a recipe needs one of them or both.
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
        places = {name: place for name in ("out", "clear", "hazy") if (place := getattr(self, name)) is not None}
        settled = {name: absolute(place) for name, place in places.items()} | {
            "recipe": with_absolute_paths(self.recipe)
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def corpora(self) -> dict[str, str | None]:
        """Return the corpora by domain."""
        return {"clear": self.clear, "hazy": self.hazy}

    @property
    def trained(self) -> dict[str, Any]:
        """Return what is trained, on what; without the keys that only say how it runs."""
        return self.recipe.trained() | self.corpora

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


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with the local files that it names made absolute: workers have another current folder. A
    packaged name stays one, whatever lies here.
    """
    from models.zoo import PACKAGED

    update: dict[str, Any] = {"scorer": _absolute_scorer(recipe.scorer)}
    if recipe.init is not None and recipe.init not in PACKAGED and Path(recipe.init).is_dir():
        update["init"] = absolute(recipe.init)
    if Path(recipe.perceptual.backbone).is_file():
        backbone = absolute(recipe.perceptual.backbone)
        update["perceptual"] = recipe.perceptual.model_copy(update={"backbone": backbone})
    if recipe.method == "scorer":
        update["network"] = {key: _absolute_scorer(value) for key, value in recipe.network.items()}
    return recipe.model_copy(update=update)


def _absolute_scorer(value: Any) -> Any:
    """Make the files and folders that a scorer is made of absolute, as far as they are there."""
    from pseudolabel.scorer import PACKAGED

    if isinstance(value, dict):
        return {key: _absolute_scorer(inner) for key, inner in value.items()}
    is_name = not isinstance(value, str) or value in PACKAGED
    return value if is_name or not Path(value).exists() else absolute(value)
