"""One ingest at a time for a corpus. No Ray, no pixels."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.config import ConfigError
from models.paths import filesystem, is_local

LOCK = ".ingest.lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def only_ingest(out: str) -> Iterator[None]:
    """Keep other ingests out of a corpus's folder meanwhile. The lock of a process that dies is gone with it.

    Object stores know no locks: there it is left to the user.

    Raises:
        ConfigError: another one is at work there.
    """
    files, path = filesystem(out)
    if not is_local(files):
        yield
        return
    Path(path).mkdir(parents=True, exist_ok=True)
    place = Path(path) / LOCK
    descriptor = _taken(place, out)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            place.unlink()
        os.close(descriptor)


def _taken(place: Path, out: str) -> int:
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno in _TAKEN:
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise ConfigError(
                    f"another ingest ({holder}) is writing {out}: wait for it, or choose another --out"
                ) from problem
            print(f"warning: {out} cannot be locked: start no second ingest there ({problem})", file=sys.stderr)
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == place.stat().st_ino:  # else its holder deleted it before we had it
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        os.close(descriptor)
