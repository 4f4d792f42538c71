"""The store by itself: coming back after a failure."""

import lmdb
import pytest

from pseudolabel.entries import PoolError
from pseudolabel.store import Store

TABLE = b"table"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, databases=(TABLE,), map_size=1 << 18, sync=False)
    yield store
    store.close()


def put(store, key=b"key", size=1 << 14):
    store.write(lambda transaction: transaction.put(key, bytes(size), db=store.tables[TABLE]))


def entries(store):
    with store.read() as transaction:
        return transaction.stat(store.tables[TABLE])["entries"]


def panic(store, monkeypatch):
    """What LMDB does after a commit that failed half-way."""

    class Panicked:
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
