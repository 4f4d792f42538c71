"""What runs ask for, against what clusters have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.resources import Ask, Capacity, capacity_of, refusal, total
from pipelines.train.recipe import Recipe, load_recipe
from pipelines.train.recipes import recipe_names
from pipelines.train.shares import asks_of, trainers_of
from pseudolabel.pool import SHARD_CPUS

ROOT = Path(__file__).parents[2]
LAPTOP = Capacity(({"CPU": 2.0},))


def launcher() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_fits_the_cluster_that_ships(name: str) -> None:
    shipped = capacity_of(launcher())
    assert shipped is not None
    assert shipped.final
    assert total(shipped.nodes) == {"CPU": 8 + 4 * 16, "GPU": 4}
    assert refusal(asks_of(load_recipe(name)), shipped) is None


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_without_gpus_fit_two_cores(name: str) -> None:
    recipe = load_recipe(name)
    fits = refusal(asks_of(recipe), LAPTOP) is None
    assert fits == (recipe.train.worker_gpus == 0)


def test_all_that_a_run_has_at_a_time_is_added_up() -> None:
    asks = asks_of(load_recipe("colabator_corun", ["labels.shards=2"]))
    assert {ask.what: ask.count for ask in asks} == {
        "training worker": 3, "data task": 2, "shard": 2, "coordinator": 1, "label worker": 2,
    }  # fmt: skip
    sums = total(ask.bundle for ask in asks for _ in range(ask.count))
    assert sums["GPU"] == 3 * 1 + 2 * 0.5
    assert sums["CPU"] == pytest.approx(3 * 0.5 + 2 * 0.2 + 2 * SHARD_CPUS + 0.05 + 2 * 0.2)
    inline = asks_of(load_recipe("colabator_corun", ["labels.mode=inline"]))
    assert [ask.what for ask in inline] == ["training worker", "data task", "shard"]
    assert asks_of(load_recipe("pretrain_corun_compact")) == trainers_of(load_recipe("pretrain_corun_compact"))


def test_a_shard_asks_for_what_the_sum_says() -> None:
    from pseudolabel.pool import actors

    asked = {ask.what: ask.cpus for ask in asks_of(load_recipe("colabator_corun"))}
    assert asked["shard"] == actors.SHARD_CPUS


def test_five_gpus_of_four_are_refused_with_who_wants_them() -> None:
    shipped = capacity_of(launcher())
    assert shipped is not None
    reason = refusal(asks_of(load_recipe("colabator_corun", ["train.workers=4"])), shipped)
    assert reason == (
        "this needs 5 GPUs, and the cluster has 4 GPUs at most: 4 training workers with 1 GPU and 0.5 CPU each "
        "(train.workers, min_workers, worker_gpus), 2 label workers with 0.5 GPU and 0.2 CPU each "
        "(labels.workers, worker_gpus); ask for less, or for more nodes"
    )


def test_six_workers_on_two_cores_are_refused() -> None:
    reason = refusal(asks_of(load_recipe("pretrain_corun_compact", ["train.workers=6"])), LAPTOP)
    assert reason is not None
    assert "this needs 3.2 CPUs, and the cluster has 2 CPUs at most: 6 training workers with 0.5 CPU each" in reason


def test_each_process_needs_a_node_that_is_large_enough() -> None:
    four = Capacity(({"CPU": 16, "GPU": 1},) * 4)
    assert refusal([Ask("worker", 2, 1, 2, "key")], four) == (
        "a worker needs a node with 1 CPU and 2 GPUs, and there is none (key)"
    )
    apart = Capacity(({"CPU": 16}, {"GPU": 2}))
    assert refusal([Ask("worker", 1, 1, 1, "key")], apart) is not None, "both on one node"


def test_fractions_that_fill_a_cluster_fit() -> None:
    assert refusal([Ask("worker", 10, 0.1, 0, "key")], Capacity(({"CPU": 1.0},))) is None


def test_a_cluster_of_unknown_size_is_waited_for() -> None:
    assert refusal([Ask("worker", 99, 1, 1, "key")], Capacity(({"CPU": 1},), final=False)) is None


def test_a_launcher_s_file_that_does_not_say_what_nodes_have_says_nothing() -> None:
    file = launcher()
    file["available_node_types"]["gpu"]["resources"] = {}
    assert capacity_of(file) is None
    file["max_workers"] = 0
    head = capacity_of(file)
    assert head is not None
    assert head.nodes == ({"CPU": 8},)


def test_whole_gpus_for_training_and_shares_for_labels() -> None:
    from models.config import ConfigError

    with pytest.raises(ConfigError, match=r"a training worker needs whole GPUs, not 0\.5: 1, or 0"):
        load_recipe("pretrain_corun_compact", ["train.worker_gpus=0.5"])
    with pytest.raises(ConfigError, match=r"a share of a GPU or whole ones, not 1\.5"):
        load_recipe("colabator_corun", ["labels.worker_gpus=1.5"])
    assert isinstance(load_recipe("colabator_corun", ["labels.worker_gpus=0.25", "train.worker_gpus=2"]), Recipe)
