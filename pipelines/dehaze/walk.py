"""Looking through folders for photographs, one folder at a time. No Ray, no pixels."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from pyarrow import fs as pafs

from models.config import ConfigError
from models.images import SUFFIXES, WRITTEN, format_written, reads_suffix
from models.paths import child, filesystem, is_local, split_options
from pipelines.corpus import kind_of
from pipelines.dehaze.names import EARLIER, HIDDEN, LINKS, OTHER, SHEETS, identity, same_place
from pipelines.disk_errors import reason_of

Kind = Literal["file", "folder", "broken link", "other"]


@dataclass(frozen=True)
class FolderEntry:
    """One name in a folder; what a link leads to counts. ``size`` in bytes, ``mtime`` in ns; ``path`` on its file
    system.
    """

    path: str
    name: str
    kind: Kind
    size: int = 0
    mtime: int = 0
    link: bool = False


def entries(files: Any, folder: str) -> list[FolderEntry]:
    """List all entries of a folder, sorted.

    Raises:
        OSError: it cannot be read.
    """
    if is_local(files):
        with os.scandir(folder) as found:  # pyarrow gives up on a name that is not UTF-8, and passes over broken links
            listed = [_local(entry) for entry in found]
    else:
        listed = [_remote(info) for info in files.get_file_info(pafs.FileSelector(folder))]
    return sorted(listed, key=lambda entry: entry.path)


def _local(entry: os.DirEntry[str]) -> FolderEntry:
    try:
        link, status = entry.is_symlink(), entry.stat()
        kind: Kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to nothing or to itself, or a file that is gone by now
        return FolderEntry(entry.path, entry.name, "broken link", link=True)
    return FolderEntry(entry.path, entry.name, kind, status.st_size, status.st_mtime_ns, link)


def _remote(info: Any) -> FolderEntry:
    kinds: dict[Any, Kind] = {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}
    return FolderEntry(info.path, info.base_name, kinds.get(info.type, "other"), info.size or 0, info.mtime_ns or 0)


BESIDE = "_dehazed"  # what a result's name ends with when it lies beside its photograph


@dataclass(frozen=True)
class PhotoTask:
    """One photograph and the file that it becomes: paths or URIs. ``size`` in bytes, ``mtime`` in ns, of the source.
    ``problem`` is why it cannot be done at all: it may also be a folder that cannot be read. ``format`` is that of the
    result's suffix, where it is not the photograph's: a file may hold another format than its suffix says.
    """

    source: str
    target: str
    size: int
    mtime: int
    problem: str = ""
    format: str | None = None


@dataclass(frozen=True)
class Root:
    """Where photographs are: a folder, those below it that match ``pattern``, or one file."""

    uri: str
    pattern: re.Pattern[str] | None = None
    is_file: bool = False


@dataclass(frozen=True)
class FolderPlan:
    """What a call asks for.

    Attributes:
        roots: the sources.
        folder: where results go; None when they go beside their photographs, or to ``file``.
        file: the one result, where one photograph becomes a file of a given name.
        format: of results, such as ``PNG``; None keeps each file's own (JPEG for HEIC and raw).
        recursive: whether folders below a folder count.
    """

    roots: tuple[Root, ...]
    folder: str | None
    file: str | None = None
    format: str | None = None
    recursive: bool = True

    @property
    def single(self) -> bool:
        """Say whether the plan is one photograph, named: there is no folder to keep a record of."""
        return len(self.roots) == 1 and self.roots[0].is_file


@dataclass(frozen=True)
class FoundFiles:
    """What one folder holds: photographs, and the kinds of what is none."""

    tasks: list[PhotoTask] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def walk(root: Root, plan: FolderPlan) -> Iterator[FoundFiles]:
    """Yield the photographs of a root, one folder after the other.

    Raises:
        ConfigError: the root cannot be read. What cannot be read below it is a task with a problem.
    """
    files, path = filesystem(root.uri)
    if root.is_file:
        info = files.get_file_info(path)
        yield FoundFiles([_task(root.uri, PurePosixPath(path).name, info.size or 0, info.mtime_ns or 0, plan)])
        return
    waiting = [(path, frozenset([identity(root.uri)]))]
    while waiting:
        folder, above = waiting.pop()
        try:
            listed = entries(files, folder)
        except OSError as problem:
            if folder == path:
                raise ConfigError(f"{root.uri} cannot be read: {reason_of(problem)}") from problem
            yield FoundFiles([PhotoTask(_uri(root, path, folder), "", 0, 0, f"cannot be read: {reason_of(problem)}")])
            continue
        yield _sorted_out(listed, root, path, plan)
        waiting += reversed(list(_below(listed, root, path, above, plan)))


def _sorted_out(listed: list[FolderEntry], root: Root, path: str, plan: FolderPlan) -> FoundFiles:
    found = FoundFiles()
    for entry in listed:
        name = entry.path[len(path) :].lstrip("/")
        kind = _left_out(entry, name, root, plan)
        if kind:
            found.left_out[kind] += 1
        elif kind is None and entry.kind == "file":
            found.tasks.append(_task(child(root.uri, name), name, entry.size, entry.mtime, plan))
    return found


def _below(
    listed: list[FolderEntry], root: Root, path: str, above: frozenset[object], plan: FolderPlan
) -> Iterator[tuple[str, frozenset[object]]]:
    """Yield the folders to look into next, each with the identities of those that it lies in."""
    for entry in listed if plan.recursive else ():
        if entry.kind == "folder" and not _passed_over(entry.name):
            uri = _uri(root, path, entry.path)
            known = identity(uri)  # a link to a folder that one is in already is not followed
            if known not in above and not (plan.folder and same_place(uri, plan.folder)):
                yield entry.path, above | {known}


def _uri(root: Root, path: str, inner: str) -> str:
    return child(root.uri, inner[len(path) :].lstrip("/"))


def _passed_over(name: str) -> bool:
    """Say whether a folder is hidden, or holds before/after sheets of results."""
    return name.startswith(".") or name.casefold() == SHEETS


def _left_out(entry: FolderEntry, name: str, root: Root, plan: FolderPlan) -> str | None:
    """None for a photograph, and for a folder that is looked into; else its kind, or nothing where none is told."""
    if entry.kind == "folder":
        return f"{entry.name} folder" if plan.recursive and _passed_over(entry.name) else None
    pure = PurePosixPath(name)
    photograph = reads_suffix(pure.suffix)
    if root.pattern is not None and root.pattern.fullmatch(name) is None:
        return ""
    if pure.name.startswith("."):
        return HIDDEN if photograph else ""
    if entry.kind != "file":
        return LINKS if entry.kind == "broken link" else OTHER
    if not photograph:
        return kind_of(name)
    return EARLIER if plan.folder is None and pure.stem.endswith(BESIDE) else None


def _task(uri: str, name: str, size: int, mtime: int, plan: FolderPlan) -> PhotoTask:
    own = SUFFIXES.get(PurePosixPath(name).suffix.lower(), "")  # a file that is named may have any suffix
    wanted = plan.format if plan.format or not own else format_written(own)
    other = None if wanted == own else wanted
    target = _target(uri, name, plan, None if other is None else WRITTEN[other])
    nameless = "://" in target and not _is_text(name)
    problem = "its name is not UTF-8, as names there have to be; rename it" if nameless else ""
    return PhotoTask(uri, target, size, mtime, problem, other)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _target(uri: str, name: str, plan: FolderPlan, other: str | None) -> str:
    """Where a photograph's result goes; ``name`` is its path below its root, ``other`` a suffix instead of its own."""
    if plan.file is not None:
        return plan.file
    pure = PurePosixPath(name)
    suffix = pure.suffix if other is None else other
    if plan.folder is not None:
        return child(plan.folder, str(pure.with_name(pure.stem + suffix)))
    base, options = split_options(uri)
    return f"{base.removesuffix(PurePosixPath(base).suffix)}{BESIDE}{suffix}{options}"
