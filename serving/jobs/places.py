"""Folders that a job reads and writes: only below what the operator allows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from models.images import IMAGE_SUFFIXES
from models.paths import child, filesystem, is_local, is_uri
from serving.archive import is_litter
from serving.errors import Problem, refused


def allowed(name: str, uri: str, prefixes: Sequence[str]) -> str:
    """The folder that a client means, spelled by the prefix that allows it: its options, such as an endpoint, are the
    operator's, and a client gives none.

    Args:
        name: of the key, for messages.
        uri: as the client wrote it.
        prefixes: of the configuration.

    Raises:
        ProblemError: 403 where none allows it.
    """
    for prefix in prefixes:
        base = prefix.partition("?")[0].rstrip("/")
        rest = uri.rstrip("/").removeprefix(base)
        if not uri.startswith(base) or rest[:1] not in ("", "/"):
            continue
        below = (unquote(rest) if is_uri(prefix) else rest).strip("/")
        parts = below.split("/")
        if set(parts) & {".", ".."} or any(letter in below for letter in "?#\\\0"):
            continue
        place = child(prefix, below) if below else prefix
        if _inside(place, prefix):
            return place
    raise refused(403, f"{name}: '{uri[:200]}' is not below a folder that this service allows", "not_allowed")


def require_apart(source: str, target: str) -> None:
    """Originals are never replaced.

    Raises:
        ProblemError: 400 where the target is the source, in it or around it.
    """
    (files, first), (others, second) = map(_real, (source, target))
    within = _below(first, second) or _below(second, first)
    if within and type(files) is type(others):
        raise refused(400, "target: it is the source, or in it, or around it; results need a folder of their own")


def _real(uri: str) -> tuple[Any, str]:
    files, path = filesystem(uri)
    return files, os.path.realpath(path) if is_local(files) else path


def _below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def _inside(place: str, prefix: str) -> bool:
    """Links do not lead out of it."""
    return _below(_real(place)[1], _real(prefix)[1])


class FolderPhotographs:
    """The photographs in and below a folder.

    Args:
        uri: of the folder.
        known: the photographs there and what was left out, as they were when the job began; None looks for them.
        max_files: that are accepted.
        max_bytes: of each.

    Attributes:
        names: relative to the folder, in order.
        skipped: names of what is no photograph.

    Raises:
        ProblemError: 404 where there is no such folder, 413 for more files than accepted, 400 for none.
    """

    def __init__(self, uri: str, known: tuple[list[str], list[str]] | None, *, max_files: int, max_bytes: int) -> None:
        self._files, self._root = filesystem(uri)
        self._max_bytes = max_bytes
        self.names, self.skipped = known or self._listed()
        if not self.names:
            raise refused(400, "source: there are no photographs in and below this folder")
        if (count := len(self.names)) > max_files:
            raise refused(413, f"source: {count:,} photographs; at most {max_files:,} accepted", "too_many_files")

    def read(self, index: int) -> bytes | Problem:
        """A photograph, or why there is none."""
        path = f"{self._root}/{self.names[index]}"
        if is_local(self._files) and not _below(os.path.realpath(path), os.path.realpath(self._root)):
            return Problem(403, "not_allowed", "the file is a link that leads out of the folder")
        try:
            if (self._files.get_file_info(path).size or 0) > self._max_bytes:
                return Problem(413, "too_large", f"the file has more than the {self._max_bytes:,} bytes accepted")
            with self._files.open_input_stream(path) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return Problem(404, "not_found", "the file is not there any more")
        return content

    def _listed(self) -> tuple[list[str], list[str]]:
        from pyarrow import fs as pafs

        try:
            found = self._files.get_file_info(pafs.FileSelector(self._root, recursive=True))
        except FileNotFoundError as problem:
            raise refused(404, "source: there is no such folder") from problem
        paths = sorted(info.path for info in found if info.type == pafs.FileType.File)
        names = [name for name in (path[len(self._root) :].strip("/") for path in paths) if not is_litter(name)]
        kinds: tuple[list[str], list[str]] = [], []
        for name in names:
            kinds[Path(name).suffix.lower() not in IMAGE_SUFFIXES].append(name)
        return kinds
