"""Do networks and training give on the GPU what they give on the CPU, and do interrupted runs go on exactly?

Networks in float32 without TF32, the same random weights and image on both: the largest absolute difference. Methods:
two steps, the state written to a file, a new object that reads it, and a third step of both; the largest difference of
their weights afterwards, over the largest change of a weight in that step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.stage import Stage, parser_of
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
MOST = 1e-3  # of a network's difference: images have 256 levels
RESUMED = 1e-3  # of a step's change: convolutions on a GPU add up in any order
METHODS = {
    "supervised": ("pretrain_corun_compact", []),
    "colabator": ("colabator_corun_compact", ["init=null", "network.dim=8"]),
    "cddgan": ("cddgan_compact", []),
    "scorer": ("scorer_clip_compact", []),
}


def network_difference(config: dict[str, Any], side: int, device: torch.device) -> dict[str, float]:
    """The largest absolute difference between a network here and on the CPU."""
    torch.manual_seed(0)
    network = zoo.build(config).eval()
    image = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        expected = as_dehazed(network(image)).scene
        found = as_dehazed(network.to(device)(image.to(device))).scene.cpu()
    return {"side": side, "difference": float((expected - found).abs().max()), "range": float(expected.abs().max())}


def batch_of(recipe: Recipe, device: torch.device) -> dict[str, Tensor]:
    """A random batch with all that a method takes."""
    generator = torch.Generator().manual_seed(3)
    size = recipe.crop.size

    def images(channels: int = 3) -> Tensor:
        return torch.rand(2, channels, size, size, generator=generator).to(device)

    batch = {name: images() for name in ("hazy", "clear", "strong", "label", "image")} | {"trust": images(1)}
    numbers = torch.rand(2, generator=generator).to(device)
    batch |= dict.fromkeys(("density", "depth", "quality"), numbers)
    batch["defect"] = torch.tensor([0, 1]).to(device)
    wanted = {
        "supervised": ("hazy", "clear"), "cddgan": ("hazy", "clear"),
        "colabator": ("hazy", "clear", "strong", "label", "trust"),
        "scorer": ("image", "density", "depth", "quality", "defect"),
    }[recipe.method]  # fmt: skip
    return {name: batch[name] for name in wanted}


def trained(method: Any) -> dict[str, Tensor]:
    """The weights that a method exports."""
    return {name: value.detach().double().cpu() for name, value in method.export().state_dict().items()}


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def resumed_difference(name: str, overrides: list[str], device: torch.device, work: Path) -> dict[str, float]:
    """How far a resumed method is from the one that went on, after a step, and over the change of that step."""
    recipe = load_recipe(name, ["train.steps=4", "crop.size=64", *overrides])
    batch, method = batch_of(recipe, device), make_method(recipe, device)
    method.configure()
    for step in range(2):
        method.training_step(batch, step)
    path, before = work / f"{recipe.method}-state.pt", trained(method)
    torch.save({"method": method.state_dict()}, path)
    method.training_step(batch, 2)
    again = make_method(recipe, device)
    again.configure()
    again.load_state_dict(read_torch(path)["method"])
    again.training_step(batch, 2)
    path.unlink()
    change, difference = _distance(before, trained(method)), _distance(trained(method), trained(again))
    return {"difference": difference, "change": change, "share": difference / max(change, 1e-30)}


def main(argv: list[str] | None = None) -> int:
    """Command line; 1 where something is not as it should be."""
    args = parser_of("parity", __doc__).parse_args(argv)
    stage = Stage("parity", args)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    args.work.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    stage.found |= {"networks": networks, "resumed": methods, "good": False}
    with stage.in_time():
        for label, (config, side) in NETWORKS.items():
            found = network_difference(config, 32 if args.steps else side, stage.device)
            networks[label] = found | {"good": found["difference"] < MOST * max(1.0, found["range"])}
            stage.say(f"{label}: {networks[label]}")
            stage.write()
        for label, (recipe, overrides) in METHODS.items():
            try:
                moved = resumed_difference(recipe, overrides, stage.device, args.work)
                methods[label] = moved | {"good": moved["share"] < RESUMED}
            except (RuntimeError, ValueError, KeyError, ImportError) as problem:
                methods[label] = {"error": f"{type(problem).__name__}: {problem}", "good": False}
            stage.say(f"{label}, resumed: {methods[label]}")
            stage.write()
    rows = [*networks.values(), *methods.values()]
    stage.found["good"] = len(rows) == len(NETWORKS) + len(METHODS) and all(row["good"] for row in rows)
    stage.finish()
    return 0 if stage.found["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
