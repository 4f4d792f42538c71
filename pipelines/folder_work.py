"""Photographs from one place to another, a batch at a time: what the local command and each Ray worker run. No Ray."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyarrow import fs as pafs

from models.image_errors import ImageError
from models.image_limits import check_bytes
from models.inference import InferenceConfig
from models.settings import ConfigError
from pipelines.corpus import child, filesystem, replacing
from pipelines.folder_names import same_place
from pipelines.folder_plan import Task
from pipelines.preview import sheet_of
from serving.predictor import DehazeOptions, Predictor

BATCH = 16  # photographs; also what one preview sheet holds
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the next photograph would meet them too

Status = Literal["written", "kept", "failed"]


class NoSpaceError(OSError):
    """Results cannot be written any more."""


@dataclass(frozen=True)
class Result:
    """What became of one photograph."""

    source: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Rules:
    """What to do about results that are there.

    Attributes:
        since_ns: results older than this are not of these settings; None where there is no record of settings, and
            every result that is there counts.
        replace: make results anew that do not count, instead of calling it a failure.
        previews: folder for before/after sheets, or None.
    """

    since_ns: int | None = None
    replace: bool = False
    previews: str | None = None


@dataclass(frozen=True)
class Setup:
    """What a worker needs to be made: all of it can be sent to another machine."""

    model: str
    tracking_uri: str | None
    options: DehazeOptions
    execution: InferenceConfig
    device: str
    rules: Rules
    threads: int | None = None
    allow_networks: tuple[str, ...] = ()

    def worker(self) -> Worker:
        """Load the model."""
        return Worker(self)


class Worker:
    """A model, and what to do with it."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._rules = setup, setup.rules
        self._predictor = Predictor(
            setup.model,
            setup.tracking_uri,
            setup.threads,
            execution=setup.execution,
            device=device_of(setup.device),
            allow_networks=setup.allow_networks,
        )

    @property
    def network(self) -> torch.nn.Module:
        """The network, in evaluation mode."""
        return self._predictor.network

    def work(self, number: int | None, batch: Sequence[Task]) -> Iterator[Result]:
        """Do a batch; doing it twice is harmless, and what is done is not done again.

        Args:
            number: of the batch, which names its preview sheet; None makes no sheet.
            batch: what to do.

        Raises:
            NoSpaceError: there is no room for results; what is written is whole.
        """
        changed = False
        for task, state in zip(batch, states(batch, self._rules), strict=True):
            if state == "done":
                yield Result(task.source, "kept")
                continue
            reason = self._one(task) if state == "todo" else state
            changed = changed or not reason
            yield Result(task.source, "failed" if reason else "written", reason)
        if self._rules.previews is not None and number is not None:
            self._preview(number, batch, changed)

    def _one(self, task: Task) -> str:
        """Why it failed, or nothing."""
        try:
            check_bytes(task.size, self._predictor.limits)  # before it is read
            files, path = filesystem(task.source)
            with files.open_input_stream(path, compression=None) as stream:
                data = stream.read()
            result, _ = self._predictor.dehaze_bytes(data, self._setup.options)
        except (ImageError, MemoryError) as problem:
            return " ".join(str(problem).split()) or "out of memory"
        except OSError as problem:
            return plainly(problem)
        try:
            write(task.target, result)
        except NoSpaceError:
            raise
        except OSError as problem:
            return plainly(problem)
        return ""

    def _preview(self, number: int, batch: Sequence[Task], changed: bool) -> None:
        place = child(str(self._rules.previews), f"sheet-{number:06d}.jpg")
        files, path = filesystem(place)
        if not changed and files.get_file_info(path).type == pafs.FileType.File:
            return
        made = sheet_of([(task.source, task.target) for task in batch])
        if made is not None:
            write(place, made)


def states(batch: Sequence[Task], rules: Rules) -> list[str]:
    """Of each photograph ``done``, ``todo``, or why it must not be done."""
    files = filesystem(batch[0].target)[0]  # all results are in one place
    found = files.get_file_info([filesystem(task.target)[1] for task in batch])
    return [_state(task, info, rules) for task, info in zip(batch, found, strict=True)]


def _state(task: Task, info: Any, rules: Rules) -> str:
    if info.type == pafs.FileType.NotFound:
        return "todo"
    if info.type == pafs.FileType.Directory:
        return f"there is a folder at {task.target}"
    if same_place(task.source, task.target):
        return f"{task.target} is the photograph itself, by another name"
    made = info.mtime_ns or 0
    if rules.since_ns is None and not rules.replace:
        return "done"
    if rules.since_ns is not None and made >= rules.since_ns:
        return "done" if made >= task.mtime and info.size else "todo"  # else the photograph has changed since
    refusal = f"{task.target} is there and was not made by a call like this one; --overwrite replaces it"
    return "todo" if rules.replace else refusal


def write(place: str, data: bytes) -> None:
    """A file that is whole or not there.

    Raises:
        NoSpaceError: there is no room, or the file system is read-only.
        OSError: another reason.
    """
    try:
        with replacing(place) as stream:
            stream.write(data)
    except OSError as problem:
        if problem.errno in NO_PLACE:
            raise NoSpaceError(problem.errno, f"{os.strerror(problem.errno)}: {place}") from problem
        raise


def plainly(problem: OSError) -> str:
    """The reason of an error in few words."""
    return os.strerror(problem.errno) if problem.errno else " ".join(str(problem).split())


def device_of(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: a GPU that is not there.
    """
    there = torch.cuda.is_available()
    device = torch.device(("cuda" if there else "cpu") if name == "auto" else name)
    if device.type == "cuda" and not (there and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(f"--device {name}: there is no such GPU here; expected cpu, or auto")
    return device
