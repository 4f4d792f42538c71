"""What does a setting do? The same training with and without it, on the same batches, over several seeds.

``python -m benchmarks.ablation --recipe colabator_corun_compact --clear CORPUS --hazy CORPUS --out DIR
--variant published labels.augmentation=published --variant two_passes labels.passes=2`` trains the recipe and each
variant of it in this process, without Ray, once per seed, and measures what comes out on held-out photographs: FADE and
BRISQUE of the real ones, PSNR of synthetic pairs, and what it does to clear ones. A run that is done is not repeated.

Differences are to the recipe as it is, photograph by photograph with the same seed, averaged over the seeds. Intervals
are of a 95 % bootstrap over photographs; it cannot know more of seeds than there were, so each seed's mean is shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kinds import held_out, interval
from models import images, load
from models.haze import HazeConfig, synthesize
from models.inference import dehaze
from pipelines import evaluate as metrics
from pipelines.train import TrainJob, decode_pixels, load_recipe, train_local

BASE = "recipe"
HAZE = HazeConfig(beta=(0.3, 1.3), airlight=(0.65, 1.0), darken_probability=0, noise_probability=0, jpeg_probability=0)
COLUMNS = {  # name: how a table writes it
    "fade": "FADE, real",
    "brisque": "BRISQUE, real",
    "psnr": "PSNR, synthetic (dB)",
    "synthetic_fade": "FADE, synthetic",
    "kept": "PSNR of clear to itself (dB)",
    "level": "level of clear (%)",
}
Values = dict[str, list[float]]


def photographs(uri: str, domain: str, count: int, side: int) -> Iterator[NDArray[np.uint8]]:
    """Yield held-out photographs as uint8 (H, W, 3), their long side at most ``side`` pixels."""
    for _, data in itertools.islice(held_out(uri, domain), count):
        yield metrics.bounded(decode_pixels(data), side)


def measure(network: Any, clear: Sequence[NDArray[np.uint8]], hazy: Sequence[NDArray[np.uint8]]) -> Values:
    """Return the values of every metric, one per photograph in the order given."""

    def dehazed(image: torch.Tensor) -> NDArray[np.uint8]:
        return images.to_uint8(dehaze(network, image).scene)[0]

    found: Values = {name: [] for name in COLUMNS}
    for photo in hazy:
        made = dehazed(images.to_tensor(photo))
        found["fade"].append(metrics.fade(made))
        found["brisque"].append(metrics.brisque(made))
    for seed, photo in enumerate(clear):
        scene = images.to_tensor(photo)
        made, same = dehazed(synthesize(scene, None, [seed], HAZE).hazy), dehazed(scene)
        found["psnr"].append(metrics.psnr(made, photo))
        found["synthetic_fade"].append(metrics.fade(made))
        found["kept"].append(metrics.psnr(same, photo))
        found["level"].append(metrics.level_shift(same, photo))
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return all runs as a Markdown table: means of the seeds, and paired differences to the unchanged recipe."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    by_seed = {(row["variant"], row["seed"]): row["values"] for row in rows}
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for variant in variants:
        seeds = [seed for name, seed in by_seed if name == variant]
        cells = []
        for column in COLUMNS:
            means = ", ".join(f"{np.nanmean(by_seed[variant, seed][column]):.3f}" for seed in seeds)
            pairs = [seed for seed in seeds if (BASE, seed) in by_seed and variant != BASE]
            change = [np.subtract(by_seed[variant, s][column], by_seed[BASE, s][column]) for s in pairs]
            cells.append(means + (f"<br>{interval(np.mean(change, axis=0), 3)}" if change else ""))
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", required=True, help="name or file")
    parser.add_argument("--clear", required=True, help="corpus")
    parser.add_argument("--hazy", required=True, help="corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, and of results.jsonl")
    parser.add_argument(
        "--variant", action="append", nargs="+", default=[], metavar=("NAME", "KEY=VALUE"), help="what it changes"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all, as train.steps=50")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--photographs", type=int, default=40, help="of each kind that are measured")
    parser.add_argument("--side", type=int, default=384, help="long side of what is measured, in pixels")
    args = parser.parse_args()
    clear, hazy = (
        list(photographs(uri, domain, args.photographs, args.side))
        for uri, domain in ((args.clear, "clear"), (args.hazy, "hazy"))
    )
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    for seed, (variant, *changes) in itertools.product(args.seeds, [[BASE], *args.variant]):
        if any((row["variant"], row["seed"]) == (variant, seed) for row in rows):
            continue
        recipe = load_recipe(args.recipe, [*args.set, *changes, f"train.seed={seed}"])
        job = TrainJob(recipe, (args.out / f"{variant}-{seed}").absolute(), clear=args.clear, hazy=args.hazy)
        values = measure(load(str(train_local(job).model)).network, clear, hazy)
        rows.append({"variant": variant, "seed": seed, "changes": changes, "values": values})
        with log.open("a") as stream:
            stream.write(json.dumps(rows[-1]) + "\n")
        means = ", ".join(f"{name} {np.nanmean(value):.3f}" for name, value in values.items())
        print(f"{variant}, seed {seed}: {means}", flush=True)
    print(f"\n{len(hazy)} real and {len(clear)} clear photographs; a mean per seed, then the difference\n")
    print(table(rows))


if __name__ == "__main__":
    main()
