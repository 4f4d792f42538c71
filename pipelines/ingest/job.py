"""Ingest: photographs to a corpus of Parquet shards (Ray Data).

    python -m pipelines.ingest photos/ --domain hazy --out corpus/hazy

Two passes, both in parallel. The first reads and decodes every new file and notes its hashes; what is a duplicate,
held out or too small is decided from these alone. The second reads what is left once more, and each of its tasks
writes one shard. An ingest that was cut off goes on where it stopped; a finished one reads only what is new.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from models.config import ConfigError
from models.paths import child
from pipelines import corpus as catalogue
from pipelines.cluster import data_context_defaults, ray_session
from pipelines.corpus import REJECTS, Manifest, first_rows, left_out_text, words_of
from pipelines.ingest.banned import banned_by_corpus, banned_by_list, holdout_kind
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import Banned, Examined, decide
from pipelines.ingest.depth import preflight
from pipelines.ingest.discover import LISTED, Sorter, SourceFile, expand, left_out, match_depth, pair_ids
from pipelines.ingest.examine import examine, portions
from pipelines.ingest.layouts import LAYOUTS
from pipelines.ingest.lock import only_ingest
from pipelines.ingest.plan import PlannedShard, plan_shards
from pipelines.ingest.publish import Present, check_settings, present, publish, replace_manifest
from pipelines.ingest.survey import Listing, SourceSurvey, survey
from pipelines.ingest.write import SHARD_COLUMNS, Written, sample_depth, write_shard
from pipelines.mapping import map_tables, map_tables_with
from pipelines.nodes import placed, require_seen

PROGRESS: dict[str, Any] = {"mininterval": 0.5 if sys.stderr.isatty() else 10, "dynamic_ncols": True}
_DEPTH_SAMPLE, _FEW_MAPS = 24, 8


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
    with only_ingest(config.out):
        return _ingest(config, plan)


def _ingest(config: IngestConfig, plan: SourceSurvey) -> Manifest:
    before = present(config)
    check_settings(config, before)
    if before.has(plan.fingerprint, config.append):
        print(f"{config.out}: unchanged since the last ingest, {before.accepted} photographs are reused")
        manifest = before.require()
        if config.prune is not None and manifest.retired:
            manifest = replace_manifest(manifest, config, manifest)
        return _not_empty(manifest, config)
    with ray_session():
        data_context_defaults()
        require_seen(config.out)
        if config.estimates_depth():
            device, gpus = placed(config.depth_device, config.depth_gpus)
            config = config.model_copy(update={"depth_device": device, "depth_gpus": gpus})
            _check_model(config)
        sheet = _catalogue(config, plan, before)
        existing = before.shards()
        settled = {image_id for held in existing.values() for image_id, _ in held}
        decide(sheet, config, _banned(config, plan), settled)
        shards = plan_shards(sheet, config, existing)
        _check_depth(sheet, shards, config)
        written = _write(sheet, shards, config)
    return _not_empty(publish(sheet, written, config, plan.fingerprint, before), config)


def _not_empty(manifest: Manifest, config: IngestConfig) -> Manifest:
    if manifest.accepted == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.reasons.items())
        raise ConfigError(
            f"none of {manifest.found} photographs can be used ({reasons}); see {child(config.out, REJECTS)}"
        )
    return manifest


def _catalogue(config: IngestConfig, plan: SourceSurvey, before: Present) -> Examined:
    """Every file of the sources, examined; and with ``append`` those that the corpus knows already."""
    listed = _opened(plan.photographs)
    photographs = listed.filter(pc.equal(listed["role"], "photograph"))
    left = plan.photographs.left + left_out(listed)
    if not photographs.num_rows:
        passed = f"; left out: {left_out_text(left)}" if left else ""
        raise ConfigError(f"there are no photographs in the archives of {', '.join(config.sources)}{passed}")
    photographs = _with_depth(photographs, listed.filter(pc.equal(listed["role"], "depth")), plan)
    old = before.examined()
    examined = _examined(photographs, config, old, "photographs")
    if config.append:
        new = pc.is_in(old["uri"], value_set=examined["uri"].combine_chunks())
        examined = pa.concat_tables([old.filter(pc.invert(new)), examined])
    return Examined(examined, pair_ids(examined["key"].to_pylist(), config.layout, config.pair_by), left)


def _opened(listing: Listing) -> pa.Table:
    """The listing with its containers opened: one task each."""
    if not listing.containers:
        return listing.files
    blocks = [pa.Table.from_pylist([{**asdict(file), "kind": kind}]) for file, kind in listing.containers]
    tables = [listing.files]
    with tqdm(total=len(blocks), desc="open archives", unit=" files", **PROGRESS) as bar:
        for table in map_tables(blocks, partial(_expand_batch, sorter=listing.sorter)):
            tables.append(table.cast(LISTED))
            bar.update()
    return first_rows(pa.concat_tables(tables), "uri")


def _expand_batch(batch: pa.Table, sorter: Sorter) -> pa.Table:
    tables = []
    for row in batch.to_pylist():
        kind = row.pop("kind")
        tables.append(expand(SourceFile(**row), kind, sorter))
    return pa.concat_tables(tables)


def _with_depth(photographs: pa.Table, beside: pa.Table, plan: SourceSurvey) -> pa.Table:
    """Photographs with the places of their depth maps: those beside them, or those of ``--depth``."""
    maps = _opened(plan.depth) if plan.depth is not None else beside
    if not maps.num_rows:
        return photographs
    found = match_depth(photographs, maps)
    places = [
        found.get(uri, own)
        for uri, own in zip(photographs["uri"].to_pylist(), photographs["depth"].to_pylist(), strict=True)
    ]
    column = photographs.schema.get_field_index("depth")
    return photographs.set_column(column, "depth", pa.array(places, pa.string()))


def _examined(photographs: pa.Table, config: IngestConfig, old: pa.Table, what: str) -> pa.Table:
    """First pass: files that are not known yet are read and decoded, in parallel; tasks keep what they find out."""
    known, fresh = catalogue.split_known(photographs, catalogue.known(config.out, config.examining(), old))
    if known.num_rows:
        print(f"{known.num_rows} of {photographs.num_rows} {what} are known from before", flush=True)
    tables = [known]
    with tqdm(total=fresh.num_rows, desc=f"examine {what}", unit=" files", **PROGRESS) as bar:
        function = partial(_examine_batch, config=config)
        for table in map_tables(list(portions(fresh)), function, config.concurrency):
            tables.append(table.cast(catalogue.EXAMINED))
            bar.update(table.num_rows)
    return pa.concat_tables(tables)


def _examine_batch(batch: pa.Table, config: IngestConfig) -> pa.Table:
    """Runs in a task."""
    table = examine(batch, config.accepted())
    catalogue.store_part(config.out, config.examining(), table)
    return table


def _banned(config: IngestConfig, plan: SourceSurvey) -> list[Banned]:
    banned = [banned_by_corpus(root, "other_corpus") for root in config.against]
    for root in config.holdout:
        kind = holdout_kind(root)
        if kind == "corpus":
            banned.append(banned_by_corpus(root, "held_out"))
        elif kind == "list":
            banned.append(banned_by_list(root))
        else:
            banned.append(_held_out(plan.holdout[root], config))
    return banned


def _held_out(listing: Listing, config: IngestConfig) -> Banned:
    listed = _opened(listing)
    photographs = listed.filter(pc.equal(listed["role"], "photograph"))
    table = _examined(photographs, config, catalogue.EXAMINED.empty_table(), "held-out photographs")
    seen = table.filter(pc.greater(table["width"], 0))
    ids = set(table["image_id"].to_pylist()) - {""}
    return Banned("held_out", ids, words_of(seen["phash"]), seen["uri"].to_pylist())


def _check_model(config: IngestConfig) -> None:
    """Fail before the first pass where the depth model cannot be loaded."""
    import ray

    ray.get(ray.remote(_can_load).options(num_gpus=config.depth_gpus).remote(config))


def _can_load(config: IngestConfig) -> None:
    _load(config)


def _load(config: IngestConfig) -> Any:
    from pipelines.ingest.depth import DepthModel, DepthModelConfig

    return DepthModel.load(DepthModelConfig(model=str(config.depth), device=config.depth_device))


def _check_depth(sheet: Examined, shards: Sequence[PlannedShard], config: IngestConfig) -> None:
    """Look at a sample of the depth maps before all of them are taken."""
    import ray

    rows = [row for shard in shards for row in shard.rows]
    table = sheet.rows(rows).select(SHARD_COLUMNS)
    table = table.filter(pc.is_valid(table["depth"]))
    if not table.num_rows:
        return
    chosen = np.unique(np.linspace(0, table.num_rows - 1, min(_DEPTH_SAMPLE, table.num_rows)).astype(int))
    sample = table.take(chosen).to_pylist()
    reports, bad = ray.get(ray.remote(sample_depth).remote(sample, config))
    if len(sample) >= _FEW_MAPS and len(bad) > len(sample) / 2:
        raise ConfigError(f"{len(bad)} of {len(sample)} depth maps cannot be used, as it seems all of them; {bad[0]}")
    warning = preflight(reports, config.depth_order or LAYOUTS[config.layout].depth_order)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)


def _write(sheet: Examined, shards: Sequence[PlannedShard], config: IngestConfig) -> list[Written]:
    """Second pass: every task writes one shard."""
    if not shards:
        return []
    blocks = []
    for shard in shards:
        rows = sheet.rows(shard.rows).select(SHARD_COLUMNS)
        blocks.append(rows.append_column("name", pa.array([shard.name] * rows.num_rows)))
    written = []
    with tqdm(total=sum(len(s.rows) for s in shards), desc="write shards", unit=" photos", **PROGRESS) as bar:
        for result in _shards_done(blocks, config):
            for text in result["written"].to_pylist():
                written.append(Written(**json.loads(text)))
                bar.update(written[-1].rows + len(written[-1].rejects))
    return sorted(written, key=lambda shard: shard.name)


def _shards_done(blocks: list[pa.Table], config: IngestConfig) -> Iterator[pa.Table]:
    if not config.estimates_depth():
        return map_tables(blocks, partial(_write_batch, config=config), config.concurrency)
    return map_tables_with(
        blocks, _Writer, {"config": config}, concurrency=config.concurrency, gpus=config.depth_gpus or 0.0
    )


def _write_batch(batch: pa.Table, config: IngestConfig, model: Any = None) -> pa.Table:
    """Runs in a task: the photographs of one shard to what came of them."""
    result = write_shard(batch["name"][0].as_py(), batch.drop_columns(["name"]), config, model)
    return pa.table({"written": [json.dumps(asdict(result))]})


class _Writer:
    """An actor that holds a depth model."""

    def __init__(self, config: IngestConfig) -> None:
        self.config = config
        self.model: Any = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """As :func:`_write_batch`."""
        if self.model is None:  # not in the constructor: its errors would be the death of an actor
            self.model = _load(self.config)
        return _write_batch(batch, self.config, self.model)
