"""Checkpoints come back bit for bit; broken ones are one clear error; nothing is ever unpickled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from models.networks.corun import Corun, CorunConfig, released_name
from models.networks.dgun import Dgun, DgunConfig
from models.networks.dgun import released_name as dgun_name

CONFIG = {"network": {"name": "corun", "stages": 2, "dim": 2}, "seed": 3, "train": {"rate": 1e-4, "crop": [8, 8]}}


def corun(stages: int = 2, seed: int = 0) -> Corun:
    torch.manual_seed(seed)
    return Corun(CorunConfig(stages=stages, dim=2))


def released(network: Corun) -> dict[str, Tensor]:
    return {released_name(name, network.config.stages): value for name, value in network.state_dict().items()}


def assert_same_bits(ours: nn.Module, theirs: nn.Module) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    found = {name: value.view(torch.int32) for name, value in theirs.state_dict().items()}
    wrong = [name for name, value in ours.state_dict().items() if not torch.equal(value.view(torch.int32), found[name])]
    assert wrong == []


class Explosive:
    """Unpickling one of these makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "deep" / "model", corun(), CONFIG)


# --- there and back ---


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    network = corun()
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, 1 / 3])
    network.get_parameter("stages.0.scene_prior.embed.weight").data.view(-1)[:5] = odd
    loaded = zoo.load_network(checkpoint.save(tmp_path / "model", network, CONFIG))
    assert_same_bits(network, loaded)
    assert not loaded.training
    assert network.training


def test_weights_in_another_memory_format_come_back(tmp_path: Path) -> None:
    network = corun().to(memory_format=torch.channels_last)
    assert_same_bits(network, zoo.load_network(checkpoint.save(tmp_path, network, CONFIG)))


def test_config_metrics_and_state_come_back(tmp_path: Path) -> None:
    state = {"step": 7, "moments": {"a": torch.arange(3.0)}, "sampler": "uniform", "rates": [0.1, 0.2]}
    metrics = {"psnr": 23.456789012345678, "images": 12}
    checkpoint.save(tmp_path, corun(), CONFIG, metrics=metrics, state=state)
    assert checkpoint.read_config(tmp_path) == CONFIG
    assert json.loads((tmp_path / checkpoint.METRICS).read_text()) == metrics
    back = checkpoint.read_state(tmp_path)
    assert back is not None
    assert torch.equal(back["moments"].pop("a"), torch.arange(3.0))
    assert back == {"step": 7, "moments": {}, "sampler": "uniform", "rates": [0.1, 0.2]}


def test_what_was_not_given_is_not_written(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {checkpoint.MODEL, checkpoint.CONFIG}
    assert checkpoint.read_state(saved) is None


def test_saving_again_replaces_the_weights(saved: Path) -> None:
    checkpoint.save(saved, corun(seed=1), CONFIG)
    assert_same_bits(zoo.load_network(saved), corun(seed=1))


# --- broken checkpoints ---


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / checkpoint.MODEL).unlink(), checkpoint.MODEL),
        (lambda folder: (folder / checkpoint.CONFIG).unlink(), checkpoint.CONFIG),
        (write(checkpoint.CONFIG, '{"network": '), "not JSON"),
        (write(checkpoint.CONFIG, b"\xff\xfe\x00"), "not JSON"),
        (write(checkpoint.CONFIG, "[1]"), "'network'"),
        (write(checkpoint.CONFIG, '{"seed": 1}'), "'network'"),
        (write(checkpoint.CONFIG, '{"network": "corun"}'), "'network'"),
        (write(checkpoint.MODEL, b""), "cannot read weights"),
        (write(checkpoint.MODEL, b"\x00" * 200), "cannot read weights"),
        (lambda folder: write(checkpoint.MODEL, (folder / checkpoint.MODEL).read_bytes()[:-9])(folder), "cannot read"),
    ],
)
def test_a_broken_checkpoint_is_named(saved: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(saved)
    with pytest.raises(ConfigError, match=re.escape(str(saved))) as caught:
        zoo.load_network(saved)
    assert reason in str(caught.value)


def test_weights_of_another_width_are_named(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, corun(), CONFIG | {"network": {"name": "corun", "stages": 2, "dim": 4}})
    with pytest.raises(ConfigError, match=r"do not fit[\s\S]*embed\.weight") as caught:
        zoo.load_network(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda w: w.pop("stages.1.scene_step.step"), lambda w: w.update(surplus=torch.ones(1))]
)
def test_missing_and_extra_weights_are_refused(saved: Path, damage: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(saved / checkpoint.MODEL)
    damage(weights)
    save_file(weights, saved / checkpoint.MODEL)
    with pytest.raises(ConfigError, match=r"stages\.1\.scene_step\.step|Unexpected key.*\"surplus\""):
        zoo.load_network(saved)


def test_training_state_is_never_unpickled(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save({"step": Explosive(marker)}, saved / checkpoint.STATE)
    with pytest.raises(ConfigError, match=r"holds more than plain weights \(getattr\)"):
        checkpoint.read_state(saved)
    assert not marker.exists()


# --- the authors' weights ---


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"params": weights},
        lambda weights: {"params_ema": weights, "params": {"raw": torch.zeros(1)}},
    ],
    ids=["bare", "params", "averaged first"],
)
def test_convert_brings_released_weights_over(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    network = corun(3, seed=5)
    torch.save(wrap(released(network)), tmp_path / "released.pth")
    assert checkpoint.convert(tmp_path / "released.pth", tmp_path / "out") == tmp_path / "out"
    assert_same_bits(network, zoo.load_network(tmp_path / "out"))
    published = {"name": "corun", "stages": 3, "dim": 2, "airlight": False}
    assert checkpoint.read_config(tmp_path / "out") == {"network": published}


def test_convert_tells_dgunet_by_its_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Dgun(DgunConfig(stages=7, dim=8, growth=4, subspace=3, tail=4))
    theirs = {f"module.{dgun_name(name)}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": theirs}, tmp_path / "released.pth")
    checkpoint.convert(tmp_path / "released.pth", tmp_path / "out")
    assert_same_bits(network, zoo.load_network(tmp_path / "out"))
    assert checkpoint.read_config(tmp_path / "out") == {"network": {"name": "dgun", **network.config.model_dump()}}


def without_and_with() -> dict[str, Tensor]:
    weights = released(corun(3))
    weights["surplus.weight"] = weights.pop("basic.0.trans_prox.step_lambda")
    return weights


def narrow() -> dict[str, Tensor]:
    return released(corun(3)) | {"last.dehaze_net.mapping.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (without_and_with, ["basic.0.trans_prox.step_lambda", "surplus.weight"]),
        (narrow, ["stages.2.scene_prior.output.weight"]),
        (lambda: {"params": {"first.dehaze_net.embedding.weight": torch.zeros(2, 4, 3, 3)}}, ["unmatched names"]),
        (dict, ["not a released CORUN"]),
        (lambda: [torch.zeros(1)], ["list", "expected a state dict"]),
    ],
    ids=["names", "shape", "one weight", "empty", "list"],
)
def test_what_cannot_be_converted_is_one_error(tmp_path: Path, content: Callable[[], Any], named: list[str]) -> None:
    source = tmp_path / "released.pth"
    torch.save(content(), source)
    with pytest.raises(ConfigError) as raised:
        checkpoint.convert(source, tmp_path / "out")
    assert [name for name in [str(source), *named] if name not in str(raised.value)] == []
    assert not (tmp_path / "out").exists()


def test_convert_never_unpickles(tmp_path: Path) -> None:
    torch.save({"params": Explosive(tmp_path / "executed")}, tmp_path / "released.pth")
    with pytest.raises(ConfigError, match="more than plain weights"):
        checkpoint.convert(tmp_path / "released.pth", tmp_path / "out")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [{1: torch.zeros(1)}, {"params": [torch.zeros(1)]}, {"params_ema": torch.zeros(2)}, {"a": 3}]
)
def test_files_of_another_structure_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"x\.pth"):
        checkpoint.convert(tmp_path / "x.pth", tmp_path / "out")


def test_released_safetensors_are_read_too(tmp_path: Path) -> None:
    save_file({"module.a.weight": torch.ones(2)}, tmp_path / "released.safetensors")
    assert list(checkpoint.read_released(tmp_path / "released.safetensors")) == ["a.weight"]


def test_a_damaged_training_state_names_its_file(tmp_path: Path) -> None:
    (tmp_path / checkpoint.STATE).write_bytes(b"junk")
    with pytest.raises(ConfigError, match=checkpoint.STATE):
        checkpoint.read_state(tmp_path)
