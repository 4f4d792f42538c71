"""A teacher on synthetic haze, then Colabator on real photographs, for as many steps as there is time.

``--stage teacher`` trains the packaged recipe of :data:`RECIPES` with a larger network, crops and batches;
``--stage colabator`` goes on from it with labels made within the step. The schedule of the rate follows the clock: it
ends with the seconds, however fast the steps are. A checkpoint a minute stays in ``--work``, from which the same
command goes on; the label pool there may then be a minute ahead, which only means better labels. What comes back is in
``--out``: the averaged weights in parts (:mod:`benchmarks.gpu.join`), a sheet of held-out photographs and figures on
held-out pairs.
"""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.gpu.join import split
from benchmarks.gpu.photographs import batches, read_rows
from benchmarks.gpu.stage import Stage, parser_of
from models import checkpoints, images, zoo
from models.config import DehazeError, parse
from models.contact_sheet import Line, contact_sheet
from models.inference import dehaze
from pipelines.evaluate import psnr
from pipelines.train import (
    InlineLabels,
    Recipe,
    Stopwatch,
    decode_pixels,
    load_recipe,
    make_method,
    make_scorer,
    real_config,
    real_photographs,
    synthetic_pairs,
    write_checkpoint,
)
from pseudolabel.pool import LabelPool

RECIPES = {
    "teacher": (
        "pretrain_corun_compact",
        ["train.batch_size=32", "optimizer.learning_rate=1.0e-3", "optimizer.warmup=200", "optimizer.ema=0.999"],
    ),
    "colabator": (
        "colabator_corun_compact",
        [
            "train.batch_size=16", "optimizer.learning_rate=1.0e-4", "optimizer.final_share=0.1", "optimizer.ema=0.995",
            "real.label=1.0", "labels.mode=inline", "labels.size=256", "labels.batch_size=8",
        ],
    ),
}  # fmt: skip
LARGER = ["network.dim=16", "crop.size=192", "crop.per_photo=4"]
ON_A_GPU = ["optimizer.precision=bfloat16", "train.workers=1", "train.log_every=50"]
TINY = ["network.stages=1", "network.dim=8", "crop.size=32", "crop.per_photo=2", "train.batch_size=2"]
TINY_LABELS = ["labels.size=64", "labels.batch_size=1"]
SHEET = "sheet.jpg"
SHOWN = 16  # photographs on the sheet
PAIRS = 48  # held-out pairs
PARTS = {"teacher": 2, "colabator": 3}  # with results, log and sheet these are eight files
EVERY = 60.0  # seconds between checkpoints


def recipe_of(name: str, args: Any) -> Recipe:
    """Return the stage's recipe; Colabator starts from the teacher in ``--work``."""
    base, changes = RECIPES[name]
    tiny = (TINY + (TINY_LABELS if name == "colabator" else [])) if args.steps else []
    init = [f"init={args.work / 'teacher'}"] if name == "colabator" else []
    return load_recipe(base, [*LARGER, *ON_A_GPU, *changes, *tiny, *args.set, *init])


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with a schedule of ``steps`` steps."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": steps})})


def pairs_of(recipe: Recipe, data: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield synthetic batches without end."""
    function = functools.partial(synthetic_pairs, crop=recipe.crop, haze=recipe.haze)
    count = max(1, recipe.train.batch_size // recipe.crop.per_photo)
    return batches(read_rows(data, "clear", "train"), count, function, device, seed=recipe.train.seed)


def photographs_of(recipe: Recipe, data: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield batches of real photographs without end."""
    function = functools.partial(real_photographs, config=real_config(recipe))
    rows = read_rows(data, "hazy", "train")
    return batches(rows, recipe.labels.batch_size, function, device, seed=recipe.train.seed + 1)


def labels_of(recipe: Recipe, method: Any, args: Any, device: torch.device) -> InlineLabels | None:
    """Return batches of real photographs with their labels; None where the method takes none."""
    if recipe.method != "colabator":
        return None
    photos = photographs_of(recipe, args.data, device)
    models = (method.teacher, make_scorer(recipe, device))
    pool = LabelPool(args.work / "pool", sync=False)
    return InlineLabels(photos, pool, Stopwatch(), models, recipe.labels.passes)


def reserve(stage: Stage) -> float:
    """Return the seconds to keep free for what comes after training."""
    return max(10.0, 0.04 * stage.seconds)


def fitted(stage: Stage, pace: float, step: int) -> int:
    """Return the total of steps that fit into the time, when each takes ``pace`` seconds from here on."""
    return step + max(1, int((stage.left - reserve(stage)) / pace))


def keep(name: str, method: Any, recipe: Recipe, step: int, args: Any) -> None:
    """Write a checkpoint to ``--work``, whole or not at all, and the present weights to ``--out``."""
    target, partial = args.work / name, args.work / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    write_checkpoint(partial, method, recipe, {}, step)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    config = {**checkpoints.read_config(target), "step": step}
    split(args.out, name, method.export(), config, parts=PARTS[name])


def train(name: str, args: Any, stage: Stage) -> tuple[Any, Recipe]:
    """Train, or go on; the method as it is in the end."""
    folder = args.work / name
    state = checkpoints.read_state(folder) if folder.is_dir() else None
    recipe = recipe_of(name, args) if state is None else parse(Recipe, checkpoints.read_config(folder)["recipe"])
    if args.steps:
        recipe = with_steps(recipe, args.steps)
    method: Any = make_method(recipe, stage.device)
    start = 0
    if state is not None:
        method.load_state_dict(state["method"])
        start = int(state["step"])
        stage.say(f"goes on after step {start}")
    pairs = pairs_of(recipe, args.data, stage.device)
    labels = labels_of(recipe, method, args, stage.device)
    stage.found |= {"recipe": recipe.model_dump(mode="json"), "resumed_at": start, "log": []}
    _loop(name, args, stage, method, recipe, pairs, labels, start)
    return method, recipe


def _loop(
    name: str, args: Any, stage: Stage, method: Any, recipe: Recipe, pairs: Iterator[dict[str, Any]], labels: Any,
    start: int,
) -> None:  # fmt: skip
    step, kept, began, last = start, time.monotonic(), time.monotonic(), (start, time.monotonic())
    keep(name, method, recipe, start, args)  # refuses weights that do not fit before it is too late
    while step < method.stepper.steps and (args.steps or stage.left > reserve(stage)):
        batch = next(pairs)
        metrics = method.training_step(batch if labels is None else batch | labels.take(step), step)
        step += 1
        if step % recipe.train.log_every == 0 or step == method.stepper.steps:
            now = time.monotonic()
            if not args.steps:
                method.stepper.steps = fitted(stage, (now - last[1]) / (step - last[0]), step)
            last = (step, now)
            shown = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
            stage.say(f"{step}/{method.stepper.steps}  {shown}")
            stage.found["log"].append({"step": step, **metrics})
        if time.monotonic() - kept > EVERY:
            keep(name, method, with_steps(recipe, step), step, args)
            kept = time.monotonic()
            stage.found["steps"] = step
            stage.write()
    keep(name, method, with_steps(recipe, step) if step else recipe, step, args)
    stage.found["steps"] = step
    if step > start:
        stage.found["steps_per_second"] = (step - start) / (time.monotonic() - began)
    if labels is not None:
        stage.found["labels"] = {"size": labels.pool.stats().size, "accepted": labels.pool.stats().accepted}
        labels.pool.close()


def on_pairs(
    network: torch.nn.Module, recipe: Recipe, data: Path, device: torch.device, count: int = PAIRS
) -> dict[str, float]:
    """Return the mean PSNR in dB on held-out synthetic pairs: of the hazy images, of the dehazed ones, and of clear
    images that were dehazed needlessly.
    """
    rows = read_rows(data, "clear", "test")[:count]
    whole = recipe.crop.model_copy(update={"size": max(recipe.crop.size, 64), "scale": (0.9, 1.0), "per_photo": 1})
    haze = recipe.haze.of_kind("plain") if "plain" in recipe.haze.kinds else recipe.haze
    made = synthetic_pairs(rows, whole, haze, seed=17)

    def through(pixels: Any) -> Any:
        return images.to_uint8(dehaze(network, images.to_tensor(pixels).to(device)).scene)

    mean = {"hazy": [], "dehazed": [], "clear_unharmed": []}  # type: dict[str, list[float]]
    for hazy, clear in zip(made["hazy"], made["clear"], strict=True):
        mean["hazy"].append(psnr(hazy, clear))
        mean["dehazed"].append(psnr(through(hazy[None])[0], clear))
        mean["clear_unharmed"].append(psnr(through(clear[None])[0], clear))
    return {"pairs": len(rows), **{f"psnr_{key}": sum(values) / len(values) for key, values in mean.items()}}


def shown(data: Path, count: int) -> list[dict[str, Any]]:
    """Return held-out hazy photographs, of as many kinds as there are."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(data, "hazy", "test"):
        kinds.setdefault(row["kind"], []).append(row)
    turns = [
        row
        for place in range(max(map(len, kinds.values())))
        for some in kinds.values()
        for row in some[place : place + 1]
    ]
    return turns[:count]


def draw(networks: dict[str, torch.nn.Module], args: Any, device: torch.device) -> None:
    """Draw the contact sheet of held-out photographs and each network's result, and save it in ``--out``."""
    lines = []
    for row in shown(args.data, 2 if args.steps else SHOWN):
        pixels = decode_pixels(row["image"])
        tensor = images.to_tensor(pixels).to(device)
        made = [pixels, *(images.to_uint8(dehaze(net, tensor).scene)[0] for net in networks.values())]
        pictures = [Image.fromarray(one) for one in made]
        for picture in pictures:
            picture.thumbnail((256, 256))
        lines.append(Line(pictures, f"{row['kind']} {row['image_id'][:8]}"))
    contact_sheet(lines, ["photograph", *networks] * 2, "held out", across=2).save(args.out / SHEET, quality=88)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 where nothing was trained."""
    parser = parser_of("training", __doc__)
    parser.add_argument("--stage", choices=tuple(PARTS), required=True)
    args = parser.parse_args(argv)
    stage = Stage(args.stage, args)
    torch.set_float32_matmul_precision("high")
    args.work.mkdir(parents=True, exist_ok=True)
    args.work = args.work.absolute()
    try:
        method, recipe = train(args.stage, args, stage)
    except DehazeError as problem:
        stage.found["error"] = str(problem)
        stage.write()
        print(f"error: {problem}", file=sys.stderr)
        return 1
    network = method.export().eval()
    stage.found |= on_pairs(network, recipe, args.data, stage.device, 2 if args.steps else PAIRS)
    stage.write()
    networks = {args.stage: network}
    if args.stage == "colabator":
        networks = {"teacher": zoo.load(str(args.work / "teacher")).network.to(stage.device), **networks}
    draw(networks, args, stage.device)
    stage.say(", ".join(f"{k} {v:.2f}" for k, v in stage.found.items() if k.startswith("psnr")))
    stage.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
