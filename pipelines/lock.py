"""One job at a time that writes a folder. No Ray, no pixels."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.config import ConfigError
from models.paths import filesystem, is_local

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_PAUSE_S = 0.2


@contextmanager
def only_one(out: str, what: str, patience_s: float = 0.0) -> Iterator[None]:
    """Keep other jobs of a kind out of a folder meanwhile. The lock of a process that dies is gone with it.

    Object stores know no locks: there it is left to the user.

    Args:
        out: the folder; made if missing, and removed again where nothing comes of it.
        what: the job, such as ``ingest``.
        patience_s: seconds for another one to go, such as the children of a process that was killed.

    Raises:
        ConfigError: another one is at work there, or it is a file.
    """
    files, path = filesystem(out)
    if not is_local(files):
        yield
        return
    folder = Path(path)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as problem:
        raise ConfigError(f"{out} is a file: choose a folder for the results of the {what}") from problem
    place = folder / f".{what}.lock"
    descriptor = _taken(place, out, what, time.monotonic() + patience_s)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            place.unlink()
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # children may have the descriptor too
        os.close(descriptor)
        with contextlib.suppress(OSError):  # something is in it
            if made:
                folder.rmdir()


def _taken(place: Path, out: str, what: str, until: float) -> int:
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno not in _TAKEN:
                print(f"warning: {out} cannot be locked: start no second {what} there ({problem})", file=sys.stderr)
                return descriptor
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            if time.monotonic() < until:
                time.sleep(_PAUSE_S)
                continue
            raise ConfigError(
                f"another {what} ({holder}) is writing {out}: wait for it, or choose another --out"
            ) from problem
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == place.stat().st_ino:  # else its holder deleted it before we had it
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        os.close(descriptor)
