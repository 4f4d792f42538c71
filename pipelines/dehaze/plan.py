"""Which photograph becomes which file: folders, globs and single files in, the same tree out. No Ray, no pixels.

Everything is a generator that holds the names of one folder at a time, so that a plan for millions of photographs takes
no more memory than one for a thousand.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pyarrow import fs as pafs

from models.config import ConfigError
from models.images import SUFFIXES, WRITTEN
from models.paths import absolute, filesystem, name_of, split_options
from pipelines.corpus import left_out_text, split_glob
from pipelines.dehaze.names import (
    advice,
    folder_of,
    identity,
    ignores_case,
    inside,
    is_own,
    is_video,
    names_folder,
    same_place,
)
from pipelines.dehaze.walk import FolderPlan, PhotoTask, Root, walk

_SHOWN = 3  # collisions that a message names
_SUFFIX = re.compile(r"\.(?=.*[a-z])[a-z0-9]{1,5}")  # of a file's name: photo.heic, but not results.2024


@dataclass(frozen=True)
class FolderSurvey:
    """How many photographs there are, and their bytes; how many files of which kinds are none."""

    count: int
    size: int
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def passed_over(self) -> str:
        """Return a line on the files that were left out, or no text."""
        return f"left out: {left_out_text(self.left_out)}{advice(self.left_out)}" if self.left_out else ""


def make_plan(
    sources: Sequence[str], target: str | None, file_format: str | None, *, recursive: bool = True
) -> FolderPlan:
    """Find out what sources and target mean.

    Args:
        sources: folders, globs (``*``, ``?``, ``[ab]``, ``**``) and files; paths or URIs.
        target: a folder; for one photograph also the name of a file; None for beside the photographs.
        file_format: JPEG, PNG, WEBP, AVIF, TIFF or BMP; None keeps each photograph's own (JPEG for HEIC and raw).
        recursive: whether folders below a folder count.

    Raises:
        ConfigError: a source is missing, or the target is a file where a folder is needed.
    """
    if "" in (*sources, target):  # which would be the current folder
        raise ConfigError("one of the names is empty; give a folder or a file")
    roots = tuple(dict.fromkeys(_root(absolute(source)) for source in sources))
    single = len(roots) == 1 and roots[0].is_file
    if target is None:
        return FolderPlan(roots, None, None, file_format, recursive)
    folder = absolute(target)
    files, path = filesystem(folder)
    kind = files.get_file_info(path).type
    if kind == pafs.FileType.Directory or (kind == pafs.FileType.NotFound and names_folder(target)):
        return FolderPlan(roots, folder, None, file_format, recursive)
    suffix = PurePosixPath(path).suffix.lower()
    if not single and (kind != pafs.FileType.NotFound or suffix in SUFFIXES):
        raise ConfigError(f"{target} is no folder; the last name says where the results go: give a folder")
    if single and (suffix in SUFFIXES or kind != pafs.FileType.NotFound or _SUFFIX.fullmatch(suffix)):
        return FolderPlan(roots, None, folder, format_of(target, file_format), recursive)
    return FolderPlan(roots, folder, None, file_format, recursive)


def format_of(target: str, file_format: str | None) -> str:
    """Return the format of a file to write, by its suffix.

    Args:
        target: its name.
        file_format: what was asked for as well, or None.

    Raises:
        ConfigError: no such format, or another one than was asked for.
    """
    found = SUFFIXES.get(PurePosixPath(name_of(target)).suffix.lower())
    if found not in WRITTEN:
        known = " ".join(sorted(suffix for suffix, name in SUFFIXES.items() if name in WRITTEN))
        told = f"cannot write {target}; expected one of {known}, or, for a folder, {target.rstrip('/')}/"
        raise ConfigError(told + ("; only a video becomes a video" if is_video(target) else ""))
    if file_format not in (None, found):
        raise ConfigError(f"{target} has the suffix of {found}, but the format asked for is {file_format}")
    return found


def _root(uri: str) -> Root:
    files, path = filesystem(uri)
    kind = files.get_file_info(path).type
    if kind == pafs.FileType.Unknown:
        raise ConfigError(f"{uri} is a pipe or a device; standard input is given as -")
    if kind != pafs.FileType.NotFound:
        return Root(uri, None, kind == pafs.FileType.File)
    folder, pattern = split_glob(uri)
    files, path = filesystem(folder)
    if pattern is None or files.get_file_info(path).type != pafs.FileType.Directory:
        raise ConfigError(f"there is no file or folder {uri}")
    return Root(folder, pattern)


def tasks(plan: FolderPlan) -> Iterator[PhotoTask]:
    """Yield every photograph, folder by folder, sorted within each; always in the same order.

    Raises:
        ConfigError: a source is gone.
    """
    for root in plan.roots:
        for folder in walk(root, plan):
            yield from folder.tasks


def batches(plan: FolderPlan, size: int) -> Iterator[list[PhotoTask]]:
    """Yield :func:`tasks`, ``size`` at a time."""
    found = tasks(plan)
    while batch := list(itertools.islice(found, size)):
        yield batch


def survey(plan: FolderPlan) -> FolderSurvey:
    """Count the photographs and check the plan. Names are compared within a folder, and across all only where several
    sources go to one target.

    Raises:
        ConfigError: there are no photographs, two would become one file, or results would lie among inputs.
    """
    checks = _Checks(plan)
    count = size = 0
    left_out: Counter[str] = Counter()
    for root in plan.roots:
        for folder in walk(root, plan):
            checks.folder([task for task in folder.tasks if not task.problem])
            count += len(folder.tasks)
            size += sum(task.size for task in folder.tasks)
            left_out += folder.left_out
    checks.conclude()
    found = FolderSurvey(count, size, dict(left_out))
    if not count:
        beside = f"; {found.passed_over}" if found.passed_over else ""
        raise ConfigError(f"no photographs in {', '.join(root.uri for root in plan.roots)}{beside}")
    return found


class _Checks:
    """Two inputs never become one output, and no output takes the place of an input."""

    def __init__(self, plan: FolderPlan) -> None:
        self._plan = plan
        self._several = len(plan.roots) > 1
        self._fold = ignores_case(plan.folder or plan.roots[0].uri)
        self._taken: dict[str, str] = {}
        self._examples: list[str] = []
        self._collisions = 0
        self._folders = [root.uri for root in plan.roots if not root.is_file]
        self._files = {identity(root.uri) for root in plan.roots if root.is_file}

    def folder(self, found: Sequence[PhotoTask]) -> None:
        """Check what one folder becomes.

        Raises:
            ConfigError: its results would lie among the inputs.
        """
        if not self._several and not self._fold:  # where case does not count, folders may become one too
            self._taken = {}
        if found and self._plan.folder is not None:
            place = folder_of(found[0].target)
            if inside(place, self._folders, below=self._plan.folder):
                raise ConfigError(f"{place} is an input; choose another folder for the results, outside of the inputs")
        for task in found:
            if self._plan.folder is not None and is_own(_first_below(self._plan.folder, task.target)):
                raise ConfigError(
                    f"{task.source} would become {task.target}, a name that is kept for lists and sheets; rename it"
                )
            if same_place(task.target, task.source) or (self._files and identity(task.target) in self._files):
                raise ConfigError(f"{task.target} is an input; choose another place for the results")
            self._take(task)

    def _take(self, task: PhotoTask) -> None:
        key = task.target.casefold() if self._fold else task.target
        other = self._taken.setdefault(key, task.source)
        if other != task.source and not same_place(other, task.source):
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


def _first_below(folder: str, place: str) -> str:
    base, _ = split_options(folder)
    return place[len(base.rstrip("/")) + 1 :].partition("/")[0]
