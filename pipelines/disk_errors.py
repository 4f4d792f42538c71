"""What disks refuse, in plain words: the reason, and what to do about it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from models.config import ConfigError

NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the next file would meet them too
_ADVICE = {
    errno.ENOSPC: "free some space and repeat the command",
    errno.EDQUOT: "free some of your quota and repeat the command",
    errno.EROFS: "choose another folder, or have it mounted for writing, and repeat the command",
}


class NoSpaceError(OSError):
    """Results cannot be written any more."""

    @property
    def advice(self) -> str:
        """Return the reason, and what to do."""
        return f"{self.strerror}{remedy(self)}"


def remedy(problem: OSError) -> str:
    """Return ``; free some space and repeat the command``: a remedy, as the end of a sentence; no text where none is
    known.
    """
    return f"; {_ADVICE[problem.errno]}" if problem.errno in _ADVICE else ""


@contextmanager
def as_config_error() -> Iterator[None]:
    """Turn an error of a disk or a server of files into an error of one line.

    Raises:
        ConfigError: the reason, and the name where it is known.
    """
    try:
        yield
    except OSError as problem:
        raise ConfigError(in_words(problem)) from problem


def in_words(problem: OSError) -> str:
    """Return ``No space left on device: /out/a.jpg; free some space and repeat the command``, as much of it as is
    known.
    """
    return f"{reason_of(problem)}{_place(problem)}{remedy(problem)}"


def _place(problem: OSError) -> str:
    if problem.filename is not None:
        return f": {os.fsdecode(problem.filename)}"
    quoted = re.search("'(.+)'", str(problem), re.DOTALL) if problem.errno else None  # as pyarrow has it
    return f": {quoted[1]}" if quoted else ""


def reason_of(problem: OSError) -> str:
    """Return the reason of an error in few words."""
    if problem.filename is not None and problem.strerror:  # what pyarrow says is long, and names no file
        return problem.strerror
    return os.strerror(problem.errno) if problem.errno else " ".join(str(problem).split())


def no_space(problem: OSError, place: str) -> NoSpaceError | None:
    """Return the error for a place where nothing can be written any more; None when ``problem`` is another one."""
    if problem.errno not in NO_PLACE:
        return None
    return NoSpaceError(problem.errno, f"{reason_of(problem)}: {place}")
