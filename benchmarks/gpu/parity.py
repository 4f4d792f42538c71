"""Do networks and training give on the GPU what they give on the CPU, and do interrupted runs go on exactly?

Networks in float32 without TF32, the same random weights and image on both: the largest absolute difference. Methods:
two steps, the state written to a file, a new object that reads it, and a third step of both; the largest difference of
their weights afterwards, over the largest change of a weight in that step. ``noise`` is that share for two steps from
the very same state: a GPU may add up in any order, though it is asked not to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.stage import Stage, parser_of, reason
from models import zoo
from models.inference import as_dehazed
from models.weights_files import read_torch
from pipelines.train import Recipe, load_recipe, make_method

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "corun, 4 stages, 30 channels": ({"name": "corun", "stages": 4, "dim": 30}, 256),
    "corun, 2 stages, 8 channels": ({"name": "corun", "stages": 2, "dim": 8}, 256),
    "dgun": ({"name": "dgun"}, 128),
    "cddgan": ({"name": "cddgan"}, 128),
    "cddgan, compact": (
        {"name": "cddgan", "width": 16, "blocks": 3, "normalization": "group", "skip": "scattering"}, 128,
    ),
}  # fmt: skip
# Of a network's difference, where images have 256 levels: a quarter of a level. In float32 on a CPU these networks are
# at most 3.2e-6 from float64 (DGUN has no float64). Other algorithms for convolutions may lose a hundred times as much,
# and a wrong layer is off by far more.
MOST = 1e-3
RESUMED = 1e-3  # of a step's change, or three times the noise where that is more
METHODS = {
    "supervised": ("pretrain_corun_compact", []),
    "colabator": ("colabator_corun_compact", ["init=null", "network.dim=8"]),
    "cddgan": ("cddgan_compact", []),
    "scorer": ("scorer_clip_compact", []),
}


def network_difference(config: dict[str, Any], side: int, device: torch.device) -> dict[str, Any]:
    """Compare a network on ``device`` with the same on the CPU and return the largest absolute difference of the
    scenes.
    """
    torch.manual_seed(0)
    network = zoo.build(config).eval()
    image = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        expected = as_dehazed(network(image)).scene
        found = as_dehazed(network.to(device)(image.to(device))).scene.cpu()
    difference, range_ = (float(values.abs().max()) for values in (expected - found, expected))
    return {"side": side, "difference": difference, "range": range_, "good": difference < MOST * max(1.0, range_)}


def batch_of(recipe: Recipe, device: torch.device) -> dict[str, Tensor]:
    """Return a random batch with the keys that the recipe's method takes."""
    generator = torch.Generator().manual_seed(3)
    size = recipe.crop.size

    def images(channels: int = 3) -> Tensor:
        return torch.rand(2, channels, size, size, generator=generator).to(device)

    batch = {name: images() for name in ("hazy", "clear", "strong", "label", "image")}
    batch |= {"trust": images(1), "transmission": images(1)}
    numbers = torch.rand(2, generator=generator).to(device)
    batch |= dict.fromkeys(("density", "quality"), numbers)
    batch |= dict.fromkeys(("airlight", "tint"), torch.rand(2, 3, generator=generator).to(device))
    batch["defect"] = torch.tensor([0, 1]).to(device)
    pair = ("hazy", "clear", "transmission", "airlight", "tint")
    wanted = {
        "supervised": pair, "cddgan": ("hazy", "clear"), "colabator": (*pair, "strong", "label", "trust"),
        "scorer": ("image", "density", "quality", "defect"),
    }[recipe.method]  # fmt: skip
    return {name: batch[name] for name in wanted}


def trained(method: Any) -> dict[str, Tensor]:
    """Return the weights that a method exports, without counters and statistics, which change more."""
    return {name: value.detach().double().cpu() for name, value in method.export().named_parameters()}


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference; NaN where there is one."""
    return float(torch.stack([(one[name] - other[name]).abs().max() for name in one]).max())


def resumed_difference(name: str, overrides: list[str], device: torch.device, work: Path) -> dict[str, Any]:
    """Return how far a resumed method is from the one that went on, after a step, over the change of that step."""
    recipe = load_recipe(name, ["train.steps=4", "crop.size=64", *overrides])
    batch, method = batch_of(recipe, device), make_method(recipe, device)
    for step in range(2):
        method.training_step(batch, step)
    path, before = work / f"{recipe.method}-state.pt", trained(method)
    torch.save({"method": method.state_dict()}, path)
    method.training_step(batch, 2)
    went_on, again, ends = trained(method), make_method(recipe, device), []
    for _ in range(2):
        again.load_state_dict(read_torch(path)["method"])
        again.training_step(batch, 2)
        ends.append(trained(again))
    path.unlink()
    change = _distance(before, went_on)
    share, noise = (_distance(*two) / max(change, 1e-30) for two in ((went_on, ends[0]), ends))
    return {"change": change, "share": share, "noise": noise, "good": change > 0 and share <= max(RESUMED, 3 * noise)}


def _row(stage: Stage, rows: dict[str, Any], label: str, function: Callable[..., dict[str, Any]], *args: Any) -> None:
    """Call ``function`` and keep its figures, or the reason why it failed."""
    try:
        rows[label] = function(*args)
    except Exception as problem:  # noqa: BLE001 - a network that fails on a device is what is looked for; others go on
        rows[label] = {"error": reason(problem), "good": False}
    figures = {key: value for key, value in rows[label].items() if key != "good"}
    text = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )
    stage.say(f"{label}: {'good' if rows[label]['good'] else 'NOT GOOD'}: {text}")
    stage.write()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 where a comparison fails or is missing."""
    args = parser_of("parity", __doc__).parse_args(argv)
    stage = Stage("parity", args)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    args.work.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    stage.found |= {"networks": networks, "resumed": methods, "good": False}
    with stage.in_time():
        for label, (config, side) in NETWORKS.items():
            _row(stage, networks, label, network_difference, config, 32 if args.steps else side, stage.device)
        for label, (recipe, overrides) in METHODS.items():
            _row(stage, methods, label, resumed_difference, recipe, overrides, stage.device, args.work)
    rows = [*networks.values(), *methods.values()]
    stage.found["good"] = len(rows) == len(NETWORKS) + len(METHODS) and all(row["good"] for row in rows)
    stage.finish()
    return 0 if stage.found["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
