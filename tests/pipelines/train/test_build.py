"""From a recipe to its method and back to a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from pipelines.train import build
from pipelines.train.build import (
    make_contrastive,
    make_method,
    make_network,
    network_config,
    rehearse,
    write_checkpoint,
)
from pipelines.train.methods.colabator import Colabator
from pipelines.train.methods.scorer import ScorerTraining
from pipelines.train.methods.supervised import Supervised
from pipelines.train.recipe import Recipe, load_recipe
from pseudolabel.scorer.backbone import ScorerFeatures
from tests.pipelines.train.methods.networks import batch

CPU = torch.device("cpu")
SMALL = "network={name: corun, stages: 1, dim: 2}"


def small(name: str, *overrides: str) -> Recipe:
    return load_recipe(name, [SMALL, "init=null", *overrides])


def test_weights_that_the_driver_has_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import vgg19

    with torch.device("meta"):
        shapes = vgg19(weights=None, init_weights=False).state_dict()
    state = {name: torch.rand(value.shape) for name, value in shapes.items() if name.startswith("features")}
    made = []

    def load(source: str) -> dict[str, torch.Tensor]:
        made.append(source)
        return {name: value for name, value in state.items() if int(name.split(".")[1]) <= 28}

    monkeypatch.setattr(build, "load_vgg", load)
    recipe = small("demo_pretrain", "perceptual.backbone=vgg19")
    weights = rehearse(recipe)
    assert weights is not None
    assert torch.equal(weights["features.28.bias"], state["features.28.bias"])
    method: Any = make_method(recipe, CPU, vgg19=weights)
    assert torch.equal(method.contrastive.features.features[28].bias, state["features.28.bias"])
    assert made == ["vgg19"]
    assert rehearse(small("demo_pretrain")) is None


def test_the_seed_decides_the_first_weights() -> None:
    def first(seed: int) -> torch.Tensor:
        made = make_method(small("demo_pretrain", f"train.seed={seed}"), CPU)
        return torch.cat([p.flatten() for p in made.export().parameters()])

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_each_method_has_its_class() -> None:
    assert type(make_method(small("demo_pretrain"), CPU)) is Supervised
    colabator = make_method(small("demo_colabator", "real.haze_density=0.1"), CPU)
    assert isinstance(colabator, Colabator)
    assert colabator.scorer.haze_density(torch.rand(1, 3, 64, 64)).shape == (1,)
    assert isinstance(make_method(load_recipe("scorer_clip_compact"), CPU), ScorerTraining)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("edges", "cannot build loss 'edges': expected package.module:name"),
        ("torch.nn.functional:edges", "cannot build loss 'torch.nn.functional:edges'"),
        ("no_such_package:edges", "no_such_package"),
        ("math:pi", "weights.own names 'math:pi', which is a float; expected a function"),
    ],
)
def test_a_loss_of_one_s_own_that_cannot_be_had_is_refused_before_training(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        rehearse(small("demo_pretrain", f"weights.own={{{path}: 0.5}}"))


def test_a_loss_of_one_s_own_is_imported_by_its_path() -> None:
    made = make_method(small("demo_pretrain", "weights.own={torch.nn.functional:mse_loss: 0.5}"), CPU)
    assert made.training_step(batch(0), 0)["torch.nn.functional.mse_loss"] > 0


def test_a_scorer_is_loaded_only_where_its_gradients_are_wanted() -> None:
    for name, weight in (("demo_colabator", "real.haze_density"), ("demo_pretrain", "weights.haze_density")):
        scorer = "scorer=clip-compact"
        assert make_method(small(name, scorer, f"{weight}=0"), CPU).scorer is None  # type: ignore[attr-defined]
        assert make_method(small(name, scorer, f"{weight}=0.1"), CPU).scorer is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "built"),
    [
        ("demo_pretrain", [], False),
        ("demo_pretrain", ["perceptual.backbone=scorer"], True),
        ("demo_pretrain", ["perceptual.backbone=scorer", "weights.contrastive=0"], False),
        ("demo_pretrain", ["perceptual.backbone=scorer", "weights.contrastive=0", "weights.perceptual=0.04"], True),
        ("demo_colabator", ["perceptual.backbone=scorer", "weights.contrastive=0"], True),
        ("demo_colabator", ["perceptual.backbone=scorer", "weights.contrastive=0", "real.contrastive=0"], False),
    ],
)
def test_a_backbone_is_loaded_only_where_a_loss_has_a_weight(name: str, options: list[str], built: bool) -> None:
    found = make_contrastive(small(name, *options), CPU)
    assert (found is not None) == built
    if found is not None:
        assert isinstance(found.features, ScorerFeatures)
        assert found.weights == (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


def test_haze_density_and_contrast_share_one_scorer() -> None:
    made = make_method(small("demo_colabator", "real.haze_density=0.1", "perceptual.backbone=scorer"), CPU)
    assert isinstance(made, Colabator)
    assert made.contrastive is not None
    assert made.contrastive.features.scorer is made.scorer  # type: ignore[attr-defined]
    larger = torch.nn.Upsample((64, 64))
    data = {key: larger(value) if value.dim() == 4 else value for key, value in batch(0).items()}
    found = made.training_step(data, 0)
    assert {"contrastive", "real_contrastive", "real_haze_density"} < set(found)
    names = [name for name, _ in made.stepper._plain.named_parameters()]
    assert len(names) == len(list(made.network.parameters()))  # no wrapper gets to see the frozen networks


@pytest.mark.parametrize("weight", ["weights.contrastive", "weights.perceptual", "real.contrastive"])
def test_a_perceptual_loss_without_a_backbone_is_refused(weight: str) -> None:
    message = rf"^Recipe: {re.escape(weight)} is 0\.2, and perceptual\.backbone is 'none': set the backbone to vgg19"
    with pytest.raises(ConfigError, match=message):
        small("demo_colabator", f"{weight}=0.2")


def test_a_backbone_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="backbone is 'vgg18', and there is no such file"):
        make_method(small("demo_pretrain", "perceptual.backbone=vgg18"), CPU)


def test_a_checkpoint_gives_back_the_exported_network(tmp_path: Path) -> None:
    recipe = small("demo_pretrain")
    made = make_method(recipe, CPU)
    folder = write_checkpoint(tmp_path / "ck", made, recipe, {"l1": 0.25}, step=9)
    loaded = zoo.load(str(folder))
    assert loaded.config["step"] == 9
    assert loaded.config["recipe"] == recipe.model_dump(mode="json")
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, made.export().state_dict()[name])
    state = checkpoint.read_state(folder)
    assert state is not None
    assert state["step"] == 9
    again = make_method(recipe, CPU)
    again.load_state_dict(state["method"])


def test_the_recipe_s_settings_reach_the_method() -> None:
    recipe = small(
        "demo_colabator", "scorer=null", "weights={l1: 0.7}", "real={label: 0.3}", "train.steps=77",
        "optimizer={learning_rate: 0.02, weight_decay: 0.3, warmup: 0}",
    )  # fmt: skip
    made = make_method(recipe, CPU)
    assert isinstance(made, Colabator)
    assert (made.weights, made.real, made.stepper.steps) == (recipe.weights, recipe.real, 77)
    group = made.stepper.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)


def test_training_starts_from_a_checkpoint(tmp_path: Path) -> None:
    network = {"name": "corun", "stages": 1, "dim": 2}
    folder = checkpoint.save(tmp_path / "init", zoo.build(network), {"network": network})
    recipe = load_recipe("demo_pretrain", [SMALL, f"init={folder}"])
    made = make_network(recipe)
    assert made.training
    for name, value in zoo.load(str(folder)).network.state_dict().items():
        assert torch.equal(value, made.state_dict()[name])
    unsaid = load_recipe("demo_pretrain", ["network={}", f"init={folder}"])
    assert network_config(unsaid) == network
    with pytest.raises(ConfigError, match="but the recipe asks for"):
        make_network(load_recipe("demo_pretrain", ["network={name: corun, stages: 2, dim: 2}", f"init={folder}"]))


def test_training_does_not_start_from_what_has_no_weights() -> None:
    with pytest.raises(ConfigError, match="'dcp' has no weights that could be trained"):
        make_network(load_recipe("demo_pretrain", ["network={}", "init=dcp"]))


def test_a_label_without_a_whole_block_is_refused_before_the_work() -> None:
    scorer = "scorer={architecture: clip-compact, block: 48}"
    rehearse(load_recipe("demo_colabator", [scorer, "labels.size=48"]))
    with pytest.raises(
        ConfigError, match=r"labels\.size is 32, and scorer\.block is 48: a label needs one whole block"
    ):
        rehearse(load_recipe("demo_colabator", [scorer, "labels.size=32"]))


def test_the_seed_is_that_of_a_scorer_s_resolutions_too() -> None:
    drawn = []
    for seed in (1, 1, 2):
        made = make_method(load_recipe("scorer_clip_compact", [f"train.seed={seed}"]), CPU)
        assert isinstance(made, ScorerTraining)
        drawn.append([made.random.random() for _ in range(4)])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_scorer_needs_its_architecture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network\.folder is"):
        make_method(load_recipe("scorer_clip_compact", [f"network.folder={tmp_path}"]), CPU)
