"""Which photographs are evaluated."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.config import ConfigError
from models.paths import upload
from pipelines.corpus.format import image_id_of, split_of
from pipelines.corpus.listing import local_path
from pipelines.corpus.sources import Location, read_place
from pipelines.evaluate.sources import choose, folder_entries, match_references, match_results
from tests.corpora import write_rows

Folder = Callable[..., Path]


def make_corpus(source: Path, out: Path, domain: str = "hazy", splits: tuple[str, ...] = ("train", "test")) -> Path:
    """A corpus of the photographs of a folder with one shard of one-row groups per split."""
    rows = [
        {"image_id": image_id, "uri": str(path), "image": data, "width": 128, "height": 96, "split": split}
        for path in sorted(source.iterdir())
        if (split := split_of(image_id := image_id_of(data := path.read_bytes()))) in splits
    ]
    return write_rows(out, domain, rows, group=1)


def test_a_folder_is_evaluated_as_a_whole_in_a_fixed_order(photo_folder: Folder) -> None:
    folder = photo_folder(count=6)
    chosen = choose(str(folder), "hazy", None, None, default="all")
    assert (chosen.split, chosen.in_sample, chosen.found, chosen.warnings) == ("all", False, 6, ())
    assert {e.size for e in chosen.entries} == {(128, 96)}
    ids = [e.image_id for e in chosen.entries]
    assert ids == sorted(image_id_of(p.read_bytes()) for p in folder.iterdir())


def test_the_limit_takes_the_first_by_id(photo_folder: Folder) -> None:
    folder = photo_folder(count=6)
    everything = choose(str(folder), "hazy", None, None, default="all").entries
    assert choose(str(folder), "hazy", None, 2, default="all").entries == everything[:2]


def test_with_a_limit_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for count in (100, 1000):
        source = tmp_path / f"source-{count}"
        source.mkdir()
        for index in range(count):
            (source / f"{index}.jpg").write_bytes(b"%d" % index)
        corpus = make_corpus(source, tmp_path / f"corpus-{count}")
        choose(str(corpus), "hazy", None, 10, default="all")  # what is loaded once
        tracemalloc.start()
        chosen = choose(str(corpus), "hazy", "all", 10, default="all")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        everything = choose(str(corpus), "hazy", "all", None, default="all")
        assert chosen.found == everything.found == count
        assert chosen.entries == everything.entries[:10]
    assert peaks[1] - peaks[0] < 100_000, "all entries would take 250 bytes each"


def test_the_same_photograph_twice_is_one_entry(photo_folder: Folder) -> None:
    folder = photo_folder(count=2)
    (folder / "below").mkdir()
    shutil.copy(folder / "photo_000.jpg", folder / "below" / "again.jpg")
    (folder / "notes.txt").write_text("not a photograph")
    entries, warnings = folder_entries(str(folder))
    assert sorted(e.name for e in entries) == ["below/again.jpg", "photo_001.jpg"]
    assert warnings[0] == f"{folder}: files of the same content count once: photo_000.jpg is below/again.jpg"


def test_a_folder_splits_as_ingest_would(photo_folder: Folder) -> None:
    chosen = choose(str(photo_folder(count=20)), "clear", None, None, default="test")
    assert 0 < len(chosen.entries) < 20
    assert {split_of(e.image_id) for e in chosen.entries} == {"test"}
    assert not chosen.in_sample


def test_an_empty_test_split_evaluates_all_and_says_so(photo_folder: Folder, tmp_path: Path) -> None:
    corpus = make_corpus(photo_folder(count=8), tmp_path / "corpus", splits=("train",))
    chosen = choose(str(corpus), "hazy", None, None, default="all")
    assert chosen.in_sample
    assert chosen.split == "all"
    assert len(chosen.entries) == chosen.found > 0
    assert "not held out" in chosen.warnings[0]


def test_a_corpus_gives_its_test_split_by_default(photo_folder: Folder, tmp_path: Path) -> None:
    corpus = make_corpus(photo_folder(count=20), tmp_path / "corpus")
    chosen = choose(str(corpus), "hazy", None, None, default="all")
    assert {e.split for e in chosen.entries} == {"test"}
    assert not chosen.in_sample
    assert chosen.found == 20
    trained = choose(str(corpus), "hazy", "train", None, default="all")
    assert trained.in_sample
    assert len(trained.entries) + len(chosen.entries) == 20
    assert "training split" in trained.warnings[0]


def test_row_groups_point_to_their_photographs(photo_folder: Folder, tmp_path: Path) -> None:
    corpus = make_corpus(photo_folder(count=10), tmp_path / "corpus")
    for entry in choose(str(corpus), "hazy", "all", None, default="all").entries:
        assert entry.row_group is not None
        rows = pq.ParquetFile(entry.path).read_row_group(entry.row_group).to_pylist()
        assert [r["image_id"] for r in rows] == [entry.image_id]


def test_folders_of_object_storage_are_evaluated(photo_folder: Folder, bucket: Callable[[str], str]) -> None:
    folder = photo_folder(count=3)
    shutil.copytree(folder, folder / "below")
    (folder / "notes.txt").write_text("not a photograph")
    upload(folder, bucket("hazy"), last="")
    for path in folder.rglob("*.jpg"):
        path.rename(path.with_name(f"{path.stem}_out.jpg"))
    upload(folder, bucket("theirs"), last="")
    here, there = (choose(place, "hazy", None, None, default="all") for place in (str(folder), bucket("hazy")))
    assert [e.image_id for e in there.entries] == [e.image_id for e in here.entries]
    assert there.warnings[1:] == (f"{bucket('hazy')}: left out are 1 TXT",)
    for match in (partial(match_results, "theirs"), match_references):
        found = match(entries=there.entries, root=bucket("theirs"))
        for entry in there.entries:
            assert image_id_of(read_place(Location(found[entry.image_id]))) == entry.image_id
    with pytest.raises(ConfigError, match=r"there is no folder s3://\w+/none.*; expected a folder of photographs"):
        choose(bucket("none"), "hazy", None, None, default="all")


@pytest.mark.parametrize(("make", "message"), [(False, "there is no folder"), (True, "holds no photograph")])
def test_nothing_to_evaluate_is_one_clear_error(tmp_path: Path, make: bool, message: str) -> None:
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    with pytest.raises(ConfigError, match=message):
        choose(str(folder), "hazy", None, None, default="all")


def test_a_corpus_of_the_other_domain_is_refused(photo_folder: Folder, tmp_path: Path) -> None:
    corpus = make_corpus(photo_folder(count=6), tmp_path / "corpus", domain="clear")
    with pytest.raises(ConfigError, match="corpus of clear photographs; expected hazy"):
        choose(str(corpus), "hazy", None, None, default="all")


def test_any_name_is_evaluated_and_what_is_left_out_is_named(photo_folder: Folder) -> None:
    folder = photo_folder(count=3)
    strange = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")
    data = (folder / "photo_000.jpg").read_bytes()
    (folder / "photo_000.jpg").rename(strange)
    (folder / "gone.jpg").symlink_to(folder / "nothing.jpg")
    for name in ("a.gif", ".DS_Store", "._photo_001.jpg"):
        (folder / name).touch()
    chosen = choose(str(folder), "hazy", None, None, default="all")
    (entry,) = (e for e in chosen.entries if e.name.startswith("caf"))
    assert entry.name == r"caf\xe9.jpg"
    item = pa.Table.from_pylist([{"path": entry.path}]).to_pylist()[0]
    assert local_path(item["path"]).read_bytes() == data
    assert len(chosen.entries) == 3
    assert chosen.warnings == (
        f"{folder}: gone.jpg cannot be read and is left out: No such file or directory",
        f"{folder}: left out are 1 GIF, 2 hidden or system",
    )
    assert match_results("theirs", str(folder), chosen.entries)[entry.image_id] == entry.path
    assert match_references(chosen.entries, str(folder))[entry.image_id] == entry.path
