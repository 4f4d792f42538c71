"""Evaluate dehazing models on photographs, in parallel on Ray.

    python -m pipelines.evaluate --data corpus/hazy --clear corpus/clear --models corun-compact --out results

Real photographs get no-reference metrics (headline: FADE), synthetic pairs made from held-out clear photographs get
PSNR and SSIM (headline: PSNR). The hazy input and the dark channel prior are rows of every table. Workers hold the
models; only rows of numbers and a few thumbnails come back.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import Field
from tqdm import tqdm

from models import zoo
from models.physics import HazeConfig
from models.settings import ConfigError, Settings, parse
from pipelines.cluster import data_context_defaults, local_cpus, ray_session
from pipelines.command import run as run_command
from pipelines.evaluate_rows import (
    CLEAR,
    HAZY,
    ITEM_SCHEMA,
    PLAIN_HAZE,
    REAL,
    SYNTHETIC,
    Evaluator,
    ModelChoice,
    RowSettings,
)
from pipelines.evaluate_sources import Selection, Split, choose, match_references
from pipelines.evaluate_summary import Row, Summary, headline_lines, summarise, tabulate, write

PROGRESS: dict[str, Any] = {"mininterval": 0.5 if sys.stderr.isatty() else 10, "dynamic_ncols": True}
BASELINE = "dcp"
_BATCH = 8  # photographs that a worker gets at a time, at most


class EvaluateConfig(Settings):
    """An evaluation.

    Attributes:
        data: hazy photographs: a corpus, or a plain folder.
        out: folder for the results.
        models: zoo names or checkpoint folders; ``label=folder`` names the column.
        baseline: also measure the dark channel prior, which needs no training: what a model has to beat.
        clear: clear photographs (corpus or folder); synthetic pairs are made from its test split.
        reference: folder with clear versions of photographs in ``data`` under the same names.
        split: of a corpus; by default ``test``, and all of a plain folder given as ``data``.
        limit: at most so many photographs of each source, the first by image id.
        scorer: for clearness and quality; None leaves them out.
        max_side: longer side that real photographs are shrunk to before they are dehazed and measured.
        pair_size: side of the square synthetic pairs.
        degraded_pairs: also darken, add noise and compress as in training, not only haze.
        sheet: photographs of each kind on the contact sheets.
        seed: of the synthetic haze and the bootstrap.
        concurrency: workers, each with all models.
        num_cpus, num_gpus: that Ray sets aside for each worker; two workers must fit two logical CPUs.
        threads: of torch in each worker; None shares this machine's cores between them.
        device: torch device of each worker.
    """

    data: str
    out: str
    models: tuple[str, ...] = (zoo.DEFAULT,)
    baseline: bool = True
    clear: str | None = None
    reference: str | None = None
    split: Split | None = None
    limit: int | None = Field(None, ge=1)
    scorer: str | None = "clip-compact"
    max_side: int = Field(640, ge=64)
    pair_size: int = Field(320, ge=64)
    degraded_pairs: bool = False
    sheet: int = Field(8, ge=0)
    seed: int = Field(0, ge=0)
    concurrency: int = Field(2, ge=1)
    num_cpus: float = Field(0.5, gt=0.0)
    num_gpus: float = Field(0.0, ge=0.0)
    threads: int | None = Field(None, ge=1)
    device: str = "cpu"


def evaluate(config: EvaluateConfig) -> Summary:
    """Measure every model on every chosen photograph and write the report to ``config.out``.

    Uses the Ray of this process or of ``RAY_ADDRESS``, or starts one for the time being.

    Raises:
        ConfigError: a folder or model is missing, a source is empty or of the wrong domain, or no photograph could
            be read.
    """
    started = time.monotonic()
    choices = with_baseline(model_choices(config.models)) if config.baseline else model_choices(config.models)
    selections = select(config)
    references: dict[str, str] = {}
    if config.reference is not None:
        references = match_references(selections[REAL].entries, Path(config.reference))
    described = {choice.label: describe_model(choice) for choice in choices}
    check_scorer(config.scorer)
    settings = row_settings(config, choices)
    evaluator = {
        "settings": settings,
        "references": references,
        "sheet": [f"{kind}/{e.image_id}" for kind, s in selections.items() for e in s.entries[: config.sheet]],
    }
    with ray_session(log_to_driver=False):
        data_context_defaults()
        rows = measure(item_blocks(selections, config.concurrency), evaluator, config)
    order = [HAZY, *(choice.label for choice in choices), CLEAR]
    rows.sort(key=lambda row: (row["kind"], row["image_id"], order.index(row["model"]) if row["model"] else -1))
    if all(row["error"] for row in rows):
        raise ConfigError(f"none of {len(rows)} photographs could be measured; the first: {rows[0]['error']}")
    tables = tabulate(rows, order, config.seed)
    summary = summarise(selections, rows, tables) | {
        "config": config.model_dump(mode="json"),
        "models": described,
        "row_settings": settings.model_dump(mode="json"),
        "references": len(references),
        "seconds": round(time.monotonic() - started, 1),
    }
    return write(Path(config.out), summary, tables, rows)


def model_choices(specs: Sequence[str]) -> tuple[ModelChoice, ...]:
    """``label=source`` or ``source``, folders made absolute because workers have another current folder.

    Raises:
        ConfigError: a label that is taken twice or is a row of every table.
    """
    choices: dict[str, ModelChoice] = {}
    for spec in specs:
        label, separator, source = spec.partition("=")
        if not separator or "/" in label:
            label, source = spec, spec
        if label in choices or label in (HAZY, CLEAR) or not label or not source:
            raise ConfigError(f"model '{spec}' cannot be labelled '{label}': labels must differ; use label=folder")
        folder = source not in zoo.NAMES and Path(source).is_dir()
        choices[label] = ModelChoice(label=label, source=str(Path(source).absolute()) if folder else source)
    return tuple(choices.values())


def with_baseline(choices: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
    """The dark channel prior before the others, unless it is among them."""
    if any(choice.source == BASELINE for choice in choices):
        return choices
    return (ModelChoice(label=BASELINE, source=BASELINE), *choices)


def select(config: EvaluateConfig) -> dict[str, Selection]:
    """The photographs of each kind."""
    selections = {REAL: choose(config.data, "hazy", config.split, config.limit, default="all")}
    if config.clear is not None:
        selections[SYNTHETIC] = choose(config.clear, "clear", config.split, config.limit, default="test")
    return selections


def describe_model(choice: ModelChoice) -> dict[str, Any]:
    """What the summary says of a model, so that its numbers can be traced to its weights.

    Raises:
        ConfigError: there is no such model.
    """
    loaded = zoo.load(choice.source)
    digest = hashlib.sha256()
    for name, tensor in sorted(loaded.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "source": choice.source,
        "network": loaded.config.get("network"),
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "weights_sha256": digest.hexdigest(),
    }


def check_scorer(name: str | None) -> None:
    """Fail here, in a sentence, instead of in a worker; packaged scorers are known to load.

    Raises:
        ConfigError: there is no such scorer.
    """
    from pseudolabel.clip_scorer import PACKAGED, load_scorer

    if name is not None and name not in PACKAGED:
        load_scorer(name)


def row_settings(config: EvaluateConfig, choices: tuple[ModelChoice, ...]) -> RowSettings:
    """The part of the configuration that travels to the workers."""
    return RowSettings(
        models=choices,
        scorer=config.scorer,
        max_side=config.max_side,
        pair_size=config.pair_size,
        haze=HazeConfig() if config.degraded_pairs else PLAIN_HAZE,
        seed=config.seed,
        threads=config.threads or max(1, local_cpus() // config.concurrency),
        device=config.device,
    )


def item_blocks(selections: Mapping[str, Selection], concurrency: int) -> list[pa.Table]:
    """Small tables of pointers to photographs, neighbours in a row group together: each is one batch of a worker."""
    items = [
        {"kind": kind, "image_id": e.image_id, "name": e.name, "path": e.path, "row_group": e.row_group}
        for kind, selection in selections.items()
        for e in sorted(selection.entries, key=lambda e: (e.path, e.row_group or 0, e.image_id))
    ]
    size = max(1, min(_BATCH, len(items) // (4 * concurrency)))
    return [pa.Table.from_pylist(items[at : at + size], ITEM_SCHEMA) for at in range(0, len(items), size)]


def measure(blocks: Sequence[pa.Table], evaluator: Mapping[str, Any], config: EvaluateConfig) -> list[Row]:
    """Stream the blocks through a pool of evaluators; rows in the order they are done."""
    from ray.data import ActorPoolStrategy, from_arrow

    dataset = from_arrow(list(blocks)).map_batches(
        Evaluator,
        fn_constructor_kwargs=dict(evaluator),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(config.concurrency, len(blocks))),
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus or None,
    )
    dataset.context.enable_progress_bars = False  # ours counts photographs
    rows: list[Row] = []
    with tqdm(total=sum(b.num_rows for b in blocks), desc="evaluate", unit=" photos", **PROGRESS) as bar:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            found: list[Row] = table.to_pylist()  # type: ignore[union-attr]  # what batch_format asks for
            rows += found
            bar.update(sum(row["model"] in (HAZY, "") for row in found))
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.evaluate", description="Measure dehazing models on photographs and write a report."
    )
    default = {name: field.default for name, field in EvaluateConfig.model_fields.items()}
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="hazy photographs: a corpus or a plain folder")
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add(
        "--models",
        default=zoo.DEFAULT,
        metavar="A,B",
        help=f"of {', '.join(zoo.NAMES)}, checkpoint folders, label=folder",
    )
    add("--no-baseline", dest="baseline", action="store_false", help="leave the dark channel prior out of the tables")
    add("--clear", metavar="DIR", help="clear photographs (corpus or folder) to make synthetic pairs from")
    add("--reference", metavar="DIR", help="folder with the clear versions of --data, same file names")
    add("--split", choices=["test", "train", "all"], help="default: test of a corpus, all of a folder given as --data")
    add("--limit", type=int, metavar="N", help="at most N photographs of each source")
    add("--scorer", default=default["scorer"], help="for clearness and quality, or 'none' (default: %(default)s)")
    add("--max-side", type=int, default=default["max_side"], help="of real photographs (default: %(default)s)")
    add("--pair-size", type=int, default=default["pair_size"], help="side of synthetic pairs (default: %(default)s)")
    add("--degraded-pairs", action="store_true", help="also darken, add noise and compress the synthetic pairs")
    add("--sheet", type=int, default=default["sheet"], help="photographs on a contact sheet (default: %(default)s)")
    add("--seed", type=int, default=default["seed"], help="of the synthetic haze and the bootstrap (default: 0)")
    add("--concurrency", type=int, default=default["concurrency"], help="workers (default: %(default)s)")
    add("--num-cpus", type=float, default=default["num_cpus"], help="of Ray for each worker (default: %(default)s)")
    add("--num-gpus", type=float, default=default["num_gpus"], help="of Ray for each worker (default: 0)")
    add("--threads", type=int, help="of torch in each worker (default: this machine's cores shared between them)")
    add("--device", default=default["device"], help="torch device of each worker (default: %(default)s)")
    return parser


def _main(args: argparse.Namespace) -> int:
    values = {key: value for key, value in vars(args).items() if value is not None}
    values["models"] = tuple(spec.strip() for spec in args.models.split(",") if spec.strip())
    values["scorer"] = None if args.scorer == "none" else args.scorer
    found = evaluate(parse(EvaluateConfig, values, "evaluate"))
    for warning in found.summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(headline_lines(found.summary)))
    files = (found.csv, found.json, found.markdown, found.sheet, found.pairs_sheet)
    print("\n".join(["", *(f"  {file}" for file in files if file is not None)]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the job; returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
