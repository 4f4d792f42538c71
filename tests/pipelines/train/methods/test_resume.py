"""A run that stops and goes on from a checkpoint file is bit for bit the run that never stopped."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models import checkpoints as checkpoint
from pipelines.train.build import make_method, write_checkpoint
from pipelines.train.methods.optimization import Method
from pipelines.train.recipe import Recipe, load_recipe
from tests.pipelines.train.methods.networks import batch, same
from tests.pipelines.train.methods.test_scorer import ARCHITECTURE

CPU = torch.device("cpu")
HALF = 3
NETWORK = "network={name: 'tests.pipelines.train.methods.networks:Physical', dropout: 0.3}"


def photographs(name: str, accumulate: int, precision: str) -> Recipe:
    rest = ["init=null", "scorer=null", "optimizer.warmup=2", f"train.steps={2 * HALF}"]
    options = [f"optimizer.accumulate={accumulate}", f"optimizer.precision={precision}"]
    return load_recipe(name, [NETWORK, *rest, *options])


def scorer(folder: Path, accumulate: int) -> Recipe:
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(ARCHITECTURE))
    rest = ["optimizer.warmup=2", f"train.steps={2 * HALF}", f"optimizer.accumulate={accumulate}"]
    return load_recipe("scorer_clip_compact", [f"network={{folder: {folder}}}", *rest])


def captioned(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    numbers = {name: torch.rand(4, generator=generator) for name in ("density", "quality")}
    image = torch.rand(4, 3, 64, 64, generator=generator)
    return {**numbers, "image": image, "defect": torch.randint(0, 3, (4,), generator=generator)}


def trained(method: Method, steps: range, data: Any) -> list[dict[str, float]]:
    return [method.training_step(data(step), step) for step in steps]


def check(recipe: Recipe, data: Any, folder: Path) -> None:
    """2k steps against k steps, a file, and k steps of the same method and of a fresh one."""
    whole = make_method(recipe, CPU)
    expected = trained(whole, range(2 * HALF), data)
    first = make_method(recipe, CPU)
    found = trained(first, range(HALF), data)
    write_checkpoint(folder, first, recipe, {}, step=HALF)
    assert found + trained(first, range(HALF, 2 * HALF), data) == expected, "it has not disturbed the run"
    state = checkpoint.read_state(folder)
    assert state is not None
    rest = make_method(recipe, CPU)
    rest.load_state_dict(state["method"])
    found += trained(rest, range(state["step"], 2 * HALF), data)
    assert found == expected
    assert same(rest.state_dict(), whole.state_dict())


@pytest.mark.parametrize(("accumulate", "precision"), [(1, "float32"), (2, "float32"), (2, "bfloat16")])
@pytest.mark.parametrize("name", ["demo_pretrain", "demo_colabator"])
def test_photographs(name: str, accumulate: int, precision: str, tmp_path: Path) -> None:
    check(photographs(name, accumulate, precision), lambda step: batch(step, count=4), tmp_path / "ck")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_scorer(accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.functional.interpolate", brightened)
    check(scorer(tmp_path / "tiny", accumulate), captioned, tmp_path / "ck")


def brightened(images: Tensor, size: tuple[int, int], **_options: Any) -> Tensor:
    """Keeps the tiny tower's own size, and still lets the choice of resolution be seen in the loss."""
    return images * (size[0] / 160)


def test_the_test_sees_random_state(tmp_path: Path) -> None:
    """Without the random state in the checkpoint, this network's dropout would give another run."""
    recipe = photographs("demo_pretrain", 1, "float32")
    one, other = make_method(recipe, CPU), make_method(recipe, CPU)
    state = one.state_dict()
    other.load_state_dict(state | {"random": torch.Generator().manual_seed(9).get_state()})
    second = trained(other, range(1), batch)
    one.load_state_dict(state)
    assert trained(one, range(1), batch) != second


def test_the_schedule_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = photographs("demo_pretrain", 1, "float32")
    method: Any = make_method(recipe, CPU)
    trained(method, range(HALF), batch)
    assert method.stepper.optimizer.param_groups[0]["lr"] == method.stepper.rate(HALF - 1)
    assert method.stepper.rate(HALF) < method.stepper.rate(HALF - 1)


@pytest.mark.parametrize("name", ["demo_pretrain", "demo_colabator"])
@pytest.mark.parametrize("init", [True, False])
def test_the_teacher_has_the_configured_momentum_from_the_first_step_and_after_resuming(name: str, init: bool) -> None:
    """Unless training starts from nothing."""
    recipe = load_recipe(name, ["scorer=null", f"train.steps={2 * HALF}", *([] if init else ["init=null"])])
    method: Any = make_method(recipe, CPU)
    seen = [method.stepper.teacher.in_force]
    trained(method, range(HALF), batch)
    again: Any = make_method(recipe, CPU)
    again.load_state_dict(method.state_dict())
    seen.append(again.stepper.teacher.in_force)
    assert seen == ([recipe.optimizer.ema] * 2 if init else [1 / 10, (1 + HALF) / (10 + HALF)])


@pytest.mark.parametrize("init", [True, False])
def test_cdd_gan_s_averaged_generator_warms_up_where_it_starts_from_nothing(init: bool, tmp_path: Path) -> None:
    recipe = load_recipe("cddgan_compact", CDDGAN)
    method: Any = make_method(recipe, CPU)
    if init:
        write_checkpoint(tmp_path / "ck", method, recipe, {}, step=0)
        method = make_method(recipe.model_copy(update={"init": str(tmp_path / "ck")}), CPU)
    assert method.teacher.in_force == (recipe.cddgan.ema if init else 1 / 10)


class Ones(TorchFunctionMode):
    """Numbers that Python asks tensors of the device ``meta`` for, which have none, are 1."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = {"__float__": 1.0, "item": 1.0, "__bool__": True}.get(getattr(func, "__name__", ""))
        if getattr(func, "__name__", "") == "tolist":
            answer = [1.0] * args[0].numel()
        asked = answer is not None and isinstance(args[0], Tensor) and args[0].is_meta
        return answer if asked else func(*args, **(kwargs or {}))


def elsewhere(state: Any, path: str = "") -> list[str]:
    """Names of tensors that are not on the device ``meta``, except what belongs on the CPU everywhere."""
    if isinstance(state, Tensor):
        at_home = state.is_meta or state.dtype == torch.uint8 or (state.ndim == 0 and path.endswith(".step"))
        return [] if at_home else [path]
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return [found for key, value in items for found in elsewhere(value, f"{path}.{key}")]


CDDGAN = [
    "network={name: cddgan, width: 4, blocks: 1}",
    "cddgan.contrast={layers: [0, 2, 3], patches: 8, projection: 8, noise: 4, draws: 2, queue: 40}",
    "cddgan.discriminator={width: 4, layers: 1}",
    "cddgan.history=3",
]


@pytest.mark.parametrize("name", ["demo_pretrain", "demo_colabator", "cddgan_compact", "scorer_clip_compact"])
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_checkpoint_goes_on_on_another_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are read on the CPU. ``meta`` stands for a GPU: it too refuses to compute with what is elsewhere."""
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())  # which does not know the device
    data: Any = captioned if name == "scorer_clip_compact" else lambda step: batch(step, count=4)
    if name == "scorer_clip_compact":
        monkeypatch.setattr("torch.nn.functional.interpolate", brightened)
        recipe = scorer(tmp_path / "tiny", 1)
    else:
        recipe = load_recipe(name, CDDGAN) if name == "cddgan_compact" else photographs(name, 1, "float32")
    before = make_method(recipe, CPU)
    trained(before, range(HALF), data)
    state = checkpoint.read_state(write_checkpoint(tmp_path / "ck", before, recipe, {}, step=HALF))
    assert state is not None
    after = make_method(recipe, torch.device("meta"))
    after.load_state_dict(state["method"])
    with Ones():
        trained(after, range(HALF, 2 * HALF), lambda step: {key: value.to("meta") for key, value in data(step).items()})
    assert elsewhere(after.state_dict()) == []
