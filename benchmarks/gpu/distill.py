"""A small network learns the labels that a larger one makes of real photographs: the last step of ``corun-compact``.

``python -m benchmarks.gpu.distill --data DIR --student DIR --teacher DIR --out DIR`` goes on with Colabator from
``--student``; its labels come from ``--teacher``, once for each photograph, and not from the student's own mean. What
is written is ``--share`` of what it then is and the rest of what it was: halfway between two networks of one training
is often better than either. ``--amount`` is added to the logit of the amount of haze of both networks, which finds haze
in more photographs; choose it on photographs that were trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.gpu.training import pairs_of, photographs_of
from models import checkpoints, load
from pipelines.train import InlineLabels, Stopwatch, load_recipe, make_method, make_scorer
from pseudolabel.pool import LabelPool

CHANGES = [
    "optimizer.learning_rate=2.0e-4", "optimizer.ema=0.98", "optimizer.warmup=10", "optimizer.final_share=0.05",
    "real.label=1.0", "labels.mode=inline", "labels.size=160", "labels.batch_size=3",
    "crop.size=96", "crop.per_photo=2", "train.batch_size=8", "train.workers=1", "train.log_every=10",
]  # fmt: skip
_AMOUNT = 6  # which of the head's outputs


class Labels(InlineLabels):
    """Labels of a network that does not change, made when a photograph comes for the first time."""

    def _offer(self, photos: Any, ids: Sequence[str], step: int) -> None:
        new = [index for index, entry in enumerate(self.pool.fetch(ids)) if entry is None]
        if new:
            super()._offer(photos[new], [ids[index] for index in new], step)


def seen_as_hazier(network: nn.Module, amount: float) -> nn.Module:
    """Add ``amount`` to the bias of the logit of the amount of haze, in place, and return the network."""
    with torch.no_grad():
        network.get_submodule("light").output.bias[_AMOUNT] += amount  # type: ignore[union-attr, index, operator]
    return network


def average(one: nn.Module, other: nn.Module, share: float) -> nn.Module:
    """Replace ``one``'s weights by their mix with ``other``'s, of which it takes ``share``, and return ``one``."""
    theirs = other.state_dict()
    mixed = {name: torch.lerp(value, theirs[name], share) for name, value in one.state_dict().items()}
    one.load_state_dict(mixed)
    return one


def main() -> None:
    """Train, average, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.distill", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="what benchmarks.gpu.pack made")
    parser.add_argument("--student", required=True, help="checkpoint")
    parser.add_argument("--teacher", required=True, help="checkpoint")
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint to write; beside it, in DIR.pool, the labels"
    )
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--amount", type=float, default=1.5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    changes = [*CHANGES, f"init={args.student}", f"train.steps={args.steps}"]
    recipe = load_recipe("colabator_corun_compact", changes)
    method = make_method(recipe, device)
    pairs = pairs_of(recipe, args.data, device)
    photos = photographs_of(recipe, args.data, device)
    teacher = seen_as_hazier(load(args.teacher).network, args.amount).to(device)
    pool = LabelPool(args.out.with_suffix(".pool"), sync=False)
    labels = Labels(photos, pool, Stopwatch(), (teacher, make_scorer(recipe, device)), recipe.labels.passes)
    bar = tqdm(range(args.steps), unit="step")
    for step in bar:
        found = method.training_step(next(pairs) | labels.take(step), step)
        bar.set_postfix({name: f"{found[name]:.4f}" for name in ("l1", "real_label") if name in found})
    pool.close()
    made = average(load(args.student).network, method.export().cpu(), args.share)
    config = {"network": dict(recipe.network), "recipe": recipe.model_dump(mode="json")}
    checkpoints.save(args.out, seen_as_hazier(made, args.amount), config, metrics=found)


if __name__ == "__main__":
    main()
