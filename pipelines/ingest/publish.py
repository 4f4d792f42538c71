"""The end of an ingest: catalogue, lists of rejects, data card and, last of all, the manifest. No Ray, no pixels."""

from __future__ import annotations

import itertools
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs

from models.config import ConfigError
from models.paths import child, filesystem, replacing
from pipelines import corpus as catalogue
from pipelines.corpus import (
    CATALOGUE,
    CATALOGUE_FOLDER,
    DEPTH_REPORT,
    DUPLICATES,
    MANIFEST,
    REJECTS,
    SPLITS,
    Corpus,
    Manifest,
    left_out_text,
    open_corpus,
)
from pipelines.ingest.card import read_catalogue, read_photograph, read_suspicious, write_card
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import PlannedShard, Work, changed, gather, load
from pipelines.ingest.discover import SHARD
from pipelines.ingest.write import Written

_PIECE = re.compile(
    r"\.(train|test)-\d{5}-.*\.parquet\.[0-9a-f]{8}\.tmp"
)  # `replacing` leaves it when its task is killed
_DAY = 86400.0
LATE = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("reason", pa.string()), ("message", pa.string())])
"""What turned out to be of no use when it was to be written."""
_LISTS = {  # for people, a line each
    REJECTS: ("rejected", ["uri", "reason", "message"]),
    DUPLICATES: ("duplicate", ["uri", "reason", "same_as", "distance"]),
}


@dataclass(frozen=True)
class Present:
    """The corpus that is there already, as far as it is of use: ``manifest`` and ``catalogue`` are None where it is
    not.
    """

    manifest: Manifest | None
    catalogue: Sequence[catalogue.Piece] | None
    same_settings: bool
    same_examination: bool

    def of(self, fingerprint: str, append: bool) -> Manifest | None:
        """Return its manifest where it was made from just these sources, or already holds them when they are to be
        added.
        """
        if self.manifest is None or not self.same_settings or not self.same_examination:
            return None
        sources = self.manifest.sources
        return self.manifest if (fingerprint in sources if append else sources == (fingerprint,)) else None


def present(config: IngestConfig) -> Present:
    """Return the corpus at ``config.out``. One that is damaged, of another version or incomplete counts as none."""
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
        catalogue.pieces(corpus),
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
    work: Work,
    shards: Sequence[PlannedShard],
    written: Sequence[Written],
    late: Sequence[str],
    config: IngestConfig,
    fingerprint: str,
    before: Present,
    left_out: Mapping[str, int],
) -> Manifest:
    """Write what the shards do not hold: rejects, duplicates, catalogue, card and, last, the manifest. What it replaces
    stays, unless ``config.prune`` says otherwise: somebody may be reading it.

    Args:
        work: holds the sheet.
        shards: that were planned.
        written: what came of them.
        late: files of ``LATE``.
        config: of the ingest.
        fingerprint: of its sources.
        before: what was there.
        left_out: files of other kinds, which were passed over.
    """
    token = uuid.uuid4().hex[:8]
    files = [f"{CATALOGUE_FOLDER}/{part:05d}-{token}.parquet" for part in range(work.parts)]
    lists = [[child(work.root, f"{name}-{part:05d}") for name in _LISTS] for part in range(work.parts)]
    jobs = [
        job | {"out": child(config.out, file), "lists": own}
        for job, file, own in zip(work.jobs(sheet="sheet"), files, lists, strict=True)
    ]
    names: list[list[str]] = [[] for _ in range(work.parts)]
    for shard in sorted(shards, key=lambda shard: shard.number):
        names[shard.part].append(shard.name)
    former = [] if before.manifest is None else read_suspicious(config.out)
    known = sorted({line["uri"] for line in former})
    counts: dict[str, Counter[str]] = {}
    finish = partial(_finish, assigned=work.places("assigned"), names=names, late=late, known=known)
    for found in work.run(finish, jobs):
        for name, values in found.items():
            counts.setdefault(name, Counter()).update(values)
    suspicious = [line for line in former if line["uri"] in counts["suspicious"]]
    suspicious += [line for shard in written for line in shard.suspicious]
    manifest = _manifest(counts, written, config, fingerprint, before).model_copy(
        update={"left_out": dict(left_out), "catalogue": tuple(files)}
    )
    for name, pieces in zip(_LISTS, zip(*lists, strict=True), strict=True):
        _join(pieces, child(config.out, name))
    with replacing(child(config.out, DEPTH_REPORT)) as stream:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in suspicious).encode())
    if config.card:
        write_card(config.out, read_catalogue(Corpus(config.out, manifest)), manifest, read_photograph, suspicious)
    manifest = replace_manifest(manifest, config, before.manifest)
    _drop_former_catalogue(config.out, manifest)
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


def _finish(
    part: int,
    sheet: str,
    out: str,
    lists: Sequence[str],
    assigned: Sequence[str],
    names: Sequence[Sequence[str]],
    late: Sequence[str],
    known: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Write a part of the sheet to the catalogue and to the lists, and return counts, and which photographs with a
    suspicious depth map (``known``) are in shards that stay. Runs in a task.
    """
    table, said = load(sheet), gather(assigned, part)
    shards = [names[p][n] for p, n in zip(said["part"].to_pylist(), said["number"].to_pylist(), strict=True)]
    table = changed(table, said["row"].to_numpy() & 0xFFFFFFFF, shard=np.array(shards, dtype=object))
    for uri in late:
        table = _without(table, load(uri))
    catalogue.write_catalogue_part(out, table)
    for (status, columns), uri in zip(_LISTS.values(), lists, strict=True):
        rows = table.filter(pc.equal(table["status"], status)).sort_by("uri").select(columns)
        with replacing(uri) as stream:
            for batch in rows.to_batches(max_chunksize=1 << 14):
                stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist()).encode())
    of = {status: table.filter(pc.equal(table["status"], status)) for status in ("accepted", "rejected", "duplicate")}
    planned = pa.array(itertools.chain.from_iterable(names), pa.string())
    staying = of["accepted"].filter(pc.invert(pc.is_in(of["accepted"]["shard"], value_set=planned)))["uri"]
    return {
        "suspicious": Counter(set(known).intersection(staying.to_pylist()) if known else ()),
        "status": {status: rows.num_rows for status, rows in of.items()},
        "reasons": Counter(of["rejected"]["reason"].to_pylist()),
        "repeats": Counter(of["duplicate"]["reason"].to_pylist()),
        "shards": Counter(of["accepted"]["shard"].to_pylist()),
    }


def _without(sheet: pa.Table, late: pa.Table) -> pa.Table:
    """Take in what could not be written after all; what only repeats such a photograph shares its reason."""
    index = pc.index_in(sheet["image_id"], value_set=late["image_id"].combine_chunks())
    good = np.asarray(pc.equal(sheet["status"], "accepted")) & np.asarray(pc.is_valid(index))
    bad = late.take(index.filter(pa.array(good)))
    reasons, messages = (np.array(bad[name].to_pylist(), dtype=object) for name in ("reason", "message"))
    sheet = changed(sheet, np.flatnonzero(good), status="rejected", reason=reasons, message=messages, shard="")
    index = pc.index_in(sheet["same_as"], value_set=late["uri"].combine_chunks())
    copies = np.asarray(pc.equal(sheet["status"], "duplicate")) & np.asarray(pc.is_valid(index))
    bad = late.take(index.filter(pa.array(copies)))
    reasons = np.array(bad["reason"].to_pylist(), dtype=object)
    lines = [f"repeats {row['uri']}, which cannot be used: {row['message']}" for row in bad.to_pylist()]
    messages = np.array(lines, dtype=object)
    return changed(sheet, np.flatnonzero(copies), status="rejected", reason=reasons, message=messages, same_as=None)


def _manifest(
    counts: dict[str, Counter[str]], written: Sequence[Written], config: IngestConfig, fingerprint: str, before: Present
) -> Manifest:
    status, shards = counts["status"], counts["shards"]
    files, _ = filesystem(config.out)
    infos = files.get_file_info([filesystem(child(config.out, name))[1] for name in shards])
    old = before.manifest
    groups = (old.row_groups if old else {}) | {shard.name: shard.row_groups for shard in written}
    depth = (old.depth if old else {}) | {shard.name: shard.depth for shard in written}
    return Manifest(
        domain=config.domain,
        found=status.total(),
        accepted=status["accepted"],
        rejected=status["rejected"],
        duplicates=status["duplicate"],
        splits={split: sum(n for name, n in shards.items() if name.startswith(f"{split}-")) for split in SPLITS},
        files=tuple(sorted(shards, key=lambda name: (SPLITS.index(name.partition("-")[0]), name))),
        row_groups={name: groups[name] for name in sorted(shards)},
        stored_bytes=sum(info.size for info in infos),
        reasons=dict(sorted(counts["reasons"].items())),
        repeats=dict(sorted(counts["repeats"].items())),
        depth={name: depth[name] for name in sorted(shards)},
        settings=config.storing(),
        deciding=config.deciding(),
        examined=config.examining(),
        sources=(*(old.sources if old and config.append else ()), fingerprint),
    )


def _join(pieces: Sequence[str], uri: str) -> None:
    """Join files of lines to one, a piece in memory at a time."""
    with replacing(uri) as stream:
        for piece in pieces:
            files, path = filesystem(piece)
            with files.open_input_stream(path) as lines:
                while data := lines.read(1 << 20):
                    stream.write(data)


def _drop_former_catalogue(out: str, manifest: Manifest) -> None:
    """Delete what the manifest does not name, so that the folder can be read as one table."""
    files, path = filesystem(child(out, CATALOGUE_FOLDER))
    for info in files.get_file_info(pafs.FileSelector(path)):
        if f"{CATALOGUE_FOLDER}/{info.path.rpartition('/')[2]}" not in manifest.catalogue:
            files.delete_file(info.path)
    files, path = filesystem(child(out, CATALOGUE))
    if files.get_file_info(path).type == pafs.FileType.File:
        files.delete_file(path)


def _on_disk(out: str) -> tuple[set[str], set[str]]:
    """Return the names in the folder that are those of shards, and those of pieces of one."""
    files, path = filesystem(out)
    names = {info.path.rpartition("/")[2] for info in files.get_file_info(pafs.FileSelector(path))}
    return {n for n in names if SHARD.fullmatch(n)}, {n for n in names if _PIECE.fullmatch(n)}


def summary(manifest: Manifest, out: str) -> str:
    """Return the counts as a short table."""
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
