"""Reading a corpus: splits, files, row groups, and clear errors for everything that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ConfigError
from pipelines.corpus import format as module
from pipelines.corpus.format import CORPUS_SCHEMA, Corpus, Manifest, open_corpus, pinned, require_corpus, split_of

IDS = st.text("0123456789abcdef", min_size=32, max_size=32)


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "version": 2, "domain": "hazy", "found": 10, "accepted": 7, "rejected": 2, "duplicates": 1,
        "splits": {"train": 5, "test": 2}, "files": ["train-00000-ab.parquet", "test-00000-ab.parquet"],
        "row_groups": {"train-00000-ab.parquet": 2, "test-00000-ab.parquet": 1}, "reasons": {"corrupt": 2},
        "repeats": {"exact": 1},
    } | changes  # fmt: skip


def corpus_at(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest(**changes)))
    return folder


def test_schema_is_the_contract() -> None:
    assert CORPUS_SCHEMA.names == [
        "image_id", "uri", "domain", "image", "depth", "pair_id", "width", "height", "phash", "split",
    ]  # fmt: skip
    assert [field.name for field in CORPUS_SCHEMA if field.nullable] == ["depth", "pair_id"]


def test_open(tmp_path: Path) -> None:
    corpus = open_corpus(corpus_at(tmp_path / "c"))
    assert corpus.count() == 7
    assert corpus.count("train") == 5
    assert corpus.files("test") == [str(tmp_path / "c" / "test-00000-ab.parquet")]
    assert len(corpus.files()) == 2
    train = str(tmp_path / "c" / "train-00000-ab.parquet")
    assert corpus.row_groups("train") == [(train, 0), (train, 1)]
    assert len(corpus.row_groups()) == 3


def test_relative_paths_and_file_uris_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus_at(tmp_path / "c d")
    monkeypatch.chdir(tmp_path)
    assert open_corpus("c d").uri == str(tmp_path / "c d")
    assert open_corpus((tmp_path / "c d").as_uri()).uri == str(tmp_path / "c d")


def test_uris_keep_their_query() -> None:
    corpus = Corpus("s3://bucket/c?region=x", Manifest.model_validate(manifest()))
    assert corpus.files("test") == ["s3://bucket/c/test-00000-ab.parquet?region=x"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder .*nothing.*pipelines\.ingest"):
        open_corpus(tmp_path / "nothing")


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps(manifest(version=1)), json.dumps(manifest(accepted=8))])
def test_damaged_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match="not a manifest of version 2"):
        open_corpus(tmp_path)


def test_wrong_domain(tmp_path: Path) -> None:
    assert require_corpus(corpus_at(tmp_path), "hazy").manifest.domain == "hazy"
    with pytest.raises(ConfigError, match="corpus of hazy photographs; expected clear"):
        require_corpus(tmp_path, "clear")


def test_empty_corpus(tmp_path: Path) -> None:
    empty = {"accepted": 0, "rejected": 9, "splits": {}, "files": [], "row_groups": {}, "reasons": {"corrupt": 9}}
    empty |= {"duplicates": 0, "repeats": {}, "found": 9}
    with pytest.raises(ConfigError, match="empty corpus: 9 files"):
        require_corpus(corpus_at(tmp_path, **empty), "hazy")


def test_unknown_scheme() -> None:
    with pytest.raises(ConfigError, match="cannot open 'nowhere://x'"):
        open_corpus("nowhere://x")


@pytest.mark.parametrize(
    "changes", [{"found": 11}, {"splits": {"train": 5}}, {"reasons": {"corrupt": 1}}, {"repeats": {}}]
)
def test_counts_must_add_up(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"do not add up|are not the 11"):
        Manifest.model_validate(manifest(**changes))


@given(IDS, st.floats(0, 1), st.floats(0, 1))
def test_split_is_pure_and_grows_with_the_share(image_id: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert split_of(image_id, 0.0) == "train"
    assert split_of(image_id, 1.0) == "test"
    if split_of(image_id, low) == "test":
        assert split_of(image_id, high) == "test"


def test_split_share() -> None:
    ids = [module.image_id_of(str(i).encode()) for i in range(4000)]
    share = sum(split_of(i) == "test" for i in ids) / len(ids)
    assert 0.17 < share < 0.23


def test_a_pinned_corpus_stays_what_it_was(tmp_path: Path) -> None:
    place = str(tmp_path / "run" / "hazy.json")
    begun = open_corpus(corpus_at(tmp_path / "c"))
    assert pinned(place, begun) == begun
    names = {"train-00000-ab.parquet": 2, "test-00000-cd.parquet": 1}
    changes: dict[str, Any] = {"files": list(names), "row_groups": names}
    now = open_corpus(corpus_at(tmp_path / "c", **changes, retired={"test-00000-ab.parquet": 1.5}))
    assert now.manifest.digest != begun.manifest.digest
    assert pinned(place, now) == begun
    now = open_corpus(corpus_at(tmp_path / "c", **changes))
    with pytest.raises(ConfigError, match=r"1 of the 2 shards that it reads were deleted, such as test-00000-ab\."):
        pinned(place, now)
    other = open_corpus(corpus_at(tmp_path / "d"))
    assert pinned(place, other) == other  # the flag names another corpus
    Path(place).write_text("{")
    with pytest.raises(ConfigError, match=r"hazy\.json is damaged"):
        pinned(place, other)
