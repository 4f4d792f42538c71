"""The pool's database: SQLite in a folder that has one owner, with errors a person can act on.

SQLite with a write-ahead log: an acknowledged commit is on the disk, readers see one moment and neither wait nor make
others wait, files grow by themselves, and what a killed process leaves is put right by whoever opens them next.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from models.config import PoolError
from models.paths import make_local_folder, persist

VERSION = 2  # as the tables below say
NAMES = "labels-*.sqlite"
_OWN = re.compile(r"labels-\d{5}\.(sqlite|partial)(-\w+)?")  # databases, and what SQLite puts beside them

# Which file of a snapshot has a label, as it was then: what the next snapshot need not write again.
_WRITTEN = """
    create table if not exists written (
        image_id text primary key, clearness real, quality real, teacher_step integer, file text
    ) without rowid;
"""
# Scores stand in an index too, so that statistics do not touch the labels. These are large, and want large pages.
# No journal while it is filled: a file that is not completed is removed.
_TABLES = """
    pragma journal_mode = off; pragma synchronous = off; pragma page_size = 16384; pragma user_version = 2;
    create table labels (
        image_id text primary key, clearness real, quality real, teacher_step integer,
        label blob, transmission blob, trust blob, trust_rows integer, trust_columns integer
    );
    create index scores on labels (image_id, clearness, quality, teacher_step);
    create table state (json text);
    insert into state values ('{}');
"""
PATIENCE = 10.0  # seconds for another owner to go, such as a process that is just being killed
_LOG_PAGES = 2048  # 32 MiB, then the log is written back; after a long reading, which keeps it, it is cut to this


class Store:
    """A database in a folder; safe to use from several threads. A folder has one owner at a time; others may read it.

    Its file is the one of `labels-<number>.sqlite` with the highest number. What replaces all of it gets the next one.
    """

    def __init__(self, path: str | Path, *, sync: bool = True, readonly: bool = False) -> None:
        """Open or create the store.

        Args:
            path: its folder; made when missing.
            sync: flush to the disk at each commit. Without it a commit survives the death of the process, but not
                that of the machine.
            readonly: only look at what is there, beside its owner if it has one.

        Raises:
            PoolError: the folder cannot be made or written, belongs to another process, or holds something else.
        """
        self.path = Path(path)
        self._sync = "full" if sync else "normal"
        self._writing = threading.Lock()
        self._replacing = threading.Lock()  # held long, while others go on writing
        self._writer: sqlite3.Connection | None = None
        self._owner: IO[bytes] | None = None
        self._closed = False
        try:
            if not readonly:
                make_local_folder(self.path)
                self._owner = own(self.path, PATIENCE)
            self._check()
            if not readonly:
                with self.write():
                    self._remove_but(self._file())
        except (OSError, PoolError) as problem:
            self.close()
            raise PoolError(f"cannot open the label pool at {self.path}: {problem}") from problem

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yield a view of this moment, whatever is written meanwhile.

        Raises:
            PoolError: the store cannot be read.
        """
        with self._told(), closing(self._view()) as view:
            yield view

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Yield a transaction, which is committed at the end unless something was raised.

        Raises:
            PoolError: nothing of it was written. The next one begins with a new connection, from the last commit.
        """
        with self._writing, self._told():
            try:
                self._writer = self._writer or self._prepared()
                # The lock at once: a transaction that reads first may be too late for it.
                self._writer.execute("begin immediate")
                yield self._writer
                self._writer.execute("commit")
            except BaseException:
                self._disconnect()  # takes back what is not committed
                raise

    @contextmanager
    def replace(self) -> Iterator[sqlite3.Connection]:
        """Yield an empty database to fill, which takes the place of the present one unless something was raised.

        Raises:
            PoolError: it cannot be written; the present one is as it was.
        """
        with self._replacing:
            new = self.path / NAMES.replace("*", f"{int(self._file().stem.rpartition('-')[2]) + 1:05d}")
            partial = new.with_suffix(".partial")
            try:
                with self._told():
                    partial.unlink(missing_ok=True)
                    with closing(self._connect(partial, "rwc")) as filling:
                        filling.executescript(_TABLES + _WRITTEN)
                        filling.execute("begin")
                        yield filling
                        filling.execute("commit")
                        filling.execute("pragma journal_mode = wal")  # later a reader would be in the way
                    # Nothing was synced so far: all at once, before it gets its name.
                    persist(partial)
                    with self._writing:
                        # Who comes now opens the new one; views of the old one stay as they are.
                        partial.rename(new)
                        persist(self.path)
                        self._disconnect()
                        self._remove_but(new)
            finally:
                partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the store; safe to call twice."""
        with self._writing:
            self._closed = True
            self._disconnect()
            if self._owner is not None:
                self._owner.close()

    def _file(self) -> Path:
        # Numbers have leading zeros, so names are in their order.
        return max(self.path.glob(NAMES), default=self.path / NAMES.replace("*", "00000"))

    def _check(self) -> None:
        if self._owner is not None and not self._file().exists():
            with self.replace():
                pass
        with self.read() as view:
            version = view.execute("pragma user_version").fetchone()[0]
        if version != VERSION:
            raise PoolError(f"it has version {version}; this program reads {VERSION}")

    def _connect(self, file: Path, mode: str) -> sqlite3.Connection:
        if self._closed:
            raise PoolError(f"the label pool at {self.path} is closed")
        if mode == "ro" and not os.access(self.path, os.W_OK) and not file.with_name(f"{file.name}-wal").exists():
            mode = "ro&immutable=1"  # SQLite wants to make files beside a database; without a log nobody writes to it
        uri = f"{file.absolute().as_uri()}?mode={mode}"
        # Transactions are begun and ended here; threads take turns by the lock of writers.
        return sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None, check_same_thread=False)

    def _view(self) -> sqlite3.Connection:
        """Begin to read. Until that is done, a restore, even of another process, may take the file away: then it is the
        next one's turn.
        """
        while True:
            file, view = self._file(), None
            try:
                view = self._connect(file, "ro")
                view.execute("begin").execute("select 1 from state")
                return view
            except sqlite3.Error:
                if view is not None:
                    view.close()
                if self._file() == file:
                    raise

    def _prepared(self) -> sqlite3.Connection:
        writer = self._connect(self._file(), "ro" if self._owner is None else "rw")
        writer.execute("pragma journal_mode = wal")
        writer.execute(_WRITTEN)  # a store that an earlier version made has none
        writer.execute(f"pragma synchronous = {self._sync}")
        writer.execute(f"pragma wal_autocheckpoint = {_LOG_PAGES}")
        # In bytes; a page has 16 KiB.
        writer.execute(f"pragma journal_size_limit = {_LOG_PAGES << 14}")
        return writer

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _remove_but(self, kept: Path) -> None:
        """Remove databases that a restore has replaced, or has not finished."""
        for path in self.path.glob("labels-*"):
            if _OWN.fullmatch(path.name) and not path.name.startswith(kept.name):
                path.unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as problem:
            hint = ""
            if getattr(problem, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR")):
                free = shutil.disk_usage(self.path).free >> 20
                hint = (
                    f"; {free} MiB are free there: free some space, or look after the disk when there is enough, and "
                    "go on; nothing acknowledged is lost"
                )
            raise PoolError(f"label pool at {self.path}: {problem}{hint}") from problem


def is_store(folder: Path) -> bool:
    """Return whether there is a store."""
    return any(folder.glob(NAMES))


def own(folder: Path, patience: float) -> IO[bytes]:
    """Lock a store's folder for this process, until the file is closed or the process is gone, however it goes.

    Raises:
        PoolError: another process has it.
    """
    lock = (folder / "owner.lock").open("wb")
    until = time.monotonic() + patience
    while True:
        try:
            # The kernel gives it back, even after kill -9.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                lock.close()
                raise PoolError(
                    f"the label pool at {folder} is in use by another process, or open in this one: close it there, or "
                    "give each run a folder of its own"
                ) from None
            time.sleep(0.05)
        else:
            return lock
