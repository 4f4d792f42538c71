"""Names to networks; a name that is not known leads to its neighbor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from models.haze import DarkChannelPrior
from models.networks.corun import Corun, CorunConfig
from models.predictor import Predictor

NETWORK = {"name": "corun", "stages": 2, "dim": 2}


def save_corun(folder: Path) -> Corun:
    network = Corun(CorunConfig(stages=2, dim=2))
    checkpoint.save(folder, network, {"network": NETWORK, "seed": 4})
    return network


def test_dark_channel_prior_needs_no_weights() -> None:
    loaded = zoo.load("dcp")
    assert isinstance(loaded.network, DarkChannelPrior)
    assert isinstance(zoo.build(loaded.config["network"]), DarkChannelPrior)
    assert not loaded.network.training


def test_a_checkpoint_folder_is_loaded(tmp_path: Path) -> None:
    network = save_corun(tmp_path / "mine")
    assert zoo.load(tmp_path / "mine").name == str(tmp_path / "mine")
    assert Predictor(tmp_path / "mine").name == "mine"
    loaded = zoo.load(str(tmp_path / "mine"))
    assert (loaded.name, loaded.config) == (str(tmp_path / "mine"), {"network": NETWORK, "seed": 4})
    assert not loaded.network.training
    found = loaded.network.state_dict()
    assert [name for name, value in network.state_dict().items() if not torch.equal(found[name], value)] == []


def test_a_packaged_name_is_its_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    save_corun(tmp_path / zoo.DEFAULT)
    assert zoo.load(zoo.DEFAULT).config["seed"] == 4


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("corun-compat", "did you mean 'corun-compact'"),
        ("dpc", "did you mean 'dcp'"),
        ("/no/such/folder", "known: corun-compact, dcp"),
    ],
)
def test_an_unknown_name_leads_to_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        zoo.load(name)
    assert repr(name) in str(caught.value)


def test_a_file_or_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("file", "empty"):
        with pytest.raises(ConfigError, match=str(tmp_path / name)):
            zoo.load(str(tmp_path / name))


def test_build_takes_options() -> None:
    corun, prior = zoo.build(NETWORK), zoo.build({"name": "dcp", "radius": 3})
    assert isinstance(corun, Corun)
    assert corun.config == CorunConfig(stages=2, dim=2)
    assert prior.radius == 3


def test_build_imports_a_network_of_ones_own() -> None:
    built = zoo.build({"name": "torch.nn:Conv2d", "in_channels": 3, "out_channels": 5, "kernel_size": 1}, ["torch"])
    assert isinstance(built, nn.Conv2d)
    assert built.out_channels == 5


def test_a_network_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in_this_folder.py").write_text("from torch.nn import Identity\nclass Net(Identity): ...\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # as of an installed command
    monkeypatch.chdir(tmp_path)
    assert isinstance(zoo.build({"name": "in_this_folder:Net"}, ["in_this_folder"]), nn.Identity)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"name": "corn"}, "unknown network 'corn'; did you mean 'corun'"),
        ({}, "unknown network ''; known: cddgan, corun, dcp"),
        ({"name": "cddgan", "widht": 8}, "unknown key 'widht' in network; did you mean 'width'"),
        ({"name": "corun", "stagse": 2}, "unknown key 'stagse' in network; did you mean 'stages'"),
        ({"name": "corun", "stages": 0}, "'stages' in network is 0"),
        ({"name": "no.such.module:Net"}, "no.such.module:Net"),
        ({"name": "torch.nn:Conv2dd"}, "torch.nn:Conv2dd"),
        ({"name": "torch.nn:Conv2d", "chanels": 1}, "torch.nn:Conv2d"),
        ({"name": "collections:OrderedDict"}, r"is a OrderedDict; expected a class that is derived from torch\.nn\."),
        ({"name": "torch.nn:functional"}, r"is a module; expected a class"),
    ],
)
def test_what_cannot_be_built_is_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        zoo.build(config, ["torch", "no", "collections"])


@pytest.mark.parametrize(
    "config",
    [
        {"name": "dcp", "radiuss": 3},
        {"name": ":X"},
        {"name": "torch.nn:Conv2d", "in_channels": -1, "out_channels": 3, "kernel_size": 1},
    ],
)
def test_arguments_that_a_network_refuses_are_named(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot build network"):
        zoo.build(config, ["torch"])
