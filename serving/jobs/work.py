"""One job under way: its photographs one after the other, each noted before and after, and at the end their archive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from models.paths import child, replacing
from serving.archive import (
    ArchiveLimits,
    Names,
    Photographs,
    ResultArchive,
    ZipPhotographs,
    done_entry,
    failed_entry,
    manifest_of,
    manifest_text,
    result_name,
)
from serving.engine import Answer, DehazeTask, Frame, FrameTask
from serving.errors import Problem, ProblemError
from serving.jobs.places import FolderPhotographs
from serving.jobs.store import INPUT, RESULT, Asked, JobState, Store
from serving.jobs_config import JobsConfig
from serving.metrics import Metrics

log = logging.getLogger(__name__)

BEGUN = 2  # times that a photograph may be begun and its process end: then it is left out
_AGAIN_S = 2.0  # after a fault of the service
_TRIES = 3  # of a photograph that the service cannot take at the moment
_WRITE_S = 1.0  # between two notes of how far a job is
_LOOK_S = 0.05  # how often a photograph looks whether it is its turn
R = TypeVar("R")


class LeftError(Exception):
    """The job was cancelled, or somebody else works on it."""


@dataclass(frozen=True)
class Doors:
    """What photographs and frames of jobs need of the service.

    Attributes:
        dehaze: one photograph.
        frame: one frame of a video.
        busy: ordinary requests are worked on.
        closed: the service is about to end.
        timeout_s: for a photograph.
        max_bytes: of a photograph.
        metrics: counts.
    """

    dehaze: Callable[[DehazeTask], Awaitable[Answer | Problem]]
    frame: Callable[[FrameTask], Awaitable[Frame | Problem]]
    busy: Callable[[], bool]
    closed: Callable[[], bool]
    timeout_s: float
    max_bytes: int
    metrics: Metrics

    async def turn(self, longest_s: float) -> None:
        """Let ordinary requests go first; where the service ends, nothing is begun any more."""
        end = time.monotonic() + longest_s
        while self.closed() or (self.busy() and time.monotonic() < end):  # noqa: ASYNC110 - requests come and go all the time
            await asyncio.sleep(_LOOK_S)

    async def outcome(self, ask: Callable[[], Awaitable[R | Problem]]) -> R | Problem:
        """Have a photograph or a frame dehazed, again where the service cannot at the moment."""
        for left in reversed(range(_TRIES)):
            found = await self._once(ask)
            if not isinstance(found, Problem) or found.retry_after is None or not left:
                break
            if found.code == "replica_lost":  # perhaps by this photograph
                break
            await asyncio.sleep(found.retry_after)
        return found

    async def _once(self, ask: Callable[[], Awaitable[R | Problem]]) -> R | Problem:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await ask()
        except TimeoutError:
            return Problem(504, "timeout", f"not done within {self.timeout_s:g} s; send a smaller picture")
        except ProblemError as problem:
            return problem.problem
        except Exception:
            log.exception("a photograph or frame of a job failed")
            return Problem(500, "internal", "the service failed; its log says why", _AGAIN_S)


class Work:
    """A job under way.

    Args:
        store: where it is kept.
        doors: to the service.
        slots: photographs of all jobs at a time.
        room: bytes that results may still take.
        job: its id.
        runner: who works on it.
        asked: what is to be done.
        config: of jobs.

    Attributes:
        state: how far it is.
    """

    def __init__(
        self, store: Store, doors: Doors, slots: asyncio.Semaphore, room: Callable[[], int], job: str, runner: str,
        asked: Asked, config: JobsConfig,
    ) -> None:  # fmt: skip
        self._store, self._doors, self._slots, self._room = store, doors, slots, room
        self._job, self._runner, self.asked, self._config = job, runner, asked, config
        self.state = JobState(size=asked.size)
        self._names = Names()
        self._keeping = asyncio.Lock()  # one outcome after the other: they share counts, names and room
        self._written = 0.0

    async def done(self) -> JobState:
        """Do what is left of it.

        Returns:
            its end, which the caller writes.

        Raises:
            LeftError: it is no longer ours.
            ProblemError: nothing can be done.
            OSError: of the folder.
        """
        with contextlib.ExitStack() as stack:
            photographs = await asyncio.to_thread(self._opened, stack)
            entries = await asyncio.to_thread(self._store.entries, self._job)
            self._names.taken(entry["file"] for entry in entries.values() if entry["file"])
            before = await asyncio.to_thread(self._store.state, self._job)
            self._progress(
                status="running", total=len(photographs.names), done=len(entries),
                failed=sum(map(_failed, entries.values())), size=max(self.state.size, before.size),
            )  # fmt: skip
            left = iter([index for index in range(len(photographs.names)) if index not in entries])
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._config.parallel):
                        group.create_task(self._each(left, photographs))
            except BaseExceptionGroup as problems:
                raise problems.exceptions[0] from None
            size = await asyncio.to_thread(self._packed, photographs)
        self._progress(status="done", ended=time.time(), size=size)
        return self.state

    def _opened(self, stack: contextlib.ExitStack) -> Photographs:
        config, source = self._config, self.asked.source
        if source is None:
            limits = ArchiveLimits(config.max_files, self._doors.max_bytes, config.max_bytes)
            return ZipPhotographs(stack.enter_context(self._store.opened(self._job, INPUT)), limits)
        known = self._store.names(self._job)
        found = FolderPhotographs(source, known, max_files=config.max_files, max_bytes=self._doors.max_bytes)
        if known is None:
            self._store.set_names(self._job, found.names, found.skipped)
        return found

    async def _each(self, left: Iterator[int], photographs: Photographs) -> None:
        for index in left:
            async with self._slots:
                await self._doors.turn(self._config.yield_s)
                await self._require_ours()
                try:
                    outcome = await self._outcome(index, photographs)
                except asyncio.CancelledError:  # an orderly end: it was not the photograph
                    self._store.end(self._job, index)
                    raise
            async with self._keeping:
                await self._require_ours()
                await asyncio.to_thread(self._keep, index, photographs.names[index], outcome)
            await self._note()

    async def _require_ours(self) -> None:
        if await asyncio.to_thread(self._store.runner, self._job) != self._runner:
            raise LeftError

    async def _outcome(self, index: int, photographs: Photographs) -> Answer | Problem:
        if await asyncio.to_thread(self._store.begin, self._job, index) > BEGUN:
            return Problem(503, "replica_lost", f"the service ended {BEGUN} times while it worked on this photograph")
        data = await asyncio.to_thread(photographs.read, index)
        if isinstance(data, Problem):
            return data
        task = DehazeTask(data, self.asked.options, self.asked.model)
        return await self._doors.outcome(partial(self._doors.dehaze, task))

    def _keep(self, index: int, name: str, outcome: Answer | Problem) -> None:
        if isinstance(outcome, Answer) and self.asked.target is None and len(outcome.data) > self._room():
            outcome = Problem(413, "answer_full", "the folder of jobs is full; send fewer photographs")
        failed = isinstance(outcome, Problem)
        if isinstance(outcome, Problem):
            self._store.keep(self._job, index, failed_entry(name, outcome), None)
            self._doors.metrics.rejected(outcome.code)
        elif self.asked.target is None:
            entry = done_entry(name, result_name(name, outcome.format), outcome)
            self._store.keep(self._job, index, entry, outcome.data)
            self._progress(size=self.state.size + len(outcome.data))
        else:
            file = self._names.free(result_name(name, outcome.format))
            with replacing(child(self.asked.target, file)) as stream:
                stream.write(outcome.data)
            self._store.keep(self._job, index, done_entry(name, file, outcome), None)
        self._doors.metrics.job_photograph("failed" if failed else "ok")
        self._progress(done=self.state.done + 1, failed=self.state.failed + failed)

    async def _note(self) -> None:
        if time.monotonic() - self._written > _WRITE_S:
            self._written = time.monotonic()
            await self._require_ours()
            await asyncio.to_thread(self._store.write_state, self._job, self.state)

    def _packed(self, photographs: Photographs) -> int:
        """Write the result, and return its size."""
        entries = [entry for _, entry in sorted(self._store.entries(self._job).items())]
        with replacing(self._store.file(self._job, RESULT), durable=True) as stream:
            if self.asked.target is not None:
                stream.write(manifest_text(manifest_of(entries, photographs.skipped)))
                return int(stream.tell())
            archive = ResultArchive(self._config.store_bytes, stream)
            for index, entry in enumerate(entries):
                if entry["file"] is not None:
                    entry["file"] = archive.add(entry["file"], self._store.result_of(self._job, index))
            archive.end(manifest_of(entries, photographs.skipped))
            return int(stream.tell())

    def _progress(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)


def _failed(entry: dict[str, Any]) -> bool:
    return bool(entry["status"] == "failed")
