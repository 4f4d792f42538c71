"""Evaluate dehazing models and other programs' results on photographs, in parallel on Ray.

    python -m pipelines.evaluate --data corpus/hazy --clear corpus/clear --models corun-compact --out results
    python -m pipelines.evaluate --data hazy --reference clear --results ridcp=outputs/ridcp --out results

Photographs go to workers in small batches; each comes back as rows of numbers, which are written in parts. Real
photographs are judged by FADE, those with a clear version by PSNR. The hazy input and the dark channel prior are rows
of every table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from models.config import ConfigError
from pipelines.cluster import data_context_defaults, ray_session
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.evaluator import Evaluator, RowSettings, first_row
from pipelines.evaluate.parts import Gallery, Parts, by_photograph, results_in
from pipelines.evaluate.plan import EvaluationPlan, item_blocks, prepare
from pipelines.evaluate.report import Summary, publish
from pipelines.lock import only_one
from pipelines.mapping import map_tables_with
from pipelines.nodes import make_room, placed
from pipelines.resources import Ask
from pipelines.shown import progress
from pipelines.tracking import require_tracking

RETRIES = 3  # of a batch whose worker died


def evaluate(config: EvaluateConfig) -> Summary:
    """Measure every model on every chosen photograph and write the report to ``config.out``.

    Uses the Ray of this process or of ``RAY_ADDRESS``, or starts one for the time being. What goes to a URI is made in
    a folder of this machine and uploaded at the end; the paths of the answer are those of a folder that is gone then.

    Raises:
        ConfigError: a folder, model, result or metric is missing, a source is empty or of the wrong domain, no
            photograph could be read, MLflow cannot be reached, the results cannot be written, or another evaluation is
            writing there.
    """
    started = time.monotonic()
    plan = prepare(config)
    with only_one(config.out, "evaluation"):  # says more than a database, which may lie there, if it is no folder
        if config.tracking_uri is not None:
            require_tracking(config.tracking_uri)
        with results_in(config.out) as folder:
            return _evaluate(config, plan, folder, started)


def _evaluate(config: EvaluateConfig, plan: EvaluationPlan, folder: Path, started: float) -> Summary:
    galleries = {
        name: Gallery(g.headline, plan.subject, config.cases, config.sheet, first_row(g.kind))
        for name, g in plan.groups.items()
    }
    blocks = item_blocks(plan, config)
    with ray_session(log_to_driver=False):
        data_context_defaults()
        device, gpus = placed(config.device, config.num_gpus)
        plan = replace(plan, settings=plan.settings.model_copy(update={"device": device}))
        make_room([Ask("worker", 1, config.num_cpus, gpus, "--num-cpus, --num-gpus")])
        parts = Parts(folder)
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

    tables = map_tables_with(
        blocks,
        Evaluator,
        {"settings": settings},
        concurrency=min(config.concurrency, len(blocks)),
        cpus=config.num_cpus,
        gpus=gpus,
        retries=RETRIES,
    )
    with progress(sum(b.num_rows for b in blocks), "evaluate") as bar:
        try:
            for rows in tables:
                yield rows
                bar.update(len({*zip(rows["group"].to_pylist(), rows["image_id"].to_pylist(), strict=True)}))
        except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError) as problem:
            if "creation task" in str(problem):
                last = str(problem).strip().splitlines()[-1]
                raise ConfigError(f"the evaluation workers cannot start: {last}") from problem
            raise ConfigError(
                f"evaluation workers died {RETRIES + 1} times of one batch, for want of memory perhaps: lower "
                f"--concurrency, --batch or --max-side ({str(problem).splitlines()[0]})"
            ) from problem
