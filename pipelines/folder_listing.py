"""What lies in one folder: local, under any name that the file system takes, or behind a URI. No Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from pyarrow import fs as pafs

Kind = Literal["file", "folder", "broken link", "other"]


@dataclass(frozen=True)
class Entry:
    """One name in a folder; what a link leads to counts. ``size`` in bytes, ``mtime`` in ns; ``path`` on its file
    system.
    """

    path: str
    name: str
    kind: Kind
    size: int = 0
    mtime: int = 0
    link: bool = False


def entries(files: Any, folder: str) -> list[Entry]:
    """All of a folder, sorted.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(files, pafs.LocalFileSystem):
        with os.scandir(folder) as found:  # pyarrow gives up on a name that is not UTF-8, and passes over broken links
            listed = [_local(entry) for entry in found]
    else:
        listed = [_remote(info) for info in files.get_file_info(pafs.FileSelector(folder))]
    return sorted(listed, key=lambda entry: entry.path)


def _local(entry: os.DirEntry[str]) -> Entry:
    try:
        link, status = entry.is_symlink(), entry.stat()
        kind: Kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to nothing or to itself, or a file that is gone by now
        return Entry(entry.path, entry.name, "broken link", link=True)
    return Entry(entry.path, entry.name, kind, status.st_size, status.st_mtime_ns, link)


def _remote(info: Any) -> Entry:
    kinds: dict[Any, Kind] = {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}
    return Entry(info.path, info.base_name, kinds.get(info.type, "other"), info.size or 0, info.mtime_ns or 0)
