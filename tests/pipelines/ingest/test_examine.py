"""The first pass of an ingest, and the catalogue that keeps what it finds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models import images
from models.images import ImageLimits, Photo
from pipelines.corpus import catalogue
from pipelines.corpus.catalogue import EXAMINED
from pipelines.corpus.sources import Location
from pipelines.ingest import examine as ingest_examine
from pipelines.ingest.examine import examine, haze_density, portions

Make = Callable[..., np.ndarray]


def listed(*paths: Path, **changes: Any) -> pa.Table:
    rows = [
        {
            "uri": str(path), "key": path.stem, "listed": path.stat().st_size if path.exists() else 7, "mtime": 1,
            "place": str(Location(str(path), "file", 0, path.stat().st_size if path.exists() else 7)), "depth": None,
        } | changes
        for path in paths
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_what_is_noted(tmp_path: Path, photo: Make) -> None:
    good, cut, text, big = (tmp_path / name for name in ("a.jpg", "b.jpg", "c.png", "d.jpg"))
    data = images.encode(Photo(photo(1, height=60, width=90)), "JPEG")
    good.write_bytes(data)
    cut.write_bytes(data[:900])
    text.write_text("no photograph")
    big.write_bytes(bytes(40_000))
    table = examine(listed(good, tmp_path / "gone.jpg", cut, text, big), ImageLimits(max_bytes=30_000))
    assert table.schema.equals(EXAMINED)
    rows = table.to_pylist()
    assert [row["reason"] for row in rows] == ["", "unreadable", "truncated", "unsupported_format", "too_large"]
    assert rows[0]["image_id"] == hashlib.sha256(data).hexdigest()[:32]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["size"]) == (90, 60, len(data))
    assert rows[2]["image_id"] == hashlib.sha256(data[:900]).hexdigest()[:32]
    assert all(row["message"] and row["width"] == 0 and np.isnan(row["haze"]) for row in rows[1:])


def test_haze_density_grows_with_haze(photo: Make) -> None:
    for seed in range(5):
        clear, hazy = photo(seed, 200, 300), photo(seed, 200, 300, hazy=True)
        assert 0 <= haze_density(clear) < haze_density(hazy) <= 0.95
    assert haze_density(np.zeros((40, 40, 3), np.uint8)) == 0
    assert haze_density(np.full((3, 500, 3), 200, np.uint8)) > 0.9


def examined(*uris: str, reason: str = "", mtime: int = 1) -> pa.Table:
    rows = [
        {
            "uri": uri, "key": uri, "place": uri, "depth": None, "listed": 5, "mtime": mtime, "size": 5,
            "image_id": uri, "width": 9, "height": 9, "phash": bytes(32), "haze": 0.1, "reason": reason, "message": "",
        }
        for uri in uris
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, EXAMINED)


def files(*uris: str, mtime: int = 1) -> pa.Table:
    columns = {"uri": uris, "key": uris, "size": [5] * len(uris), "mtime": [mtime] * len(uris), "place": uris}
    return pa.table({**{k: list(v) for k, v in columns.items()}, "depth": pa.array([None] * len(uris), pa.string())})


def test_parts_of_an_interrupted_ingest_are_known(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    catalogue.store_part(out, "aa", examined("1", "2"))
    catalogue.store_part(out, "aa", examined("2", "3", reason="corrupt"))
    catalogue.store_part(out, "bb", examined("4"))
    (tmp_path / "out" / ".examined" / "aa-damaged.parquet").write_bytes(b"PAR1")
    parts = list(catalogue.stored_parts(out, "aa"))
    assert len(parts) == 3
    tables = [examined("5"), *map(catalogue.read_part, sorted(parts))]
    known = catalogue.first_rows(pa.concat_tables(tables), catalogue.FILE_KEYS)
    assert sorted(known["uri"].to_pylist()) == ["1", "2", "3", "5"]
    old, fresh = catalogue.split_known(files("1", "3", "6"), known)
    assert sorted(old["uri"].to_pylist()) == ["1", "3"]
    assert fresh["uri"].to_pylist() == ["6"]
    assert old.schema.equals(EXAMINED)
    catalogue.drop_parts(out)
    assert list(catalogue.stored_parts(out, "aa")) == []


def test_a_file_that_changed_is_new() -> None:
    known = examined("1", "2")
    old, fresh = catalogue.split_known(files("1", mtime=2), known)
    assert (old.num_rows, fresh["uri"].to_pylist()) == (0, ["1"])


def test_depth_maps_are_those_of_the_new_listing() -> None:
    known = examined("1")
    again = files("1").set_column(5, "depth", pa.array(["file|0|0|/map.npy"]))
    assert catalogue.split_known(again, known)[0]["depth"].to_pylist() == ["file|0|0|/map.npy"]


def test_portions_are_bounded_and_keep_containers_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_examine, "_FILES", 4)
    places = [Location("/b.parquet", "parquet:image", i) for i in (10, 9, 2, 11, 1)]
    places += [Location("/a.tgz", "stream", i) for i in range(6)] + [Location(f"/c{i}.jpg") for i in range(5)]
    texts = [str(place) for place in places]
    table = pa.table({"place": texts, "listed": [1] * len(texts)})
    found = [[Location.of(text) for text in part["place"].to_pylist()] for part in portions(table)]
    assert sorted(str(place) for part in found for place in part) == sorted(texts)
    assert [place.position for place in found[0]] == [0, 1, 2, 3, 4, 5]  # one archive, unpacked once
    assert [place.position for part in found for place in part if place.container == "/b.parquet"] == [1, 2, 9, 10, 11]
    assert all(len(part) <= 4 for part in found[1:])
    assert list(portions(table.slice(0, 0))) == []
