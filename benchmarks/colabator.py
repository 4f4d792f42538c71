"""What Colabator costs the student, and how fast label workers are: one run, one table.

``python -m benchmarks.colabator [--clear CORPUS --hazy CORPUS] [--out colabator.json] [--quick]`` trains the compact
CORUN four times with the same settings, on the same cluster, one after the other:

- *without*: supervised, on the synthetic half of the batches alone;
- *seeded*: with labels that were made before, and label workers that rest;
- *async*: with label workers that refresh them in the background;
- *inline*: with labels made within the training step, as in the paper's loop.

Steps per second and the share of a step's time that is spent waiting for labels are medians over the run's intervals,
without the first. On one machine *async* shares its cores with the label workers: what it loses against *seeded* is
their computing, not waiting. Then the label workers alone: candidates per second, teacher, scores and trust map and the
pool's acknowledgement included, against the number of workers, in a round that finds all of them up.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ingest_corpus import describe, sample_rows
from models.mlflow_client import default_uri
from pipelines.cluster import ray_session
from pipelines.corpus import CORPUS_SCHEMA, Domain
from pipelines.demo import make_samples
from pipelines.tracking import Tracker
from pipelines.train import Recipe, TrainJob, labeling_config, load_recipe, train

RECIPE = "colabator_corun_compact"
MODES = ("without", "seeded", "async", "inline")
ROWS_PER_GROUP = 4
CPUS = 4  # logical ones: 4 label workers and their pool fit


def make_corpora(out: Path, count: int) -> dict[str, str]:
    """Make a clear and a hazy corpus of ``count`` photographs each and return their folders by domain. The samples
    repeat under other ids, in small row groups.
    """
    samples, made = make_samples(out / "samples"), {}
    sources: tuple[tuple[Domain, Path], ...] = (("clear", samples.clear), ("hazy", samples.hazy))
    for domain, source in sources:
        folder = out / domain
        folder.mkdir()
        some = itertools.islice(itertools.cycle(list(sample_rows(source, domain))), count)
        rows = [row | {"image_id": f"{row['image_id']}-{index}"} for index, row in enumerate(some)]
        pq.write_table(
            pa.Table.from_pylist(rows, CORPUS_SCHEMA), folder / "train-000000.parquet", row_group_size=ROWS_PER_GROUP
        )
        describe(folder, domain, count, {"train-000000.parquet": -(-count // ROWS_PER_GROUP)})
        made[domain] = str(folder)
    return made


def recipe_of(mode: str, steps: int, interval: int, settings: Sequence[str]) -> Recipe:
    """Return the recipe of a mode; all modes have the same network, synthetic batches and steps."""
    overrides = [
        f"train.steps={steps}",
        f"train.log_every={interval}",
        f"train.checkpoint_every={steps}",
        f"labels.publish_every={interval}",
        "labels.max_teacher_lag=100000",
        "labels.picture_every=0",
        *settings,
    ]
    if mode == "without":
        overrides += ["method=supervised"]
    if mode == "seeded":
        overrides += [f"labels.publish_every={steps + 1}"]
    if mode == "inline":
        overrides += ["labels.mode=inline"]
    return load_recipe(RECIPE, overrides)


def student(mode: str, recipe: Recipe, out: Path, corpora: dict[str, str]) -> dict[str, float]:
    """Train once and return the steps per second, the share of time spent waiting for labels, and the candidates
    offered.
    """
    from mlflow import MlflowClient

    tracker = Tracker.start("benchmark", mode, default_uri(out))
    given = {domain: uri for domain, uri in corpora.items() if domain == "clear" or mode != "without"}
    result = train(TrainJob(recipe, out / mode, tracking=(tracker.tracking_uri, tracker.run_id), **given))
    client = MlflowClient(tracker.tracking_uri)

    def median(name: str) -> float:
        history = client.get_metric_history(tracker.run_id, f"{recipe.method}/{name}")
        return statistics.median(metric.value for metric in sorted(history, key=lambda metric: metric.step)[1:])

    found = {"steps_per_second": median("steps_per_second")}
    if mode != "without":
        found["waiting_share"] = median("pool_waiting_share")
        found["candidates"] = float(result.labels["pool"]["offered"])
    return found


def scoring(workers: int, recipe: Recipe, out: Path, corpora: dict[str, str]) -> dict[str, float]:
    """Return the candidates per second of ``workers`` label workers that have nothing else beside them."""
    from pipelines.train import given_corpus, make_network
    from pseudolabel.labeling import WorkUnit, start_labeling
    from pseudolabel.pool import start_pool

    name = f"scoring-{workers}-{os.getpid()}"
    units = [WorkUnit(uri, group) for uri, group in given_corpus(corpora["hazy"], "hazy").row_groups("train")]
    config = labeling_config(recipe).model_copy(update={"workers": workers})
    pool = start_pool(name, out / name)
    labeling = None
    try:
        labeling = start_labeling(config, pool, units, (make_network(recipe).state_dict(), 0))
        labeling.run_round()
        while labeling.status()["workers_ready"] < workers:  # the first may have done it all before the last was up
            labeling.run_round()
        report = labeling.run_round()
    finally:
        if labeling is not None:
            labeling.stop()
        pool.shutdown()
    return {
        "workers": workers,
        "candidates_per_second": report["offered"] / report["seconds"],
        "workers_busy": len(report["per_worker"]),
    }


def table(found: dict[str, Any]) -> str:
    """Return all results as Markdown tables."""
    base = found["student"]["without"]["steps_per_second"]
    lines = [
        "| student | steps/s | of *without* | waiting for labels | candidates |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for mode, row in found["student"].items():
        share = f"{row['waiting_share']:.1%}" if "waiting_share" in row else ""
        candidates = f"{row['candidates']:.0f}" if "candidates" in row else ""
        rate = row["steps_per_second"]
        lines.append(f"| {mode} | {rate:.2f} | {rate / base:.2f} | {share} | {candidates} |")
    lines += ["", "| label workers | candidates/s | of one |", "| ---: | ---: | ---: |"]
    one = found["scoring"][0]["candidates_per_second"]
    for row in found["scoring"]:
        rate = row["candidates_per_second"]
        lines.append(f"| {row['workers']} | {rate:.2f} | {rate / one:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.colabator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clear", help="corpus of clear photographs; default: samples")
    parser.add_argument("--hazy", help="corpus of hazy photographs; default: samples")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--photographs", type=int, default=64, help="of the sample corpora")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"of the recipe {RECIPE}")
    parser.add_argument("--quick", action="store_true", help="few steps of small photographs: does it run?")
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    if bool(args.clear) != bool(args.hazy):
        parser.error("give both corpora, or none")
    steps, count, settings = args.steps, args.photographs, list(args.set)
    if args.quick:
        steps, count = 12, 16
        settings += ["labels.size=64", "crop.size=32", "network={name: corun, stages: 1, dim: 2}", "init=null"]
    interval = max(1, steps // 10) if not args.quick else 3
    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=CPUS):
        out = Path(folder)
        corpora = {"clear": args.clear, "hazy": args.hazy} if args.clear else make_corpora(out, count)
        found: dict[str, Any] = {"steps": steps, "interval": interval, "cores": os.cpu_count(), "settings": settings}
        found["student"] = {
            mode: student(mode, recipe_of(mode, steps, interval, settings), out, corpora) for mode in MODES
        }
        recipe = recipe_of("async", steps, interval, settings)
        found["scoring"] = [scoring(workers, recipe, out, corpora) for workers in args.workers]
    print(table(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
