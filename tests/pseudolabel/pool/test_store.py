"""The store by itself: readers beside its owner, also killed ones, and coming back after a failure."""

import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing

import pytest

from models.config import PoolError
from pseudolabel.pool import store as module
from pseudolabel.pool.store import Store

HOLD = """
    import sys
    from pseudolabel.pool.store import Store
    with Store(sys.argv[1], readonly=True).read():
        print("reading", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path, sync=False)) as store:
        yield store


def put(store, name="key", size=1 << 14):
    with store.write() as db:
        db.execute("insert or replace into labels (image_id, label) values (?, zeroblob(?))", [name, size])


def entries(store):
    with store.read() as view:
        return view.execute("select count(*) from labels").fetchone()[0]


def log_size(path):
    return (path / "labels-00001.sqlite-wal").stat().st_size


def test_a_reader_neither_waits_nor_makes_wait_and_sees_one_moment(store, tmp_path):
    put(store, "first")
    with closing(Store(tmp_path, readonly=True)) as reader, reader.read() as view:
        writer = threading.Thread(target=put, args=(store, "second"))
        writer.start()
        writer.join(5)
        assert not writer.is_alive()
        assert view.execute("select count(*) from labels").fetchone() == (1,)
        with store.write() as under_way:
            under_way.execute("insert into labels (image_id) values ('third')")
            assert entries(reader) == 2
    assert entries(store) == 3


def test_two_that_replace_all_take_turns(store):
    def replace():
        with store.replace() as other:
            begun.set()
            other.execute("insert into labels (image_id) values ('second'), ('third')")

    begun = threading.Event()
    second = threading.Thread(target=replace)
    with store.replace() as filling:
        second.start()
        assert not begun.wait(0.3)
        filling.execute("insert into labels (image_id) values ('first')")
    second.join(5)
    assert entries(store) == 2


def test_what_is_replaced_before_a_reader_has_begun_is_read_anew(store, tmp_path, monkeypatch):
    put(store, "old")

    def replaced_meanwhile(*arguments, **options):
        view = connect(*arguments, **options)
        monkeypatch.undo()
        with store.replace() as new:
            new.execute("insert into labels (image_id) values ('one'), ('two')")
        return view

    with closing(Store(tmp_path, readonly=True)) as elsewhere:
        for reader, count in ((store, 2), (elsewhere, 2)):
            connect = reader._connect
            monkeypatch.setattr(reader, "_connect", replaced_meanwhile)
            assert entries(reader) == count


def test_a_reader_that_was_killed_leaves_nothing_that_grows(store, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOG_PAGES", 8)
    store._disconnect()  # the next write prepares a connection with that
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        put(store)
        assert reader.stdout.readline() == "reading\n"
        for _ in range(30):
            put(store)
        assert log_size(tmp_path) > 40 << 14, "what is read stays in the log"
        reader.kill()
    for _ in range(30):
        put(store)
    assert log_size(tmp_path) <= 16 << 14
    assert (tmp_path / "labels-00001.sqlite").stat().st_size < 16 << 14


def test_a_reader_changes_nothing_about_a_store_that_nobody_has(store, tmp_path):
    put(store)
    store.close()
    before = (tmp_path / "labels-00001.sqlite").read_bytes()
    with closing(Store(tmp_path, readonly=True)) as reader:
        assert entries(reader) == 1
        with pytest.raises(PoolError, match="readonly database"):
            put(reader)
    assert (tmp_path / "labels-00001.sqlite").read_bytes() == before


def test_there_is_nothing_to_read_where_there_is_no_store(tmp_path):
    with pytest.raises(PoolError, match="unable to open database file"):
        Store(tmp_path, readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_opened_again_is_tried_again_by_the_next_call(store, monkeypatch):
    put(store, "first")
    with pytest.raises(PoolError, match="syntax error"), store.write() as db:
        db.execute("insert into labels (image_id) values ('half of it')").execute("no such statement")

    def fails(*arguments, **options):
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as broken:
        broken.setattr(sqlite3, "connect", fails)
        for call in (entries, put, put, entries):
            with pytest.raises(PoolError, match="unable to open database file"):
                call(store)
    put(store, "second")
    assert entries(store) == 2


def test_statistics_do_not_touch_the_labels(store):
    with store.read() as view:
        for query in ("count(*), total(clearness), sum(teacher_step) from labels", "clearness from labels order by 1"):
            plan = view.execute(f"explain query plan select {query}").fetchone()[-1]
            assert "COVERING INDEX scores" in plan


def test_a_closed_store_stays_closed_and_says_so(store):
    store.close()
    for call in (entries, put):
        with pytest.raises(PoolError, match="closed"):
            call(store)
