"""Files that are there after a power failure too."""

from __future__ import annotations

import errno
import os
import uuid

_KEPT = 32  # characters of the name: with any of them, a file system takes it wherever it takes the whole name


def temporary_name(name: str) -> str:
    """A name beside ``name`` to write under, hidden and never taken; ``.photo.jpg.0123abcd.tmp``. A long name comes
    shortened, as file systems bound names by their bytes.
    """
    return f".{name[:_KEPT]}.{uuid.uuid4().hex[:8]}.tmp"


_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of file systems that sync files only


def persist(path: str | os.PathLike[str]) -> None:
    """Wait until a local file, or the names in a local folder, are on the disk.

    A file that is replaced by rename counts as there only when the new file was persisted before the rename, and its
    folder after it: otherwise a name can outlive what it stands for.

    Raises:
        OSError: it is gone, or cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in _NO_FOLDERS:
            raise
    finally:
        os.close(descriptor)
