"""A network of a user's own, by import path: it trains, labels, is exported, loaded by name and serves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models import zoo
from models.config import ConfigError
from models.images import to_uint8
from models.inference.dehazing import dehaze
from pipelines.train.build import allowed, make_method, network_config, write_checkpoint
from pipelines.train.methods import validate
from pipelines.train.recipe import load_recipe
from pseudolabel.labeling.labeler import Labeler, label_batch, load_models, pack_state
from pseudolabel.labeling.rounds import LabelingConfig
from tests.pipelines.train.methods.networks import OF_A_STEP, batch

CPU = torch.device("cpu")
PHYSICAL = {"reconstruction", "transmission", "real_reconstruction"}


@pytest.mark.parametrize("name", ["demo_pretrain", "demo_colabator"])
@pytest.mark.parametrize("network", ["Plain", "Physical"])
def test_it_trains_and_serves_like_a_built_in_one(name: str, network: str, tmp_path: Path) -> None:
    path = f"tests.pipelines.train.methods.networks:{network}"
    recipe = load_recipe(name, [f"network={{name: '{path}'}}", "init=null", "scorer=null"])
    method = make_method(recipe, CPU)
    found = [method.training_step(batch(0), step) for step in range(8)]
    assert found[-1]["loss"] < found[0]["loss"]
    colabator = name == "demo_colabator"
    expected = {"l1", "reconstruction", "transmission"} | (
        {"real_label", "real_reconstruction"} if colabator else set()
    )
    assert set(found[0]) - OF_A_STEP == {"loss"} | (expected if network == "Physical" else expected - PHYSICAL)

    folder = write_checkpoint(tmp_path / "ck", method, recipe, {}, step=8)
    loaded = zoo.load(str(folder), ["tests"])
    assert loaded.config["network"] == {"name": path}
    image = torch.rand(1, 3, 21, 30)
    served, exported = dehaze(loaded.network, image), dehaze(method.export(), image)
    torch.testing.assert_close(served.scene, exported.scene)
    assert served.scene.shape == image.shape
    assert (served.transmission is not None) == (network == "Physical")


@pytest.mark.parametrize("network", ["Plain", "Physical"])
def test_label_workers_build_it_and_take_over_the_teacher(network: str) -> None:
    path = f"tests.pipelines.train.methods.networks:{network}"
    recipe = load_recipe("demo_colabator", [f"network={{name: '{path}'}}", "init=null"])
    method = make_method(recipe, CPU)
    method.training_step(batch(0), 0)
    own = {"network": network_config(recipe), "allow_networks": allowed(recipe)}
    config = LabelingConfig(**own, size=32, threads=torch.get_num_threads())
    labeler = Labeler(config)
    labeler.load(pack_state(method.teacher_state()), 1)  # type: ignore[attr-defined]
    teacher, scorer = labeler._network, labeler._scorer
    photo = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    (entry,) = label_batch(teacher, scorer, photo, ["a"], 1)
    image = torch.from_numpy(photo).permute(0, 3, 1, 2).float() / 255
    assert np.array_equal(entry.label, to_uint8(dehaze(method.export(), image).scene)[0])
    assert entry.transmission.shape == (32, 32)


def test_a_network_that_workers_cannot_import_is_named() -> None:
    with pytest.raises(ConfigError, match="'not_installed_here:Net': No module named 'not_installed_here'"):
        load_models(LabelingConfig(network={"name": "not_installed_here:Net"}, allow_networks=("not_installed_here",)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("out_channels: 3", "(1, 3, 30, 30); expected (1, 3, 32, 32)"),
        ("out_channels: 1, padding: 1", "(1, 1, 32, 32); expected (1, 3, 32, 32)"),
    ],
)
def test_one_that_gives_no_image_of_that_size_is_an_error_that_says_so(arguments: str, message: str) -> None:
    network = f"network={{name: 'torch.nn:Conv2d', in_channels: 3, kernel_size: 3, {arguments}}}"
    method = make_method(load_recipe("demo_pretrain", [network, "init=null"]), CPU)
    pairs = {name: torch.rand(1, 3, 32, 32) for name in ("hazy", "clear")}
    for look in (lambda: method.training_step(pairs, 0), lambda: validate(method.export(), pairs)):
        with pytest.raises(ConfigError, match=re.escape(message)):
            look()
