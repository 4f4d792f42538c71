"""Training of a CLIP scorer: it fits densities, and what it writes loads as a scorer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.config import ConfigError
from pipelines.train.build import make_method, write_checkpoint
from pipelines.train.methods.scorer import ScoringConfig
from pipelines.train.recipe import Recipe, load_recipe
from pseudolabel.scorer.clip import ScorerConfig
from pseudolabel.scorer.loading import load_scorer

ARCHITECTURE = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": [64, 64]},
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "open_clip_config.json").write_text(json.dumps(ARCHITECTURE))
    monkeypatch.setattr("pipelines.train.methods.scorer.RESOLUTIONS", (64,))
    return load_recipe(
        "scorer_clip_compact",
        [f"network={{folder: {tmp_path / 'tiny'}}}", "optimizer={learning_rate: 0.003, ema: 0.5}"],
    )


def batch() -> dict[str, Tensor]:
    """The brighter, the hazier."""
    density = torch.linspace(0, 0.9, 12)
    return {
        "image": density[:, None, None, None].expand(12, 3, 64, 64).contiguous(),
        "density": density,
        "quality": torch.ones(12),
        "defect": torch.zeros(12, dtype=torch.long),
    }


def test_it_learns_densities_and_loads_as_a_scorer(recipe: Recipe, tmp_path: Path) -> None:
    method = make_method(recipe, torch.device("cpu"))
    errors = [method.training_step(batch(), step)["density_error"] for step in range(40)]
    assert errors[-1] < 0.6 * errors[0]
    folder = write_checkpoint(tmp_path / "out", method, recipe, {}, step=40)
    scorer = load_scorer(str(folder))
    found = 1 - scorer.clearness(batch()["image"])
    assert scorer.resolution == 64
    assert (found.diff() > 0).float().mean() > 0.8
    assert float((found - batch()["density"]).abs().mean()) < 0.6 * errors[0]


@pytest.mark.parametrize(("share", "falls"), [(0.0, False), (0.8, True)])
def test_haze_takes_as_much_of_the_quality_as_is_configured(
    recipe: Recipe, tmp_path: Path, share: float, falls: bool
) -> None:
    recipe = recipe.model_copy(update={"scoring": ScoringConfig(haze_in_quality=share)})
    method = make_method(recipe, torch.device("cpu"))
    for step in range(40):
        method.training_step(batch(), step)
    scorer = load_scorer(str(write_checkpoint(tmp_path / "out", method, recipe, {}, step=40)))
    _, quality = scorer.rate(batch()["image"])
    wanted = 1 - share * batch()["density"]
    assert float((quality - wanted).abs().mean()) < 0.1
    assert (float(quality[0] - quality[-1]) > 0.3) == falls


def test_an_architecture_without_weights_is_refused(recipe: Recipe) -> None:
    with pytest.raises((ConfigError, FileNotFoundError, RuntimeError)):
        load_scorer(str(recipe.network["folder"]))
    with pytest.raises(ConfigError, match="has no weights"):
        load_scorer("ViT-B-32")
    with pytest.raises(ConfigError, match="did you mean 'clip-compact'"):
        load_scorer(ScorerConfig(architecture="clip-compct"))
