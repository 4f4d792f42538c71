"""Many photographs in one request: what fails is reported in the manifest, and the rest is done."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from models.images import ImageError
from serving.archive import Photographs, ResultArchive, done_entry, failed_entry, manifest_of, result_name
from serving.engine import Answer
from serving.errors import Problem, ProblemError, image_problem

_AHEAD = 4  # results, times those under way, that wait for one before them
Dehaze = Callable[[bytes], Awaitable[Answer | Problem]]


async def dehaze_all(photographs: Photographs, dehaze: Dehaze, *, parallel: int, max_bytes: int) -> bytes:
    """Dehaze files into a zip archive.

    Args:
        photographs: read one by one, in threads, as unpacking them takes time.
        dehaze: one file.
        parallel: how many at a time.
        max_bytes: of all results; those beyond are failures.

    Returns:
        the archive; its ``manifest.json`` has an entry for every photograph, in their order. That of the results is
        the same, and equal names are numbered in it, whoever is done first.
    """
    stream = io.BytesIO()
    archive = ResultArchive(max_bytes, stream)
    entries: list[dict[str, Any]] = []
    slots = asyncio.Semaphore(parallel)
    pending: deque[tuple[str, asyncio.Task[Answer | Problem]]] = deque()

    async def work(index: int) -> Answer | Problem:
        try:
            content = await asyncio.to_thread(photographs.read, index)
            return content if isinstance(content, Problem) else await dehaze(content)
        except ProblemError as problem:
            return problem.problem
        except ImageError as problem:
            return image_problem(problem)
        finally:
            slots.release()

    async def write() -> None:
        name, task = pending.popleft()
        entries.append(_entry(archive, name, await task))

    async with asyncio.TaskGroup() as group:
        for index, name in enumerate(photographs.names):
            await slots.acquire()
            while pending and (pending[0][1].done() or len(pending) > _AHEAD * parallel):
                await write()
            pending.append((name, group.create_task(work(index))))
        while pending:
            await write()
    archive.end(manifest_of(entries, photographs.skipped))
    return stream.getvalue()


def _entry(archive: ResultArchive, name: str, outcome: Answer | Problem) -> dict[str, Any]:
    """A line of the manifest; the result goes into the archive."""
    if isinstance(outcome, Answer):
        try:
            file = archive.add(result_name(name, outcome.format), outcome.data)
        except ProblemError as problem:
            return failed_entry(name, problem.problem)
        return done_entry(name, file, outcome)
    return failed_entry(name, outcome)
