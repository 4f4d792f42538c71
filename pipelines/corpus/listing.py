"""Folders as they are on people's disks: any name that a file system takes, what is no photograph by its nature, links
that lead in circles, folders that may not be read; and photographs in folders anywhere. No Ray, no pixels.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote_to_bytes

from pyarrow import fs as pafs

from models.images import IMAGE_SUFFIXES
from models.paths import absolute, child, filesystem, is_uri, name_of

LITTER = "hidden or system"
_LITTER = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
)
_RAW = "raw:"  # no absolute path and no scheme
_NAMED = 8  # kinds
_LONGEST = 5  # letters of a suffix that says a kind


def is_litter(name: str) -> bool:
    """Tell whether a path below a source is hidden (as ``.DS_Store`` and AppleDouble's ``._x.jpg`` are), belongs to an
    operating system, or lies in such a folder.
    """
    return any(part.startswith(".") or part.lower() in _LITTER for part in name.split("/"))


def printable(name: str) -> str:
    """Return a name with its bytes that are not UTF-8 as ``\\xff``: for people, tables and files of text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def portable(path: str | os.PathLike[str]) -> str:
    """Return a local path as text that every library takes; :func:`local_path` turns it back."""
    text = os.fspath(path)
    return text if printable(text) == text else _RAW + quote(os.fsencode(text))


def local_path(text: str) -> Path:
    """Return the path that :func:`portable` made this text of."""
    return Path(os.fsdecode(unquote_to_bytes(text[len(_RAW) :])) if is_raw(text) else text)


def is_raw(text: str) -> bool:
    """Return whether a path is one of :func:`portable` whose name is not UTF-8."""
    return text.startswith(_RAW)


def kind_of(name: str) -> str:
    """Return what to call a file that is left out: its suffix, such as ``HEIC``."""
    if is_litter(name):
        return LITTER
    suffix = PurePosixPath(name).suffix
    if suffix.lower() in IMAGE_SUFFIXES:
        return "outside the layout"
    kind = suffix[1:]
    return kind.upper() if kind.isascii() and kind.isalnum() and len(kind) <= _LONGEST else "without a suffix"


def left_out_text(counts: Mapping[str, int]) -> str:
    """Return ``12 HEIC, 3 TXT``: the commonest first; "" when there is nothing."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] == LITTER, -item[1], item[0]))
    found = [f"{count:,} {kind}" for kind, count in ordered[:_NAMED]]
    if len(ordered) > _NAMED:
        found.append(f"{sum(count for _, count in ordered[_NAMED:]):,} of other kinds")
    return ", ".join(found)


@dataclass(frozen=True)
class ListedFile:
    """A file or folder below a folder: its path from there, bytes, time in ns; or why it, or what is in it, cannot be
    had.
    """

    name: str
    size: int = 0
    mtime: int = 0
    problem: str = ""
    is_folder: bool = False


def walk(root: str | os.PathLike[str]) -> list[ListedFile]:
    """List every file below a local folder, by name, and every folder that cannot be listed.

    Links are followed, except those to a folder that they lie in. Names may hold surrogates (PEP 383).

    Raises:
        OSError: ``root`` itself cannot be listed.
    """
    found: list[ListedFile] = []
    waiting = [""]
    while waiting:
        for entry in look_into(root, waiting.pop()):
            if entry.is_folder and not entry.problem:
                waiting.append(entry.name)
            else:
                found.append(entry)
    return sorted(found, key=lambda entry: entry.name)


def look_into(root: str | os.PathLike[str], folder: str = "") -> Iterator[ListedFile]:
    """Yield what lies right in a folder below ``root``: files and folders, with their paths from ``root``; or
    the folder itself with why it cannot be listed. Links are as for :func:`walk`.

    Raises:
        OSError: ``root`` itself cannot be listed.
    """
    try:
        with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118 - millions of names
            for entry in entries:
                if (found := _seen(root, folder, entry)) is not None:
                    yield found
    except OSError as problem:
        if not folder:
            raise
        yield ListedFile(folder, problem=_reason(problem), is_folder=True)


def _seen(root: str | os.PathLike[str], folder: str, entry: os.DirEntry[str]) -> ListedFile | None:
    name = f"{folder}/{entry.name}" if folder else entry.name
    try:
        status = entry.stat()
    except OSError as problem:
        gone = isinstance(problem, FileNotFoundError) and not entry.is_symlink()  # while we looked
        return None if gone else ListedFile(name, problem=_reason(problem))
    if stat.S_ISREG(status.st_mode):
        return ListedFile(name, status.st_size, status.st_mtime_ns)
    circle = entry.is_symlink() and _key(status) in _above(root, folder)
    return ListedFile(name, is_folder=True) if stat.S_ISDIR(status.st_mode) and not circle else None


def _above(root: str | os.PathLike[str], folder: str) -> set[tuple[int, int]]:
    """A folder below ``root`` and those that it lies in. Asked anew: other machines number disks in another way."""
    below = Path(folder)
    return {_key((Path(root) / path).stat()) for path in (below, *below.parents)}


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _reason(problem: OSError) -> str:
    return os.strerror(problem.errno) if problem.errno else type(problem).__name__


def photographs_below(folder: str) -> tuple[dict[str, str], Counter[str]]:
    """Find photographs below a folder, by suffix, and count the files that are left out, by kind.

    Those that cannot be had are among the photographs when their names say so: reading them tells why.

    Args:
        folder: local path or URI.

    Returns:
        their places (a URI, or what :func:`portable` makes of a path) by their paths from there, which may hold
        surrogates (PEP 383).

    Raises:
        OSError: the folder cannot be listed.
    """
    found: dict[str, str] = {}
    left: Counter[str] = Counter()
    folder = absolute(folder)
    for entry in _listed(folder) if is_uri(folder) else walk(folder):
        if PurePosixPath(entry.name).suffix.lower() in IMAGE_SUFFIXES and not is_litter(entry.name):
            place = child(folder, entry.name)
            found[entry.name] = place if is_uri(folder) else portable(place)
        else:
            left["folders that cannot be listed" if entry.is_folder else kind_of(entry.name)] += 1
    return found, left


def _listed(uri: str) -> list[ListedFile]:
    files, root = filesystem(uri)
    infos = files.get_file_info(pafs.FileSelector(root, recursive=True))
    found = (ListedFile(info.path[len(root) :].lstrip("/"), info.size) for info in infos if info.is_file)
    return sorted(found, key=lambda entry: entry.name)


def place_name(place: str) -> str:
    """Return the name of the file at a place, for people."""
    return printable(name_of(place) if is_uri(place) else local_path(place).name)
