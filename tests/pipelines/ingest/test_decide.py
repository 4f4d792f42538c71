"""What becomes of files: filters, held-out sets, equal and similar photographs. Every file ends up in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ConfigError, parse
from pipelines.corpus.catalogue import CATALOGUE_SCHEMA, EXAMINED
from pipelines.corpus.similarity import as_words
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import Banned, Examined, decide


def config(**changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": ["/in"], "domain": "hazy", "out": "/out", **changes})


def look(seed: int, *turned: int) -> bytes:
    """A hash, with some of its bits turned."""
    bits = np.unpackbits(np.random.default_rng(seed).integers(0, 256, 32, dtype=np.uint8))
    bits[list(turned)] ^= 1
    return np.packbits(bits).tobytes()


def row(
    uri: str, image_id: str = "", seed: int | None = None, turned: tuple[int, ...] = (), **changes: Any
) -> dict[str, Any]:
    known = {
        "uri": uri, "key": uri, "place": f"file|0|9|{uri}", "depth": None, "listed": 9, "mtime": 1, "size": 1000,
        "image_id": image_id or uri, "width": 100, "height": 80, "haze": 0.5, "reason": "", "message": "",
        "phash": look(hash(uri) % 2**32 if seed is None else seed, *turned),
    }  # fmt: skip
    return known | changes


def sheet(*rows: dict[str, Any], pairs: list[str | None] | None = None) -> Examined:
    return Examined(pa.Table.from_pylist(list(rows), EXAMINED), pairs or [None] * len(rows))


def outcome(found: Examined) -> dict[str, tuple[str, str, str | None]]:
    columns = (found.status, found.reason, found.same_as)
    return {uri: tuple(values) for uri, *values in zip(found.uris, *columns, strict=True)}


KEPT = ("accepted", "", None)


def test_the_first_of_equal_files_by_name_is_kept() -> None:
    found = sheet(row("z", "1", 1), row("b", "2"), row("a", "1", 1), row("c", "1", 1), row("x", reason="unreadable"))
    decide(found, config())
    assert outcome(found) == {
        "a": KEPT, "b": KEPT, "c": ("duplicate", "exact", "a"), "z": ("duplicate", "exact", "a"),
        "x": ("rejected", "unreadable", None),
    }  # fmt: skip


def test_the_largest_of_similar_ones_is_kept() -> None:
    found = sheet(
        row("a", seed=1), row("b", seed=1, turned=(3, 9), width=200), row("c", seed=1, turned=tuple(range(40)))
    )
    decide(found, config())
    assert outcome(found) == {"a": ("duplicate", "near", "b"), "b": KEPT, "c": KEPT}
    assert found.distance.tolist() == [2, 0, 0]
    found = sheet(row("a", seed=1), row("b", seed=1, turned=(3, 9)))
    decide(found, config(near_duplicates=1))
    assert found.status.tolist() == ["accepted", "accepted"]
    decide(found := sheet(row("a", seed=1), row("b", seed=1)), config(near_duplicates=-1))
    assert found.status.tolist() == ["accepted", "accepted"]


def test_what_the_corpus_holds_already_stays() -> None:
    rows = row("a", "1", 1), row("b", "1", 1), row("c", "2", 1, (3,), width=500), row("d", "3", 1, (5,))
    decide(found := sheet(*rows), config(), settled=["3"])
    assert outcome(found)["d"] == KEPT
    assert [outcome(found)[u][:2] for u in "abc"] == [
        ("duplicate", "near"), ("duplicate", "exact"), ("duplicate", "near"),
    ]  # fmt: skip


def test_hazes_of_one_scene_stay() -> None:
    decide(found := sheet(row("a", seed=1), row("b", seed=1), pairs=["s", "s"]), config())
    assert found.status.tolist() == ["accepted", "accepted"]


def test_filters_name_the_size() -> None:
    rows = row("a", height=31), row("b", width=900), row("c", width=100, height=32)
    decide(found := sheet(*rows), config())
    assert outcome(found) == {
        "a": ("rejected", "too_small", None), "b": ("rejected", "too_long", None), "c": KEPT,
    }  # fmt: skip
    assert found.message.tolist()[:2] == [
        "100x31 has a side below 32 pixels", "900x80 is more than 8 times as long as wide",
    ]  # fmt: skip


def test_held_out_photographs_and_what_looks_like_them() -> None:
    rows = row("a", "1"), row("b", "1"), row("c", "2", 7, tuple(range(50))), row("d", "3")
    ban = Banned("held_out", {"1", "9"}, as_words([look(7)]), ["/held/7.jpg"])
    decide(found := sheet(*rows), config(), [ban])
    assert [outcome(found)[u][:2] for u in "abcd"] == [("rejected", "held_out")] * 3 + [("accepted", "")]
    assert "looks like held-out /held/7.jpg (50 of 256 bits differ)" in found.message[2]
    decide(found := sheet(*rows), config(holdout_bits=-1), [ban])
    assert outcome(found)["c"] == KEPT


def test_another_corpus_has_it() -> None:
    ban = Banned("other_corpus", {"1"}, as_words([look(1), look(7)]), ["/o/1", "/o/7"])
    decide(found := sheet(row("a", "1", 1), row("b", "2", 7, (1, 2)), row("c")), config(), [ban])
    assert outcome(found) == {
        "a": ("duplicate", "other_corpus", "/o/1"), "b": ("duplicate", "other_corpus", "/o/7"), "c": KEPT,
    }  # fmt: skip
    assert found.distance.tolist() == [0, 2, 0]


@given(
    st.lists(st.tuples(st.sampled_from("1234567"), st.booleans(), st.integers(20, 50)), max_size=30),
    st.sets(st.sampled_from("123")),
)
def test_every_file_ends_up_in_one_place(files: list[tuple[str, bool, int]], held_out: set[str]) -> None:
    rows = [
        row(f"u{i}", image_id, int(image_id), reason="" if good else "corrupt", height=height)
        for i, (image_id, good, height) in enumerate(files)
    ]
    decide(found := sheet(*rows), config(), [Banned("held_out", held_out)])
    table = found.catalogue()
    assert table.schema.equals(CATALOGUE_SCHEMA)
    assert sorted(table["uri"].to_pylist()) == sorted(r["uri"] for r in rows)
    assert set(table["status"].to_pylist()) <= {"accepted", "rejected", "duplicate"}
    kept = [r["image_id"] for r in table.to_pylist() if r["status"] == "accepted"]
    good = {image_id for image_id, good, height in files if good and height >= 32} - held_out
    assert sorted(kept) == sorted(good)
    for r in table.to_pylist():
        assert (r["reason"] == "") == (r["status"] == "accepted")
        assert (r["same_as"] is None) == (r["status"] != "duplicate")


def test_nothing_at_all() -> None:
    decide(found := sheet(), config(), [Banned("held_out", {"1"}, as_words([look(1)]), ["x"])])
    assert found.catalogue().num_rows == 0


def test_config_names_wrong_values() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_side'"):
        config(max_sides=3)
    with pytest.raises(ConfigError, match="test_fraction"):
        config(test_fraction=2)
    with pytest.raises(ConfigError, match="expected a regular expression with a group"):
        config(pair_by=r"\d+")
    with pytest.raises(ConfigError, match="not a regular expression"):
        config(pair_by="(")
