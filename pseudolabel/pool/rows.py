"""Records in the store's tables: how they are packed, and one transaction's view of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import lmdb

from pseudolabel.pool.entries import Record
from pseudolabel.pool.history import LONGEST, History, Moment, bounded
from pseudolabel.pool.snapshots import Counters

_META = b"meta"
_HISTORY = b"history"
_SIDES = (b"a", b"b")
_HEADER = struct.Struct("<2dq")
_COUNTERS = struct.Struct("<4q2dq")
_INDEX = struct.Struct(">q")  # big-endian, so that LMDB keeps moments in order
_MOMENT = struct.Struct("<4q2dq")
_BODY = struct.Struct("<IIHH")  # bytes of label and transmission, gh, gw; then label, transmission, trust

TABLES = (_META, _HISTORY, *(kind + side for side in _SIDES for kind in (b"headers.", b"bodies.")))


class Header(NamedTuple):
    """What the admission rule needs to know; apart from the images, so that a scan of it stays small."""

    clearness: float
    quality: float
    teacher_step: int


class Identity(NamedTuple):
    """Whose pool a store is.

    Attributes:
        run: id of its run; empty where it has none, as in those of earlier versions.
        generation: how often this shard of the run had begun anew when it did.
    """

    run: str = ""
    generation: int = 0


class Rows:
    """What one transaction sees.

    There are two sets of tables: a restore fills the idle one, then the two change places. So the old content is there
    until all of the new is.
    """

    def __init__(
        self, transaction: lmdb.Transaction, tables: Mapping[bytes, lmdb._Database], *, idle: bool = False
    ) -> None:
        self._transaction = transaction
        self._tables = tables
        self._meta, self._history = tables[_META], tables[_HISTORY]
        live = bytes(transaction.get(b"side", _SIDES[0], db=self._meta) or _SIDES[0])
        self._side = _SIDES[1 - _SIDES.index(live)] if idle else live
        self._headers, self._bodies = tables[b"headers." + self._side], tables[b"bodies." + self._side]

    def version(self, current: bytes | None) -> bytes:
        """Version of the store; a new one is marked `current`, unless that is None."""
        if current is not None and self._transaction.get(b"version", db=self._meta) is None:
            self._transaction.put(b"version", current, db=self._meta)
        return bytes(self._transaction.get(b"version", db=self._meta) or b"")

    def header(self, image_id: str) -> Header | None:
        """Scores and teacher step of what is held for `image_id`."""
        packed = self._transaction.get(image_id.encode(), db=self._headers)
        return None if packed is None else Header._make(_HEADER.unpack(packed))

    def get(self, image_id: str) -> Record | None:
        """All that is held for `image_id`."""
        header = self.header(image_id)
        body = self._transaction.get(image_id.encode(), db=self._bodies)
        return None if header is None or body is None else _unpacked(image_id, header, bytes(body))

    def put(self, record: Record) -> None:
        """Hold `record`, in place of what was held for its photograph."""
        key = record.image_id.encode()
        header = _HEADER.pack(record.clearness, record.quality, record.teacher_step)
        self._transaction.put(key, header, db=self._headers)
        body = _BODY.pack(len(record.label), len(record.transmission), *record.trust_shape)
        self._transaction.put(key, body + record.label + record.transmission + record.trust, db=self._bodies)

    def ids(self) -> Iterator[str]:
        """Identifiers in order."""
        for key in self._transaction.cursor(db=self._headers).iternext(values=False):
            yield bytes(key).decode()

    def records(self) -> Iterator[Record]:
        """Records in order of their identifiers."""
        for image_id in self.ids():
            record = self.get(image_id)
            if record is not None:
                yield record

    def counters(self) -> Counters:
        """The counters of the live side."""
        packed = self._transaction.get(b"counters", db=self._meta)
        values = _COUNTERS.unpack(packed) if packed is not None else ()
        return Counters(**dict(zip(Counters.model_fields, values, strict=bool(values))))

    def count(self, counters: Counters) -> None:
        """Keep `counters` with the transaction."""
        self._transaction.put(b"counters", _COUNTERS.pack(*counters.model_dump().values()), db=self._meta)

    def history(self) -> History:
        """What became of the offers over time."""
        rows = self._transaction.cursor(db=self._history)
        moments = tuple(_moment(key, value) for key, value in rows)
        return History(width=self._width(), moments=moments)

    def log(self, moment: Moment) -> None:
        """Add to the history what happened just now; `at` of `moment` is the time in seconds since 1970."""
        rows, last = self._transaction.cursor(db=self._history), None
        if rows.last():
            last = _moment(rows.key(), rows.value())
        index = moment.at // self._width()
        if last is not None and index <= last.at:
            moment = last.then(moment._replace(at=last.at))
        else:
            moment = moment._replace(at=index)
        self._transaction.put(_INDEX.pack(moment.at), _MOMENT.pack(*moment[1:]), db=self._history)
        if self._transaction.stat(self._history)["entries"] > LONGEST:
            self.remember(bounded(self.history()))

    def remember(self, history: History) -> None:
        """Keep `history` in place of the present one."""
        self._transaction.drop(self._history, delete=False)
        self._transaction.put(b"width", _INDEX.pack(history.width), db=self._meta)
        for moment in history.moments:
            self._transaction.put(_INDEX.pack(moment.at), _MOMENT.pack(*moment[1:]), db=self._history)

    def settled(self) -> bool:
        """Whether the pool has begun its life: something was offered, or it was decided with what it begins."""
        return self._transaction.get(b"settled", db=self._meta) is not None or self.counters().offered > 0

    def settle(self) -> None:
        """From now on an empty pool is empty on purpose."""
        self._transaction.put(b"settled", b"1", db=self._meta)

    def identity(self) -> Identity:
        """Whose pool this is."""
        run = bytes(self._transaction.get(b"run", b"", db=self._meta))
        return Identity(run.decode(), self._number(b"generation", 0))

    def identify(self, identity: Identity) -> None:
        """Note whose pool this is."""
        self._transaction.put(b"run", identity.run.encode(), db=self._meta)
        self._transaction.put(b"generation", _INDEX.pack(identity.generation), db=self._meta)

    def _number(self, key: bytes, otherwise: int) -> int:
        return int(_INDEX.unpack(self._transaction.get(key, _INDEX.pack(otherwise), db=self._meta))[0])

    def _width(self) -> int:
        return self._number(b"width", 1)

    def headers(self) -> Iterator[tuple[str, Header]]:
        """Identifiers and scores in order, without touching the images."""
        for key, value in self._transaction.cursor(db=self._headers):
            yield bytes(key).decode(), Header._make(_HEADER.unpack(value))

    def footprint(self) -> tuple[int, int]:
        """Bytes of the tables of headers and of bodies, as whole pages."""
        stats = [self._transaction.stat(table) for table in (self._headers, self._bodies)]
        pages = [stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats]
        return stats[0]["psize"] * pages[0], stats[1]["psize"] * pages[1]

    def clear(self) -> None:
        """Drop everything held on this side."""
        self._transaction.drop(self._headers, delete=False)
        self._transaction.drop(self._bodies, delete=False)

    def go_live(self) -> None:
        """Make this idle side the live one, and drop the other."""
        other = Rows(self._transaction, self._tables)
        self._transaction.put(b"side", self._side, db=self._meta)
        other.clear()


def _moment(key: bytes | memoryview, value: bytes | memoryview) -> Moment:
    return Moment(_INDEX.unpack(key)[0], *_MOMENT.unpack(value))


def _unpacked(image_id: str, header: Header, body: bytes) -> Record:
    label, transmission, rows, columns = _BODY.unpack_from(body)
    first = _BODY.size + label
    return Record(
        image_id=image_id,
        clearness=header.clearness,
        quality=header.quality,
        teacher_step=header.teacher_step,
        label=body[_BODY.size : first],
        transmission=body[first : first + transmission],
        trust=body[first + transmission :],
        trust_shape=(rows, columns),
    )
