"""Ingest: photographs to a corpus of Parquet shards (Ray Data).

    python -m pipelines.ingest photos/ --domain hazy --out corpus/hazy

Two passes, both in parallel. The first reads and decodes every new file and notes its hashes; what is a duplicate,
held out or too small is decided from these alone. The second reads what is left once more, and each of its tasks
writes one shard. An ingest that was cut off goes on where it stopped; a finished one reads only what is new.
"""

from __future__ import annotations

import argparse
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

from models.config import ConfigError, parse
from models.paths import child
from pipelines import corpus as catalogue
from pipelines.cluster import data_context_defaults, placed, ray_session, require_absolute, require_seen
from pipelines.command import run
from pipelines.corpus import REJECTS, Manifest, first_rows, left_out_text, words_of
from pipelines.ingest.banned import banned_by_corpus, banned_by_list, holdout_kind
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import Banned, Sheet, decide
from pipelines.ingest.depth import preflight
from pipelines.ingest.discover import LISTED, File, Sorter, expand, left_out, match_depth, pair_ids
from pipelines.ingest.examine import examine, portions
from pipelines.ingest.layouts import LAYOUTS
from pipelines.ingest.lock import only_ingest
from pipelines.ingest.plan import Shard, plan_shards
from pipelines.ingest.publish import Present, check_settings, present, publish, replace_manifest, summary
from pipelines.ingest.survey import Listing, Survey, survey
from pipelines.ingest.write import SHARD_COLUMNS, Written, sample_depth, write_shard
from pipelines.mapping import map_tables, map_tables_with

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


def _ingest(config: IngestConfig, plan: Survey) -> Manifest:
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


def _catalogue(config: IngestConfig, plan: Survey, before: Present) -> Sheet:
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
    return Sheet(examined, pair_ids(examined["key"].to_pylist(), config.layout, config.pair_by), left)


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
        tables.append(expand(File(**row), kind, sorter))
    return pa.concat_tables(tables)


def _with_depth(photographs: pa.Table, beside: pa.Table, plan: Survey) -> pa.Table:
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


def _banned(config: IngestConfig, plan: Survey) -> list[Banned]:
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


def _check_depth(sheet: Sheet, shards: Sequence[Shard], config: IngestConfig) -> None:
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


def _write(sheet: Sheet, shards: Sequence[Shard], config: IngestConfig) -> list[Written]:
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
    return map_tables_with(blocks, _Writer, {"config": config}, config.concurrency, config.depth_gpus or 0.0)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.ingest",
        description="Photographs to a corpus. docs/DATA.md shows it for RESIDE, RIDCP500, O-HAZE and others.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "sources", nargs="+", metavar="SRC",
        help="folder (searched recursively), file, glob, zip or tar archive, Parquet or Arrow file; path or URI",
    )  # fmt: skip
    add("--domain", required=True, choices=["hazy", "clear"], help="what the photographs are")
    add("--out", required=True, metavar="DIR", help="folder of the corpus")
    add("--append", action="store_true", default=None, help="add to the corpus in DIR, whatever else it holds")
    add("--layout", choices=list(LAYOUTS), help="layout of a published dataset (default: plain, every photograph)")
    group = parser.add_argument_group("depth maps").add_argument
    group(
        "--depth", metavar="DIR|MODEL",
        help="depth maps with the photographs' names (.png .tif .npy .npz .mat), or a depth model's folder or hub name",
    )  # fmt: skip
    group(
        "--depth-order", choices=["near", "far"], help="larger values are nearer, or farther (default: near, checked)"
    )
    group("--depth-device", choices=["auto", "cpu", "cuda"], help="where the depth model runs (default: cpu)")
    group("--depth-gpus", type=float, metavar="X", help="of Ray for each depth model (default: 1 for cuda, else 0)")
    group = parser.add_argument_group("what does not get in").add_argument
    group(
        "--holdout", action="append", metavar="SRC",
        help="keep these out, and what looks like them: photographs, a corpus, or a list of image ids; may be repeated",
    )  # fmt: skip
    group(
        "--against", action="append", metavar="CORPUS", help="what this corpus has counts as duplicate; may be repeated"
    )
    group(
        "--near-duplicates", type=int, metavar="BITS", help="of 256 that may differ (default 32; 0 same look; -1 off)"
    )
    group("--holdout-bits", type=int, metavar="BITS", help="the same for --holdout and --against (default 56)")
    group("--min-side", type=int, metavar="N", help="reject smaller photographs (default 32)")
    group(
        "--max-aspect", type=float, metavar="X", help="reject photographs that are longer than X times wide (default 8)"
    )
    group(
        "--strict-files", action=argparse.BooleanOptionalAction,
        help="reject damaged files whose picture is there all the same (default: reject)",
    )  # fmt: skip
    group = parser.add_argument_group("how it is stored").add_argument
    group("--max-side", type=int, metavar="N", help="reduce longer photographs; 0 = never (default 1600)")
    group("--encode", choices=["keep", "jpeg", "png", "webp"], help="format to store (default: keep the files)")
    group("--quality", type=int, metavar="Q", help="of JPEG and WebP that are encoded anew (default 95)")
    group("--pair-by", metavar="REGEX", help="over paths without suffix; the first group names the scene")
    group("--test-fraction", type=float, metavar="X", help="share of the test split (default 0.2)")
    group("--shard-mb", type=float, metavar="N", help="MiB per file (default 128)")
    add("--concurrency", type=int, metavar="N", help="tasks at a time (default: as many as CPUs)")
    add(
        "--prune", type=float, metavar="DAYS",
        help="delete shards of former ingests that are out of the corpus for DAYS days (default: they stay for the "
        "training runs that read them)",
    )  # fmt: skip
    add("--no-card", dest="card", action="store_false", default=None, help="do not write card.html")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run(_main, _parser(), argv)


def _main(args: argparse.Namespace) -> None:
    require_absolute(args.out)
    config = parse(IngestConfig, {name: value for name, value in vars(args).items() if value is not None}, "ingest")
    print(summary(ingest(config), config.out))
