"""Many photographs in one request: what fails is reported in the manifest, and the rest is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from models.images import ImageError
from serving.archive import ArchiveMember, ResultArchive, done_entry, failed_entry, manifest_of, result_name
from serving.engine import Answer
from serving.errors import Problem, ProblemError, image_problem

_AHEAD = 4  # results, times those under way, that wait for one before them
Dehaze = Callable[[bytes], Awaitable[Answer | Problem]]


async def dehaze_all(
    sources: Iterator[ArchiveMember], dehaze: Dehaze, *, parallel: int, max_bytes: int, skipped: Sequence[str] = ()
) -> bytes:
    """Dehaze files into a zip archive.

    Args:
        sources: taken one by one, in a thread, as unpacking them takes time.
        dehaze: one file.
        parallel: how many at a time.
        max_bytes: of all results; those beyond are failures.
        skipped: names that the manifest shall tell of besides.

    Returns:
        the archive; its ``manifest.json`` has an entry for every source, in their order. That of the results is
        the same, and equal names are numbered in it, whoever is done first.
    """
    archive = ResultArchive(max_bytes)
    entries: list[dict[str, Any]] = []
    slots = asyncio.Semaphore(parallel)
    pending: deque[tuple[str, asyncio.Task[Answer | Problem]]] = deque()

    async def work(source: ArchiveMember) -> Answer | Problem:
        try:
            return await _done(source, dehaze)
        finally:
            slots.release()

    async def write() -> None:
        name, task = pending.popleft()
        entries.append(_entry(archive, name, await task))

    try:
        async with asyncio.TaskGroup() as group:
            await slots.acquire()
            while (source := await asyncio.to_thread(next, sources, None)) is not None:
                pending.append((source.name, group.create_task(work(source))))
                await slots.acquire()
                while pending and (pending[0][1].done() or len(pending) > _AHEAD * parallel):
                    await write()
            while pending:
                await write()
    except BaseException:  # nobody waits any more
        archive.close({})
        raise
    return archive.close(manifest_of(entries, skipped))


async def _done(source: ArchiveMember, dehaze: Dehaze) -> Answer | Problem:
    if isinstance(source.content, Problem):
        return source.content
    try:
        return await dehaze(source.content)
    except ProblemError as problem:
        return problem.problem
    except ImageError as problem:
        return image_problem(problem)


def _entry(archive: ResultArchive, name: str, outcome: Answer | Problem) -> dict[str, Any]:
    """A line of the manifest; the result goes into the archive."""
    if isinstance(outcome, Answer):
        try:
            file = archive.add(result_name(name, outcome.format), outcome.data)
        except ProblemError as problem:
            return failed_entry(name, problem.problem)
        return done_entry(name, file, outcome)
    return failed_entry(name, outcome)
