"""Colabator is plug and play: every recipe labels and trains its network, and two training workers share one pool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

from models import zoo
from models.images import to_tensor
from pipelines.train.build import make_method, make_scorer
from pipelines.train.label_streams import InlineLabels, PooledLabels, Stopwatch
from pipelines.train.labels import labeling_config
from pipelines.train.recipe import Recipe, load_recipe
from pipelines.train.recipes import recipe_names
from pseudolabel.labeling.labeler import Labeler, pack_state
from pseudolabel.pool.label_pool import LabelPool

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import test modules

CPU = torch.device("cpu")
TINY = {
    "corun": "{name: corun, stages: 2, dim: 2}",
    "dgun": "{name: dgun, stages: 3, dim: 4, growth: 2, subspace: 2, tail: 2}",
    "cddgan": "{name: cddgan, width: 4, blocks: 1}",
    "own": "{name: 'tests.pipelines.train.methods.networks:Plain'}",
}
RECIPES = sorted(name for name in recipe_names() if load_recipe(name).method == "colabator")


def tiny(name: str, network: str) -> Recipe:
    """The recipe with a tiny network from nothing, on a CPU, without the weights of VGG-19."""
    return load_recipe(
        name,
        [
            f"network={TINY[network]}", "init=null", "perceptual.backbone=none", "weights.contrastive=0",
            "weights.perceptual=0", "real.contrastive=0", "optimizer.precision=float32", "labels.size=32",
            "labels.batch_size=2", "labels.worker_gpus=0", "train.worker_gpus=0", "train.steps=6",
            "optimizer.learning_rate=2e-3", "optimizer.warmup=0",
        ],
    )  # fmt: skip


def photographs(seed: int, count: int = 2) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(80, 256, (count, 32, 32, 3), dtype=np.uint8)
    ids = np.array([f"photo {seed} {index}" for index in range(count)])
    return {"image_id": ids, "photo": to_tensor(pixels), "strong": to_tensor(pixels)}


def test_the_three_networks_have_recipes_of_full_size() -> None:
    assert {"colabator_corun", "colabator_dgun", "colabator_cddgan"} <= set(RECIPES)
    sizes = {}
    for name in ("corun", "dgun", "cddgan"):
        recipe = load_recipe(f"colabator_{name}")
        assert recipe.network["name"] == name
        sizes[name] = sum(p.numel() for p in zoo.build(recipe.network).parameters()) / 1e6
    assert sizes["corun"] == pytest.approx(18.67, abs=0.01)
    assert sizes["dgun"] == pytest.approx(3.63, abs=0.01)
    assert sizes["cddgan"] == pytest.approx(11.38, abs=0.02)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("colabator_corun", "corun"),
        ("colabator_dgun", "dgun"),
        ("colabator_cddgan", "cddgan"),
        ("demo_colabator", "own"),
    ],
)
def test_a_recipe_labels_and_trains(name: str, network: str, tmp_path: Path) -> None:
    recipe = tiny(name, network)
    method: Any = make_method(recipe, CPU)
    pool = LabelPool(tmp_path, sync=False)
    models = (method.teacher, make_scorer(recipe, CPU))
    stream: Any = (photographs(0) for _ in range(6))
    labels = InlineLabels(stream, pool, Stopwatch(), models, recipe.labels.passes)
    clear = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for step in range(6):
        batch = {"clear": clear, "hazy": 0.5 * clear + 0.5} | labels.take(step)
        assert batch["trust"].max() > 0
        found.append(method.training_step(batch, step))
    physical = network == "corun"
    assert "reconstruction" not in found[0], "the published second stage has it on real photographs only"
    assert ("real_reconstruction" in found[0]) == physical
    assert found[-1]["l1"] < found[0]["l1"]
    assert found[0]["real_label"] >= 0
    assert pool.stats().size == 2
    pool.close()
    labeler = Labeler(labeling_config(recipe).model_copy(update={"threads": torch.get_num_threads()}))
    labeler.load(pack_state(method.teacher_state()), 6)


def rank_0(pool: Any) -> Any:
    """Labels its photographs within its step."""
    recipe = tiny("demo_colabator", "own")
    method: Any = make_method(recipe, CPU)
    labels = InlineLabels(iter([photographs(0)]), pool, Stopwatch(), (method.teacher, make_scorer(recipe, CPU)))
    return labels.take(7)


def rank_1(pool: Any) -> Any:
    """Meets the same photographs, and some that nobody has labeled."""
    stream = iter([photographs(seed) for seed in range(3)])
    labels = PooledLabels(stream, pool, Stopwatch())
    return labels.take(8), labels.take(9)


def test_what_rank_0_s_photograph_earned_rank_1_fetches(ray_cluster: None, tmp_path: Path) -> None:
    import ray

    from pseudolabel.pool.actors import start_pool

    pool = start_pool("two-ranks", tmp_path / "pool", shards=2)
    try:
        earned = ray.get(ray.remote(num_cpus=0.2)(rank_0).remote(pool))
        fetched, unknown = ray.get(ray.remote(num_cpus=0.2)(rank_1).remote(pool))
    finally:
        pool.shutdown()
    assert earned["trust"].max() > 0
    for name in ("label", "trust"):
        assert torch.equal(fetched[name], earned[name]), name
    assert (unknown["trust"] == 0).all()
