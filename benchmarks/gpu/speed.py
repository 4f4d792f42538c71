"""Images per second and memory of inference in eager float32, half precision, ``torch.compile`` and CUDA graphs.

All variants are the same network with the same weights and image, after a warm-up; the time is the median of the
repeats. ``db`` is the distance to eager float32. ``matmul_share`` is the operations per second over those of a large
matrix product of that precision in the same run, ``bandwidth_share`` the bytes that eager float32 moves, operator by
operator (half of them in half precision), over what a copy moves: above 1 where operators were fused or caches helped.
``product`` is :func:`models.inference.dehaze` as the command line and the service call it.

Quick variants of all sizes come first, compilation last: what there is no time for is left out, and said.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.roofline import DTYPES, demand, limits, seconds_of
from benchmarks.gpu.stage import Stage, parser_of, reason, synchronize
from models import zoo
from models.inference import as_dehazed, dehaze
from models.options import InferenceConfig

Call = Callable[[], Tensor]

MODELS: dict[str, dict[str, Any] | str] = {
    "corun": {"name": "corun", "stages": 4, "dim": 30},
    "corun-compact": "corun-compact",
    "cddgan-compact": {
        "name": "cddgan", "width": 16, "blocks": 3, "normalization": "group", "skip": "scattering",
    },
}  # fmt: skip
SIZES = {
    "256x256": (1, 256, 256),
    "16 of 256x256": (16, 256, 256),
    "640x480": (1, 480, 640),
    "1920x1080": (1, 1080, 1920),
}
TINY = {"32x32": (1, 32, 32)}
TINY_MODELS = ("corun-compact", "cddgan-compact")
QUICK = ("float32", "bfloat16", "float16", "product", "float32, graph", "bfloat16, graph", "float16, graph")
SLOW = ("float16, compiled", "bfloat16, compiled", "float32, compiled")
AIM = {"speedup": 3.0, "db": 50.0}


def network_of(model: str, device: torch.device) -> nn.Module:
    """Return a packaged model, or a network with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    what = MODELS[model]
    network = zoo.load(what).network if isinstance(what, str) else zoo.build(what)
    return network.eval().to(device, memory_format=torch.channels_last)


def photograph(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return hazy pictures, N3HW in [0, 1], made of smooth fields at many scales: rounding errors depend on them."""
    torch.manual_seed(1)
    count, height, width = shape
    fields = [
        nn.functional.interpolate(torch.rand(count, 3, 2**k, 2**k), size=(height, width), mode="bicubic") / 2 ** (k / 2)
        for k in range(1, 8)
    ]
    scene = torch.stack(fields).sum(0)
    scene = (scene - scene.amin()) / (scene.amax() - scene.amin())
    padded = (0, -width % 8, 0, -height % 8)
    scene = nn.functional.pad(0.4 * scene + 0.5, padded, mode="replicate").clamp(0, 1)
    return scene.to(device, memory_format=torch.channels_last)


def variant_of(network: nn.Module, image: Tensor, variant: str) -> Call:
    """Return a call that dehazes ``image``; its scene stays valid until the next call, which may write over it."""
    if variant == "product":
        return lambda: dehaze(network, image, InferenceConfig()).scene
    precision, _, how = variant.partition(", ")
    run: Callable[[Tensor], Any] = network
    if how == "compiled":
        torch.compiler.reset()  # a function is compiled a few times at most, and then runs uncompiled without a word
        run = torch.compile(network, dynamic=False)

    def call() -> Tensor:
        with torch.autocast(image.device.type, DTYPES[precision], enabled=precision != "float32", cache_enabled=False):
            return as_dehazed(run(image)).scene

    return _graphed(call) if how == "graph" else call


def _graphed(call: Call) -> Call:
    """The kernels of a call, recorded once and started together."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scene = call()

    def replay() -> Tensor:
        graph.replay()
        return scene

    return replay


def _peak(call: Call, device: torch.device) -> float | None:
    """MiB at the peak of a call, weights and image included; CUDA counts them, a CPU does not."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def decibels(scene: Tensor, expected: Tensor) -> float:
    """Return the PSNR in dB of scenes in [0, 1], at most 150; 0 where a value of the scene is not finite."""
    error = float((scene.float().clamp(0, 1) - expected.clamp(0, 1)).double().square().mean())
    return min(150.0, -10 * math.log10(error + 1e-30)) if math.isfinite(error) else 0.0


class Case:
    """A network and an image: its rows, each against the eager float32 of the same case."""

    def __init__(self, stage: Stage, model: str, size: str, shape: tuple[int, int, int]) -> None:
        self.stage, self.model, self.size, self.images = stage, model, size, shape[0]
        self.network, self.image = network_of(model, stage.device), photograph(shape, stage.device)
        self.expected = as_dehazed(self.network(self.image)).scene.clone()
        self.asked = demand(self.network, self.image)

    def row(self, variant: str) -> dict[str, Any]:
        """Measure a variant."""
        device = self.stage.device
        call = variant_of(self.network, self.image, variant)
        db = decibels(call(), self.expected)
        seconds = seconds_of(call, device)
        peak = None if variant.endswith("graph") else _peak(call, device)  # a graph has its memory for itself
        found, precision = {"db": round(db, 1), "images_per_second": self.images / seconds}, variant.partition(",")[0]
        most = self.stage.found["measured_limits"]
        if precision in most:
            moved = self.asked["bytes"] * (1 if precision == "float32" else 0.5)
            found["matmul_share"] = self.asked["flops"] / seconds / most[precision]
            found["bandwidth_share"] = moved / seconds / most["bytes"]
        return found if peak is None else found | {"peak_mib": peak}


def aim(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each model and size the fastest variant that is close enough, and whether it is fast enough."""
    found: dict[str, Any] = {}
    for place in dict.fromkeys((row["model"], row["size"]) for row in rows):
        close = [r for r in rows if (r["model"], r["size"]) == place and "speedup" in r and r["db"] >= AIM["db"]]
        best = max(close, key=lambda row: row["speedup"], default=None)
        if best is not None:
            met = best["speedup"] >= AIM["speedup"]
            found[" ".join(place)] = {
                "met": met,
                "variant": best["variant"],
                "speedup": best["speedup"],
                "db": best["db"],
            }
    return found


def variants_for(device: torch.device, tiny: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the quick and the slow variants; graphs are CUDA's, and a CPU is only to show that it runs."""
    if device.type == "cuda":
        return QUICK, SLOW
    return ("float32", "bfloat16", "product"), () if tiny else SLOW[1:]


@torch.inference_mode()
def measure(stage: Stage, *, tiny: bool) -> None:
    """Measure all cases and append their rows to the stage's results, one by one."""
    stage.found |= {"aim": AIM, "rows": []}
    stage.found["measured_limits"] = limits(stage.device, small=stage.device.type != "cuda")
    passes = variants_for(stage.device, tiny)
    for variant in (*QUICK, *SLOW):
        if variant not in passes[0] + passes[1]:
            stage.say(f"{variant}: left out on a {stage.device.type.upper()}{' with --steps' if tiny else ''}")
    for variants in filter(None, passes):
        for size, shape in (TINY if tiny else SIZES).items():
            for model in TINY_MODELS if tiny else MODELS:
                _measure(stage, model, size, shape, variants)
                _free(stage.device)


def _measure(stage: Stage, model: str, size: str, shape: tuple[int, int, int], variants: tuple[str, ...]) -> None:
    """The rows of a case, whose memory is free again afterwards."""
    try:
        case = Case(stage, model, size, shape)
    except Exception as problem:  # noqa: BLE001 - out of memory, most likely; the other cases go on
        _add(stage, {"model": model, "size": size, "error": reason(problem)})
        return
    for variant in variants:
        row: dict[str, Any] = {"model": model, "size": size, "variant": variant}
        try:
            row |= case.row(variant)
        except Exception as problem:  # noqa: BLE001 - compilers raise anything; the other variants go on
            row["error"] = reason(problem)
        _add(stage, row)
        _free(stage.device)


def _add(stage: Stage, row: dict[str, Any]) -> None:
    """Add a row with its speed over that of eager float32, where that was measured."""
    rows = stage.found["rows"]
    rows.append(row)
    eager = next(
        (one["images_per_second"] for one in rows
         if (one["model"], one["size"], one.get("variant")) == (row["model"], row["size"], "float32")
         and "error" not in one),
        None,
    )  # fmt: skip
    if eager is not None and "error" not in row:
        row["speedup"] = row["images_per_second"] / eager
    stage.found["aims"] = aim(rows)
    stage.say(told(row))
    stage.write()


def told(row: dict[str, Any]) -> str:
    """Return a row as a line of the log."""
    place = ", ".join(row[key] for key in ("model", "size", "variant") if key in row)
    if "error" in row:
        return f"{place}: failed: {row['error']}"
    parts = [f"{row['images_per_second']:.4g} images/s", f"{row['db']:g} dB to float32"]
    parts += [f"{row['speedup']:.2f}x"] if "speedup" in row else []
    parts += [f"{row['peak_mib']:.0f} MiB"] if "peak_mib" in row else []
    shares = {"matmul_share": "of a matrix product", "bandwidth_share": "of a copy"}
    return f"{place}: {', '.join(parts + [f'{row[key]:.1%} {what}' for key, what in shares.items() if key in row])}"


def _free(device: torch.device) -> None:
    """Hand back what a variant held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 where every row failed."""
    args = parser_of("speed", __doc__).parse_args(argv)
    stage = Stage("speed", args)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with stage.in_time():
        measure(stage, tiny=bool(args.steps))
    stage.finish()
    return 0 if any("error" not in row for row in stage.found.get("rows", [])) else 1


if __name__ == "__main__":
    sys.exit(main())
