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
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from models.config import ConfigError
from pipelines.cluster import make_room, placed, ray_session, require_absolute, require_seen
from pipelines.command import run, user_error
from pipelines.dehaze.options import add_options, execution_of, options_of, place_options, plan_of
from pipelines.disk_errors import as_config_error
from pipelines.resources import Ask

if TYPE_CHECKING:
    from pipelines.dehaze.outcome import FolderReport
    from pipelines.dehaze.plan import FolderPlan, PhotoTask
    from pipelines.dehaze.work import FolderWorker, PhotoResult, WorkerSetup

_AHEAD = 2  # batches that a worker has: the one in hand, and the next, so that it never waits
_PATIENCE_S = 30  # seconds without any worker after which people are told
_RETRIES = 2  # of a batch whose worker dies, before its photographs are tried one by one


@dataclass(frozen=True)
class WorkerPool:
    """Workers: how many, torch threads of each, and what Ray sets aside for each (None: as the device needs)."""

    size: int = 2
    threads: int = 1
    cpus: float = 0.5
    gpus: float | None = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: how many photographs ended how, those that failed or have notes, why no more can be
    written, and how much haze there was, where that is known.
    """

    counts: dict[str, int]
    told: list[PhotoResult]
    no_space: str = ""
    haze: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Sent:
    """A batch in Ray's store, and the worker that has it."""

    tasks: Any
    worker: int


class FolderDehazer:
    """An actor: a :class:`pipelines.dehaze.work.FolderWorker` that answers with numbers, not a line per photograph."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._worker: FolderWorker | None = None

    def ready(self) -> FolderWorker:
        """Load the model; not in the constructor, whose errors would be the death of the actor."""
        if self._worker is None:
            self._worker = self._setup.worker()
        return self._worker

    def up(self) -> None:
        """Answers when it is up."""
        self.ready()

    def work(self, number: int | None, batch: list[PhotoTask]) -> Outcome:
        """Do a batch; what was done before, perhaps by a worker that died, is not done again."""
        from pipelines.disk_errors import NoSpaceError

        counts: Counter[str] = Counter()
        told = []
        haze: list[float] = []
        try:
            for result in self.ready().work(number, batch):
                counts[result.status] += 1
                if result.haze is not None:
                    haze.append(result.haze)
                if result.status == "failed" or result.notes:
                    told.append(result)
        except NoSpaceError as problem:
            return Outcome(dict(counts), told, problem.advice, haze)
        return Outcome(dict(counts), told, haze=haze)


def list_batches(plan: FolderPlan, size: int) -> Iterator[list[PhotoTask]]:
    """The batches of a plan; a task that streams."""
    from pipelines.dehaze.plan import batches

    yield from batches(plan, size)


def execute(plan: FolderPlan, setup: WorkerSetup, pool: WorkerPool, report: FolderReport) -> str:
    """Send batches to workers as they are listed.

    Returns:
        why no more could be written, or nothing.

    Raises:
        ConfigError: workers cannot be started.
    """
    import ray

    from pipelines.dehaze.work import BATCH

    lister: Any = ray.remote(list_batches).options(
        num_returns="streaming", num_cpus=0, _generator_backpressure_num_objects=4 * pool.size
    )
    actor: Any = ray.remote(FolderDehazer).options(
        num_cpus=pool.cpus, num_gpus=pool.gpus or None, max_restarts=-1, max_task_retries=_RETRIES
    )
    workers = [actor.remote(setup) for _ in range(pool.size)]
    try:
        loop = _Loop(workers, report)
        no_space = loop.run(enumerate(lister.remote(plan, BATCH)), _AHEAD)
        return no_space or loop.run(loop.alone(), 1)
    finally:
        for worker in workers:
            ray.kill(worker)


class _Loop:
    """Keeps every worker busy. Ray gives the batch of a worker that dies to it again once it has been restarted."""

    def __init__(self, workers: Sequence[Any], report: FolderReport) -> None:
        self._workers, self._report = workers, report
        self._starting = {worker.up.remote(): index for index, worker in enumerate(workers)}
        self._ready: list[int] = []
        self._sent: dict[Any, _Sent] = {}
        self._suspects: list[Any] = []
        self._alone = False

    def run(self, batches: Iterable[tuple[int | None, Any]], ahead: int) -> str:
        """Send (number, tasks) until there are no more, ``ahead`` to each worker that is up: the cluster may have no
        room for all of them. Returns as :func:`execute`.
        """
        import ray

        no_space = ""
        for number, tasks in batches:
            self._greet(ray)
            self._send(number, tasks)
            while len(self._sent) >= ahead * len(self._ready):
                no_space = self._receive(ray) or no_space
            if no_space:
                break
        while self._sent:  # also when there is no space: what they wrote counts
            no_space = self._receive(ray) or no_space
        return no_space

    def alone(self) -> Iterator[tuple[None, Any]]:
        """The photographs of batches whose workers kept dying, each in a batch of its own: one of them may be why."""
        import ray

        self._alone = True
        for tasks in self._suspects:
            for task in ray.get(tasks):
                yield None, ray.put([task])

    def _greet(self, ray: Any) -> None:
        """Note which workers have come up; wait for the first."""
        while self._starting:
            found, _ = ray.wait(list(self._starting), num_returns=1, timeout=0 if self._ready else _PATIENCE_S)
            for answer in found:
                self._ready.append(self._up(ray, answer))
            if self._ready and not found:
                return
            if not self._ready:
                print(f"waiting for a worker; the cluster has {ray.cluster_resources()}", file=sys.stderr)

    def _up(self, ray: Any, answer: Any) -> int:
        try:
            ray.get(answer)
        except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError) as problem:
            raise user_error(problem) or _cannot_start(problem) from problem
        return self._starting.pop(answer)

    def _send(self, number: int | None, tasks: Any) -> None:
        load = Counter(sent.worker for sent in self._sent.values())
        worker = min(self._ready, key=lambda index: load[index])
        self._sent[self._workers[worker].work.remote(number, tasks)] = _Sent(tasks, worker)

    def _receive(self, ray: Any) -> str:
        (answer,), _ = ray.wait(list(self._sent), num_returns=1)
        sent = self._sent.pop(answer)
        try:
            outcome: Outcome = ray.get(answer)
        except ray.exceptions.RayActorError as problem:
            self._died(sent, problem)
            return ""
        self._report.add_many(outcome.counts, outcome.told, outcome.haze)
        return outcome.no_space

    def _died(self, sent: _Sent, problem: Exception) -> None:
        import ray

        from pipelines.dehaze.work import PhotoResult

        if "creation task" in str(problem):
            raise _cannot_start(problem) from problem
        if not self._alone:
            self._suspects.append(sent.tasks)
            return
        (task,) = ray.get(sent.tasks)
        reason = f"its worker died {_RETRIES + 1} times"
        self._report.add_many({"failed": 1}, [PhotoResult(task.source, "failed", reason)])


def _cannot_start(problem: Exception) -> ConfigError:
    return ConfigError(f"the workers cannot start: {str(problem).strip().splitlines()[-1]}")


def survey_remotely(plan: FolderPlan) -> Any:
    """:func:`pipelines.dehaze.plan.survey` in a task, so that the driver holds no names."""
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
        ConfigError: the plan, or what is at its target, makes no sense; the workers cannot start.
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
            device, gpus = placed(args.device, pool.gpus)
            pool = replace(pool, gpus=gpus)
            setup = begin(plan, args, options_of(args), execution_of(args))
            setup = replace(setup, threads=pool.threads, device=device)
            make_room([Ask("worker", 1, pool.cpus, gpus, "--num-cpus, --num-gpus")])
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
        prog="python -m pipelines.dehaze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="SRC [SRC ...] DST", help="folders, globs or files; paths or URIs")
    place_options(parser)
    add_options(parser)
    group = parser.add_argument_group("workers")
    group.add_argument("--concurrency", type=int, default=2, help="workers, each with a model (default: %(default)s)")
    group.add_argument("--threads", type=int, default=1, help="of each worker (default: %(default)s)")
    group.add_argument("--num-cpus", type=float, default=0.5, help="that Ray sets aside for each worker (default: 0.5)")
    group.add_argument(
        "--num-gpus",
        type=float,
        default=None,
        help="likewise; may be a fraction (default: 1 on a GPU, which auto takes where the cluster has any; else 0)",
    )
    return parser


def _main(args: argparse.Namespace) -> int:
    if args.concurrency < 1 or args.threads < 1 or args.num_cpus <= 0 or (args.num_gpus or 0) < 0:
        raise ConfigError("--concurrency, --threads and --num-cpus must be positive, and --num-gpus not negative")
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
        return dehaze_folder(plan, args, WorkerPool(args.concurrency, args.threads, args.num_cpus, args.num_gpus))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: see the module."""
    return run(_main, _parser(), argv)
