"""Jobs as files: a folder for each, on a disk or in object storage. Every file has one writer, and is whole or absent.

    20261128T101500-0123456789abcdef/
        job.json          what was asked; the job exists as soon as this is there
        input             what was sent: an archive of photographs, or a video
        names.json        those of a folder, as they were when the job began
        runner            who works on it: whoever wrote last
        cancelled         nobody wants it any more
        state.json        how far it is
        ended.json        how it ended: a file of its own, as one who has lost the job may still write how far it was
        results/000017.*  what came of a photograph: its entry (.json), its file (.bin), how often it was begun (.tried)
        result            the end: an archive, the manifest of a folder, or a video
        told              its webhook was called, or given up

Names begin with the time, so their order is that in which the jobs came. All calls block.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from models.config import ConfigError, Settings, parse
from models.options import DehazeOptions
from models.paths import child, exists, filesystem, names_in, read_file, remove_folder, replacing
from serving.exchange import JobStatus

log = logging.getLogger(__name__)

INPUT, RESULT = "input", "result"
_ID = re.compile(r"(\d{8}T\d{6})-[0-9a-f]{16}")
_TIME = "%Y%m%dT%H%M%S"
S = TypeVar("S", bound=Settings)


class Asked(Settings):
    """What a client asked for.

    Attributes:
        client: a token's name, or an address.
        created: seconds since 1970.
        options, model: how the photographs are dehazed.
        smoothing: of a video; None is the usual one.
        source, target: folders or URIs; None where the photographs were sent.
        video: the suffix of the result, where a video was sent; None for photographs.
        webhook: what to call at the end.
        size: bytes of what was sent.
    """

    client: str
    created: float
    options: DehazeOptions
    model: str | None = None
    smoothing: float | None = None
    source: str | None = None
    target: str | None = None
    video: str | None = None
    webhook: str | None = None
    size: int = 0


class JobState(Settings):
    """How far a job is.

    Attributes:
        status: ``queued``, ``running``; at the end ``done``, ``failed`` (nothing could be done) or ``cancelled``.
        total: photographs, or frames of a video; 0 until they were counted.
        done: of them, with those that failed.
        failed: photographs that failed.
        size: bytes that its results take.
        ended: seconds since 1970.
        code, detail: of a job that failed; ``detail`` also of a video that is not all that was sent.
    """

    status: JobStatus = "queued"
    total: int = 0
    done: int = 0
    failed: int = 0
    size: int = 0
    ended: float | None = None
    code: str | None = None
    detail: str | None = None


class Store:
    """The folder of all jobs.

    Args:
        folder: path or URI.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @staticmethod
    def new_id() -> str:
        """A name that nobody guesses."""
        return f"{datetime.now(UTC).strftime(_TIME)}-{secrets.token_hex(8)}"

    def ids(self) -> list[str]:
        """All jobs, and what was left of some, the oldest first."""
        return [name for name in names_in(self._folder, folders=True) if _ID.fullmatch(name)]

    def file(self, job: str, *names: str) -> str:
        """The path or URI of a job's file."""
        return child(self._folder, "/".join((job, *names)))

    def asked(self, job: str) -> Asked | None:
        """Return what was asked; None where there is no such job."""
        return self._read(Asked, self.file(job, "job.json")) if _ID.fullmatch(job) else None

    def add(self, job: str, asked: Asked) -> None:
        """Let a job exist; it outlives a power cut."""
        self._write(self.file(job, "job.json"), asked.model_dump_json(), durable=True)

    def state(self, job: str) -> JobState:
        """Return how far a job is."""
        state = self._read(JobState, self.file(job, "ended.json"))
        state = state or self._read(JobState, self.file(job, "state.json")) or JobState()
        cancelled = read_file(self.file(job, "cancelled"))
        if cancelled is None:
            return state
        return state.model_copy(update={"status": "cancelled", "ended": float(cancelled or 0), "size": 0})

    def write_state(self, job: str, state: JobState) -> None:
        """By whoever works on it."""
        self._write(self.file(job, "state.json"), state.model_dump_json())

    def write_end(self, job: str, state: JobState) -> None:
        """It has ended; that outlives a power cut."""
        self._write(self.file(job, "ended.json"), state.model_dump_json(), durable=True)

    def cancel(self, job: str) -> None:
        """Nobody wants it: its files go, and whoever works on it stops."""
        self._write(self.file(job, "cancelled"), str(time.time()))
        self.tidy(job, keep_result=False)

    def tidy(self, job: str, *, keep_result: bool = True) -> None:
        """Remove what a job that has ended does not need."""
        remove_folder(self.file(job, "results"))
        for name in (INPUT, *(() if keep_result else (RESULT,))):
            self._remove_file(self.file(job, name))

    def remove(self, job: str) -> None:
        """Forget it."""
        remove_folder(self.file(job))

    def is_left_over(self, job: str, seconds: float) -> bool:
        """It was begun so long ago, and never came to be a job."""
        begun = datetime.strptime(job.partition("-")[0], _TIME).replace(tzinfo=UTC).timestamp()
        return time.time() - begun > seconds and not exists(self.file(job, "job.json"))

    def take(self, job: str, runner: str) -> None:
        """Work on it from now on; whoever did before stops."""
        self._write(self.file(job, "runner"), runner)

    def runner(self, job: str) -> str | None:
        """Who works on it; None where nobody does, or it was cancelled."""
        if exists(self.file(job, "cancelled")):
            return None
        name = read_file(self.file(job, "runner"))
        return None if name is None else name.decode()

    def told(self, job: str) -> bool:
        """Its webhook was called."""
        return exists(self.file(job, "told"))

    def set_told(self, job: str, outcome: str) -> None:
        """Its webhook was called, or given up."""
        self._write(self.file(job, "told"), outcome)

    def names(self, job: str) -> tuple[list[str], list[str]] | None:
        """The photographs of a folder and what was left out, as they were when the job began."""
        content = read_file(self.file(job, "names.json"))
        if content is None:
            return None
        names, skipped = json.loads(content)
        return names, skipped

    def set_names(self, job: str, names: Sequence[str], skipped: Sequence[str]) -> None:
        """Those of a folder."""
        self._write(self.file(job, "names.json"), json.dumps([list(names), list(skipped)]))

    def begin(self, job: str, index: int) -> int:
        """Note that a photograph is begun, and return how often it was."""
        file = self.file(job, "results", f"{index:06d}.tried")
        count = int(read_file(file) or 0) + 1
        self._write(file, str(count))
        return count

    def end(self, job: str, index: int) -> None:
        """A photograph is not worked on any more, and did no harm."""
        self._remove_file(self.file(job, "results", f"{index:06d}.tried"))

    def keep(self, job: str, index: int, entry: dict[str, Any], data: bytes | None) -> None:
        """Keep the outcome of a photograph: the file first, so that what has an entry is there."""
        if data is not None:
            with replacing(self.file(job, "results", f"{index:06d}.bin")) as stream:
                stream.write(data)
        self._write(self.file(job, "results", f"{index:06d}.json"), json.dumps(entry))

    def entries(self, job: str) -> dict[int, dict[str, Any]]:
        """Return the outcome of each photograph so far, by its index."""
        names = [name for name in names_in(self.file(job, "results")) if name[0] != "." and name.endswith(".json")]
        found = {int(name[:-5]): read_file(self.file(job, "results", name)) for name in names}
        return {index: json.loads(content) for index, content in found.items() if content is not None}

    def result_of(self, job: str, index: int) -> bytes:
        """The file that came of a photograph."""
        content = read_file(self.file(job, "results", f"{index:06d}.bin"))
        if content is None:
            raise OSError(f"job {job}: the result of photograph {index} is gone")
        return content

    @contextmanager
    def opened(self, job: str, name: str = INPUT) -> Iterator[Any]:
        """A file of a job, to be read at any place."""
        files, path = filesystem(self.file(job, name))
        with files.open_input_file(path) as stream:
            yield stream

    def _read(self, kind: type[S], file: str) -> S | None:
        content = read_file(file)
        try:
            return None if content is None else parse(kind, json.loads(content), file)
        except (ConfigError, ValueError) as problem:
            log.error("%s cannot be read: %s", file, problem)  # noqa: TRY400 - its sentence says all
            return None

    @staticmethod
    def _remove_file(file: str) -> None:
        if exists(file):
            files, path = filesystem(file)
            files.delete_file(path)

    @staticmethod
    def _write(file: str, text: str, *, durable: bool = False) -> None:
        with replacing(file, durable=durable) as stream:
            stream.write(text.encode())
