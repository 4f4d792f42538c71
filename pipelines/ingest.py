"""Ingest: folders of photographs to a corpus of Parquet shards (Ray Data).

    python -m pipelines.ingest photos/ --domain hazy --out corpus/hazy

Two passes, both in parallel. The first hashes every file; duplicates are resolved from hashes and names alone. The
second decodes and checks what is left, and each of its tasks writes one shard. An ingest that was cut off goes on with
the shards it lacks; a finished one whose sources and settings have not changed is reused.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs as pafs
from tqdm import tqdm

from models.settings import ConfigError, parse
from pipelines.cluster import data_context_defaults, ray_session
from pipelines.command import run
from pipelines.corpus import DUPLICATES, MANIFEST, REJECTS, SPLITS, Manifest, child, filesystem, open_corpus, replacing
from pipelines.ingest_files import listed_ids
from pipelines.ingest_plan import Decision, IngestConfig, Shard, Survey, decide, plan_shards, survey
from pipelines.ingest_rows import HASHED_SCHEMA, Written, hash_files, list_rejects, write_shard

if TYPE_CHECKING:
    from ray.data import Dataset

SHARD_SCHEMA = pa.schema(
    [("name", pa.string()), *((name, pa.list_(pa.string())) for name in ("uris", "image_ids", "depths"))]
)
PROGRESS: dict[str, Any] = {"mininterval": 0.5 if sys.stderr.isatty() else 10, "dynamic_ncols": True}
_HASH_BATCH = 256  # files a task
# Shards, and what `replacing` leaves of one when its task is killed.
_SHARD_NAME = re.compile(r"(train|test)-\d{5}-[0-9a-f]{8}\.parquet|\.(train|test)-\d{5}-.*\.parquet\.[0-9a-f]{8}\.tmp")


def ingest(config: IngestConfig) -> Manifest:
    """Make the corpus ``config`` describes, or reuse it when it is there and nothing has changed.

    Uses the Ray of this process or of ``RAY_ADDRESS``, or starts one for the time being. Every file with the suffix of
    an image is accepted, rejected with a reason, or a duplicate; the manifest is written last.

    Raises:
        ConfigError: a folder is missing or holds no photograph, or none of them could be used.
    """
    plan = survey(config)
    finished = _finished(config, plan)
    if finished is not None:
        print(f"{config.out}: unchanged since the last ingest, {finished.accepted} photographs are reused")
        return _not_empty(finished, config)
    with ray_session():
        data_context_defaults()
        held_out = _held_out(config, plan)
        decision = decide(_hash(plan.photographs, config, "photographs"), held_out)
        written = _write(plan_shards(decision.keep, config, plan), config)
    return _not_empty(_publish(decision, written, config, plan), config)


def _finished(config: IngestConfig, plan: Survey) -> Manifest | None:
    """The manifest of a corpus that is complete and up to date."""
    files, path = filesystem(child(config.out, MANIFEST))
    if files.get_file_info(path).type != pafs.FileType.File:
        return None
    try:
        corpus = open_corpus(config.out)
    except ConfigError:  # of another version, or damaged: it is replaced
        return None
    shards = [filesystem(uri)[1] for uri in corpus.files()]
    complete = all(info.type == pafs.FileType.File for info in files.get_file_info(shards))
    return corpus.manifest if complete and corpus.manifest.fingerprint == plan.fingerprint else None


def _not_empty(manifest: Manifest, config: IngestConfig) -> Manifest:
    if manifest.accepted == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.reasons.items())
        raise ConfigError(
            f"none of {manifest.found} photographs can be used ({reasons}); see {child(config.out, REJECTS)}"
        )
    return manifest


def _held_out(config: IngestConfig, plan: Survey) -> set[str]:
    """Image ids that must not get in."""
    if config.holdout is None or plan.holdout is None:
        return set()
    listed = listed_ids(config.holdout)
    if listed is not None:
        return listed
    return set(_hash(plan.holdout, config, "held-out photographs")["image_id"].to_pylist()) - {""}


def _hash(files: pa.Table, config: IngestConfig, what: str) -> pa.Table:
    """First pass: content hashes of the files, in parallel."""
    from ray.data import TaskPoolStrategy, from_arrow

    blocks = [
        files.slice(start, _HASH_BATCH).select(["uri", "size"]) for start in range(0, files.num_rows, _HASH_BATCH)
    ]
    dataset = from_arrow(blocks).map_batches(
        partial(hash_files, limits=config.limits),
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=config.concurrency),
    )
    tables = []
    with tqdm(total=files.num_rows, desc=f"hash {what}", unit=" files", **PROGRESS) as bar:
        for table in _results(dataset):
            tables.append(table.select(HASHED_SCHEMA.names))
            bar.update(table.num_rows)
    return pa.concat_tables(tables)


def _write(shards: Sequence[Shard], config: IngestConfig) -> list[Written]:
    """Second pass: every task decodes the photographs of one shard and writes it."""
    from ray.data import TaskPoolStrategy, from_arrow

    if not shards:
        return []
    dataset = from_arrow([pa.Table.from_pylist([asdict(shard)], SHARD_SCHEMA) for shard in shards]).map_batches(
        partial(_write_batch, config=config),
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=config.concurrency),
    )
    written = []
    with tqdm(total=sum(len(s.uris) for s in shards), desc="decode and check", unit=" photos", **PROGRESS) as bar:
        for table in _results(dataset):
            for row in table.to_pylist():
                written.append(Written(row["name"], row["rows"], row["row_groups"], json.loads(row["rejects"])))
                bar.update(row["rows"] + len(written[-1].rejects))
    return sorted(written, key=lambda shard: shard.name)


def _write_batch(batch: pa.Table, config: IngestConfig) -> pa.Table:
    """Runs in a task: a table of shards to a table of what came of them."""
    results = [write_shard(Shard(**row), config) for row in batch.to_pylist()]
    return pa.Table.from_pylist([{**asdict(result), "rejects": json.dumps(result.rejects)} for result in results])


def _results(dataset: Dataset) -> Iterator[pa.Table]:
    """Blocks in the order they are done."""
    dataset.context.enable_progress_bars = False  # ours count photographs
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it would say so every time
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


def _publish(decision: Decision, written: list[Written], config: IngestConfig, plan: Survey) -> Manifest:
    """Write what the shards do not hold: rejects, duplicates and, last, the manifest. Then drop what it replaces."""
    shards = [shard for shard in written if shard.rows]
    rejects, duplicates = list_rejects(decision, written)
    accepted = sum(shard.rows for shard in shards)
    manifest = Manifest(
        domain=config.domain,
        found=plan.photographs.num_rows,
        accepted=accepted,
        rejected=len(rejects),
        duplicates=len(duplicates),
        splits={split: sum(s.rows for s in shards if s.name.startswith(f"{split}-")) for split in SPLITS},
        files=tuple(shard.name for shard in shards),
        row_groups={shard.name: shard.row_groups for shard in shards},
        reasons=dict(sorted(Counter(row["reason"] for row in rejects).items())),
        fingerprint=plan.fingerprint,
    )
    for name, rows in ((REJECTS, rejects), (DUPLICATES, duplicates)):
        with replacing(child(config.out, name)) as stream:
            stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    with replacing(child(config.out, MANIFEST)) as stream:
        stream.write(manifest.model_dump_json(indent=2).encode() + b"\n")
    _drop_others(config.out, manifest)
    return manifest


def _drop_others(out: str, manifest: Manifest) -> None:
    """Delete shards of earlier ingests, and only what is named like one."""
    files, path = filesystem(out)
    for info in files.get_file_info(pafs.FileSelector(path)):
        name = info.path.rpartition("/")[2]
        if _SHARD_NAME.fullmatch(name) and name not in manifest.files:
            files.delete_file(info.path)


def summary(manifest: Manifest, out: str) -> str:
    """The counts as a short table."""
    rows = [("found", manifest.found), ("accepted", manifest.accepted)]
    rows += [(f"  {split}", count) for split, count in manifest.splits.items()]
    rows += [("duplicates", manifest.duplicates), ("rejected", manifest.rejected)]
    rows += [(f"  {reason}", count) for reason, count in manifest.reasons.items()]
    lines = [f"{manifest.domain} corpus in {out}", *(f"  {name:<24}{count:>10,}" for name, count in rows)]
    if manifest.rejected:
        lines.append(f"  why: {child(out, REJECTS)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.ingest", description="Folders of photographs to a corpus."
    )
    parser.add_argument("sources", nargs="+", metavar="SRC", help="folder (searched recursively) or file; path or URI")
    parser.add_argument("--domain", required=True, choices=["hazy", "clear"], help="what the photographs are")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the corpus")
    parser.add_argument(
        "--depth", metavar="DIR", help="depth maps with the photographs' names (.png or .npy, larger = nearer)"
    )
    parser.add_argument(
        "--holdout", metavar="DIR", help="photographs to keep out: a folder, a corpus or a list of image ids"
    )
    parser.add_argument("--max-side", type=int, metavar="N", help="reduce longer photographs; 0 = never (default 1600)")
    parser.add_argument("--min-side", type=int, metavar="N", help="reject smaller photographs (default 32)")
    parser.add_argument("--test-fraction", type=float, metavar="X", help="share of the test split (default 0.2)")
    parser.add_argument("--concurrency", type=int, metavar="N", help="tasks at a time (default: as many as CPUs)")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> None:
    config = parse(IngestConfig, {name: value for name, value in vars(args).items() if value is not None}, "ingest")
    print(summary(ingest(config), config.out))


if __name__ == "__main__":
    sys.exit(main())
