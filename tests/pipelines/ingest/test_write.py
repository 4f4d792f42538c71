"""The second pass of an ingest: rows, depth maps, shards. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models import images
from models.config import parse
from models.images import ImageLimits, Photo
from pipelines.corpus.format import CORPUS_SCHEMA, image_id_of
from pipelines.corpus.sources import Location
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.examine import examine
from pipelines.ingest.write import SHARD_COLUMNS, make_row, sample_depth, write_shard

Make = Callable[..., np.ndarray]
NAME = "train-00000-aaaaaaaa.parquet"


def config(out: Path, **changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": ["/somewhere"], "domain": "clear", "out": str(out), **changes})


def examined(folder: Path, contents: Sequence[bytes], depth: Sequence[str | None] = ()) -> pa.Table:
    """Files with these contents, as the first pass sees them."""
    folder.mkdir(exist_ok=True)
    rows = []
    for index, data in enumerate(contents):
        path = folder / f"{index}.jpg"
        path.write_bytes(data)
        place = str(Location(str(path), "file", 0, len(data)))
        own = depth[index] if depth else None
        rows.append(
            {"uri": str(path), "key": str(index), "listed": len(data), "mtime": 1, "place": place, "depth": own}
        )
    table = examine(pa.Table.from_pylist(rows), ImageLimits())
    return table.append_column("pair_id", pa.array([None] * len(rows), pa.string())).select(SHARD_COLUMNS)


def row_of(tmp_path: Path, data: bytes, **changes: Any) -> dict[str, Any]:
    made, _ = make_row(examined(tmp_path / "in", [data]).to_pylist()[0], data, None, config(tmp_path, **changes))
    return made


def test_nearly_whole_files_are_rejected_unless_they_are_wanted(tmp_path: Path, photo: Make) -> None:
    cut = images.encode(Photo(photo(1)), "JPEG")[:-2]  # no end marker
    for strict in (True, False):
        asked = config(tmp_path, strict_files=strict)
        place = str(Location(str(tmp_path / "cut.jpg"), "file", 0, len(cut)))
        (tmp_path / "cut.jpg").write_bytes(cut)
        listed = {"uri": "cut.jpg", "key": "cut", "listed": len(cut), "mtime": 1, "place": place, "depth": None}
        found = examine(pa.Table.from_pylist([listed]), asked.accepted()).to_pylist()[0]
        assert (found["reason"], found["width"]) == (("truncated", 0) if strict else ("", 128))
        assert "no end marker" in found["message"]
    assert config(tmp_path).accepted().strict
    assert config(tmp_path, strict_files=False).examining() != config(tmp_path).examining()
    row, _ = make_row(found | {"pair_id": None}, cut, None, asked.model_copy(update={"encode": "png"}))
    assert images.decode(row["image"]).pixels.shape == (96, 128, 3)


def test_row_keeps_the_file_as_it_is(tmp_path: Path, photo: Make) -> None:
    data = images.encode(Photo(photo(1)), "JPEG")
    row = row_of(tmp_path, data)
    assert row["image"] == data
    assert row["image_id"] == image_id_of(data)
    assert (row["width"], row["height"], row["domain"], row["depth"]) == (128, 96, "clear", None)
    assert len(row["phash"]) == 64
    pa.Table.from_pylist([row | {"split": "train"}], CORPUS_SCHEMA)


def test_size_is_that_of_the_upright_photograph(tmp_path: Path, photo: Make) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(1)).save(tmp_path / "a.jpg", exif=exif)
    row = row_of(tmp_path, (tmp_path / "a.jpg").read_bytes())
    assert (row["width"], row["height"]) == (96, 128)


def test_long_photographs_are_reduced(tmp_path: Path, photo: Make) -> None:
    data = images.encode(Photo(photo(1)), "BMP")
    row = row_of(tmp_path, data, max_side=64)
    assert row["image_id"] == image_id_of(data)
    stored = images.decode(row["image"])
    assert (stored.format, stored.pixels.shape) == ("JPEG", (48, 64, 3))
    assert (row["width"], row["height"]) == (64, 48)
    assert row_of(tmp_path, data, max_side=0)["image"] == data


def test_reducing_keeps_alpha_and_depth(tmp_path: Path, photo: Make) -> None:
    with_alpha = images.encode(Photo(photo(1), alpha=photo(2)[:, :, 0]), "PNG")
    stored = images.decode(row_of(tmp_path, with_alpha, max_side=64)["image"])
    assert stored.alpha is not None
    assert stored.alpha.shape == (48, 64)
    deep = np.repeat(np.linspace(0, 65_535, 96 * 128).reshape(96, 128, 1), 3, axis=2).astype(np.uint16)
    stored = images.decode(row_of(tmp_path, images.encode(Photo(deep), "PNG"), max_side=64)["image"])
    assert stored.pixels.dtype == np.uint16


def test_another_format_on_request(tmp_path: Path, photo: Make) -> None:
    data = images.encode(Photo(photo(1)), "PNG")
    row = row_of(tmp_path, data, encode="webp", quality=80)
    assert images.decode(row["image"]).format == "WEBP"
    assert len(row["image"]) < len(data)
    webp = row["image"]
    assert row_of(tmp_path, webp, encode="webp")["image"] == webp  # no second loss


def test_shard(tmp_path: Path, photo: Make) -> None:
    good = [images.encode(Photo(photo(i)), "JPEG") for i in range(5)]
    table = examined(tmp_path / "in", good)
    (tmp_path / "in" / "2.jpg").write_bytes(b"something else")
    (tmp_path / "in" / "3.jpg").unlink()
    written = write_shard(NAME, table, config(tmp_path / "out", rows_per_group=2))
    assert (written.rows, written.row_groups) == (3, 2)
    assert [row["reason"] for row in written.rejects] == ["changed", "unreadable"]
    stored = pq.read_table(tmp_path / "out" / NAME)
    assert stored.schema.equals(CORPUS_SCHEMA)
    assert stored["image"].to_pylist() == [good[0], good[1], good[4]]
    assert set(stored["split"].to_pylist()) == {"train"}
    assert [p.name for p in (tmp_path / "out").iterdir()] == [NAME]


def test_a_shard_that_is_there_is_taken_as_it_is(tmp_path: Path, photo: Make) -> None:
    table = examined(tmp_path / "in", [images.encode(Photo(photo(i)), "JPEG") for i in range(2)])
    (tmp_path / "in" / "1.jpg").unlink()
    first = write_shard(NAME, table, config(tmp_path / "out"))
    (tmp_path / "in" / "0.jpg").unlink()  # a second run could not read it again
    assert write_shard(NAME, table, config(tmp_path / "out")) == first
    assert (first.rows, len(first.rejects)) == (1, 1)


def test_a_shard_cut_off_leaves_nothing(tmp_path: Path, photo: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    table = examined(tmp_path / "in", [images.encode(Photo(photo(1)), "JPEG")])

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.ingest.write.make_row", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shard(NAME, table, config(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_row_groups_are_bounded_in_bytes(tmp_path: Path, photo: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [images.encode(Photo(photo(i)), "PNG") for i in range(4)]
    monkeypatch.setattr("pipelines.ingest.write._GROUP_BYTES", 2 * max(map(len, contents)))
    written = write_shard(NAME, examined(tmp_path / "in", contents), config(tmp_path / "out"))
    assert (written.rows, written.row_groups) == (4, 2)


def ramp(folder: Path, name: str, height: int = 96, width: int = 128) -> str:
    np.save(folder / name, np.linspace(0, 1, height * width).reshape(height, width))
    return str(Location(str(folder / name)))


def test_depth_maps(tmp_path: Path, photo: Make) -> None:
    good = [images.encode(Photo(photo(i)), "JPEG") for i in range(4)]
    (tmp_path / "flat.npy").write_bytes(b"")
    depth = [ramp(tmp_path, "a.npy"), None, str(Location(str(tmp_path / "gone.npy"))), ramp(tmp_path, "b.npy", 128, 96)]
    table = examined(tmp_path / "in", good, depth)
    written = write_shard(NAME, table, config(tmp_path / "out"))
    assert [row["reason"] for row in written.rejects] == ["bad_depth", "bad_depth"]
    maps = pq.read_table(tmp_path / "out" / NAME)["depth"].to_pylist()
    assert maps[1] is None
    near = images.decode(maps[0]).pixels[:, :, 0]
    assert near.shape == (96, 128)
    assert near[-1].mean() > near[0].mean()
    write_shard("train-00001-aaaaaaaa.parquet", table.slice(0, 1), config(tmp_path / "out", depth_order="far"))
    turned = pq.read_table(tmp_path / "out" / "train-00001-aaaaaaaa.parquet")["depth"].to_pylist()[0]
    far = images.decode(turned).pixels[:, :, 0]
    assert far[-1].mean() < far[0].mean()


class Model:
    """Nearer towards the bottom."""

    def estimate(self, pixels: np.ndarray) -> np.ndarray:
        return np.repeat(np.linspace(0, 1, pixels.shape[0])[:, None], pixels.shape[1], axis=1)


def test_a_model_fills_in(tmp_path: Path, photo: Make) -> None:
    good = [images.encode(Photo(photo(i)), "JPEG") for i in range(2)]
    table = examined(tmp_path / "in", good, [ramp(tmp_path, "a.npy"), None])
    written = write_shard(NAME, table, config(tmp_path / "out", max_side=64), Model())
    assert written.rows == 2
    maps = [images.decode(d).pixels for d in pq.read_table(tmp_path / "out" / NAME)["depth"].to_pylist()]
    assert [m.shape for m in maps] == [(48, 64, 3)] * 2
    assert maps[1][-1].mean() > maps[1][0].mean()


def test_a_sample_of_depth_maps_is_looked_at(tmp_path: Path, photo: Make) -> None:
    good = [images.encode(Photo(photo(i)), "JPEG") for i in range(3)]
    depth = [ramp(tmp_path, "a.npy"), ramp(tmp_path, "b.npy"), ramp(tmp_path, "c.npy", 128, 96)]
    rows = examined(tmp_path / "in", good, depth).to_pylist()
    reports, bad = sample_depth(rows, config(tmp_path))
    assert len(reports) == 2
    assert "c.npy is 96x128, the photograph 128x96" in bad[0]
