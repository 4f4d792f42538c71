"""The store by itself: readers that were killed, readers of a store that grows, and coming back after a failure."""

import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from itertools import count

import lmdb
import pytest

from models.config import PoolError
from pseudolabel.pool.store import Store

TABLE = b"table"

HOLD = """
    import sys
    from pseudolabel.pool.store import Store
    with Store(sys.argv[1], databases=(b"table",), readonly=True).read():
        print("reading", flush=True)
        sys.stdin.read()
"""

OWN = """
    import sys
    from pseudolabel.pool.store import Store
    store = Store(sys.argv[1], databases=(b"table",), map_size=1 << 18, sync=False)
    for line in sys.stdin:
        store.write(lambda t: t.put(line.encode(), bytes(1 << 20), db=store.tables[b"table"]))
        print("written", flush=True)
"""


@contextmanager
def another_process(program, path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(path)], **pipes)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, databases=(TABLE,), map_size=1 << 18, sync=False)
    yield store
    store.close()


@pytest.fixture
def grow(tmp_path):
    """Makes the owner, another process, write a MiB more."""
    numbers = count()
    with another_process(OWN, tmp_path) as owner:

        def more():
            print(next(numbers), file=owner.stdin, flush=True)
            assert owner.stdout.readline() == "written\n"

        more()
        yield more


@pytest.fixture
def reader(grow, tmp_path):
    """Was opened beside the owner, which makes its map larger with the next MiB."""
    reader = Store(tmp_path, databases=(TABLE,), map_size=1 << 18, readonly=True)
    yield reader
    reader.close()


def put(store, key=b"key", size=1 << 14):
    store.write(lambda transaction: transaction.put(key, bytes(size), db=store.tables[TABLE]))


def entries(store):
    with store.read() as transaction:
        return transaction.stat(store.tables[TABLE])["entries"]


@pytest.mark.parametrize("map_size", [1 << 18, 1 << 30])
def test_a_killed_reader_does_not_keep_freed_pages_from_being_used_again(tmp_path, map_size):
    store = Store(tmp_path, databases=(TABLE,), map_size=map_size, sync=False)
    for _ in range(5):
        put(store)
    before = (tmp_path / "data.mdb").stat().st_size
    with another_process(HOLD, tmp_path) as reader:
        assert reader.stdout.readline() == "reading\n"
        put(store)
        reader.kill()
        reader.wait()
        for _ in range(100):
            put(store)
    assert (tmp_path / "data.mdb").stat().st_size < before + 10 * (1 << 14)
    store.close()


def test_a_reader_goes_along_with_a_store_that_grows(grow, reader):
    for number in range(1, 6):
        assert entries(reader) == number
        grow()


def test_a_store_may_grow_while_a_reader_opens_it(grow, tmp_path, monkeypatch):
    real = lmdb.open

    def open_slowly(*arguments, **options):
        environment = real(*arguments, **options)
        monkeypatch.undo()
        grow()
        return environment

    monkeypatch.setattr(lmdb, "open", open_slowly)
    reader = Store(tmp_path, databases=(TABLE,), map_size=1 << 18, readonly=True)
    assert entries(reader) == 2
    reader.close()


def test_a_reading_thread_does_not_wait_for_itself(grow, reader):
    with reader.read() as transaction:
        grow()
        with pytest.raises(PoolError, match="same thread"):
            entries(reader)
        assert transaction.stat(reader.tables[TABLE])["entries"] == 1
    assert entries(reader) == 2


def test_a_reader_waits_until_those_of_other_threads_are_done(grow, reader):
    found = []
    with reader.read() as transaction:
        grow()
        other = threading.Thread(target=lambda: found.append(entries(reader)))
        other.start()
        other.join(0.2)
        assert not found
        with pytest.raises(PoolError, match="same thread"):
            entries(reader)  # though the other one is about to take over the new size
        assert transaction.stat(reader.tables[TABLE])["entries"] == 1
    other.join(10)
    assert found == [2]


def test_a_write_that_needs_room_does_not_wait_for_a_reading_of_its_own_thread(store):
    with store.read(), pytest.raises(PoolError, match="same thread"):
        put(store, size=1 << 20)
    put(store, size=1 << 20)
    assert entries(store) == 1


def panic(store, monkeypatch):
    """What LMDB does after a commit that failed half-way."""

    class Panicked:
        def reader_check(self):
            return 0

        def begin(self, write=False):
            raise lmdb.PanicError("mdb_txn_begin")

    with monkeypatch.context() as broken:
        broken.setattr(store, "_env", Panicked())
        with pytest.raises(PoolError, match="mdb_txn_begin"):
            put(store, b"lost")


def test_a_store_that_cannot_be_reopened_is_tried_again_by_the_next_call(store, monkeypatch):
    put(store, b"first", size=1 << 20)
    size = store._env.info()["map_size"]
    panic(store, monkeypatch)

    def fails(*arguments, **options):
        raise lmdb.Error("Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(lmdb, "open", fails)
        for call in (entries, put, put, entries):
            with pytest.raises(PoolError, match="Read-only file system"):
                call(store)
    put(store, b"second")
    assert entries(store) == 2
    assert store._env.info()["map_size"] == size


def test_a_store_goes_on_after_a_map_that_could_not_grow(store):
    put(store, b"first")
    real = store._env

    class Crowded:
        begin, info, close, reader_check = real.begin, real.info, real.close, real.reader_check

        def set_mapsize(self, size):
            real.close()  # as the library does, for the old map is gone by then
            raise lmdb.MemoryError("mdb_env_set_mapsize: Cannot allocate memory")

    store._env = Crowded()
    with pytest.raises(PoolError, match="Cannot allocate memory"):
        put(store, b"large", size=1 << 20)
    assert entries(store) == 1
    put(store, b"large", size=1 << 20)
    assert entries(store) == 2


def test_a_closed_store_stays_closed_and_says_so(store, monkeypatch):
    panic(store, monkeypatch)
    store.close()
    for call in (entries, put):
        with pytest.raises(PoolError, match="closed"):
            call(store)
