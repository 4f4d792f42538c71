"""The data card: what it counts, what it chooses to show, and a page that no file name can break."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models import images
from models.config import ConfigError, parse
from pipelines.corpus.catalogue import CATALOGUE_SCHEMA
from pipelines.corpus.format import CARD, CATALOGUE, DEPTH_REPORT, MANIFEST, SPLITS, Manifest, image_id_of, split_of
from pipelines.corpus.sources import Location
from pipelines.ingest.card.__main__ import main
from pipelines.ingest.card.data import COLUMNS, CardSettings, choose, facts, histogram, occupied, shares
from pipelines.ingest.card.page import write_card
from pipelines.ingest.card.thumbnails import MOST_BYTES, SIDE, read_photograph, thumbnail
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.write import SHARD_COLUMNS, write_shard

SCHEMA = pa.schema([CATALOGUE_SCHEMA.field(name) for name in COLUMNS])
HOSTILE = "</title><script>alert(\"1\")</script>' onerror='x&amp;\u202egnp.\x07שלום.jpg"


def looks(number: int) -> bytes:
    """A perceptual hash."""
    return number.to_bytes(32, "little")


def line(uri: str, status: str = "accepted", **values: Any) -> dict[str, Any]:
    """A row of a catalogue."""
    row = {
        "uri": uri, "place": str(Location(uri)), "size": 1000, "mtime": 0,
        "image_id": "0" * 32, "width": 128, "height": 96, "phash": bytes(32), "haze": 0.5,
        "depth": None, "pair_id": None,
        "status": status, "reason": "", "message": "", "same_as": "", "distance": 0,
        "shard": "train-00000-0.parquet" if status == "accepted" else "",
    }  # fmt: skip
    return row | values


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def manifest(rows: list[dict[str, Any]], **values: Any) -> Manifest:
    """What fits to the rows of a catalogue."""
    count = Counter(row["status"] for row in rows)
    made = {
        "domain": "hazy", "found": len(rows), "accepted": count["accepted"], "rejected": count["rejected"],
        "duplicates": count["duplicate"], "files": [], "row_groups": {}, "sources": ["0123"],
        "repeats": Counter(row["reason"] for row in rows if row["status"] == "duplicate"),
        "splits": {split: sum(row["shard"].startswith(split) for row in rows) for split in SPLITS},
        "reasons": Counter(row["reason"] for row in rows if row["status"] == "rejected"),
    }  # fmt: skip
    return parse(Manifest, made | values)


@pytest.fixture
def corpus(photo_folder: Callable[..., Path], tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A finished corpus of 12 photographs, three with depth maps, and its catalogue with duplicates and rejects."""
    folder, out = photo_folder(count=12), tmp_path / "corpora" / "<b>hazy"
    rows, depth = [], {}
    for index, file in enumerate(sorted(folder.iterdir())):
        if index < 3:
            depth[str(file)] = str(Location(str(tmp_path / f"{file.stem}.npy")))
            np.save(tmp_path / f"{file.stem}.npy", np.linspace(0, 1, 24)[:, None].repeat(32, axis=1))
        data = file.read_bytes()
        values = {"haze": index / 12, "phash": looks(index), "size": len(data), "depth": depth.get(str(file))}
        rows.append(line(str(file), image_id=image_id_of(data), **values))
    config = parse(IngestConfig, {"sources": [str(folder)], "domain": "hazy", "out": str(out)})
    written = []
    for split in SPLITS:
        mine = sorted((r for r in rows if split_of(r["image_id"]) == split), key=lambda row: row["image_id"])
        name = f"{split}-00000-01234567.parquet"
        for row in mine:
            row["shard"] = name
        written.append(write_shard(name, pa.Table.from_pylist(mine).select(SHARD_COLUMNS), config))
    first = rows[0]["uri"]
    (folder / "cut.jpg").write_bytes(Path(first).read_bytes()[:700])
    rows += [
        line(first, "duplicate", reason="near", same_as=rows[1]["uri"], distance=7) | {"uri": f"{first}#near"},
        line(rows[2]["uri"], "duplicate", reason="exact", same_as=rows[2]["uri"]) | {"uri": "copy.jpg"},
        line(rows[3]["uri"], "duplicate", reason="other_corpus", same_as=str(folder / "gone.jpg"))
        | {"uri": "again.jpg"},
        line(str(folder / "cut.jpg"), "rejected", reason="truncated", message="it ends early", width=0, height=0),
        line(HOSTILE, "rejected", reason="<i>odd", message="<script>", haze=float("nan")),
    ]
    files = {"files": [w.name for w in written], "row_groups": {w.name: w.row_groups for w in written}}
    (out / MANIFEST).write_text(manifest(rows, **files).model_dump_json())
    (out / DEPTH_REPORT).parent.mkdir()
    said = {"uri": first, "depth": depth[first], "suspicions": ["inverted"], "message": "upside <down>"}
    (out / DEPTH_REPORT).write_text(json.dumps(said) + "\n" + json.dumps(said | {"uri": "nowhere.jpg"}) + "\n")
    pq.write_table(table(rows), out / CATALOGUE)
    return out, rows


def test_command_makes_the_page_anew(
    corpus: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str], parse_page: Any
) -> None:
    out, rows = corpus
    assert main([str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / CARD)
    first = (out / CARD).read_text(encoding="utf-8")
    page = parse_page(first)
    assert "12 photographs of hazy scenes" in page.text
    assert "3 of 12 photographs (25\u00a0%) have a depth map" in page.text
    assert "7 bits apart" in page.text
    assert "the file ends before the picture does" in page.text
    assert "upside <down>" in page.text
    # samples, bands, kept and dropped (the one in another corpus has gone), the suspect and its map
    assert len(page.tags["img"]) == 12 + 12 + 5 + 2
    assert all(str(img["src"]).startswith("data:image/jpeg;base64,") and img["alt"] for img in page.tags["img"])
    assert not {"script", "link", "iframe", "i>odd"} & page.tags.keys()
    assert main([str(out), "--samples", "2", "--pairs", "0"]) == 0
    assert len(parse_page((out / CARD).read_text("utf-8")).tags["img"]) == 2 + 12 + 2
    pq.write_table(table(rows[::-1]), out / CATALOGUE)
    assert main([str(out)]) == 0
    assert (out / CARD).read_text(encoding="utf-8") == first
    assert [path.name for path in out.glob(".*")] == []


def test_photographs_come_from_the_shards_when_the_sources_have_gone(
    corpus: tuple[Path, list[dict[str, Any]]], parse_page: Any
) -> None:
    out, rows = corpus

    def gone(_: Mapping[str, Any]) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    write_card(str(out), [table(rows)], manifest(rows), gone, [])
    page = parse_page((out / CARD).read_text("utf-8"))
    assert len(page.tags["img"]) == 12 + 12 + 2  # and what was kept of two pairs
    for name in [row["shard"] for row in rows if row["shard"]]:
        (out / name).write_bytes(b"damaged")
    write_card(str(out), [table(rows)], manifest(rows), gone, [])
    page = parse_page((out / CARD).read_text("utf-8"))
    assert "img" not in page.tags
    assert page.text.count("no picture") == 12 + 12 + 6 + 2


def test_names_cannot_break_the_page(tmp_path: Path, parse_page: Any) -> None:
    rows = [line(HOSTILE, haze=0.1), line("b" + HOSTILE, "duplicate", reason=HOSTILE, same_as=HOSTILE)]
    rows += [line("c" + HOSTILE, "rejected", reason=HOSTILE, message=HOSTILE)]
    said = [{"uri": HOSTILE, "depth": HOSTILE, "suspicions": [HOSTILE], "message": "\udc80" + HOSTILE}]
    out = tmp_path / "<img src=x>"
    write_card(str(out), [table(rows)], manifest(rows), read_photograph, said)
    raw = (out / CARD).read_bytes().decode()
    page = parse_page(raw)
    assert not {"script", "img"} & page.tags.keys()
    assert len(page.tags["title"]) == 1
    assert not {key for tags in page.tags.values() for tag in tags for key in tag} & {"onerror", "onload"}
    assert "\u202e" not in raw
    assert "\\u202egnp.\\x07שלום.jpg" in page.text
    assert '<script>alert("1")</script>\'' in page.text


def test_page_and_reading_are_bounded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    worst = images.encode(images.Photo(noise), "PNG")
    rows = []
    for index in range(400):
        kind = ("accepted", "duplicate", "rejected")[index % 3]
        uri = f"{index}/" + "\"'\u202e<" * 100
        reason = "" if kind == "accepted" else f"reason {index % 60}"
        rows.append(
            line(uri, kind, reason=reason, message=uri, same_as="0/" + uri[2:], phash=looks(index), haze=index / 400)
        )
    rows.append(line("huge.jpg", "rejected", reason="too_large", size=1 << 40))
    said = [{"uri": rows[0]["uri"], "depth": rows[0]["uri"], "suspicions": ["x"] * 99, "message": "y" * 9999}] * 99
    calls: list[str] = []

    def read(row: Mapping[str, Any]) -> bytes:
        calls.append(row["uri"])
        return worst

    write_card(str(tmp_path), [table(rows)], manifest(rows), read, said)
    assert (tmp_path / CARD).stat().st_size < 2_000_000
    settings = CardSettings()
    assert (
        len(calls) <= settings.samples + 3 * settings.band + 2 * settings.pairs + settings.rejects + settings.suspects
    )
    assert len(calls) == len(set(calls))
    assert "huge.jpg" not in calls


def test_facts_count_accepted_photographs_only() -> None:
    rows = [
        line("a", width=1000, height=500, size=2_000, haze=0.25, pair_id="p"),
        line("b", width=100, height=4000, size=70_000, haze=0.75, shard="test-00000-0.parquet", depth="d"),
        line("c", haze=float("nan"), size=3_000),
        line("d", haze=None),
        line("e", "rejected", reason="corrupt", size=10**9, depth="d"),
        line("f", "duplicate", reason="near", pair_id="p"),
        line("g", "duplicate", reason="a new kind"),
    ]
    found = facts([table(rows)])
    assert found.duplicates == {"near": 1, "a new kind": 1}
    assert (found.bytes, found.pixels) == (76_000, 500_000 + 400_000 + 2 * 128 * 96)
    assert (found.depth, found.pairs, found.measured) == (1, 1, 2)
    assert found.mean_haze == {"train": 0.25, "test": 0.75}
    assert [i for i, count in enumerate(found.haze.series["train"]) if count] == [5]
    assert [i for i, count in enumerate(found.haze.series["test"]) if count] == [15]
    edges, counts = found.sides.edges, found.sides.series["photographs"]
    assert counts[edges.index(3072)] == 1 == counts[edges.index(768)]
    assert counts[edges.index(128)] == 2
    assert sum(counts) == 4


def test_an_empty_corpus_has_a_page(tmp_path: Path, parse_page: Any) -> None:
    rows = [line("a", "rejected", reason="unreadable", haze=None, width=0, height=0, size=0)]
    write_card(str(tmp_path), [table(rows)], manifest(rows), read_photograph, [])
    page = parse_page((tmp_path / CARD).read_text(encoding="utf-8"))
    assert "There are no photographs" in page.text
    assert "It was not measured" in page.text
    assert "the file could not be opened or read" in page.text


def test_choice_follows_the_rows_and_the_seed_and_not_their_order() -> None:
    rows = [line(f"{i}.jpg", phash=looks(i * 977), size=i, haze=(i * 37 % 100) / 100) for i in range(100)]
    rows += [
        line(f"d{i}", "duplicate", reason="near", distance=i % 9, phash=looks(i), same_as=f"{i}.jpg") for i in range(40)
    ]
    rows += [line(f"e{i}", "duplicate", reason="exact", phash=looks(i), same_as=f"{i}.jpg") for i in range(2)]
    rows += [line(f"r{i}", "rejected", reason="corrupt" if i else "truncated", size=i) for i in range(50)]
    said = [{"uri": f"{i}.jpg", "depth": "", "suspicions": ["b" if i else "a"], "message": ""} for i in range(30)]
    settings = CardSettings()
    choice = choose([table(rows)], said, settings)
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert choose([table(mixed)], said[::-1], settings) == choice
    other = choose([table(rows)], said, CardSettings(seed=1))
    assert {r["uri"] for r in other.samples} != {r["uri"] for r in choice.samples}
    assert len(choice.samples) == settings.samples
    assert {row["status"] for row in choice.samples} == {"accepted"}
    bands = {band: [round(row["haze"], 2) for row in found] for band, found in choice.bands.items()}
    assert bands["lowest"] == [i / 100 for i in range(6)]
    assert bands["middle"] == [i / 100 for i in range(47, 53)]
    assert bands["highest"] == [i / 100 for i in range(94, 100)]
    distances = [row["distance"] for _, row in choice.pairs]
    assert distances == [8, 8, 8, 8, 7, 7, 7, 7, 6, 6, 0, 0]
    assert all(kept is not None and kept["uri"] == row["same_as"] for kept, row in choice.pairs)
    assert {reason: len(found) for reason, found in choice.rejects.items()} == {"corrupt": 23, "truncated": 1}
    assert [s["suspicions"] for s, _ in choice.suspects] == [["a"]] + [["b"]] * 11


@given(st.lists(st.integers(0, 1 << 40)), st.lists(st.integers(0, 1 << 30), min_size=2, max_size=20, unique=True))
def test_histograms_lose_nothing(values: list[int], edges: list[int]) -> None:
    whole = histogram({"x": np.array(values, np.int64)}, sorted(edges))
    shown = occupied(whole)
    assert sum(whole.series["x"]) == len(values) == sum(shown.series["x"])
    assert len(shown.edges) == len(shown.series["x"]) + 1
    for low, high, count in zip(whole.edges[:-2], whole.edges[1:-1], whole.series["x"][:-1], strict=True):
        below = -1 if low == whole.edges[0] else low
        assert count == sum(below <= value < high for value in values)


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=8), st.integers(0, 100))
def test_shares_are_as_even_as_the_counts_allow(counts: dict[str, int], total: int) -> None:
    given_ = shares(counts, total)
    assert sum(given_.values()) == min(total, sum(counts.values()))
    assert all(given_[name] <= counts[name] for name in counts)
    largest = max(given_.values(), default=0)
    assert all(given_[name] == counts[name] or given_[name] >= largest - 1 for name in counts)


@pytest.mark.parametrize(("height", "width"), [(SIDE, SIDE), (500, 20), (1, 4000), (3, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_thumbnails_are_small(height: int, width: int, dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, 3)).astype(dtype)
    jpeg = thumbnail(pixels)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        assert max(image.size) == min(SIDE, max(height, width))
    assert len(jpeg) <= MOST_BYTES


def test_what_is_wrong_with_a_corpus_is_one_line(
    corpus: tuple[Path, list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = corpus

    def error(*more: str) -> str:
        assert main([str(out), *more]) == 2
        return capsys.readouterr().err

    assert "'samples' in card is -1" in error("--samples", "-1")
    pq.write_table(table(rows[1:]), out / CATALOGUE)
    assert "has 16 files, but 17 were found" in error()
    pq.write_table(table(rows).drop_columns(["haze", "uri"]), out / CATALOGUE)
    assert "has no columns uri, haze" in error()
    (out / CATALOGUE).write_bytes(b"PAR1 not really")
    assert "is damaged" in error()
    (out / CATALOGUE).unlink()
    assert "run `python -m pipelines.ingest`" in error()
    assert not (out / CARD).exists()
    with pytest.raises(ConfigError, match="unknown key 'sample'"):
        write_card(str(out), [table(rows)], manifest(rows), read_photograph, [], sample=3)


def test_catalogues_in_several_chunks_count_the_same() -> None:
    rows = [line(f"{i}.jpg", phash=looks(i), haze=i / 50) for i in range(50)]
    whole, parts = table(rows), pa.concat_tables([table(rows[i : i + 7]) for i in range(0, 50, 7)])
    assert parts["uri"].num_chunks > 1
    assert facts([parts]) == facts([whole])
    assert choose([parts], [], CardSettings()) == choose([whole], [], CardSettings())
    assert pc.sum(whole["size"]).as_py() == facts([parts]).bytes
