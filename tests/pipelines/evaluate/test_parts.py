"""Rows on disk in parts, and the pictures that are kept."""

from __future__ import annotations

import csv
import errno
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models.config import ConfigError
from pipelines.evaluate.evaluator import CLEAR, HAZY, ROW_SCHEMA
from pipelines.evaluate.parts import Gallery, Parts, by_photograph, writing


def row(block: int, image_id: str, model: str, **values: Any) -> dict[str, Any]:
    plain = {"block": block, "group": "real", "kind": "real", "image_id": image_id, "name": f"{image_id}.jpg"}
    return plain | {"model": model} | values


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ROW_SCHEMA)


def test_parts_come_back_in_their_order_without_pictures(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.write(table(row(1, "b", "", error='a "bad" file, cut')))
    parts.write(table(row(0, "a", HAZY, fade=1 / 3, thumbnail=b"jpeg"), row(0, "a", "m", fade=0.1, boxes=b"1234")))
    assert [path.name for path in parts.files()] == ["part-000000.parquet", "part-000001.parquet"]
    assert [r["image_id"] for r in parts.rows()] == ["a", "a", "b"]
    assert all("thumbnail" not in found.column_names for found in parts.tables())
    ((group, image_id, found),) = parts.photographs()
    assert (group, image_id, list(found)) == ("real", "a", [HAZY, "m"])
    with parts.write_csv(tmp_path / "x.csv", ["fade", "psnr"]).open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert " ".join(read[0]) == "group image_id name model width height fade psnr seconds error note"
    assert float(read[0]["fade"]) == 1 / 3
    assert read[0]["psnr"] == ""
    assert read[2]["error"] == 'a "bad" file, cut'


def test_parts_of_an_earlier_evaluation_are_removed(tmp_path: Path) -> None:
    Parts(tmp_path).write(table(row(7, "a", HAZY)))
    assert Parts(tmp_path).files() == []


def test_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "mine.csv").write_text("1")
    (tmp_path / "rows" / "part-000000.parquet").write_text("old")
    Parts(tmp_path)
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["mine.csv"]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def fill() -> None:
        with writing(tmp_path / "x") as path:
            path.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(ConfigError, match=r"cannot write .*x: No space left on device; \d+ MiB .* free some space"):
        fill()
    assert (tmp_path / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def photographs(count: int) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    gains = random.Random(0).sample(range(count), count)
    return [
        (f"{i:032x}", {HAZY: row(0, f"{i}", HAZY, fade=100.0), "m": row(0, f"{i}", "m", fade=100.0 - gains[i])})
        for i in range(count)
    ]


def test_the_worst_are_kept_and_some_at_random_whatever_the_order() -> None:
    shown = photographs(50)
    first, again = (Gallery("fade", "m", worst=4, random=3) for _ in range(2))
    for gallery, order in ((first, shown), (again, shown[::-1])):
        for image_id, rows in order:
            gallery.add(image_id, rows)
    assert [first.gain(rows) for rows in first.worst()] == [0, 1, 2, 3]
    assert [r[HAZY]["image_id"] for r in first.random()] == ["0", "1", "2"]  # ids are hashes
    assert (first.worst(), first.random()) == (again.worst(), again.random())
    assert first.shown == 50


def test_photographs_without_a_value_are_no_worst_ones() -> None:
    gallery = Gallery("psnr", "m", worst=2, random=2)
    gallery.add("0a", {HAZY: row(0, "0a", HAZY, psnr=None), "m": row(0, "0a", "m", psnr=3.0)})
    gallery.add("0b", {HAZY: row(0, "0b", HAZY, psnr=20.0)})
    assert gallery.worst() == []
    assert len(gallery.random()) == 2


def test_a_gallery_measures_from_its_first_row() -> None:
    gallery = Gallery("psnr", "m", worst=2, random=0, first=CLEAR)
    gallery.add("0a", {CLEAR: row(0, "0a", CLEAR, psnr=100.0), "m": row(0, "0a", "m", psnr=30.0)})
    gallery.add("0b", {CLEAR: row(0, "0b", CLEAR, psnr=100.0), "m": row(0, "0b", "m", psnr=20.0)})
    assert [gallery.gain(rows) for rows in gallery.worst()] == [-80.0, -70.0]


def test_a_batch_is_parted_by_photograph() -> None:
    found = by_photograph(table(row(0, "a", HAZY), row(0, "a", "m"), row(0, "b", "", error="cut")))
    assert [(first["image_id"], list(rows)) for first, rows in found] == [("a", [HAZY, "m"]), ("b", [])]
