"""Ingest: photographs to a corpus of Parquet shards (Ray Data).

    python -m pipelines.ingest photos/ --domain hazy --out corpus/hazy

Two passes, both in parallel. The first reads and decodes every new file and notes its hashes; what is a duplicate,
held out or too small is decided from these alone, over parts of the catalogue. The second reads what is left once more,
and each of its tasks writes one shard. An ingest that was cut off goes on where it stopped; a finished one reads only
what is new.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.config import ConfigError
from models.paths import child
from pipelines.cluster import data_context_defaults, ray_session
from pipelines.corpus import REJECTS, Manifest
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import (
    Banned,
    PlannedShard,
    Work,
    banned_by_corpus,
    banned_by_list,
    decide,
    holdout_kind,
    plan_shards,
    store,
)
from pipelines.ingest.depth import preflight
from pipelines.ingest.first_pass import first_pass, held_out, prepare
from pipelines.ingest.layouts import LAYOUTS
from pipelines.ingest.publish import LATE, Present, check_settings, present, publish, replace_manifest
from pipelines.ingest.survey import SourceSurvey, survey
from pipelines.ingest.tree import complete
from pipelines.ingest.write import Written, sample_depth, write_shard
from pipelines.lock import only_one
from pipelines.mapping import map_tables, map_tables_with
from pipelines.nodes import placed, require_seen
from pipelines.shown import progress

_DEPTH_SAMPLE, _FEW_MAPS = 24, 8
_WORK = ".ingest"  # folder of tables while they are decided on


def ingest(config: IngestConfig) -> Manifest:
    """Make the corpus ``config`` describes, add to it, or reuse it when nothing has changed.

    Uses the Ray of this process or of ``RAY_ADDRESS``, or starts one for the time being. Every file found is accepted,
    rejected with a reason, or a duplicate; the manifest is written last.

    Raises:
        ConfigError: a folder is missing or holds no photograph, none of them could be used, the corpus to add to was
            made with other settings, another ingest is writing it, or depth maps are upside down.
        OSError: the corpus cannot be written.
    """
    plan = survey(config)
    with only_one(config.out, "ingest"):
        return _ingest(config, plan)


def _ingest(config: IngestConfig, plan: SourceSurvey) -> Manifest:
    before = present(config)
    check_settings(config, before)
    same = before.of(plan.fingerprint, config.append) if plan.is_complete else None
    if same is not None:
        return _not_empty(_reused(config, same), config)
    with ray_session():
        data_context_defaults()
        require_seen(config.out)
        if config.estimates_depth():
            device, gpus = placed(config.depth_device, config.depth_gpus)
            config = config.model_copy(update={"depth_device": device, "depth_gpus": gpus})
            _check_model(config)
        work = Work(child(config.out, _WORK), concurrency=config.concurrency)
        work.clear()  # of an ingest that was cut off
        try:
            plan = complete(work, plan)
            same = before.of(plan.fingerprint, config.append)
            manifest = _made(config, plan, before, work) if same is None else _reused(config, same)
        finally:
            work.clear()
    return _not_empty(manifest, config)


def _reused(config: IngestConfig, manifest: Manifest) -> Manifest:
    print(f"{config.out}: unchanged since the last ingest, {manifest.accepted} photographs are reused")
    if config.prune is not None and manifest.retired:
        return replace_manifest(manifest, config, manifest)
    return manifest


def _made(config: IngestConfig, plan: SourceSurvey, before: Present, work: Work) -> Manifest:
    work, spooled, known, listed = prepare(work, config, plan, before)
    banned = _banned(work, config, plan)  # before the long pass: a list may be none
    examined = first_pass(work, config, listed, known.files, "photographs")
    decide(work, config, examined, known.held, banned)
    shards = plan_shards(work, config, known.held, known.sizes)
    _check_depth(shards, config)
    written, late = _write(work, shards, config)
    return publish(work, shards, written, late, config, plan.fingerprint, before, spooled.left)


def _not_empty(manifest: Manifest, config: IngestConfig) -> Manifest:
    if manifest.accepted == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.reasons.items())
        raise ConfigError(
            f"none of {manifest.found} photographs can be used ({reasons}); see {child(config.out, REJECTS)}"
        )
    return manifest


def _banned(work: Work, config: IngestConfig, plan: SourceSurvey) -> list[Banned]:
    banned = [
        banned_by_corpus(work, f"against{number}", root, "other_corpus") for number, root in enumerate(config.against)
    ]
    for number, root in enumerate(config.holdout):
        kind, stage = holdout_kind(root), f"holdout{number}"
        if kind == "corpus":
            banned.append(banned_by_corpus(work, stage, root, "held_out"))
        elif kind == "list":
            banned.append(banned_by_list(work, stage, root))
        else:
            banned.append(held_out(work, config, plan.holdout[root], stage))
    return banned


def _check_model(config: IngestConfig) -> None:
    """Fail before the first pass where the depth model cannot be loaded."""
    import ray

    ray.get(ray.remote(_can_load).options(num_gpus=config.depth_gpus).remote(config))


def _can_load(config: IngestConfig) -> None:
    _load(config)


def _load(config: IngestConfig) -> Any:
    from pipelines.ingest.depth import DepthModel, DepthModelConfig

    return DepthModel.load(DepthModelConfig(model=str(config.depth), device=config.depth_device))


def _check_depth(shards: Sequence[PlannedShard], config: IngestConfig) -> None:
    """Look at a sample of the depth maps before all of them are taken."""
    import ray

    having = [shard for shard in shards if shard.depth]
    if not having:
        return
    few = [having[i] for i in np.unique(np.linspace(0, len(having) - 1, min(_DEPTH_SAMPLE, len(having))).astype(int))]
    each = -(-_DEPTH_SAMPLE // len(few))
    sample = []
    for shard in few:
        table = shard.table()
        table = table.filter(pc.is_valid(table["depth"]))
        chosen = np.unique(np.linspace(0, table.num_rows - 1, min(each, table.num_rows)).astype(int))
        sample += table.take(pa.array(chosen)).to_pylist()
    reports, bad = ray.get(ray.remote(sample_depth).remote(sample, config))
    if len(sample) >= _FEW_MAPS and len(bad) > len(sample) / 2:
        raise ConfigError(f"{len(bad)} of {len(sample)} depth maps cannot be used, as it seems all of them; {bad[0]}")
    warning = preflight(reports, config.depth_order or LAYOUTS[config.layout].depth_order)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)


def _write(work: Work, shards: Sequence[PlannedShard], config: IngestConfig) -> tuple[list[Written], list[str]]:
    """Write the shards, one per task (the second pass); return them, and files of photographs that could not be
    written.
    """
    if not shards:
        return [], []
    blocks = [
        pa.table({"shard": [json.dumps(asdict(shard))], "late": [work.place("late", number)]})
        for number, shard in enumerate(shards)
    ]
    written, late = [], []
    with progress(sum(shard.rows for shard in shards), "write shards") as bar:
        for result in _shards_done(blocks, config):
            for row in result.to_pylist():
                written.append(Written(**json.loads(row["written"])))
                late += [row["late"]] if row["rejects"] else []
                bar.update(written[-1].rows + row["rejects"])
    return sorted(written, key=lambda shard: shard.name), late


def _shards_done(blocks: list[pa.Table], config: IngestConfig) -> Iterator[pa.Table]:
    if not config.estimates_depth():
        return map_tables(blocks, partial(_write_batch, config=config), config.concurrency)
    return map_tables_with(
        blocks, _Writer, {"config": config}, concurrency=config.concurrency, gpus=config.depth_gpus or 0.0
    )


def _write_batch(batch: pa.Table, config: IngestConfig, model: Any = None) -> pa.Table:
    """Write the photographs of one shard, and return the outcome. Runs in a task."""
    shard = PlannedShard(**json.loads(batch["shard"][0].as_py()))
    table = shard.table()
    result = write_shard(shard.name, table, config, model)
    if result.rejects:
        uris = dict(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))
        rows = [reject | {"uri": uris[reject["image_id"]]} for reject in result.rejects]
        store(batch["late"][0].as_py(), LATE, [pa.Table.from_pylist(rows, LATE)])
    written = json.dumps(asdict(replace(result, rejects=[])))
    return pa.table({"written": [written], "late": batch["late"], "rejects": [len(result.rejects)]})


class _Writer:
    """An actor that holds a depth model."""

    def __init__(self, config: IngestConfig) -> None:
        self.config, self.model = config, _load(config)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """As :func:`_write_batch`."""
        return _write_batch(batch, self.config, self.model)
