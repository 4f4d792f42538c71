"""The data path of training, Ray Data against ``torch.utils.data.DataLoader``: decoding, crops, haze, batches.

``python -m benchmarks.ingest [--clear CORPUS] [--out ingest.json] [--quick]`` prints one table from one run:

- photographs per second on 1, 2 and 4 cores, in all and in the second half of the run (steady), and the seconds to
  the first batch of the first and of a second epoch. Both read the same row groups with the same functions
  (``pipelines.train.data.blocks``) in as many tasks or workers as there are cores. Every measurement is a process of
  its own, which is pinned to its cores with all that it starts, Ray's services too. Ray and DataLoader are measured in
  turn; what counts is the median over the rounds of the ratio within a round.
- the peak memory of all processes together, shared pages (the object store) counted once, for a corpus and for one ten
  times as long.
- samples per second of the recipe as it is: what the data path makes, and what a training step on the same cores uses.

The seconds of a Ray session are shown by themselves and are not in the rates: ``ray.init`` and the start of the data
workers, which a training job pays once, while its training workers start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.ingest_corpus import make_corpus
from benchmarks.serving_service import memory as memory_of

RECIPE = "refine_corun_compact"
ONE_CROP = ("crop.size=256", "crop.per_photo=1")  # so that photographs per second are samples per second
RATES = ("total", "steady")
ATTEMPTS = 3


# --- one measurement, in a process of its own ---


def _timed(epochs: Callable[[], Iterator[int]], per_photo: int) -> dict[str, float]:
    """Photographs per second of a first epoch, and the seconds to the first batch of it and of a second one."""
    began, marks, seen = time.perf_counter(), [], 0
    for count in epochs():
        seen += count
        marks.append((time.perf_counter() - began, seen / per_photo))
    end, photographs = marks[-1]
    middle = next(mark for mark in marks if mark[1] >= photographs / 2)
    again = time.perf_counter()
    second = epochs()
    next(second)
    return {
        "total": photographs / end,
        "steady": (photographs - middle[1]) / max(end - middle[0], 1e-9),
        "first": marks[0][0],
        "again": time.perf_counter() - again,
    }


def _ray(todo: dict[str, Any]) -> dict[str, float]:
    import ray.data  # before the clock starts, as torch is for the DataLoader

    from pipelines import train as streams
    from pipelines.cluster import data_context_defaults, ray_session
    from pipelines.corpus import open_corpus
    from pipelines.train import load_recipe

    recipe, cores = load_recipe(RECIPE, todo["set"]), todo["cores"]
    sampling, cpus = streams.sampling_of(recipe)["clear"], recipe.train.data_cpus
    began = time.perf_counter()
    with ray_session(num_cpus=cores, log_to_driver=False):
        ray.get(streams.prestart(cores, cpus))
        session = time.perf_counter() - began
        data_context_defaults()

        def epoch() -> Iterator[int]:
            rows = streams.dataset(open_corpus(todo["corpus"]), sampling, tasks=cores, cpus=cpus)
            for batch in rows.iter_batches(batch_size=recipe.train.batch_size, prefetch_batches=2):
                yield len(batch["hazy"])

        return _timed(epoch, recipe.crop.per_photo) | {"session": session}


def _loader(todo: dict[str, Any]) -> dict[str, float]:
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    from pipelines import train as streams
    from pipelines.corpus import open_corpus
    from pipelines.train import load_recipe

    recipe = load_recipe(RECIPE, todo["set"])
    sampling, size = streams.sampling_of(recipe)["clear"], recipe.train.batch_size

    class Samples(IterableDataset[dict[str, torch.Tensor]]):
        """Row groups dealt to the workers; batches that are cut from blocks, across their borders."""

        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            info = get_worker_info()
            units = open_corpus(todo["corpus"]).row_groups("train")
            order = np.random.default_rng(0).permutation(len(units))[info.id :: info.num_workers]
            rest: dict[str, np.ndarray] | None = None
            for block in streams.blocks([units[index] for index in order], sampling):
                whole = block if rest is None else {key: np.concatenate([rest[key], block[key]]) for key in block}
                count = len(whole["hazy"]) // size * size
                for start in range(0, count, size):
                    yield {key: torch.from_numpy(values[start : start + size]) for key, values in whole.items()}
                rest = {key: values[count:] for key, values in whole.items()}
            if rest is not None and len(rest["hazy"]):
                yield {key: torch.from_numpy(values) for key, values in rest.items()}

    def epoch() -> Iterator[int]:
        for batch in DataLoader(Samples(), batch_size=None, num_workers=todo["cores"]):
            yield len(batch["hazy"])

    return _timed(epoch, recipe.crop.per_photo)


def _training(todo: dict[str, Any]) -> dict[str, float]:
    """Samples per second that the recipe's training step uses, with one thread per core."""
    import torch

    from pipelines.train import load_recipe, make_method

    torch.set_num_threads(todo["cores"])
    recipe = load_recipe(RECIPE, todo["set"])
    method = make_method(recipe, torch.device("cpu"))
    batch = {key: torch.rand(recipe.train.batch_size, 3, *[recipe.crop.size] * 2) for key in ("hazy", "clear")}
    method.training_step(batch, 0)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < todo["seconds"]:
        method.training_step(batch, steps := steps + 1)
    return {"used": steps * recipe.train.batch_size / (time.perf_counter() - began)}


KINDS = {"ray": _ray, "loader": _loader, "training": _training}


def _child(text: str) -> None:
    todo = json.loads(text)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: todo["cores"]])
    result = KINDS[todo["kind"]](todo)
    Path(todo["result"]).write_text(json.dumps(result))


# --- all measurements ---


def measure(kind: str, cores: int, *, memory: bool = False, **todo: Any) -> dict[str, float]:
    """Measure once in a process of its own; ``memory`` adds its peak in bytes, which costs it some time.

    It is tried again when it fails: Ray gives up when a session takes 30 s to start, as on a busy machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        text = json.dumps({"kind": kind, "cores": cores, "result": str(result), **todo})
        for _ in range(ATTEMPTS):
            peak = _run([sys.executable, "-m", "benchmarks.ingest", "--child", text], memory=memory)
            if result.exists():
                found: dict[str, float] = json.loads(result.read_text())
                return found | ({"peak": float(peak)} if memory else {})
    raise SystemExit(f"error: measuring {kind} on {cores} cores failed {ATTEMPTS} times; the reason is above")


def _run(command: list[str], *, memory: bool) -> int:
    """Run to the end; the peak memory in bytes where it is asked for, else 0."""
    peak = 0
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
        while child.poll() is None:
            if memory:
                peak = max(peak, memory_of(child.pid).total())
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
    return peak


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def speeds(corpus: str, cores: int, rounds: int) -> dict[str, Any]:
    """Measure Ray Data and DataLoader in turn on the same cores, the other one first in every second round."""
    found: dict[str, list[dict[str, float]]] = {"ray": [], "loader": []}
    for number in range(rounds):
        for kind in sorted(found, reverse=number % 2 == 0):
            found[kind].append(measure(kind, cores, corpus=corpus, set=ONE_CROP))
    pairs = list(zip(found["ray"], found["loader"], strict=True))
    ratios = {key: statistics.median(ray[key] / loader[key] for ray, loader in pairs) for key in RATES}
    return {"cores": cores, "ray": _median(found["ray"]), "loader": _median(found["loader"]), "ratio": ratios}


def feeding(corpus: str, cores: int, seconds: float) -> dict[str, float]:
    """Return the samples per second of the unchanged recipe: made by Ray Data, and used by training on the same
    cores.
    """
    from pipelines.train import load_recipe

    made = measure("ray", cores, corpus=corpus, set=())["steady"] * load_recipe(RECIPE).crop.per_photo
    used = measure("training", cores, seconds=seconds, set=())["used"]
    return {"cores": cores, "made": made, "used": used, "ratio": made / used}


def table(found: dict[str, Any]) -> str:
    """Return all results as Markdown tables."""
    first = found["speed"][0]
    lines = [
        "| cores | | photographs/s | steady | scaling (steady) | first batch, s | again, s | session, s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["speed"]:
        for kind in ("ray", "loader"):
            one = row[kind]
            lines.append(
                f"| {row['cores']} | {kind} | {one['total']:.0f} | {one['steady']:.0f} | "
                f"{one['steady'] / first[kind]['steady']:.2f} | {one['first']:.1f} | {one['again']:.1f} | "
                f"{one.get('session', 0.0):.1f} |"
            )
        lines.append(
            f"| {row['cores']} | ray / loader | {row['ratio']['total']:.2f} | {row['ratio']['steady']:.2f} |||||"
        )
    lines += ["", "| photographs | | peak memory, MiB |", "| --- | --- | ---: |"]
    lines += [f"| {row['photographs']} | {row['kind']} | {row['peak'] / 2**20:.0f} |" for row in found["memory"]]
    lines += ["", "| cores | samples/s made | used by training | made / used |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {r['cores']} | {r['made']:.0f} | {r['used']:.1f} | {r['ratio']:.1f} |" for r in found["feeding"]]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clear", help="corpus whose photographs are used; default: those inside scikit-image")
    parser.add_argument("--photographs", type=int, default=12_000)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few hundred photographs, once: does it run?")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    if args.child:
        _child(args.child)
        return
    count, rounds, seconds = (256, 1, 3.0) if args.quick else (args.photographs, args.rounds, 15.0)
    most = max(args.cores)
    with tempfile.TemporaryDirectory() as folder:
        corpus, long = (make_corpus(Path(folder), n, args.clear) for n in (count, 10 * count))
        found: dict[str, Any] = {"photographs": count, "rounds": rounds}
        found["speed"] = [speeds(corpus, cores, rounds) for cores in args.cores]
        found["memory"] = [
            {"photographs": n, "kind": kind, **measure(kind, most, memory=True, corpus=uri, set=ONE_CROP)}
            for n, uri in ((count, corpus), (10 * count, long))
            for kind in ("ray", "loader")
        ]
        found["feeding"] = [feeding(corpus, cores, seconds) for cores in args.cores]
    print(table(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
