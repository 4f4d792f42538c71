"""Many photographs in one request: what fails is reported in the manifest, and the rest is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from models.images import ImageError
from serving.archive import ResultArchive, Source, safe_name
from serving.engine import Answer
from serving.errors import Problem, ProblemError, image_problem

EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
Dehaze = Callable[[bytes], Awaitable[Answer | Problem]]


async def dehaze_all(sources: Iterator[Source], dehaze: Dehaze, *, parallel: int, max_bytes: int) -> bytes:
    """Dehaze files into a zip archive.

    Args:
        sources: taken one by one, in a thread, as unpacking them takes time.
        dehaze: one file.
        parallel: how many at a time.
        max_bytes: of all results; those beyond are failures.

    Returns:
        the archive; its ``manifest.json`` has an entry for every source, in their order.
    """
    archive = ResultArchive(max_bytes)
    entries: dict[int, dict[str, Any]] = {}
    numbered = enumerate(sources)
    taking = asyncio.Lock()

    async def work() -> None:
        while True:
            async with taking:
                taken = await asyncio.to_thread(next, numbered, None)
            if taken is None:
                return
            index, source = taken
            entries[index] = _entry(archive, source, await _done(source, dehaze))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(work())
    except BaseException:  # nobody waits any more
        archive.close({})
        raise
    files = [entries[index] for index in sorted(entries)]
    done = sum(entry["status"] == "ok" for entry in files)
    return archive.close({"ok": done, "failed": len(files) - done, "files": files})


async def _done(source: Source, dehaze: Dehaze) -> Answer | Problem:
    if isinstance(source.content, Problem):
        return source.content
    try:
        return await dehaze(source.content)
    except ProblemError as problem:
        return problem.problem
    except ImageError as problem:
        return image_problem(problem)


def _entry(archive: ResultArchive, source: Source, outcome: Answer | Problem) -> dict[str, Any]:
    """A line of the manifest; the result goes into the archive."""
    if isinstance(outcome, Answer):
        try:
            file = archive.add(result_name(source.name, outcome.format), outcome.data)
        except ProblemError as problem:
            outcome = problem.problem
        else:
            told = {key: value for key, value in asdict(outcome).items() if key not in ("data", "timing")}
            return {"source": source.name, "status": "ok", "file": file} | told
    problem_told = {"status": outcome.status, "code": outcome.code, "detail": outcome.detail}
    return {"source": source.name, "status": "failed", "file": None, "problem": problem_told}


def result_name(source: str, kind: str) -> str:
    """The name of a result: that of its source, with another suffix when it is of another format."""
    path = PurePosixPath(safe_name(source))
    extension = EXTENSIONS[kind]
    suffix = path.suffix.lower()
    return str(path) if _SAME.get(suffix, suffix) == extension else str(path.with_name(path.stem + extension))
