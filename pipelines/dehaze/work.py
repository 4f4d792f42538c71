"""Photographs from one place to another, a batch at a time: what the local command and each Ray worker run. No Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyarrow import fs as pafs

from models.images import ImageError, check_bytes
from models.inference import device_of
from models.options import DehazeOptions, InferenceConfig
from models.paths import child, filesystem, replacing
from models.predictor import DehazeInfo, Predictor
from pipelines.dehaze.names import same_place
from pipelines.dehaze.walk import PhotoTask
from pipelines.disk_errors import NoSpaceError, no_space, reason_of

BATCH = 16  # photographs; also what one preview sheet holds

_COARSE_NS = 2 * 10**9  # steps in which some file systems keep times

Status = Literal["written", "kept", "failed"]


@dataclass(frozen=True)
class PhotoResult:
    """What became of one photograph; ``notes`` are sentences on what the result does not have, ``haze`` how much there
    was, in [0, 1], where that is known.
    """

    source: str
    status: Status
    reason: str = ""
    notes: tuple[str, ...] = ()
    haze: float | None = None


@dataclass(frozen=True)
class ExistingResults:
    """What to do about results that are there.

    Attributes:
        since_ns: results older than this are not of these settings; None where there is no record of settings, and
            every result that is there counts.
        replace: make results anew that do not count, instead of calling it a failure.
        previews: folder for before/after sheets, or None.
        dates: give results the time of modification of their photographs.
    """

    since_ns: int | None = None
    replace: bool = False
    previews: str | None = None
    dates: bool = False


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to be made: all of it can be sent to another machine."""

    model: str
    tracking_uri: str | None
    options: DehazeOptions
    execution: InferenceConfig
    device: str
    rules: ExistingResults
    threads: int | None = None
    allow_networks: tuple[str, ...] = ()

    def worker(self) -> FolderWorker:
        """Load the model."""
        return FolderWorker(self)


class FolderWorker:
    """A model, and what to do with it."""

    def __init__(self, setup: WorkerSetup) -> None:
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
        """Return the network, in evaluation mode."""
        return self._predictor.network

    def work(self, number: int | None, batch: Sequence[PhotoTask]) -> Iterator[PhotoResult]:
        """Do a batch; doing it twice is harmless, and what is done is not done again.

        Args:
            number: of the batch, which names its preview sheet; None makes no sheet.
            batch: what to do.

        Raises:
            NoSpaceError: there is no room for results; what is written is whole.
        """
        for task, state in zip(batch, states(batch, self._rules), strict=True):
            if state == "done":
                yield PhotoResult(task.source, "kept")
            else:
                yield self._one(task) if state == "todo" else _failed(task, state)
        if self._rules.previews is not None and number is not None:
            yield from self._preview(number, batch)

    def _one(self, task: PhotoTask) -> PhotoResult:
        try:
            data, stamp = self._read(task)
            options = self._setup.options
            options = options.model_copy(update={"format": task.format or options.format})
            made, info = self._predictor.dehaze_bytes(data, options)
            if _stamp(task.source) != stamp:
                return _failed(task, "it was changed while it was dehazed; repeat the command")
        except (ImageError, MemoryError) as problem:
            return _failed(task, " ".join(str(problem).split()) or "out of memory")
        except OSError as problem:
            return _failed(task, reason_of(problem))
        try:
            write(task.target, made)
            if self._rules.dates and stamp is not None:
                os.utime(task.target, ns=(stamp[0], stamp[0]))
        except NoSpaceError:
            raise
        except OSError as problem:
            return _failed(task, f"cannot write {task.target}: {reason_of(problem)}")
        return PhotoResult(task.source, "written", notes=said(info), haze=info.haze)

    def _read(self, task: PhotoTask) -> tuple[bytes, tuple[int, int] | None]:
        most = self._predictor.limits.max_bytes
        check_bytes(task.size, self._predictor.limits)  # before it is read
        stamp = _stamp(task.source)
        files, path = filesystem(task.source)
        with files.open_input_stream(path, compression=None) as stream:
            return stream.read(most + 1), stamp  # it may have grown

    def _preview(self, number: int, batch: Sequence[PhotoTask]) -> Iterator[PhotoResult]:
        from pipelines.dehaze.previews import is_sheet_of, mark_of, sheet_of  # fonts and all, for who asks for sheets

        place = child(str(self._rules.previews), f"sheet-{number:06d}.jpg")
        pairs = [(task.source, task.target) for task in batch if not task.problem]
        try:
            mark = mark_of(pairs)
            made = None if is_sheet_of(mark, place) else sheet_of(pairs, mark)
            if made is not None:
                write(place, made)
        except NoSpaceError:
            raise
        except OSError as problem:
            yield PhotoResult(place, "failed", f"cannot write it: {reason_of(problem)}")


def _failed(task: PhotoTask, reason: str) -> PhotoResult:
    return PhotoResult(task.source, "failed", reason)


def said(info: DehazeInfo) -> tuple[str, ...]:
    """Return what people should know about a result."""
    lost = (f"kinds of metadata that could not be kept: {', '.join(info.lost)}",) if info.lost else ()
    return info.notes + lost


def _stamp(place: str) -> tuple[int, int] | None:
    """Return values that change with a local file: its time of modification, in ns, and its size."""
    if "://" in place:
        return None  # objects behind a URI are replaced as a whole
    found = os.stat(place)  # noqa: PTH116 - Path.stat is slow, and this is called twice for every photograph
    return found.st_mtime_ns, found.st_size


def states(batch: Sequence[PhotoTask], rules: ExistingResults) -> list[str]:
    """Return for each photograph ``done``, ``todo``, or the reason why it must not be done."""
    can = [task for task in batch if not task.problem]
    places = [filesystem(task.target) for task in can]
    try:
        infos = places[0][0].get_file_info([path for _, path in places]) if can else []  # all results are in one place
    except OSError:  # of one of them: which one?
        infos = [_info(files, path) for files, path in places]
    found = dict(zip(can, infos, strict=True))
    return [task.problem or _state(task, found[task], rules) for task in batch]


def _info(files: Any, path: str) -> Any:
    try:
        return files.get_file_info(path)
    except OSError as problem:
        return f"cannot write {path}: {reason_of(problem)}"


def _state(task: PhotoTask, info: Any, rules: ExistingResults) -> str:
    if isinstance(info, str):
        return info
    if info.type == pafs.FileType.NotFound:
        return "todo"
    if info.type == pafs.FileType.Directory:
        return f"there is a folder at {task.target}"
    if same_place(task.source, task.target):
        return f"{task.target} is the photograph itself, by another name"
    if rules.since_ns is None and not rules.replace:
        return "done"
    if rules.since_ns is not None and (known := _by_age(task, info, rules.since_ns, dates=rules.dates)):
        return known
    refusal = f"{task.target} is there and was not made by a call like this one; --overwrite replaces it"
    return "todo" if rules.replace else refusal


def _by_age(task: PhotoTask, info: Any, since_ns: int, *, dates: bool) -> str:
    """Return ``done``; ``todo`` where the photograph has changed since; nothing for what this record did not make."""
    made = info.mtime_ns or 0
    if made >= since_ns:
        return "done" if made >= task.mtime and info.size else "todo"
    # With its photograph's time of modification, or with that of an earlier state of it.
    keeps, earlier = abs(made - task.mtime) <= _COARSE_NS and info.size, dates and made < task.mtime
    if not (keeps or earlier) or not _written_since(task.target, since_ns):
        return ""
    return "done" if keeps else "todo"


def _written_since(target: str, since_ns: int) -> bool:
    """Say when a result was made whose time of modification is another one (``--keep-dates``): by the time of its last
    change of any kind, which programs cannot choose.
    """
    if "://" in target:
        return False
    try:
        return os.stat(target).st_ctime_ns >= since_ns  # noqa: PTH116 - as above
    except OSError:
        return False


def write(place: str, data: bytes) -> None:
    """Write a file that is whole or not there.

    Raises:
        NoSpaceError: there is no room, or the file system is read-only.
        OSError: another reason.
    """
    try:
        with replacing(place) as stream:
            stream.write(data)
    except OSError as problem:
        full = no_space(problem, place)
        if full is not None:
            raise full from problem
        raise
