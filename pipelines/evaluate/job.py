"""Evaluate dehazing models and other programs' results on photographs, in parallel on Ray.

    python -m pipelines.evaluate --data corpus/hazy --clear corpus/clear --models corun-compact --out results
    python -m pipelines.evaluate --data hazy --reference clear --results ridcp=outputs/ridcp --out results

Photographs go to workers in small batches; each comes back as rows of numbers, which are written in parts. Real
photographs are judged by FADE, those with a clear version by PSNR. The hazy input and the dark channel prior are rows
of every table.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from models import zoo
from models.config import ConfigError, parse
from models.imports import add_allow_networks
from pipelines.cluster import data_context_defaults, local_out, make_room, placed, ray_session
from pipelines.command import run as run_command
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.evaluator import HAZY, Evaluator, RowSettings
from pipelines.evaluate.metrics import METRICS
from pipelines.evaluate.parts import Gallery, Parts, by_photograph
from pipelines.evaluate.plan import item_blocks, prepare
from pipelines.evaluate.report import Summary, headline_lines, publish
from pipelines.mapping import GuardedMaker, checked
from pipelines.resources import Ask
from pipelines.tracking import require_tracking

PROGRESS: dict[str, Any] = {"mininterval": 0.5 if sys.stderr.isatty() else 10, "dynamic_ncols": True}
RETRIES = 3  # of a batch whose worker died


def evaluate(config: EvaluateConfig) -> Summary:
    """Measure every model on every chosen photograph and write the report to ``config.out``.

    Uses the Ray of this process or of ``RAY_ADDRESS``, or starts one for the time being.

    Raises:
        ConfigError: a folder, model, result or metric is missing, a source is empty or of the wrong domain, no
            photograph could be read, MLflow cannot be reached, or the results cannot be written.
    """
    started = time.monotonic()
    plan = prepare(config)
    if config.tracking_uri is not None:
        require_tracking(config.tracking_uri)
    parts = Parts(Path(config.out))
    galleries = {name: Gallery(g.headline, plan.subject, config.cases, config.sheet) for name, g in plan.groups.items()}
    blocks = item_blocks(plan, config)
    with ray_session(log_to_driver=False):
        data_context_defaults()
        device, gpus = placed(config.device, config.num_gpus)
        plan = replace(plan, settings=plan.settings.model_copy(update={"device": device}))
        make_room([Ask("worker", 1, config.num_cpus, gpus, "--num-cpus, --num-gpus")])
        for table in measure(blocks, plan.settings, config, gpus):
            parts.write(table)
            for row, photograph in by_photograph(table):
                if photograph:
                    galleries[row["group"]].add(row["image_id"], photograph)
    if not any(gallery.shown for gallery in galleries.values()):
        reason = next(row["error"] for row in parts.rows())
        raise ConfigError(f"none of {plan.photographs} photographs could be measured; the first: {reason}")
    return publish(config, plan, parts, galleries, time.monotonic() - started)


def measure(
    blocks: Sequence[pa.Table], settings: RowSettings, config: EvaluateConfig, gpus: float = 0.0
) -> Iterator[pa.Table]:
    """Stream the blocks through a pool of evaluators; a table of rows for each, in the order they are done.

    A batch whose worker dies goes to another, a few times.

    Raises:
        ConfigError: workers cannot start, or die of a batch again and again; or a model fails.
    """
    import ray
    from ray.data import ActorPoolStrategy, from_arrow

    with warnings.catch_warnings():
        # Without a bound, a photograph that kills its worker would do so for ever. Ray 2.60 warns that the way to set
        # it will go, and has no other one yet. GPUs come in here, too: as an argument they ask for a batch size, which
        # would join blocks.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        dataset = from_arrow(list(blocks)).map_batches(
            GuardedMaker,
            fn_constructor_kwargs={"maker": Evaluator, "arguments": {"settings": settings}},
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(config.concurrency, len(blocks))),
            num_cpus=config.num_cpus,
            ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": RETRIES, "num_gpus": gpus},
        )
    dataset.context.enable_progress_bars = False  # ours counts photographs
    with tqdm(total=sum(b.num_rows for b in blocks), desc="evaluate", unit=" photos", **PROGRESS) as bar:
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                rows = checked(table)
                yield rows
                bar.update(sum(model in (HAZY, "") for model in rows["model"].to_pylist()))
        except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError) as problem:
            if "creation task" in str(problem):
                last = str(problem).strip().splitlines()[-1]
                raise ConfigError(f"the evaluation workers cannot start: {last}") from problem
            raise ConfigError(
                f"evaluation workers died {RETRIES + 1} times of one batch, for want of memory perhaps: lower "
                f"--concurrency, --batch or --max-side ({str(problem).splitlines()[0]})"
            ) from problem


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.evaluate",
        description="Measure dehazing models on photographs and write a report.",
        allow_abbrev=False,
    )
    default = {name: field.default for name, field in EvaluateConfig.model_fields.items()}
    add = parser.add_argument
    add("--data", required=True, nargs="+", metavar="DIR", help="hazy photographs: corpora or plain folders")
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add(
        "--models",
        default=zoo.DEFAULT,
        metavar="A,B",
        help=f"of {', '.join(zoo.NAMES)}, checkpoint folders, label=folder, or 'none'",
    )
    add_allow_networks(parser)
    add("--results", nargs="+", default=[], metavar="NAME=DIR", help="other programs' results for --data")
    add("--no-baseline", dest="baseline", action="store_false", help="leave the dark channel prior out of the tables")
    add("--clear", metavar="DIR", help="clear photographs (corpus or folder) to make synthetic pairs from")
    add("--reference", metavar="DIR", help="folder with the clear versions of --data")
    add("--annotations", metavar="PATH", help="VOC folder or COCO .json of --data, for --detector")
    add("--detector", metavar="NAME|FILE", help="of torchvision, NAME=FILE, or a weights file, for --annotations")
    add("--classes", metavar="A,B", help="what the detector's labels 1, 2, ... mean (default: COCO's)")
    add("--split", choices=["test", "train", "all"], help="default: test of a corpus, all of a folder given as --data")
    add("--limit", type=int, metavar="N", help="at most N photographs of each source")
    add("--metrics", default="default", metavar="A,B", help=f"'default', or of {', '.join(METRICS)}")
    add("--metric-weights", nargs="+", default=[], metavar="NAME=FILE", help="weights of a metric")
    add("--headline", metavar="NAME", help="metric to judge by where it is measured (default: fade, psnr)")
    add("--allow-missing", action="store_true", help="what cannot run is n/a with a reason, not an error")
    add("--scorer", default=default["scorer"], help="for clearness and quality, or 'none' (default: %(default)s)")
    add("--max-side", type=int, default=default["max_side"], help="of photographs, 0: as they are (default: 640)")
    add("--pair-size", type=int, default=default["pair_size"], help="side of synthetic pairs (default: %(default)s)")
    add("--degraded-pairs", action="store_true", help="also darken, add noise and compress the synthetic pairs")
    add("--cases", type=int, default=default["cases"], help="photographs in the report (default: %(default)s)")
    add("--sheet", type=int, default=default["sheet"], help="photographs on a contact sheet (default: %(default)s)")
    add("--seed", type=int, default=default["seed"], help="of the synthetic haze and the bootstrap (default: 0)")
    add("--tracking-uri", help="of MLflow, or 'none' (default: MLFLOW_TRACKING_URI, else a database in --out)")
    add("--batch", type=int, default=default["batch"], help="photographs for a worker at a time (default: %(default)s)")
    add("--concurrency", type=int, default=default["concurrency"], help="workers (default: %(default)s)")
    add("--num-cpus", type=float, default=default["num_cpus"], help="of Ray for each worker (default: %(default)s)")
    add("--num-gpus", type=float, help="of Ray for each worker; may be a fraction (default: 1 for cuda, else 0)")
    add("--threads", type=int, help="of torch in each worker (default: this machine's cores shared between them)")
    add(
        "--device", choices=["auto", "cpu", "cuda"], default=default["device"],
        help="of each worker; auto: a GPU where the cluster has any (default: %(default)s)",
    )  # fmt: skip
    return parser


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def config_of(args: argparse.Namespace) -> EvaluateConfig:
    """The configuration that the arguments ask for.

    Raises:
        ConfigError: a value out of its range, or of another form.
    """
    from pipelines.tracking import default_uri

    values = {key: value for key, value in vars(args).items() if value is not None}
    local_out(args.out)
    values["models"] = () if args.models == "none" else _list(args.models)
    values["metrics"] = _list(args.metrics)
    values |= {"data": tuple(args.data), "results": tuple(args.results), "allow_networks": tuple(args.allow_networks)}
    if args.classes is not None:
        values["classes"] = _list(args.classes)
    wrong = next((pair for pair in args.metric_weights if "=" not in pair), None)
    if wrong is not None:
        raise ConfigError(f"--metric-weights {wrong}: expected NAME=FILE")
    values["metric_weights"] = dict(pair.split("=", 1) for pair in args.metric_weights)
    values["scorer"] = None if args.scorer == "none" else args.scorer
    uri = args.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(args.out)
    values["tracking_uri"] = None if uri == "none" else uri
    return parse(EvaluateConfig, values, "evaluate")


def _main(args: argparse.Namespace) -> int:
    found = evaluate(config_of(args))
    for warning in found.summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(headline_lines(found.summary)))
    print("\n".join(["", *(f"  {file}" for file in found.files())]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the job; returns its exit code."""
    return run_command(_main, _parser(), argv)
