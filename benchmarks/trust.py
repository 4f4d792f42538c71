"""Trust maps by blocks against dense ones: how far they agree, which of them finds haze, and what each costs.

``python -m benchmarks.trust --photos DIR [--out trust.json]`` labels all photographs of a folder with a packaged
dehazer and scores the labels, in one process with one thread. Correlations are Spearman's over the blocks of each label
(median and lowest) and over those of all pooled. *Agreement* is with the map by blocks. *Truth* is with the known
transmission of smooth synthetic haze that is put on the labels, so a map is right when it is high where little haze
was added; *beats blocks* is the share of hazed labels on which a variant is nearer to it than the map by blocks.
*Halves* is the share of labels that lose trust on the left when hazed there, and on the right when hazed there. Costs
are ratios of processor time: of a batch scored by a variant to the same scored by blocks, and of the teacher's forward
pass to it; all timed in turn in one thread, the best of several rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from models import images, zoo
from models.inference import dehaze
from pseudolabel.scorer import ClipScorer, ScorerConfig, load_scorer

SIZE = 288
BATCH = 4
AIRLIGHTS = (0.65, 0.8, 0.95)


def photographs(folder: str) -> Tensor:
    """Read all photographs of a folder as squares: N3HW in [0, 1]."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    squares = [images.resize(images.decode(path.read_bytes()).pixels, SIZE, SIZE) for path in paths]
    return images.to_tensor(np.stack(squares))


def in_batches(work: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """Call ``work`` on a few pictures at a time and join the results."""
    return torch.cat([work(batch) for batch in pictures.split(BATCH)])


def variants(scorer: str, resolutions: list[int]) -> dict[str, ClipScorer]:
    """Return scorers by name: by blocks, in bfloat16, dense from the encoding at hand, and from one of each
    resolution.
    """
    made = {
        "blocks": ScorerConfig(architecture=scorer, trust="blocks"),
        "blocks, bfloat16": ScorerConfig(architecture=scorer, trust="blocks", precision="bfloat16"),
        "dense": ScorerConfig(architecture=scorer, trust="dense"),
    }
    for side in resolutions:
        made[f"dense {side}"] = ScorerConfig(architecture=scorer, trust="dense", dense_resolution=side)
    return {name: load_scorer(config) for name, config in made.items()}


def correlations(one: Tensor, other: Tensor) -> list[float]:
    """Return Spearman's correlation over the blocks of each picture."""
    return [float(spearmanr(a.flatten(), b.flatten()).statistic) for a, b in zip(one, other, strict=True)]


def correlation(one: Tensor, other: Tensor) -> dict[str, float]:
    """Return the median and the lowest of the pictures' correlations, and the one over the blocks of all."""
    each = correlations(one, other)
    pooled = float(spearmanr(one.flatten(), other.flatten()).statistic)
    return {"median": float(np.median(each)), "lowest": min(each), "pooled": pooled}


def hazed(labels: Tensor, airlight: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return labels under smooth haze, and the transmission of that haze per block."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(len(labels), 1, 3, 3, generator=random)
    transmission = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False).clamp(0, 1) * 0.9 + 0.1
    return labels * transmission + airlight * (1 - transmission), F.avg_pool2d(transmission, 32)[:, 0]


def halves(scorer: ClipScorer, labels: Tensor) -> float:
    """Return the share of labels that are trusted less on whichever half lies under haze of transmission 0.4."""
    middle = SIZE // 2
    veiled = labels * 0.4 + 0.8 * 0.6
    left = in_batches(scorer.trust, torch.cat([veiled[..., :middle], labels[..., middle:]], dim=-1))
    right = in_batches(scorer.trust, torch.cat([labels[..., :middle], veiled[..., middle:]], dim=-1))
    side = left.shape[-1] // 2
    gained = right - left
    right_sign = (gained[..., :side].mean((1, 2)) > 0) & (gained[..., -side:].mean((1, 2)) < 0)
    return float(right_sign.float().mean())


def costs(works: dict[str, Callable[[Tensor], object]], batch: Tensor, rounds: int) -> dict[str, float]:
    """Return the best processor seconds of each work on a batch, timed in turn."""
    best = dict.fromkeys(works, math.inf)
    for _ in range(rounds + 1):  # the first round also warms up
        for name, work in works.items():
            start = time.process_time()
            work(batch)
            best[name] = min(best[name], time.process_time() - start)
    return best


@torch.inference_mode()
def measure(folder: str, model: str, scorer: str, resolutions: list[int], rounds: int) -> dict[str, Any]:
    """Measure agreement, truth and cost of each variant; see the module's docstring."""
    teacher = zoo.load(model).network
    photos = photographs(folder)
    labels = images.to_tensor(images.to_uint8(in_batches(lambda batch: dehaze(teacher, batch).scene, photos)))
    scorers = variants(scorer, resolutions)
    trust = {name: in_batches(each.trust, labels) for name, each in scorers.items()}
    under_haze = [hazed(labels, airlight, seed) for seed, airlight in enumerate(AIRLIGHTS)]
    depth = torch.cat([transmission for _, transmission in under_haze])
    works: dict[str, Callable[[Tensor], object]] = {"teacher": lambda batch: dehaze(teacher, batch)}
    works |= {name: each.score for name, each in scorers.items()}
    seconds = costs(works, photos[:BATCH], rounds)
    rows, by_blocks = {}, np.zeros(0)
    for name, each in scorers.items():
        found = torch.cat([in_batches(each.trust, pictures) for pictures, _ in under_haze])
        truths = np.array(correlations(found, depth))
        by_blocks = truths if name == "blocks" else by_blocks
        rows[name] = {
            "agreement": correlation(trust[name], trust["blocks"]),
            "truth": correlation(found, depth),
            "beats_blocks": float((truths > by_blocks).mean()),
            "halves": halves(each, labels),
            "mean": float(trust[name].mean()),
            "time_over_blocks": seconds[name] / seconds["blocks"],
            "scored_per_teacher_pass": seconds["teacher"] / seconds[name],
            "labeled_per_teacher_pass": seconds["teacher"] / (seconds["teacher"] + seconds[name]),
        }
    return {"photographs": len(photos), "model": model, "scorer": scorer, "variants": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, help="folder of hazy photographs")
    parser.add_argument("--model", default=zoo.DEFAULT)
    parser.add_argument("--scorer", default="clip-compact")
    parser.add_argument("--dense-resolutions", type=int, nargs="*", default=[224, 288, 384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="file for the result, as JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(chosen.photos, chosen.model, chosen.scorer, chosen.dense_resolutions, chosen.rounds)
    text = json.dumps(result, indent=2)
    if chosen.out:
        Path(chosen.out).write_text(text + "\n")
    print(text)
