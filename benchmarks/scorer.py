"""How well a scorer measures haze: rank correlation with true optical depth, and real hazy against clear photographs.

``python -m benchmarks.scorer --clear CORPUS --hazy CORPUS [--scorer clip-compact]`` uses the held-out (test) split of
the clear corpus, and all photographs of the hazy one, which no scorer of ours is trained on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from benchmarks.ingest_corpus import rows_of
from models import images
from models.haze import HazeConfig, synthesize
from pipelines.train import decode_pixels
from pseudolabel.scorer import ClipScorer, load_scorer


def _photographs(uri: str, domain: str, split: str | None) -> Iterator[np.ndarray]:
    return (decode_pixels(row["image"]) for row in rows_of(uri, domain, split, ["image"]))


def _density(scorer: ClipScorer, pixels: torch.Tensor) -> float:
    return float(1.0 - scorer.clearness(pixels))


def measure(scorer: ClipScorer, clear: str, hazy: str, per_photo: int = 3) -> dict[str, float]:
    """Return the Spearman correlation and the areas under the ROC curve; see the module's docstring."""
    haze = HazeConfig(
        beta=(0.1, 2.2), airlight=(0.5, 1.0), darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0
    )
    depths, densities, clear_scores = [], [], []
    for index, pixels in enumerate(_photographs(clear, "clear", "test")):
        image = images.to_tensor(images.resize(pixels, 320, 240))
        clear_scores.append(_density(scorer, image))
        for repeat in range(per_photo):
            pair = synthesize(image, None, [1000 * index + repeat], haze)
            depths.append(float(-pair.transmission.log().mean()))
            densities.append(_density(scorer, pair.hazy))
    hazy_scores = [
        _density(scorer, images.to_tensor(images.resize(pixels, 320, 240)))
        for pixels in _photographs(hazy, "hazy", None)
    ]
    truth = [0] * len(clear_scores) + [1] * len(hazy_scores)
    return {
        "spearman_with_optical_depth": float(spearmanr(depths, densities).statistic),
        "auroc_real_hazy_against_clear": float(roc_auc_score(truth, clear_scores + hazy_scores)),
        "mean_density_clear": float(np.mean(clear_scores)),
        "mean_density_real_hazy": float(np.mean(hazy_scores)),
        "synthetic_images": len(depths),
        "clear_photographs": len(clear_scores),
        "hazy_photographs": len(hazy_scores),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clear", required=True)
    parser.add_argument("--hazy", required=True)
    parser.add_argument("--scorer", default="clip-compact")
    chosen = parser.parse_args()
    print(json.dumps(measure(load_scorer(chosen.scorer), chosen.clear, chosen.hazy), indent=2))
