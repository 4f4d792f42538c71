"""The end of an ingest: which shards of former ones stay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from models.config import ConfigError, parse
from pipelines.corpus.format import Manifest, open_corpus
from pipelines.ingest import publish as ingest_publish
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.publish import Present, check_settings, replace_manifest

DAY = 86400.0


def shard(number: int) -> str:
    return f"train-{number:05d}-0123abcd.parquet"


def manifest(*numbers: int, retired: dict[str, float] | None = None) -> Manifest:
    names = tuple(shard(number) for number in numbers)
    return Manifest(
        domain="hazy", found=len(names), accepted=len(names), rejected=0, duplicates=0, splits={"train": len(names)},
        files=names, row_groups=dict.fromkeys(names, 1), retired=retired or {},
    )  # fmt: skip


def config(out: Path, prune: float | None = None) -> IngestConfig:
    return parse(IngestConfig, {"sources": ["/in"], "domain": "hazy", "out": str(out), "prune": prune})


def folder(out: Path, *numbers: int) -> Path:
    for number in numbers:
        (out / shard(number)).write_bytes(b"shard")
    (out / f".{shard(9)}.0123abcd.tmp").write_bytes(b"left by a killed task")
    (out / "mine.parquet").write_bytes(b"somebody else's")
    return out


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()} - {"manifest.json", "mine.parquet"}


def test_replaced_shards_stay_and_what_nobody_can_read_goes(tmp_path: Path) -> None:
    out = folder(tmp_path, 1, 2, 3, 4, 5)
    before = time.time()
    made = replace_manifest(manifest(3, 4), config(out), manifest(1, 3, retired={shard(2): 7.0}))
    assert names(out) == {shard(number) for number in (1, 2, 3, 4)}  # 5 is of an ingest that was cut off
    assert set(made.retired) == {shard(1), shard(2)}
    assert made.retired[shard(2)] == 7.0
    assert before <= made.retired[shard(1)] <= time.time()
    assert open_corpus(out).manifest == made


def test_a_corpus_whose_manifest_cannot_be_read_loses_nothing(tmp_path: Path) -> None:
    made = replace_manifest(manifest(3), config(folder(tmp_path, 1, 3)), None)
    assert set(made.retired) == {shard(1)}
    assert names(tmp_path) == {shard(1), shard(3)}


def test_pruning_deletes_what_is_old_enough(tmp_path: Path) -> None:
    folder(tmp_path, 1, 2, 3)
    former = manifest(2, retired={shard(1): time.time() - 3 * DAY})
    assert set(replace_manifest(manifest(3), config(tmp_path, 4), former).retired) == {shard(1), shard(2)}
    made = replace_manifest(manifest(3), config(tmp_path, 2), former)
    assert set(made.retired) == {shard(2)}
    assert set(replace_manifest(made, config(tmp_path, 0), made).retired) == set()
    assert names(tmp_path) == {shard(3)}


def test_a_shard_that_comes_back_is_not_retired(tmp_path: Path) -> None:
    made = replace_manifest(manifest(1), config(folder(tmp_path, 1, 2)), manifest(2, retired={shard(1): 1.0}))
    assert set(made.retired) == {shard(2)}


def test_the_manifest_is_replaced_before_anything_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, 1, 2)

    def full_disk(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ingest_publish, "replacing", full_disk)
    with pytest.raises(OSError, match="No space"):
        replace_manifest(manifest(2), config(tmp_path, 0), manifest(1))
    assert {shard(1), shard(2)} <= names(tmp_path)


def before(**deciding: Any) -> Present:
    made = config(Path("/out"))
    found = manifest(1).model_copy(update={"settings": made.storing(), "deciding": made.deciding() | deciding})
    return Present(found, None, same_settings=True, same_examination=True)


@pytest.mark.parametrize(
    ("made", "now", "message"),
    [
        ({"holdout": ["/benchmark"]}, {}, r"holdout = \['/benchmark'\], not \[\]: .*give the same --holdout again"),
        ({"against": ["/other"]}, {"against": ("/another",)}, "give the same --against again"),
        ({"near_duplicates": -1}, {}, "near_duplicates = -1, not 32: .*give the same --near-duplicates again"),
        ({"min_side": 64}, {}, "min_side = 64, not 32"),
    ],
)
def test_what_was_turned_down_does_not_get_in_with_an_addition(
    made: dict[str, Any], now: dict[str, Any], message: str
) -> None:
    changed = config(Path("/out")).model_copy(update={"append": True, **now})
    with pytest.raises(ConfigError, match=message):
        check_settings(changed, before(**made))


def test_an_addition_may_hold_out_more(tmp_path: Path) -> None:
    adding = config(tmp_path).model_copy(update={"append": True, "holdout": ("/a", "/b")})
    check_settings(adding, before(holdout=["/a"]))
    check_settings(adding, Present(manifest(1).model_copy(update={"settings": adding.storing()}), None, True, True))
