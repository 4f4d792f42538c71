"""The recipes of full size: the published settings, and two steps of each on a CPU, with the networks of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.images import to_tensor
from pipelines.train.build import make_method, make_scorer, write_checkpoint
from pipelines.train.data import sampling_of
from pipelines.train.label_streams import InlineLabels, Stopwatch
from pipelines.train.recipe import Recipe, load_recipe
from pipelines.train.recipes import recipe_names
from pseudolabel.pool.label_pool import LabelPool
from tests.conftest import encoded
from tests.pipelines.train.methods.networks import OF_A_STEP

CPU = torch.device("cpu")
STAGE_1 = ("pretrain_corun", "pretrain_dgun")
STAGE_2 = ("colabator_corun", "colabator_dgun", "colabator_cddgan")
SMALL = [
    "crop.size=32", "crop.per_photo=1", "train.batch_size=1", "labels.size=32", "labels.batch_size=1",
    "perceptual.backbone=scorer",  # VGG-19 would have to be downloaded
    "optimizer.precision=float32", "train.worker_gpus=0", "labels.worker_gpus=0",
]  # fmt: skip


def test_no_recipe_for_gpus_is_left_out() -> None:
    found = {name for name in recipe_names() if load_recipe(name).train.worker_gpus}
    assert {name for name in found if load_recipe(name).method != "cddgan"} == {*STAGE_1, *STAGE_2}


@pytest.mark.parametrize("name", STAGE_1)
def test_stage_1_is_as_published(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.train.steps, recipe.train.workers * recipe.train.batch_size, recipe.crop.size) == (30_000, 8, 288)
    assert (recipe.weights.l1, recipe.weights.contrastive) == (1.0, 0.2)
    assert recipe.weights.reconstruction == (0.01 if name == "pretrain_corun" else 0)
    assert recipe.weights.haze_density > 0
    as_published(recipe, 1e-4)


@pytest.mark.parametrize("name", STAGE_2)
def test_stage_2_is_as_published(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.train.steps, recipe.crop.size, recipe.labels.size) == (5000, 288, 288)
    weights, real = recipe.weights, recipe.real
    assert (weights.l1, weights.reconstruction, weights.contrastive, weights.perceptual) == (2.5, 0, 0, 0.04)
    assert (real.label, real.contrastive, real.contrastive_trust) == (5.0, 0.2, False)
    assert real.reconstruction == (0.005 if name == "colabator_corun" else 0)
    assert (recipe.labels.augmentation, recipe.labels.jpeg_probability, recipe.labels.passes) == ("published", 0.5, 1)
    assert recipe.optimizer.ema == 0.999
    as_published(recipe, 5e-5)


def as_published(recipe: Recipe, rate: float) -> None:
    """What both stages have in common: a constant rate, no clipping, the ranges of haze, VGG-19 as it is."""
    schedule = recipe.optimizer
    assert (schedule.learning_rate, schedule.warmup, schedule.final_share, schedule.clip_norm) == (rate, 0, 1.0, None)
    haze = recipe.haze
    assert (haze.beta, haze.airlight, haze.darken_exponent) == ((0.2, 2.8), (0.25, 1.0), (1.5, 3.0))
    assert haze.noise_sigma == (0.008, 0.098)
    assert (recipe.perceptual.backbone, recipe.perceptual.normalize) == ("vgg19", False)


def photographs(seed: int) -> list[dict[str, Any]]:
    """A row of a corpus."""
    pixels = np.random.default_rng(seed).integers(40, 256, (6, 8, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC))
    return [{"image_id": f"{seed:032x}", "image": encoded(large), "depth": None}]


def batch(recipe: Recipe, domain: str, seed: int) -> dict[str, Any]:
    """What a recipe makes of a photograph."""
    samples = sampling_of(recipe)[domain].function(photographs(seed), seed=seed)
    return {key: to_tensor(value) if value.dtype == np.uint8 else value for key, value in samples.items()}


def two_steps(recipe: Recipe, method: Any, folder: Path) -> list[dict[str, float]]:
    pool, labels = LabelPool(folder, sync=False), None
    if recipe.method == "colabator":
        stream: Any = (batch(recipe, "hazy", seed) for seed in range(2))
        models = (method.teacher, make_scorer(recipe, CPU))
        labels = InlineLabels(stream, pool, Stopwatch(), models, recipe.labels.passes)
    found = []
    for step in range(2):
        data: dict[str, Tensor] = batch(recipe, "clear", 10 + step)
        found.append(method.training_step(data | (labels.take(step) if labels else {}), step))
    pool.close()
    return found


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*STAGE_1, "colabator_corun", "colabator_dgun")),
        "colabator_cddgan",  # the quickest of them
    ],
)
def test_two_steps_on_a_cpu(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, SMALL)
    if recipe.method == "colabator":  # it starts from given weights
        torch.manual_seed(0)
        made: Any = make_method(recipe, CPU)
        write_checkpoint(tmp_path / "init", made, recipe, {}, step=0)
        recipe = recipe.model_copy(update={"init": str(tmp_path / "init")})
    method: Any = make_method(recipe, CPU)
    before = [p.detach().clone() for p in method.network.parameters()]
    first, second = two_steps(recipe, method, tmp_path / "pool")
    physical = recipe.network["name"] == "corun"
    expected = {"loss", "l1", "contrastive", "haze_density"} | ({"reconstruction"} if physical else set())
    if recipe.method == "colabator":
        expected = {"loss", "l1", "perceptual", "real_label", "real_contrastive"}
        expected |= {"real_reconstruction"} if physical else set()
    assert set(first) == set(second) == expected | OF_A_STEP
    assert all(np.isfinite(value) for value in (*first.values(), *second.values()))
    moved = [not torch.equal(p, old) for p, old in zip(method.network.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert method.stepper.teacher.in_force == (0.999 if recipe.method == "colabator" else pytest.approx(3 / 12))
