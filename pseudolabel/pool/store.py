"""The pool's embedded store: LMDB whose map grows by itself, with errors a person can act on.

LMDB because it keeps no log to replay (a killed process leaves nothing to repair), serves reads from the page cache
without an index in memory, and lets snapshots read a point in time while offers go on.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import lmdb

from models.config import PoolError
from models.paths import persist
from pseudolabel.pool.mounts import make_folder

T = TypeVar("T")

_OPENINGS = 5  # a damaged file may never fit its map

_FULL = ("space", "quota", "too large", "input/output")  # how systems say that nothing more fits


class Store:
    """Transactions over one LMDB folder. Safe to use from several threads.

    A folder has one owner at a time; others may read it meanwhile.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        databases: tuple[bytes, ...],
        map_size: int = 1 << 30,
        sync: bool = True,
        patience: float = 10.0,
        readonly: bool = False,
    ) -> None:
        """Open or create the store.

        Args:
            path: its folder; made when missing.
            databases: names of the tables.
            map_size: address space to begin with, in bytes; it doubles when full. The file takes what it holds.
                A reader takes the owner's.
            sync: flush to the disk at each commit. Without it a commit survives the death of the process, but not
                that of the machine.
            patience: seconds to wait for another owner to go, such as a process that is just being killed.
            readonly: only look at what is there, beside its owner if it has one.

        Raises:
            PoolError: the folder cannot be made or written, belongs to another process, or holds something else.
        """
        self.path = Path(path)
        self._gate = threading.Condition()
        self._active: list[int] = []  # threads, each as often as it has a transaction open
        self._growing = 0  # threads that wait to replace the map
        self._panicked = False
        self._databases = databases
        self._options: dict[str, Any] = {
            "max_dbs": len(databases),
            "sync": sync,
            "readahead": False,
            "readonly": readonly,
        }
        self._lock: IO[bytes] | None = None
        try:
            if not readonly:
                make_folder(self.path)
                self._lock = _own(self.path, patience)
            self._open(map_size)
            if not readonly:
                persist(self.path)  # LMDB flushes what is in its file, and not that there is one
        except (OSError, lmdb.Error, PoolError) as problem:
            if self._lock is not None:
                self._lock.close()
            raise PoolError(f"cannot open the label pool at {self.path}: {problem}") from problem

    def _open(self, map_size: int) -> None:
        for left in reversed(range(_OPENINGS)):
            try:
                self._env, self.tables = self._opened(map_size)
                break
            except lmdb.MapResizedError:  # a reader's: the owner has made its map larger in this moment
                if not left:
                    raise
        self._note_size()

    def _opened(self, map_size: int) -> tuple[lmdb.Environment, dict[bytes, lmdb._Database]]:
        readonly = self._options["readonly"]
        size = 0 if readonly else map_size  # 0: that of the owner, which has room for what it writes meanwhile
        environment = lmdb.open(str(self.path), map_size=size, create=not readonly, **self._options)
        try:
            return environment, {name: environment.open_db(name, create=not readonly) for name in self._databases}
        except lmdb.Error:
            environment.close()  # a process may have it open only once
            raise

    @contextmanager
    def read(self) -> Iterator[lmdb.Transaction]:
        """A consistent view of the moment it was opened, whatever is written meanwhile.

        Raises:
            PoolError: the store cannot be read; or its owner has made it larger than the map, and this very thread
                reads it already, so that the map cannot be replaced.
        """
        transaction, held = self._begin()
        with held:
            yield transaction

    def _begin(self) -> tuple[lmdb.Transaction, ExitStack]:
        while True:
            try:
                with ExitStack() as held:
                    held.enter_context(self._counted())
                    held.enter_context(self._told())
                    transaction = held.enter_context(self._env.begin())
                    return transaction, held.pop_all()
            except lmdb.MapResizedError:
                self._grow(0)  # outside of the counted section, which it waits for

    def write(self, work: Callable[[lmdb.Transaction], T]) -> T:
        """Run `work` in one transaction and return its result after the commit.

        `work` is run again, from the state before, when the map had to grow: it must not change anything else.

        Raises:
            PoolError: nothing of it was written; also where the map must grow while this very thread reads the store.
        """
        while True:
            size = self._map_size
            try:
                with self._counted(), self._told():
                    # The slot of a killed reader keeps every page that was freed since from being used again. To look
                    # for one takes a microsecond, so it is done before each write: after every so many, or only when
                    # the map is full, the file would have grown already, and it never shrinks.
                    self._env.reader_check()
                    with self._env.begin(write=True) as transaction:
                        return work(transaction)
            except lmdb.MapFullError:
                self._grow(2 * size)
            except lmdb.MapResizedError:
                self._grow(0)  # another process has grown it: take over its size

    def close(self) -> None:
        """Close the store; safe to call twice."""
        self._panicked = False  # reopened it would be used without the lock
        self._env.close()
        if self._lock is not None:
            self._lock.close()

    def _note_size(self) -> None:
        """Keep the size of the map, for an environment that is closed does not tell it."""
        self._map_size = int(self._env.info()["map_size"])

    def _grow(self, size: int) -> None:
        with self._gate:
            if threading.get_ident() in self._active:  # it would wait for itself
                raise PoolError(
                    f"the label pool at {self.path} has outgrown its map while the same thread is reading it: "
                    "finish that reading, then try again"
                )
            self._growing += 1
            try:
                self._gate.wait_for(lambda: not self._active)  # LMDB forbids resizing under a transaction
                if size == 0 or self._map_size < size:
                    self._resize(size)
            finally:
                self._growing -= 1
                self._gate.notify_all()

    def _resize(self, size: int) -> None:
        with self._told():
            try:
                self._env.set_mapsize(size)
            except lmdb.Error:
                self._panicked = True  # the old map is gone, and the environment is closed
                raise
            self._note_size()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        thread = threading.get_ident()  # noted here: what a generator began may end in another thread
        with self._gate:
            # Whoever has a transaction open may open one more: the growing waits for the first one anyway.
            self._gate.wait_for(lambda: not self._growing or thread in self._active)
            if self._panicked and not self._active:
                self._reopen()
            self._active.append(thread)
        try:
            yield
        finally:
            with self._gate:
                self._active.remove(thread)
                self._gate.notify_all()

    def _reopen(self) -> None:
        """After a write that failed half-way LMDB wants to be opened anew; it goes on from the last commit.

        Where that fails too, as on a disk that is read-only for a while, the next call tries again.
        """
        self._env.close()
        with self._told():
            self._open(self._map_size)
        self._panicked = False

    def _hint(self, problem: str) -> str:
        """What to do. LMDB calls it an input/output error when only a part of a write still fits."""
        if not any(word in problem for word in _FULL):
            return ""
        free = shutil.disk_usage(self.path).free >> 20
        return (
            f"; {free} MiB are free there: free some space, or look after the disk when there is enough, and go on; "
            "nothing acknowledged is lost"
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """LMDB's errors as PoolError; those about the map are :meth:`write`'s business."""
        try:
            yield
        except (lmdb.MapFullError, lmdb.MapResizedError):
            raise
        except lmdb.Error as problem:
            self._panicked |= isinstance(problem, lmdb.PanicError)
            hint = self._hint(str(problem).lower())
            raise PoolError(f"label pool at {self.path}: {problem}{hint}") from problem


def _own(folder: Path, patience: float) -> IO[bytes]:
    """Lock the folder for this process, until the file is closed or the process is gone, however it goes."""
    lock = (folder / "owner.lock").open("wb")
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                lock.close()
                raise PoolError(
                    f"the label pool at {folder} is in use by another process: give each run a folder of its own"
                ) from None
            time.sleep(0.05)
        else:
            return lock
