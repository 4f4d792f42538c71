"""What the workers of an ingest do: hash, decode, check, write a shard. No Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models import images
from models.images import ImageError, ImageLimits, Photo
from models.settings import parse
from pipelines.corpus import CORPUS_SCHEMA, image_id_of
from pipelines.ingest_plan import IngestConfig, Shard
from pipelines.ingest_rows import hash_files, make_row, write_shard

Make = Callable[..., np.ndarray]


def config(out: Path, **changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": ["/somewhere"], "domain": "clear", "out": str(out), **changes})


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "big").write_bytes(b"y" * 4_000_001)
    files = pa.table(
        {"uri": [str(tmp_path / n) for n in ("a", "gone", "big")], "size": [3_000_000, 7, 4_000_001]},
    )
    rows = hash_files(files, ImageLimits(max_bytes=4_000_000)).to_pylist()
    assert rows[0]["image_id"] == hashlib.sha256(b"x" * 3_000_000).hexdigest()[:32]
    assert [row["reason"] for row in rows] == ["", "unreadable", "too_large"]
    assert rows[0]["image_id"] == image_id_of(b"x" * 3_000_000)


def test_row_keeps_the_file_as_it_is(tmp_path: Path, photo: Make) -> None:
    data = images.encode(Photo(photo(1)), "JPEG")
    row = make_row("/a.jpg", data, None, config(tmp_path))
    assert row["image"] == data
    assert row["image_id"] == image_id_of(data)
    assert (row["width"], row["height"], row["domain"], row["depth"]) == (128, 96, "clear", None)
    assert row["split"] in ("train", "test")
    assert len(row["phash"]) == 16
    pa.Table.from_pylist([row], CORPUS_SCHEMA)


def test_size_is_that_of_the_upright_photograph(tmp_path: Path, photo: Make) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(1)).save(tmp_path / "a.jpg", exif=exif)
    row = make_row("/a.jpg", (tmp_path / "a.jpg").read_bytes(), None, config(tmp_path))
    assert (row["width"], row["height"]) == (96, 128)


def test_long_photographs_are_reduced(tmp_path: Path, photo: Make) -> None:
    data = images.encode(Photo(photo(1)), "BMP")
    row = make_row("/a.bmp", data, None, config(tmp_path, max_side=64))
    assert row["image_id"] == image_id_of(data)
    stored = images.decode(row["image"])
    assert (stored.format, stored.pixels.shape) == ("JPEG", (48, 64, 3))
    assert (row["width"], row["height"]) == (64, 48)
    assert make_row("/a.bmp", data, None, config(tmp_path, max_side=0))["image"] == data


def test_reducing_keeps_alpha_and_depth(tmp_path: Path, photo: Make) -> None:
    with_alpha = images.encode(Photo(photo(1), alpha=photo(2)[:, :, 0]), "PNG")
    stored = images.decode(make_row("/a", with_alpha, None, config(tmp_path, max_side=64))["image"])
    assert stored.alpha is not None
    assert stored.alpha.shape == (48, 64)
    deep = np.repeat(np.linspace(0, 65_535, 96 * 128).reshape(96, 128, 1), 3, axis=2).astype(np.uint16)
    stored = images.decode(
        make_row("/a", images.encode(Photo(deep), "PNG"), None, config(tmp_path, max_side=64))["image"]
    )
    assert stored.pixels.dtype == np.uint16


def test_similar_photographs_have_similar_hashes(tmp_path: Path, photo: Make) -> None:
    def phash(pixels: np.ndarray, quality: int = 95) -> int:
        data = images.encode(Photo(pixels), "JPEG", quality)
        return int(make_row("/a", data, None, config(tmp_path))["phash"], 16)

    assert (phash(photo(1)) ^ phash(photo(1), 40)).bit_count() <= 8
    assert (phash(photo(1)) ^ phash(photo(2))).bit_count() > 8


def test_small_photographs_are_rejected(tmp_path: Path, photo: Make) -> None:
    data = images.encode(Photo(photo(1, height=31, width=80)), "PNG")
    with pytest.raises(ImageError, match="80x31") as raised:
        make_row("/a", data, None, config(tmp_path))
    assert raised.value.code == "too_small"
    make_row("/a", data, None, config(tmp_path, min_side=31))


def shard_of(folder: Path, contents: list[bytes], name: str = "train-00000-aaaaaaaa.parquet") -> Shard:
    folder.mkdir(exist_ok=True)
    uris = []
    for index, data in enumerate(contents):
        (folder / f"{index}.jpg").write_bytes(data)
        uris.append(str(folder / f"{index}.jpg"))
    return Shard(name, uris, [image_id_of(data) for data in contents], [None] * len(uris))


def test_shard(tmp_path: Path, photo: Make) -> None:
    good = [images.encode(Photo(photo(i)), "JPEG") for i in range(5)]
    shard = shard_of(tmp_path / "in", [good[0], b"not a picture", *good[1:]])
    Path(shard.uris[3]).write_bytes(b"something else")
    written = write_shard(shard, config(tmp_path / "out", rows_per_group=3))
    assert (written.rows, written.row_groups) == (4, 2)
    assert [row["reason"] for row in written.rejects] == ["unsupported_format", "changed"]
    table = pq.read_table(tmp_path / "out" / shard.name)
    assert table.schema.equals(CORPUS_SCHEMA)
    assert table["image"].to_pylist() == [good[0], good[1], good[3], good[4]]
    assert [p.name for p in (tmp_path / "out").iterdir()] == [shard.name]


def test_a_shard_that_is_there_is_taken_as_it_is(tmp_path: Path, photo: Make) -> None:
    shard = shard_of(tmp_path / "in", [images.encode(Photo(photo(1)), "JPEG"), b"broken"])
    first = write_shard(shard, config(tmp_path / "out"))
    for uri in shard.uris:
        Path(uri).unlink()  # a second run could not read them again
    assert write_shard(shard, config(tmp_path / "out")) == first
    assert first.rows == 1


def test_a_shard_of_rejects_only(tmp_path: Path) -> None:
    written = write_shard(shard_of(tmp_path / "in", [b"", b"text"]), config(tmp_path / "out"))
    assert (written.rows, written.row_groups) == (0, 0)
    assert [row["reason"] for row in written.rejects] == ["truncated", "unsupported_format"]


def test_a_shard_cut_off_leaves_nothing(tmp_path: Path, photo: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(tmp_path / "in", [images.encode(Photo(photo(1)), "JPEG")])

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.ingest_rows.make_row", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shard(shard, config(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_row_groups_are_bounded_in_bytes(tmp_path: Path, photo: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [images.encode(Photo(photo(i)), "PNG") for i in range(4)]
    monkeypatch.setattr("pipelines.ingest_rows._GROUP_BYTES", len(contents[0]) + 1)
    written = write_shard(shard_of(tmp_path / "in", contents), config(tmp_path / "out"))
    assert (written.rows, written.row_groups) == (4, 2)
