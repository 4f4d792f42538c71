"""Does the contrastive perceptual loss help? The same short refine with and without it, on the same batches.

``python -m benchmarks.contrastive --clear CORPUS --hazy CORPUS [--set perceptual.backbone=vgg19]`` trains
``refine_corun_compact`` for some steps without Ray, once per weight and seed, and measures PSNR, SSIM and FADE on
synthetic pairs of held-out clear photographs, and FADE of all hazy photographs, which this recipe does not train on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from models import images
from models.haze import HazeConfig, synthesize
from models.inference import dehaze
from pipelines import evaluate as metrics
from pipelines.corpus import require_corpus
from pipelines.train import Recipe, decode_pixels, load_recipe, make_method, synthetic_pairs

SIDE = 192  # of the squares that are measured
HAZE = HazeConfig(beta=(0.3, 1.3), airlight=(0.65, 1.0), darken_probability=0, noise_probability=0, jpeg_probability=0)


def _rows(uri: str, domain: str, split: str | None) -> Iterator[dict[str, object]]:
    for file in require_corpus(uri, domain).files(split):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=8, columns=["image_id", "image", "depth"]):
            yield from batch.to_pylist()


def _squares(uri: str, domain: str, split: str | None, count: int | None) -> list[Tensor]:
    rows = itertools.islice(_rows(uri, domain, split), count)
    return [images.to_tensor(images.resize(decode_pixels(row["image"]), SIDE, SIDE)) for row in rows]


def _batches(recipe: Recipe, uri: str) -> list[dict[str, Tensor]]:
    """One batch per step, the same for the same seed."""
    random, rows, need = np.random.default_rng(recipe.train.seed), list(_rows(uri, "clear", "train")), recipe.train
    samples: list[dict[str, np.ndarray]] = []
    for index in random.integers(0, len(rows), need.steps * need.batch_size):
        crop = recipe.crop.model_copy(update={"per_photo": 1})
        made = synthetic_pairs([rows[index]], crop, recipe.haze, seed=int(random.integers(2**31)))
        samples.append({key: values[0] for key, values in made.items()})
    return [
        {
            key: images.to_tensor(np.stack([s[key] for s in samples[i : i + need.batch_size]]))
            for key in ("hazy", "clear")
        }
        for i in range(0, len(samples), need.batch_size)
    ]


def _measure(network: nn.Module, clear: list[Tensor], hazy: list[Tensor]) -> dict[str, float]:
    levels, likeness, synthetic = [], [], []
    for index, image in enumerate(clear):
        pair = synthesize(image, None, [index], HAZE)
        found = images.to_uint8(dehaze(network, pair.hazy).scene)[0]
        levels.append(metrics.psnr(found, images.to_uint8(image)[0]))
        likeness.append(metrics.ssim(found, images.to_uint8(image)[0]))
        synthetic.append(metrics.fade(found))
    fades = [metrics.fade(images.to_uint8(dehaze(network, photo).scene)[0]) for photo in hazy]
    values = {"psnr": levels, "ssim": likeness, "fade": fades, "synthetic_fade": synthetic}
    return {name: float(np.nanmean(value)) for name, value in values.items()}


def _train(recipe: Recipe, batches: list[dict[str, Tensor]]) -> tuple[nn.Module, float]:
    method = make_method(recipe, torch.device("cpu"))
    method.configure()
    began = time.perf_counter()
    for step, batch in enumerate(batches):
        method.training_step(batch, step)
    return method.export(), (time.perf_counter() - began) / len(batches)


def main() -> None:
    """Print one JSON line per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clear", required=True)
    parser.add_argument("--hazy", required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--photographs", type=int, default=60, help="of each kind that are measured")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in train.steps=50")
    args = parser.parse_args()
    short = ["train.steps=150", "train.batch_size=4", "crop.size=96", "optimizer.learning_rate=2.0e-4"]
    short += ["optimizer.warmup=10", "optimizer.ema=0.95", "perceptual.backbone=scorer", *args.set]
    clear = _squares(args.clear, "clear", "test", args.photographs)
    hazy = _squares(args.hazy, "hazy", None, args.photographs)
    start = load_recipe("refine_corun_compact", [*short, "weights.contrastive=0"])
    before = make_method(start, torch.device("cpu"))
    before.configure()
    print(json.dumps({"weight": None, **_measure(before.export(), clear, hazy)}), flush=True)
    for seed in args.seeds:
        recipes = [
            load_recipe("refine_corun_compact", [*short, f"train.seed={seed}", f"weights.contrastive={weight}"])
            for weight in args.weights
        ]
        batches = _batches(recipes[0], args.clear)
        for weight, recipe in zip(args.weights, recipes, strict=True):
            network, seconds = _train(recipe, batches)
            found = {"weight": weight, "seed": seed, "seconds_per_step": round(seconds, 3)}
            print(json.dumps(found | _measure(network, clear, hazy)), flush=True)


if __name__ == "__main__":
    main()
