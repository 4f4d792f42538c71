"""Dehaze folders on a Ray cluster: the same plan, options and exit codes as `dehaze apply`, with many workers.

    python -m pipelines.dehaze hazy/ clear/ --model corun-compact --concurrency 8
    python -m pipelines.dehaze s3://bucket/hazy s3://bucket/clear --preview

A task lists the photographs and streams their names, a batch at a time, to workers that read, dehaze and write them; no
photograph passes through the driver, and memory stays flat however many there are. Folders are paths or URIs that every
node can reach. What is there already is skipped: a job that was cut off goes on when it is started again, and a worker
that is killed costs its batch only.

Exit codes: 0 all done; 1 some photographs failed (DST/failures.csv lists them); 2 the arguments make no sense; 3 no
room for the results; 130 Ctrl-C. After 1, 3 and 130 finished results stay; run it again to resume.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from models.config import ConfigError, Settings, parse, typed
from models.flags import add_flags, given
from pipelines.cluster import ray_session, require_absolute
from pipelines.command import run, user_error
from pipelines.dehaze.options import add_options, execution_of, options_of, place_options, plan_of
from pipelines.disk_errors import as_config_error
from pipelines.nodes import make_room, placed, require_seen
from pipelines.resources import Ask
from pseudolabel.crew import Work

if TYPE_CHECKING:
    from pipelines.dehaze.outcome import FolderReport
    from pipelines.dehaze.walk import FolderPlan, PhotoTask
    from pipelines.dehaze.work import FolderWorker, PhotoResult, WorkerSetup

_AHEAD = 2  # batches that a worker has: the one in hand, and the next, so that it never waits
_ATTEMPTS = 3  # of a batch whose workers die, before its photographs are tried one by one; and of each of those


class WorkerPool(Settings):
    """Workers, and what Ray sets aside for each."""

    concurrency: int = Field(2, ge=1, description="workers, each with a model")
    threads: int = Field(1, ge=1, description="of each worker")
    num_cpus: float = Field(0.5, gt=0, description="that Ray sets aside for each worker")
    num_gpus: float | None = Field(
        None,
        ge=0,
        description="likewise; may be a fraction (default: 1 on a GPU, which auto takes where the cluster has any; "
        "else 0)",
    )


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: how many photographs ended how, those that failed or have notes, why no more can be
    written, and how much haze there was, where that is known.
    """

    counts: dict[str, int]
    told: list[PhotoResult]
    no_space: str = ""
    haze: list[float] = field(default_factory=list)


class FolderDehazer:
    """An actor: a :class:`pipelines.dehaze.work.FolderWorker` that answers with numbers, not a line per photograph."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._worker: FolderWorker | None = None

    def ready(self) -> FolderWorker:
        """Load the model."""
        if self._worker is None:
            self._worker = self._setup.worker()
        return self._worker

    def work(self, number: int | None, photographs: list[PhotoTask]) -> Outcome:
        """Do a batch; what was done before, perhaps by a worker that died, is not done again."""
        from pipelines.disk_errors import NoSpaceError

        counts: Counter[str] = Counter()
        told = []
        haze: list[float] = []
        try:
            for result in self.ready().work(number, photographs):
                counts[result.status] += 1
                if result.haze is not None:
                    haze.append(result.haze)
                if result.status == "failed" or result.notes:
                    told.append(result)
        except NoSpaceError as problem:
            return Outcome(dict(counts), told, problem.advice, haze)
        return Outcome(dict(counts), told, haze=haze)


@dataclass(frozen=True)
class _Batch:
    """Photographs in Ray's store; the number names their preview sheet, a photograph that is tried alone has none."""

    number: int | None
    photographs: Any

    def __str__(self) -> str:
        return "a photograph" if self.number is None else f"batch {self.number}"


class _Batches(Work[_Batch]):
    """The batches of a plan. Of one whose workers keep dying the photographs are tried one by one: it may be only one
    of them that is to blame.
    """

    def __init__(self, batches: Iterable[_Batch], report: FolderReport) -> None:
        super().__init__(batches, _ATTEMPTS)
        self._report = report
        self.no_space = ""

    def finish(self, unit: _Batch, worker: str, answer: Outcome) -> None:
        super().finish(unit, worker, answer)
        self._report.add_many(answer.counts, answer.told, answer.haze)
        self.no_space = answer.no_space or self.no_space

    def gave_up(self, unit: _Batch, reason: str) -> Sequence[_Batch]:
        import ray

        from pipelines.dehaze.work import PhotoResult

        photographs = ray.get(unit.photographs)
        if unit.number is not None:
            return [_Batch(None, ray.put([photograph])) for photograph in photographs]
        reason = f"given up after several tries: {reason}"
        self._report.add_many({"failed": 1}, [PhotoResult(photographs[0].source, "failed", reason)])
        return ()


def list_batches(plan: FolderPlan, size: int) -> Iterator[list[PhotoTask]]:
    """Yield the batches of a plan; a task that streams."""
    from pipelines.dehaze.plan import batches

    yield from batches(plan, size)


def execute(plan: FolderPlan, setup: WorkerSetup, pool: WorkerPool, report: FolderReport) -> str:
    """Send batches to workers as they are listed.

    Returns:
        why no more could be written, or nothing.

    Raises:
        DehazeError: workers cannot be started.
    """
    import ray

    from pipelines.dehaze.work import BATCH
    from pseudolabel.crew import ActorWorkers, Crew

    lister: Any = ray.remote(list_batches).options(
        num_returns="streaming", num_cpus=0, _generator_backpressure_num_objects=4 * pool.concurrency
    )
    workers = ActorWorkers(
        FolderDehazer,
        [setup],
        size=pool.concurrency,
        options={"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus or None},
        explain=lambda problem: user_error(problem) or problem,  # of one line, or a defect: either ends the job
    )
    work = _Batches((_Batch(*numbered) for numbered in enumerate(lister.remote(plan, BATCH))), report)
    try:
        Crew(workers, _ATTEMPTS).work_off(
            work,
            lambda index, batch: workers.call(index, "work", batch.number, batch.photographs),
            outstanding=_AHEAD,
            held=lambda: bool(work.no_space),
        )
    finally:
        workers.dismiss()
    return work.no_space


def survey_remotely(plan: FolderPlan) -> Any:
    """Run :func:`pipelines.dehaze.plan.survey` in a task, so that the driver holds no names."""
    import ray

    from pipelines.dehaze.plan import survey

    try:
        return ray.get(ray.remote(survey).options(num_cpus=0).remote(plan))
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, ConfigError | OSError):
            raise problem.cause from problem
        raise


def dehaze_folder(plan: FolderPlan, args: argparse.Namespace, pool: WorkerPool) -> int:
    """Dehaze the photographs of a plan on the cluster.

    Args:
        plan: what becomes what.
        args: the flags of :mod:`pipelines.dehaze.options`.
        pool: the workers.

    Returns:
        the exit code.

    Raises:
        DehazeError: the plan, or what is at its target, makes no sense; the workers cannot start.
    """
    from pipelines.dehaze.local_job import begin, dry_run, finish, no_room, tell
    from pipelines.dehaze.outcome import FolderReport
    from pipelines.dehaze.plan import survey
    from pipelines.disk_errors import NoSpaceError

    if args.dry_run:
        found = survey(plan)
        return dry_run(plan, begin(plan, args, options_of(args), execution_of(args)), found)
    report: FolderReport | None = None
    with ray_session(log_to_driver=False):
        found = survey_remotely(plan)
        try:
            device, gpus = placed(args.device, pool.num_gpus)
            pool = pool.model_copy(update={"num_gpus": gpus})
            setup = begin(plan, args, options_of(args), execution_of(args))
            setup = replace(setup, threads=pool.threads, device=device)
            make_room([Ask("worker", 1, pool.num_cpus, gpus, "--num-cpus, --num-gpus")])
            if plan.folder is not None:
                require_seen(plan.folder)
            with FolderReport(found.count, None if plan.single else plan.folder) as report:
                no_space = execute(plan, setup, pool, report)
            if no_space:
                return no_room(no_space, report)
            finish(plan, setup)
        except NoSpaceError as problem:
            return no_room(problem.advice, report)
    tell(report, found)
    return report.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("pipelines.dehaze", "batch"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="SRC [SRC ...] DST", help="folders, globs or files; paths or URIs")
    place_options(parser)
    add_options(parser)
    add_flags(parser.add_argument_group("workers"), WorkerPool)
    return parser


def _main(args: argparse.Namespace) -> int:
    pool = parse(WorkerPool, given(args, WorkerPool), "workers")
    sources, target = args.paths, args.out
    if target is None:
        *sources, target = sources
    if not sources:
        raise ConfigError(f"{target} is the only name; give SRC and DST")
    require_absolute(target)
    if "-" in (*sources, target):
        raise ConfigError("- is standard input or output, which `dehaze apply` takes; a cluster needs folders")
    with as_config_error():
        plan = plan_of(sources, target, args)
        return dehaze_folder(plan, args, pool)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: see the module."""
    return run(_main, _parser(), argv)
