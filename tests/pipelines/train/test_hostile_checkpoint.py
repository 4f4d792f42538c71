"""A checkpoint may name code only of packages that the user allowed, whichever way it comes in."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from models.mlflow_client import default_uri
from models.predictor import Predictor
from models.registry import register_model
from pipelines.dehaze import apply
from pipelines.dehaze import cluster_job as dehaze
from pipelines.evaluate import __main__ as evaluate_command
from pipelines.evaluate.choices import describe_model
from pipelines.evaluate.evaluator import Evaluator, ModelChoice, RowSettings
from pipelines.tracking import Tracker
from pipelines.train import __main__ as train_command
from pipelines.train.build import make_method, make_network
from pipelines.train.labels import labeling_config
from pipelines.train.recipe import load_recipe
from pseudolabel.labeling.labeler import load_models
from serving.__main__ import main as serve
from serving.config import ServingConfig
from serving.engine.replica import Replica, require_model

OWN = """
import os, pathlib
from subprocess import check_output
from torch import nn
from torch.nn import Sequential

pathlib.Path(os.environ["RAN"]).touch()

class Net(nn.Conv2d):
    def __init__(self, **options):
        super().__init__(3, 3, 1, **options)
"""
Door = Callable[[Path, Sequence[str]], object]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is there once code of the package ``stranger`` or a hostile command has run."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stranger.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    yield tmp_path / "ran"
    sys.modules.pop("stranger", None)


@pytest.fixture(params=["a command", "an import"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, ran: Path) -> Path:
    """A checkpoint that would make the file ``ran``."""
    command = {"name": "subprocess:check_output", "args": ["touch", str(ran)]}
    network = command if request.param == "a command" else {"name": "stranger:Net"}
    return checkpoint.save(tmp_path / "model", torch.nn.Conv2d(3, 3, 1), {"network": network})


def registered(model: Path) -> tuple[str, str]:
    tracker = Tracker.start("dehaze/tests", "hostile", default_uri(model.parent))
    register_model(model, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id)
    return "models:/dehazer@champion", tracker.tracking_uri


def recipe_from(model: Path, name: str = "demo_pretrain") -> Any:
    return load_recipe(name, [f"init={model}", "network={}", "scorer=null"])


def serving(model: Path, allow: Sequence[str], **more: Any) -> ServingConfig:
    return ServingConfig(model=str(model), allow_networks=tuple(allow), scorer=None, threads=1, **more)


def from_registry(model: Path, allow: Sequence[str]) -> None:
    name, uri = registered(model)
    Predictor(name, uri, allow_networks=allow)


def label_worker(model: Path, allow: Sequence[str]) -> None:
    config = labeling_config(recipe_from(model, "demo_colabator"), allow)
    load_models(config.model_copy(update={"scorer": "clip-compact"}))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


LIBRARY: dict[str, Door] = {
    "zoo.load": lambda model, allow: zoo.load(str(model), allow),
    "load_network": zoo.load_network,
    "build": lambda model, allow: zoo.build(checkpoint.read_config(model)["network"], allow),
    "Predictor": lambda model, allow: Predictor(str(model), allow_networks=allow),
    "models:/": from_registry,
    "Replica": lambda model, allow: Replica(serving(model, allow)),
    "require_model": lambda model, allow: require_model(serving(model, allow)),
    "train: init": lambda model, allow: make_method(recipe_from(model), torch.device("cpu"), allow),
    "label worker": label_worker,
    "evaluate: plan": lambda model, allow: describe_model(ModelChoice(label="a", source=str(model)), allow),
    "evaluate: worker": lambda model, allow: Evaluator(
        RowSettings(models=(ModelChoice(label="a", source=str(model)),), allow_networks=tuple(allow), scorer=None)
    ),
}
Command = tuple[Callable[[list[str]], int], Callable[[Path, Path], list[str]]]
COMMANDS: dict[str, Command] = {
    "apply": (apply.main, lambda photo, out: [str(photo), str(out), "--device", "cpu"]),
    "apply to a video": (apply.main, lambda photo, out: [str(photo.with_name("clip.mp4")), f"{out}.mp4"]),
    "dehaze": (dehaze.main, lambda photo, out: [str(photo), str(out), "--dry-run"]),
    "evaluate": (evaluate_command.main, lambda photo, out: ["--data", str(photo.parent), "--out", str(out)]),
    "serving": (serve, lambda photo, out: ["--port", free_port()]),
}


@pytest.mark.parametrize("door", LIBRARY.values(), ids=list(LIBRARY))
def test_code_that_a_checkpoint_names_is_not_run(door: Door, hostile: Path, ran: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"is code of the package '(subprocess|stranger)', and none is allowed.*by name"
    ):
        door(hostile, ())
    with pytest.raises(ConfigError, match="and allowed are another, os:"):
        door(hostile, ("os", "another"))
    assert not ran.exists()


@pytest.mark.parametrize("door", COMMANDS.values(), ids=list(COMMANDS))
def test_no_command_runs_it(
    door: Command, hostile: Path, ran: Path, photo_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main, words = door
    photo = photo_folder(count=1) / "photo_000.jpg"
    photo.with_name("clip.mp4").touch()
    model = "--models" if main is evaluate_command.main else "--model"
    assert main([*words(photo, hostile.parent / "out"), model, str(hostile)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the network '")
    assert "--allow-networks" in line
    assert not ran.exists()


@pytest.mark.parametrize("door", LIBRARY.values(), ids=list(LIBRARY))
def test_a_package_that_is_allowed_by_name_is_loaded(door: Door, tmp_path: Path, ran: Path) -> None:
    door(
        checkpoint.save(tmp_path / "model", torch.nn.Conv2d(3, 3, 1), {"network": {"name": "stranger:Net"}}),
        ["stranger"],
    )
    assert ran.exists()


@pytest.mark.parametrize(
    "name", ["check_output", "pathlib", "Sequential", "pathlib.Path", "nn.Sequential", "Missing", ""]
)
def test_of_an_allowed_package_only_its_own_networks_are_built(name: str, ran: Path) -> None:
    with pytest.raises(ConfigError, match=f"'stranger:{name}'"):
        zoo.build({"name": f"stranger:{name}"}, ["stranger"])
    with pytest.raises(ConfigError, match=r"expected package\.module:name"):
        zoo.build({"name": f".stranger:{name}"}, ["stranger", ""])


def test_what_a_recipe_names_itself_needs_no_allowance_and_loads_again(tmp_path: Path, ran: Path) -> None:
    own = load_recipe("demo_colabator", ["network={name: 'stranger:Net'}", "init=null", "scorer=null"])
    network = make_network(own)
    folder = checkpoint.save(tmp_path / "model", network, {"network": dict(own.network)})
    again = own.model_copy(update={"init": str(folder)})
    assert make_network(again).state_dict().keys() == network.state_dict().keys()
    load_models(labeling_config(again))
    with pytest.raises(ConfigError, match="but the recipe asks for"):
        make_network(again.model_copy(update={"network": {"name": "stranger:Other"}}))


def test_commands_hand_the_flag_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--allow-networks", "one, two", "--allow-networks", "three"]
    expected = ["one", "two", "three"]
    assert train_command._parser().parse_args(["--recipe", "a", "--out", "b", *words]).allow_networks == expected
    args = evaluate_command._parser().parse_args(["--data", "a", "--out", "b", *words])
    assert evaluate_command.config_of(args).allow_networks == tuple(expected)
    served: list[ServingConfig] = []
    monkeypatch.setattr("serving.app.run_until_interrupted", lambda config, announce: served.append(config))
    assert serve(words) == 0
    assert served[0].allow_networks == tuple(expected)


@pytest.mark.parametrize("text", ["", "a.b", "a:B", "a,,b", "../a"])
def test_what_is_no_package_is_refused_by_the_flag(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        apply.main(["a.jpg", "--allow-networks", text])
    assert stopped.value.code == 2
    assert "is no package; expected a name without dots" in capsys.readouterr().err


def test_a_demo_loads_what_it_trained(tmp_path: Path) -> None:
    from pipelines.demo import __main__ as demo_command
    from pipelines.demo import job as demo

    words = ["--out", str(tmp_path), "--set", "network={name: 'stranger.nets:Net'}", "--allow-networks", "mine"]
    made = demo.Demo(demo_command._parser().parse_args(words))
    assert made.allow_networks == ("mine", "stranger")
    assert made._job("finetune", made.finetune, "run").allow_networks == ("mine", "stranger")
