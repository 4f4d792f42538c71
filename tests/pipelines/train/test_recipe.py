"""Recipes: the packaged ones, overrides, and what is said about mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from models import zoo
from models.config import ConfigError
from pipelines.train.recipe import AS_EVER, load_recipe, unread
from pipelines.train.recipes import recipe_names


def test_packaged_recipes_load_and_say_what_they_train() -> None:
    names = recipe_names()
    assert {"pretrain_corun_compact", "refine_corun_compact", "colabator_corun_compact"} <= set(names)
    for name in names:
        recipe = load_recipe(name)
        assert recipe.network
        if recipe.method != "scorer":
            zoo.build(recipe.network)


@pytest.mark.parametrize("name", ["demo_pretrain", "demo_colabator"])
def test_the_demo_s_recipes_fit_two_logical_cpus(name: str) -> None:
    """Ray hangs, silently, when actors and data tasks together ask for more than there is."""
    recipe = load_recipe(name)
    train, labels = recipe.train, recipe.labels
    asked = train.workers * train.worker_cpus + 2 * train.data_cpus
    asked += labels.workers * labels.worker_cpus if recipe.method == "colabator" else 0
    assert train.workers == 2
    assert asked <= 2


def test_values_can_be_set_one_by_one() -> None:
    recipe = load_recipe("demo_pretrain", ["train.steps=7", "init=null", "haze.beta=[0.5, 0.6]", "train.seed= 3"])
    assert (recipe.train.steps, recipe.train.seed) == (7, 3)
    assert recipe.init is None
    assert recipe.haze.beta == (0.5, 0.6)
    assert recipe.train.workers == load_recipe("demo_pretrain").train.workers


@pytest.mark.parametrize(
    ("name", "overrides", "left"),
    [
        ("cddgan", ["weights.l1=2", "cddgan.weights.gan=2", "haze.beta=[0, 1]"], ["weights.l1", "haze.beta"]),
        ("demo_pretrain", ["weights={l1: 2}", "real.label=1", "crop.size=32"], ["real.label"]),
        ("demo_colabator", ["weights.l1=2", "real.label=1", "labels.size=64", "haze.beta=[0, 1]", "scorer=x"], []),
        ("scorer_clip_compact", ["scoring.haze_in_quality=0.1", "haze.beta=[0, 1]", "scorer=x"], ["scorer"]),
    ],
)  # fmt: skip
def test_what_a_method_does_not_read_is_known(name: str, overrides: list[str], left: list[str]) -> None:
    assert unread(load_recipe(name, overrides), overrides) == left


def test_a_scorer_starts_from_nothing() -> None:
    with pytest.raises(ConfigError, match="'init' is 'clip-compact', and method scorer starts from nothing"):
        load_recipe("scorer_clip_compact", ["init=clip-compact"])


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: supervised\nnetwork: {name: corun, stages: 1, dim: 2}\n")
    assert load_recipe(path).network == {"name": "corun", "stages": 1, "dim": 2}


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("method: supervised\ntrain: {setps: 3}", [], "unknown key 'setps' in train; did you mean 'steps'"),
        ("method: supervise", [], "'method' is 'supervise'"),
        ("methods: supervised", [], "unknown key 'methods'; did you mean 'method'"),
        ("method: supervised", ["train.steps"], "expected key=value"),
        (
            "method: supervised",
            ["crop.scale=[1, 0.4]"],
            "'scale' in crop is [1, 0.4]: expected two numbers, 0 or more, the",
        ),
        (
            "method: supervised",
            ["crop.scale=[-1, 0.4]"],
            "'scale' in crop is [-1, 0.4]: expected two numbers, 0 or more, the",
        ),
        ("method: supervised", ["haze.beta=[0.1, 2"], "--set 'haze.beta=[0.1, 2': '[0.1, 2' is not YAML"),
        ("method: supervised\nweights: {haze_density: 0.1}", [], "weights.haze_density is 0.1, and scorer is null"),
        ("method: colabator\nreal: {haze_density: 0.1}", [], "real.haze_density is 0.1, and scorer is null"),
        ("method: supervised", ["method.steps=3"], "'method' has no keys inside"),
        ("method: supervised", ["train.steps=0"], "'steps' in train is 0"),
        ("method: cddgan\noptimizer: {learning_rate: 0.1}", [], "method cddgan has several of its own"),
        ("method: [", [], "is not YAML"),
        ("- a\n- b", [], "holds a list"),
    ],
)
def test_a_mistake_is_one_sentence(text: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_recipe(path, overrides)


def test_what_was_trained_before_there_was_a_key_for_it_is_the_same_run() -> None:
    """A younger key counts only where it has another value than what stands for the time before it."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in AS_EVER.items()]
    as_before = load_recipe("colabator_corun_compact", overrides).trained()
    plain = ["weights.transmission=0", "weights.airlight=0", "haze.kinds={}"]
    assert load_recipe("colabator_corun_compact", plain).trained() == as_before
    assert load_recipe("colabator_corun_compact").trained()["haze"]["kinds"]
    for key in AS_EVER:
        part, _, name = key.partition(".")
        assert name not in as_before[part]
    pairs = load_recipe("demo_pretrain", ["labels.augmentation=symmetric"])
    assert load_recipe("demo_pretrain").trained() == pairs.trained(), "it has no labels"
    published = load_recipe("colabator_corun_compact", ["labels.augmentation=published"])
    assert published.trained()["labels"]["augmentation"] == "published"


def test_an_unknown_recipe_has_a_neighbor() -> None:
    with pytest.raises(ConfigError, match="no recipe 'demo_pretrian'; did you mean 'demo_pretrain'"):
        load_recipe("demo_pretrian")


def test_a_missing_file_is_not_mistaken_for_the_packaged_recipe_of_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no recipe"):
        load_recipe(tmp_path / "demo_pretrain.yaml")
