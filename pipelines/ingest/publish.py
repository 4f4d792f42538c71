"""The end of an ingest: catalogue, lists of rejects, data card and, last of all, the manifest. No Ray, no pixels."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs

from models.config import ConfigError
from models.paths import child, filesystem, replacing
from pipelines import corpus as catalogue
from pipelines.corpus import DEPTH_REPORT, DUPLICATES, MANIFEST, REJECTS, SPLITS, Manifest, left_out_text, open_corpus
from pipelines.ingest.card import read_photograph, write_card
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import Examined
from pipelines.ingest.write import Written

_SHARD = re.compile(r"(train|test)-\d{5}-[0-9a-f]{8}\.parquet")
_PIECE = re.compile(
    r"\.(train|test)-\d{5}-.*\.parquet\.[0-9a-f]{8}\.tmp"
)  # `replacing` leaves it when its task is killed
_DAY = 86400.0


@dataclass(frozen=True)
class Present:
    """The corpus that is there already, as far as it is of use: ``manifest`` and ``catalogue`` are None where it is
    not.
    """

    manifest: Manifest | None
    catalogue: pa.Table | None
    same_settings: bool
    same_examination: bool

    @property
    def accepted(self) -> int:
        """Photographs in it."""
        return self.manifest.accepted if self.manifest is not None else 0

    def require(self) -> Manifest:
        """The manifest of a corpus that is known to be there."""
        if self.manifest is None:
            raise ValueError("there is no finished corpus")
        return self.manifest

    def has(self, fingerprint: str, append: bool) -> bool:
        """Whether it was made from just these sources, or already holds them when they are to be added."""
        if self.manifest is None or not self.same_settings or not self.same_examination:
            return False
        return fingerprint in self.manifest.sources if append else self.manifest.sources == (fingerprint,)

    def examined(self) -> pa.Table:
        """What is known about its files."""
        if self.catalogue is None or not self.same_examination:
            return catalogue.EXAMINED.empty_table()
        table = self.catalogue
        decoded = pc.and_(pc.greater(table["width"], 0), pc.not_equal(table["reason"], ""))
        for name in ("reason", "message"):  # those of decisions are taken anew
            column = table.schema.get_field_index(name)
            table = table.set_column(column, name, pc.if_else(decoded, "", table[name]))
        again = pc.equal(table["reason"], "unreadable")  # perhaps it can be read now
        return table.filter(pc.invert(again)).select(catalogue.EXAMINED.names)

    def shards(self) -> dict[str, list[tuple[str, str | None]]]:
        """Image ids and places of depth maps by shard, of the shards that were made with these settings."""
        if self.catalogue is None or not self.same_settings:
            return {}
        rows = self.catalogue.filter(pc.equal(self.catalogue["status"], "accepted"))
        grouped = rows.group_by("shard").aggregate([("image_id", "list"), ("depth", "list")])
        columns = (grouped[name].to_pylist() for name in ("shard", "image_id_list", "depth_list"))
        return {name: list(zip(ids, depth, strict=True)) for name, ids, depth in zip(*columns, strict=True)}


def present(config: IngestConfig) -> Present:
    """What there is at ``config.out``. A corpus that is damaged, of another version or incomplete counts as none."""
    try:
        corpus = open_corpus(config.out)
    except ConfigError:
        return Present(None, None, same_settings=False, same_examination=False)
    files, _ = filesystem(config.out)
    shards = [filesystem(uri)[1] for uri in corpus.files()]
    if not all(info.type == pafs.FileType.File for info in files.get_file_info(shards)):
        return Present(None, None, same_settings=False, same_examination=False)
    manifest = corpus.manifest
    return Present(
        manifest,
        catalogue.read_catalogue(config.out),
        same_settings=manifest.settings == config.storing(),
        same_examination=manifest.examined == config.examining(),
    )


def check_settings(config: IngestConfig, before: Present) -> None:
    """Refuse to add to a corpus that was made in another way.

    Raises:
        ConfigError: names the setting, or says that there is no corpus to add to.
    """
    if not config.append:
        return
    if before.manifest is None:
        raise ConfigError(f"there is no finished corpus in {config.out} to add to; leave out --append to make it")
    for name, value in config.storing().items():
        was = before.manifest.settings.get(name)
        if was != value:
            raise ConfigError(f"{config.out} was made with {name} = {was!r}, not {value!r}: one corpus has one setting")
    for name, value in config.deciding().items():
        was = before.manifest.deciding.get(name, value)  # corpora of earlier versions do not say
        if was != value and not (isinstance(was, list) and set(was) <= set(value)):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{config.out} was made with {name} = {was!r}, not {value!r}: what was turned down would get in, or "
                f"the other way round; give the same {flag} again"
            )


def publish(
    sheet: Examined, written: Sequence[Written], config: IngestConfig, fingerprint: str, before: Present
) -> Manifest:
    """Write what the shards do not hold: rejects, duplicates, catalogue, card and, last, the manifest. What it replaces
    stays, unless ``config.prune`` says otherwise: somebody may be reading it.
    """
    _late_rejects(sheet, written)
    table = sheet.catalogue()
    suspicious = [line for shard in written for line in shard.suspicious]
    manifest = _manifest(table, written, config, fingerprint, before)
    manifest = manifest.model_copy(update={"left_out": sheet.left_out})
    _write_lists(table, suspicious, config.out)
    catalogue.write_catalogue(config.out, table)
    if config.card:
        write_card(config.out, table, manifest, read_photograph, suspicious)
    manifest = replace_manifest(manifest, config, before.manifest)
    catalogue.drop_parts(config.out)
    return manifest


def replace_manifest(manifest: Manifest, config: IngestConfig, former: Manifest | None) -> Manifest:
    """Make a manifest the one that counts, in one step, with the shards of former ones that stay for their readers.

    Deleted are those that have been out of the corpus for ``config.prune`` days, and what no manifest ever named.
    """
    found, pieces = _on_disk(config.out)
    others = found - set(manifest.files)
    if former is not None:  # else a damaged manifest, or one of another version, may have named any of them
        others &= {*former.files, *former.retired}
    now = time.time()
    since = dict.fromkeys(others, now) | {k: v for k, v in (former.retired if former else {}).items() if k in others}
    kept = {k: v for k, v in sorted(since.items()) if config.prune is None or now - v < config.prune * _DAY}
    manifest = manifest.model_copy(update={"retired": kept})
    with replacing(child(config.out, MANIFEST), durable=True) as stream:
        stream.write(manifest.model_dump_json(indent=2).encode() + b"\n")
    for name in (found | pieces) - {*manifest.files, *kept}:
        files, path = filesystem(child(config.out, name))
        files.delete_file(path)
    return manifest


def _late_rejects(sheet: Examined, written: Sequence[Written]) -> None:
    """Take in what could not be written after all; what only repeats such a photograph shares its reason."""
    bad = {row["image_id"]: row for shard in written for row in shard.rejects}
    if not bad:
        return
    by_uri = {}
    for row in sheet.open():
        problem = bad.get(sheet.ids[row])
        if problem is not None:
            by_uri[sheet.uris[row]] = problem
            sheet.reject(np.array([row]), problem["reason"], [problem["message"]])
            sheet.shard[row] = ""
    for row in np.flatnonzero(sheet.status == "duplicate"):
        problem = by_uri.get(sheet.same_as[row])
        if problem is not None:
            message = f"repeats {sheet.same_as[row]}, which cannot be used: {problem['message']}"
            sheet.reject(np.array([row]), problem["reason"], [message])
            sheet.same_as[row] = None


def _manifest(
    table: pa.Table, written: Sequence[Written], config: IngestConfig, fingerprint: str, before: Present
) -> Manifest:
    status = Counter(table["status"].to_pylist())
    accepted = table.filter(pc.equal(table["status"], "accepted"))
    shards = Counter(accepted["shard"].to_pylist())
    files, _ = filesystem(config.out)
    infos = files.get_file_info([filesystem(child(config.out, name))[1] for name in shards])
    old = before.manifest
    groups = (old.row_groups if old else {}) | {shard.name: shard.row_groups for shard in written}
    depth = (old.depth if old else {}) | {shard.name: shard.depth for shard in written}
    return Manifest(
        domain=config.domain,
        found=table.num_rows,
        accepted=accepted.num_rows,
        rejected=status["rejected"],
        duplicates=status["duplicate"],
        splits={split: sum(n for name, n in shards.items() if name.startswith(f"{split}-")) for split in SPLITS},
        files=tuple(sorted(shards, key=lambda name: (SPLITS.index(name.partition("-")[0]), name))),
        row_groups={name: groups[name] for name in sorted(shards)},
        stored_bytes=sum(info.size for info in infos),
        reasons=_counts(table, "rejected"),
        repeats=_counts(table, "duplicate"),
        depth={name: depth[name] for name in sorted(shards)},
        settings=config.storing(),
        deciding=config.deciding(),
        examined=config.examining(),
        sources=(*(old.sources if old and config.append else ()), fingerprint),
    )


def _counts(table: pa.Table, status: str) -> dict[str, int]:
    return dict(sorted(Counter(table.filter(pc.equal(table["status"], status))["reason"].to_pylist()).items()))


def _write_lists(table: pa.Table, suspicious: list[dict[str, Any]], out: str) -> None:
    """The lists for people, a line each, sorted by uri."""
    columns = {
        REJECTS: ("rejected", ["uri", "reason", "message"]),
        DUPLICATES: ("duplicate", ["uri", "reason", "same_as", "distance"]),
    }
    for name, (status, keep) in columns.items():
        rows = table.filter(pc.equal(table["status"], status)).sort_by("uri").select(keep)
        with replacing(child(out, name)) as stream:
            for batch in rows.to_batches(max_chunksize=1 << 14):
                stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist()).encode())
    with replacing(child(out, DEPTH_REPORT)) as stream:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in suspicious).encode())


def _on_disk(out: str) -> tuple[set[str], set[str]]:
    """What lies in the folder and is named like a shard, or like a piece of one."""
    files, path = filesystem(out)
    names = {info.path.rpartition("/")[2] for info in files.get_file_info(pafs.FileSelector(path))}
    return {n for n in names if _SHARD.fullmatch(n)}, {n for n in names if _PIECE.fullmatch(n)}


def summary(manifest: Manifest, out: str) -> str:
    """The counts as a short table."""
    rows = [("found", manifest.found), ("accepted", manifest.accepted)]
    rows += [(f"  {split}", count) for split, count in manifest.splits.items()]
    rows += [("  with depth", sum(manifest.depth.values()))]
    rows += [("duplicates", manifest.duplicates)] + [(f"  {kind}", count) for kind, count in manifest.repeats.items()]
    rows += [("rejected", manifest.rejected)] + [(f"  {reason}", count) for reason, count in manifest.reasons.items()]
    lines = [f"{manifest.domain} corpus in {out}", *(f"  {name:<24}{count:>10,}" for name, count in rows)]
    if manifest.left_out:
        lines.append(f"  left out: {left_out_text(manifest.left_out)}")
    if manifest.rejected:
        lines.append(f"  why: {child(out, REJECTS)}")
    if manifest.retired:
        lines.append(
            f"  {len(manifest.retired)} shards of former ingests stay for runs that read them; "
            "--prune DAYS deletes them"
        )
    return "\n".join(lines)
