"""Checkpoint folders, what is wrong with broken ones, and the conversion of released weights; names of the zoo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from models import checkpoint, zoo
from models.corun import Corun, CorunConfig, released_name
from models.settings import ConfigError

NETWORK = {"name": "corun", "stages": 2, "dim": 2}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return zoo.build(NETWORK)


@pytest.fixture
def folder(tmp_path: Path, network: nn.Module) -> Path:
    return checkpoint.save(
        tmp_path / "made" / "here", network, {"network": NETWORK, "step": 3}, metrics={"l1": 0.5}, state={"step": 3}
    )


def test_round_trip(folder: Path, network: nn.Module) -> None:
    loaded = zoo.load(str(folder))
    assert loaded.config == {"network": NETWORK, "step": 3}
    assert not loaded.network.training
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
    assert json.loads((folder / "metrics.json").read_text()) == {"l1": 0.5}
    assert checkpoint.read_state(folder) == {"step": 3}


def test_state_and_metrics_may_be_left_out(tmp_path: Path, network: nn.Module) -> None:
    folder = checkpoint.save(tmp_path, network, {"network": NETWORK})
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
    assert checkpoint.read_state(folder) is None


def test_training_state_is_never_unpickled(folder: Path) -> None:
    torch.save({"step": Path("x")}, folder / checkpoint.STATE)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoint.read_state(folder)


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_network(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def _other_network(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"network": NETWORK | {"dim": 4}}))


def _unknown_key(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"network": {"name": "corun", "dims": 4}}))


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (_no_weights, "is no checkpoint"),
        (_cut_weights, "cannot read weights"),
        (_no_json, "is not JSON"),
        (_no_network, "has no 'network'"),
        (_other_network, "do not fit"),
        (_unknown_key, "unknown key 'dims' in network; did you mean 'dim'"),
    ],
)
def test_a_broken_checkpoint_says_what_is_wrong(folder: Path, breakage: object, message: str) -> None:
    breakage(folder)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message):
        zoo.load(str(folder))


class TestZoo:
    def test_names_are_known_and_others_have_a_neighbour(self) -> None:
        assert zoo.load("dcp").config == {"network": {"name": "dcp"}}
        with pytest.raises(ConfigError, match=r"no model 'corun-compct'.*did you mean 'corun-compact'"):
            zoo.load("corun-compct")
        with pytest.raises(ConfigError, match="unknown network 'coron'; did you mean 'corun'"):
            zoo.build({"name": "coron"})

    def test_a_network_of_one_s_own_by_import_path(self) -> None:
        built = zoo.build({"name": "torch.nn:Conv2d", "in_channels": 3, "out_channels": 3, "kernel_size": 1})
        assert isinstance(built, nn.Conv2d)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"name": "no_such_module:Net"}, "no_such_module"),
            ({"name": "torch.nn:NoNet"}, "NoNet"),
            ({"name": "torch.nn:Conv2d", "channels": 3}, "channels"),
            ({"name": "pathlib:Path"}, "expected a torch.nn.Module"),
        ],
    )
    def test_what_cannot_be_built_is_named(self, config: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            zoo.build(config)


class TestConvert:
    @pytest.fixture
    def released(self, tmp_path: Path) -> Path:
        torch.manual_seed(1)
        weights = Corun(CorunConfig(stages=4, dim=2)).state_dict()
        torch.save({"params_ema": {released_name(k, 4): v for k, v in weights.items()}}, tmp_path / "CORUN.pth")
        return tmp_path / "CORUN.pth"

    def test_released_weights_become_a_checkpoint(
        self, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert checkpoint.main(["convert", str(released), str(tmp_path / "out")]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "out")
        loaded = zoo.load(str(tmp_path / "out"))
        assert loaded.config["network"] == {"name": "corun", "stages": 4, "dim": 2}
        original = torch.load(released, weights_only=True)["params_ema"]
        for name, value in loaded.network.state_dict().items():
            assert torch.equal(value, original[released_name(name, 4)])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "there is no file"),
            (b"nonsense", "no weights file"),
            ([1, 2], "holds a list"),
            ({"params": {"first.dehaze_net.embedding.weight": torch.zeros(2, 4, 3, 3)}}, "unmatched names"),
            ({"weight": torch.zeros(1)}, "not a released CORUN"),
        ],
    )
    def test_anything_else_is_one_line(
        self, content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = tmp_path / "other.pth"
        if isinstance(content, bytes):
            source.write_bytes(content)
        elif content is not None:
            torch.save(content, source)
        assert checkpoint.main(["convert", str(source), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert not (tmp_path / "out").exists()
