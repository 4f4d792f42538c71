"""Which photograph becomes which file: folders, globs and single files in, the same tree out. No Ray, no pixels.

Everything is a generator that holds the names of one folder at a time, so that a plan for millions of photographs takes
no more memory than one for a thousand.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs as pafs

from models.image_limits import SUFFIXES
from models.settings import ConfigError
from pipelines.corpus import absolute, child, filesystem
from pipelines.folder_names import RECORD, SHEETS, identity, ignores_case, inside, same_place
from pipelines.ingest_files import split_glob

FORMATS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}
BESIDE = "_dehazed"  # what a result's name ends with when it lies beside its photograph
_SHOWN = 3  # collisions that a message names


@dataclass(frozen=True)
class Task:
    """One photograph and the file that it becomes: paths or URIs. ``size`` in bytes, ``mtime`` in ns, of the source."""

    source: str
    target: str
    size: int
    mtime: int


@dataclass(frozen=True)
class Root:
    """Where photographs are: a folder, those below it that match ``pattern``, or one file."""

    uri: str
    pattern: re.Pattern[str] | None = None
    is_file: bool = False


@dataclass(frozen=True)
class Plan:
    """What a call asks for.

    Attributes:
        roots: the sources.
        folder: where results go; None when they go beside their photographs, or to ``file``.
        file: the one result, where one photograph becomes a file of a given name.
        format: of results, such as ``PNG``; None keeps each file's own.
        recursive: whether folders below a folder count.
    """

    roots: tuple[Root, ...]
    folder: str | None
    file: str | None = None
    format: str | None = None
    recursive: bool = True

    @property
    def single(self) -> bool:
        """One photograph, named: there is no folder to keep a record of."""
        return len(self.roots) == 1 and self.roots[0].is_file


@dataclass(frozen=True)
class Survey:
    """How many photographs there are, and their bytes."""

    count: int
    size: int


def make_plan(sources: Sequence[str], target: str | None, file_format: str | None, *, recursive: bool = True) -> Plan:
    """What sources and target mean.

    Args:
        sources: folders, globs (``*``, ``?``, ``[ab]``, ``**``) and files; paths or URIs.
        target: a folder; for one photograph also the name of a file; None for beside the photographs.
        file_format: JPEG, PNG, WEBP, TIFF or BMP; None keeps each photograph's own.
        recursive: whether folders below a folder count.

    Raises:
        ConfigError: a source is missing, or the target is a file where a folder is needed.
    """
    roots = tuple(dict.fromkeys(_root(absolute(source)) for source in sources))
    single = len(roots) == 1 and roots[0].is_file
    if target is None:
        return Plan(roots, None, None, file_format, recursive)
    folder = absolute(target)
    files, path = filesystem(folder)
    kind = files.get_file_info(path).type
    suffix = PurePosixPath(path).suffix.lower()
    if kind != pafs.FileType.Directory and suffix in SUFFIXES and single:
        if file_format not in (None, SUFFIXES[suffix]):
            raise ConfigError(
                f"{target} has the suffix of {SUFFIXES[suffix]}, but the format asked for is {file_format}"
            )
        return Plan(roots, None, folder, SUFFIXES[suffix], recursive)
    if kind == pafs.FileType.File or (kind == pafs.FileType.NotFound and suffix in SUFFIXES):
        raise ConfigError(f"{target} is no folder; the last name says where the results go: give a folder")
    return Plan(roots, folder, None, file_format, recursive)


def _root(uri: str) -> Root:
    files, path = filesystem(uri)
    kind = files.get_file_info(path).type
    if kind != pafs.FileType.NotFound:
        return Root(uri, None, kind == pafs.FileType.File)
    folder, pattern = split_glob(uri)
    files, path = filesystem(folder)
    if pattern is None or files.get_file_info(path).type != pafs.FileType.Directory:
        raise ConfigError(f"there is no file or folder {uri}")
    return Root(folder, pattern)


def tasks(plan: Plan) -> Iterator[Task]:
    """Every photograph, folder by folder, sorted within each; always in the same order.

    Raises:
        ConfigError: a source is gone.
    """
    for root in plan.roots:
        for folder in _folders(root, plan):
            yield from folder


def batches(plan: Plan, size: int) -> Iterator[list[Task]]:
    """:func:`tasks`, ``size`` at a time."""
    found = tasks(plan)
    while batch := list(itertools.islice(found, size)):
        yield batch


def survey(plan: Plan) -> Survey:
    """Count the photographs and check the plan. Names are compared within a folder, and across all only where several
    sources go to one target.

    Raises:
        ConfigError: there are no photographs, two would become one file, or results would lie among inputs.
    """
    checks = _Checks(plan)
    count = size = 0
    for root in plan.roots:
        for folder in _folders(root, plan):
            checks.folder(folder)
            count += len(folder)
            size += sum(task.size for task in folder)
    checks.conclude()
    if not count:
        raise ConfigError(f"no photographs in {', '.join(root.uri for root in plan.roots)}")
    return Survey(count, size)


class _Checks:
    """Two inputs never become one output, and no output takes the place of an input."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._several = len(plan.roots) > 1
        self._fold = ignores_case(plan.folder or plan.roots[0].uri)
        self._taken: dict[str, str] = {}
        self._examples: list[str] = []
        self._collisions = 0
        self._folders = [root.uri for root in plan.roots if not root.is_file]
        self._files = {identity(root.uri) for root in plan.roots if root.is_file}

    def folder(self, found: Sequence[Task]) -> None:
        """Check what one folder becomes.

        Raises:
            ConfigError: its results would lie among the inputs.
        """
        if not self._several and not self._fold:  # where case does not count, folders may become one too
            self._taken = {}
        if found and self._plan.folder is not None:
            place = found[0].target.rpartition("/")[0]
            if inside(place, self._folders, below=self._plan.folder):
                raise ConfigError(f"{place} is an input; choose another folder for the results, outside of the inputs")
        for task in found:
            if same_place(task.target, task.source) or (self._files and identity(task.target) in self._files):
                raise ConfigError(f"{task.target} is an input; choose another place for the results")
            self._take(task)

    def _take(self, task: Task) -> None:
        key = task.target.casefold() if self._fold else task.target
        other = self._taken.setdefault(key, task.source)
        if other != task.source:
            self._collisions += 1
            if len(self._examples) < _SHOWN:
                self._examples.append(f"{other} and {task.source} would both become {task.target}")

    def conclude(self) -> None:
        """
        Raises:
            ConfigError: two inputs would become one output.
        """
        if self._collisions:
            more = self._collisions - len(self._examples)
            rest = f" (and {more} more such pairs)" if more else ""
            raise ConfigError(f"{'; '.join(self._examples)}{rest}; rename one, or use another --format or folder")


def _folders(root: Root, plan: Plan) -> Iterator[list[Task]]:
    """The photographs of a root, one folder after the other."""
    files, path = filesystem(root.uri)
    if root.is_file:
        yield [_task(root.uri, PurePosixPath(path).name, files.get_file_info(path), plan)]
        return
    waiting = [(path, frozenset([identity(root.uri)]))]
    while waiting:
        folder, above = waiting.pop()
        entries = _entries(files, folder)
        results = any(entry.base_name == RECORD for entry in entries)
        found = []
        for entry in entries:
            name = entry.path[len(path) :].lstrip("/")
            if entry.type == pafs.FileType.File and _counts(name, root, plan):
                found.append(_task(child(root.uri, name), name, entry, plan))
        yield found
        if plan.recursive:
            for entry in reversed(entries):
                if entry.type == pafs.FileType.Directory and not _passed_over(entry.base_name, results=results):
                    uri = child(root.uri, entry.path[len(path) :].lstrip("/"))
                    known = identity(uri)  # a link to a folder that one is in already is not followed
                    if known not in above and not (plan.folder and same_place(uri, plan.folder)):
                        waiting.append((entry.path, above | {known}))


def _entries(files: Any, folder: str) -> list[Any]:
    try:
        return sorted(files.get_file_info(pafs.FileSelector(folder)), key=lambda entry: str(entry.path))
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{folder} holds a name that is not UTF-8 ({problem.object!r}); rename it") from problem


def _passed_over(name: str, *, results: bool) -> bool:
    """Hidden folders, and before/after sheets among results."""
    return name.startswith(".") or (results and name == SHEETS)


def _counts(name: str, root: Root, plan: Plan) -> bool:
    pure = PurePosixPath(name)
    if pure.suffix.lower() not in SUFFIXES or pure.name.startswith("."):
        return False
    if root.pattern is not None and root.pattern.fullmatch(name) is None:
        return False
    return plan.folder is not None or not pure.stem.endswith(BESIDE)


def _task(uri: str, name: str, info: Any, plan: Plan) -> Task:
    return Task(uri, _target(uri, name, plan), info.size or 0, info.mtime_ns or 0)


def _target(uri: str, name: str, plan: Plan) -> str:
    """Where a photograph's result goes; ``name`` is its path below its root."""
    if plan.file is not None:
        return plan.file
    pure = PurePosixPath(name)
    keeps = plan.format is None or SUFFIXES.get(pure.suffix.lower()) == plan.format
    suffix = pure.suffix if keeps else FORMATS[str(plan.format).lower()]
    if plan.folder is not None:
        return child(plan.folder, str(pure.with_name(pure.stem + suffix)))
    base, question, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{base.removesuffix(PurePosixPath(base).suffix)}{BESIDE}{suffix}{question}{query}"
