"""Speed and memory of inference against the textbook form with the same weights, in one run.

``python -m benchmarks.inference --out DIR`` writes ``inference.json`` and ``inference.md``; rows of other models and
sizes that are there already stay. Every figure is a ratio to "textbook": channel attention over the
pixels, float32, torch's ordinary memory layout, the whole image at once. Variants of one row are timed in turn, several
rounds, and the best round of each counts, so that what else the machine does hits all alike. Memory is the peak of all
tensors that a run makes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.gpu.speed import photograph
from models import zoo
from models.inference import as_dehazed, dehaze, peak_bytes
from models.options import InferenceConfig
from tests.models.textbook import as_textbook

VARIANTS = ("textbook", "moments", "bands", "bands, bfloat16", "compiled", "guided")
MODELS = ("corun-compact", "corun", "dgun")
SIZES = {
    "256x256": (256, 256),
    "640x480": (480, 640),
    "1920x1080": (1080, 1920),
    "3840x2160": (2160, 3840),
    "4000x3000": (3000, 4000),
}


def network_of(name: str, device: torch.device) -> nn.Module:
    """Return a packaged model, or a full-size network with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    network = zoo.load(name).network if name in zoo.NAMES else zoo.build({"name": name})
    return network.eval().to(device, memory_format=torch.channels_last)


def variant_of(network: nn.Module, variant: str) -> Callable[[Tensor], Tensor]:
    """Return the function that a variant stands for: N3HW to scenes N3HW."""
    if variant == "textbook":
        plain = as_textbook(network)
        return lambda image: as_dehazed(plain(image)).scene.clamp(0, 1)
    if variant == "moments":
        return lambda image: as_dehazed(network(image.contiguous(memory_format=torch.channels_last))).scene.clamp(0, 1)
    precision = "bfloat16" if "bfloat16" in variant else "float32"
    side = InferenceConfig().working_side if variant == "guided" else None
    config = InferenceConfig(precision=precision, compile=variant == "compiled", working_side=side)
    return lambda image: dehaze(network, image, config).scene


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def compare(model: str, size: str, variants: list[str], rounds: int, device: torch.device) -> list[Any]:
    """Return a row per variant with its best time and its agreement with the textbook, all timed in turn."""
    network, image = network_of(model, device), photograph((1, *SIZES[size]), device).contiguous()
    functions = {variant: variant_of(network, variant) for variant in variants}
    results = {variant: function(image) for variant, function in functions.items()}  # also warms up
    best = dict.fromkeys(variants, math.inf)
    for _ in range(rounds):
        for variant, function in functions.items():
            best[variant] = min(best[variant], _seconds(lambda f=function: f(image), device))
    peak = {variant: _peak(lambda f=function: f(image), device) for variant, function in functions.items()}
    error = {v: float((results[v] - results["textbook"]).square().mean()) for v in variants}
    return [
        {
            "model": model,
            "size": size,
            "variant": variant,
            "seconds": best[variant],
            "speedup": best["textbook"] / best[variant],
            "bytes": peak[variant],
            "memory": peak[variant] / peak["textbook"],
            "psnr": min(120.0, -10 * math.log10(error[variant] + 1e-30)),
        }
        for variant in variants
    ]


def _peak(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that the tensors of one run take at their peak, beside weights and image."""
    if device.type != "cuda":
        return peak_bytes(work)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model | size | variant | speed over textbook | peak memory, share of textbook's | dB to textbook |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['model']} | {row['size']} | {row['variant']} | {row['speedup']:.2f} | {row['memory']:.2f} "
        f"| {row['psnr']:.0f} |"
        for row in rows
        if row["variant"] != "textbook"
    ]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["corun-compact", "corun"])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["256x256", "640x480"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS[:3]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    return parser


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    variants = ["textbook", *(variant for variant in args.variants if variant != "textbook")]
    rows: list[dict[str, Any]] = []
    for model, size in tqdm([(model, size) for model in args.models for size in args.sizes]):
        found = compare(model, size, variants, args.rounds, device)
        rows += found
        tqdm.write(table(found))
    args.out.mkdir(parents=True, exist_ok=True)
    known = args.out / "inference.json"
    measured = {(row["model"], row["size"]) for row in rows}
    earlier = json.loads(known.read_text()) if known.is_file() else []
    rows = [row for row in earlier if (row["model"], row["size"]) not in measured] + rows
    known.write_text(json.dumps(rows, indent=2) + "\n")
    (args.out / "inference.md").write_text(table(rows))
    print(f"written: {args.out}/inference.md, inference.json")


if __name__ == "__main__":
    main()
