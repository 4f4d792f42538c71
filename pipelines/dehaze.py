"""Dehaze a folder with Ray Data: a folder in, the same tree out.

    python -m pipelines.dehaze hazy/ clear/ --model corun-compact --concurrency 2

Files go through workers a few at a time, so memory stays flat however many there are. What is there already is skipped:
a job that was cut off goes on when it is started again. Both folders must be visible to every node.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.settings import ConfigError
from pipelines.apply import FORMATS, Job, add_options, execution_of, options_of, plan
from pipelines.cluster import data_context_defaults, ray_session
from pipelines.command import run, sentence

if TYPE_CHECKING:
    from models.inference import InferenceConfig
    from serving.predictor import DehazeOptions

FAILURES = "failures.jsonl"
Batch = dict[str, NDArray[Any]]
_BATCH = 4  # files that a worker has in hand; the rest can go to others


@dataclass(frozen=True)
class Report:
    """What a job did: files written, files that were there, and ``{"path", "reason"}`` of those that failed."""

    written: int
    skipped: int
    failures: list[dict[str, str]]


class Dehazer:
    """What each worker holds: a model. Maps a batch of (source, target) to (source, reason), reason "" when done."""

    def __init__(
        self, model: str, tracking_uri: str | None, threads: int, options: DehazeOptions, execution: InferenceConfig
    ) -> None:
        from serving.predictor import Predictor

        self._options = options
        self._predictor = Predictor(model, tracking_uri, threads, execution=execution)

    def __call__(self, batch: Batch) -> Batch:
        """Write the files of a batch."""
        reasons = [self._one(Path(str(a)), Path(str(b))) for a, b in zip(batch["source"], batch["target"], strict=True)]
        return {"source": batch["source"], "reason": np.array(reasons, dtype=object)}

    def _one(self, source: Path, target: Path) -> str:
        from models.images import ImageError

        try:
            self._predictor.dehaze_file(source, target, self._options)
        except (ImageError, OSError) as problem:
            return sentence(problem)
        return ""


def dehaze_folder(
    source: Path,
    target: Path,
    options: DehazeOptions,
    execution: InferenceConfig,
    *,
    model: str,
    tracking_uri: str | None = None,
    concurrency: int = 2,
    threads: int = 1,
    num_cpus: float = 0.5,
) -> Report:
    """Dehaze every photograph below ``source`` to the same place below ``target``.

    Args:
        source: folder of photographs.
        target: folder for the results and for ``failures.jsonl``, which lists what failed, if anything did.
        options: strength, format and quality.
        execution: precision, and the memory that each worker may use.
        model: packaged name, checkpoint folder or ``models:/name@alias``.
        tracking_uri: of the MLflow registry.
        concurrency: workers, each with a model.
        threads: of torch in each.
        num_cpus: logical CPUs that Ray sets aside for each.

    Raises:
        ConfigError: no such folder or model, no photographs, or results that would replace inputs.
    """
    if not source.is_dir():
        raise ConfigError(f"there is no folder {source}")
    source, target = source.resolve(), target.resolve()  # workers have other current folders
    jobs = plan([source], target, FORMATS[options.format.lower()] if options.format else None)
    todo = [job for job in jobs if not job.target.exists()]
    failures: list[dict[str, str]] = []
    if todo:
        worker = {"model": _checked(model, tracking_uri), "tracking_uri": tracking_uri, "threads": threads}
        with ray_session(log_to_driver=False):
            data_context_defaults()
            failures = _execute(todo, worker | {"options": options, "execution": execution}, concurrency, num_cpus)
    _write_failures(target / FAILURES, failures)
    return Report(len(todo) - len(failures), len(jobs) - len(todo), failures)


def _execute(todo: Sequence[Job], worker: dict[str, Any], concurrency: int, num_cpus: float) -> list[dict[str, str]]:
    import ray

    rows = [{"source": str(job.source), "target": str(job.target)} for job in todo]
    blocks = max(1, min(len(rows), 4 * concurrency))
    done = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Dehazer,
        fn_constructor_kwargs=worker,
        batch_size=_BATCH,
        compute=ray.data.ActorPoolStrategy(size=min(concurrency, blocks)),
        num_cpus=num_cpus,
    )
    failures = []
    with tqdm(total=len(rows), unit="photo", dynamic_ncols=True) as progress:
        for row in done.iter_rows():
            progress.update()
            if row["reason"]:
                failures.append({"path": str(row["source"]), "reason": str(row["reason"])})
    return sorted(failures, key=lambda failure: failure["path"])


def _checked(model: str, tracking_uri: str | None) -> str:
    """``model``, which must exist; a checkpoint folder as an absolute path."""
    from models import zoo
    from serving.registry import SCHEME, download_model

    if model.startswith(SCHEME):
        download_model(model, tracking_uri)
        return model
    zoo.load(model)
    return model if model in zoo.NAMES else str(Path(model).resolve())


def _write_failures(path: Path, failures: Sequence[dict[str, str]]) -> None:
    """What failed this time; a list from an earlier time is out of date either way."""
    path.unlink(missing_ok=True)
    if failures:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.dehaze", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of photographs")
    parser.add_argument("target", type=Path, metavar="DST", help="folder for the results; the tree is kept")
    add_options(parser)
    parser.add_argument("--concurrency", type=int, default=2, help="workers, each with a model (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each worker (default: %(default)s)")
    parser.add_argument(
        "--num-cpus", type=float, default=0.5, help="that Ray sets aside for each worker (default: 0.5)"
    )
    return parser


def _main(args: argparse.Namespace) -> int:
    if args.concurrency < 1 or args.threads < 1 or args.num_cpus <= 0:
        raise ConfigError("--concurrency, --threads and --num-cpus must be positive")
    report = dehaze_folder(
        args.source,
        args.target,
        options_of(args),
        execution_of(args),
        model=args.model,
        tracking_uri=args.tracking_uri,
        concurrency=args.concurrency,
        threads=args.threads,
        num_cpus=args.num_cpus,
    )
    print(f"{report.written} photographs dehazed, {report.skipped} were there already, {len(report.failures)} failed")
    if report.failures:
        print(f"failed: see {args.target / FAILURES}", file=sys.stderr)
    return 1 if report.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 when some files failed; 2 when the arguments make no sense."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
