"""From shards to batches: every row once an epoch, in another order, in blocks of bounded size."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.config import ConfigError
from pipelines.corpus.format import MANIFEST, Corpus, Manifest, open_corpus
from pipelines.train import data as streams
from pipelines.train.data import Sampling
from pipelines.train.recipe import load_recipe
from pipelines.train.run import TrainJob
from pseudolabel.labeling import WorkUnit
from pseudolabel.labeling.rounds import Round

NUMBERS = Sampling(
    lambda rows, seed: {"number": np.array([int(row["image_id"]) for row in rows])}, ("image_id",), row_bytes=1 << 20
)


def _manifest(names: list[str], rows: int, group: int) -> Manifest:
    """Of shards of so many photographs each, all to train on, with ``group`` to a row group."""
    total = len(names) * rows
    return Manifest(
        domain="clear", found=total, accepted=total, rejected=0, duplicates=0, splits={"train": total},
        files=tuple(names), row_groups=dict.fromkeys(names, -(-rows // group)),
    )  # fmt: skip


@pytest.fixture
def numbered(tmp_path: Path) -> Callable[..., Corpus]:
    """``numbered(shards=2, rows=12, group=3)``: a corpus whose image ids count its rows; its pixels are missing."""

    def make(shards: int = 2, rows: int = 12, group: int = 3) -> Corpus:
        names = [f"train-{index}.parquet" for index in range(shards)]
        for index, name in enumerate(names):
            ids = [str(index * rows + row) for row in range(rows)]
            table = pa.table({"image_id": ids, "image": pa.nulls(rows, pa.binary())})
            pq.write_table(table, tmp_path / name, row_group_size=group)
        manifest = _manifest(names, rows, group)
        (tmp_path / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json")))
        return open_corpus(tmp_path)

    return make


def numbers(samples: Iterable[dict[str, Any]]) -> list[int]:
    return [int(number) for one in samples for number in np.atleast_1d(one["number"])]


def test_blocks_hold_every_row_once_in_another_order_and_are_bounded(numbered: Callable[..., Corpus]) -> None:
    found = list(streams.blocks(numbered().row_groups("train"), NUMBERS))
    assert sorted(numbers(found)) == list(range(24))
    assert numbers(found) != list(range(24))
    assert [len(one["number"]) for one in found] == [4] * 6  # of 1 MiB each: four to a block, across row groups


def _plan(corpus: Corpus) -> Any:
    return streams._source(streams.training_units(corpus), NUMBERS).get_read_tasks(streams.MAX_TASKS)


def _round(corpus: Corpus) -> Any:
    return Round(0, 0, [WorkUnit(uri, group) for uri, group in corpus.row_groups("train")])


@pytest.mark.parametrize("make", [_plan, _round])
def test_the_driver_holds_row_groups_and_no_photographs(make: Callable[[Corpus], Any]) -> None:
    peaks = []
    for shards in (100, 500):
        names = [f"train-{index:05d}-{index:08x}.parquet" for index in range(shards)]
        corpus = Corpus("s3://bucket/corpora/clear", _manifest(names, rows=1024, group=64))
        make(corpus)  # what is loaded once
        tracemalloc.start()
        make(corpus)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3 * 400 * 1024, "bytes for each photograph of a row group of 64"


def test_a_seed_repeats_blocks(numbered: Callable[..., Corpus]) -> None:
    units = numbered().row_groups("train")
    first, again, other = (numbers(streams.blocks(units, NUMBERS, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_only_the_columns_of_the_sampling_are_read(numbered: Callable[..., Corpus]) -> None:
    seen: list[set[str]] = []

    def look(rows: list[dict[str, Any]], seed: int | None) -> dict[str, Any]:
        seen.extend(set(row) for row in rows)
        return {"number": np.zeros(len(rows))}

    list(streams.blocks(numbered().row_groups("train"), Sampling(look, ("image_id",), 1 << 20)))
    assert seen == [{"image_id"}] * 24


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pretrain_corun_compact", {"clear": 8 * 7 * 64**2}),
        ("colabator_corun_compact", None),
        ("cddgan_compact", None),
        ("scorer_clip_compact", None),
    ],
)
def test_the_bytes_of_a_row_are_those_of_its_samples(
    name: str, expected: dict[str, int] | None, photo: Callable[..., Any]
) -> None:
    """They size the blocks."""
    from models import images

    data = images.encode(images.Photo(photo(1, height=300, width=400)), "JPEG")
    row = {"image_id": "a" * 32, "image": data, "depth": None}
    found = streams.sampling_of(load_recipe(name))
    for sampling in found.values():
        made = sampling.function([{key: row[key] for key in sampling.columns}], seed=0)
        images_bytes = sum(values.nbytes for values in made.values() if values.dtype == np.uint8)
        assert images_bytes == sampling.row_bytes
    assert expected is None or expected == {domain: one.row_bytes for domain, one in found.items()}


@pytest.mark.usefixtures("ray_cluster")
def test_an_epoch_has_every_row_once_and_another_order_than_the_last(numbered: Callable[..., Corpus]) -> None:
    rows = streams.dataset(numbered(shards=6), NUMBERS, tasks=1, cpus=0.2)
    first, second = numbers(rows.iter_batches()), numbers(rows.iter_batches())
    assert sorted(first) == sorted(second) == list(range(72))
    assert first != second


@pytest.mark.usefixtures("ray_cluster")
def test_images_arrive_as_floats_and_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data
    import ray.train

    items = {"image": np.full((6, 4, 4, 3), 51, np.uint8), "image_id": np.array(list("abcdef")), "n": np.arange(6.0)}
    monkeypatch.setattr(ray.train, "get_dataset_shard", lambda name: ray.data.from_numpy(items["n"]).map_batches(
        lambda batch: {key: values[: len(batch["data"])] for key, values in items.items()}, batch_size=6
    ))  # fmt: skip
    batch = next(streams.batches("clear", 4, torch.device("cpu")))
    assert torch.equal(batch["image"], torch.full((4, 3, 4, 4), 0.2))
    assert list(batch["image_id"]) == list("abcd")
    assert torch.equal(batch["n"], torch.arange(4.0, dtype=torch.float64))


def test_a_corpus_of_held_out_photographs_only_is_refused(tmp_path: Path) -> None:
    manifest = Manifest(
        domain="clear", found=3, accepted=3, rejected=0, duplicates=0, splits={"test": 3}, files=("test-0.parquet",),
        row_groups={"test-0.parquet": 1},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no photographs to train on: all 3 are held out"):
        streams.dataset(Corpus(str(tmp_path), manifest), NUMBERS, tasks=1, cpus=0.2)


def test_a_corpus_that_is_not_given_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="needs --hazy CORPUS"):
        streams.given_corpus(None, "hazy")


def test_a_run_says_that_its_corpus_was_made_anew_and_stays_with_the_old_one(
    numbered: Callable[..., Corpus], tmp_path: Path
) -> None:
    begun = numbered(shards=1)
    job = TrainJob(load_recipe("demo_pretrain", []), out=str(tmp_path / "run"), clear=begun.uri)
    assert streams.corpus_notes(job) == []
    now = numbered(shards=2, group=4).manifest
    (tmp_path / MANIFEST).write_text(now.model_copy(update={"files": now.files[1:]}).model_dump_json())
    with pytest.raises(ConfigError, match="shards that it reads were deleted"):
        streams.corpus_of(job, "clear")
    (tmp_path / MANIFEST).write_text(now.model_dump_json())
    assert streams.corpus_of(job, "clear") == begun
    (note,) = streams.corpus_notes(job)
    assert "it stays with the 12 photographs of then" in note
    assert "for the 24 of today" in note
