"""What lies at the sources of an ingest, and a fingerprint of it: whether there is anything to do. No Ray, no
pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow import fs as pafs

from models.settings import ConfigError
from pipelines.corpus import MANIFEST, Domain, child, filesystem
from pipelines.ingest_banned import holdout_kind
from pipelines.ingest_config import IngestConfig
from pipelines.ingest_depth import DEPTH_SUFFIXES
from pipelines.ingest_files import LISTED, File, Sorter, list_source
from pipelines.layouts import LAYOUTS
from pipelines.sources import Kind


@dataclass(frozen=True)
class Listing:
    """Plain files as a table of :data:`~pipelines.ingest_files.LISTED`, containers still closed, and who sorts them."""

    files: pa.Table
    containers: list[tuple[File, Kind]]
    sorter: Sorter

    def digest(self) -> str:
        """Stands for every file with its size and time."""
        lines = [(row["uri"], row["size"], row["mtime"]) for row in self.files.to_pylist()]
        lines += [(file.uri, file.size, file.mtime) for file, _ in self.containers]
        text = "\n".join(f"{uri} {size} {mtime}" for uri, size, mtime in sorted(lines))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Survey:
    """Everything an ingest depends on. ``holdout`` are held-out photographs, by source."""

    photographs: Listing
    depth: Listing | None
    holdout: dict[str, Listing] = field(default_factory=dict)
    fingerprint: str = ""


def survey(config: IngestConfig) -> Survey:
    """List everything the ingest depends on.

    Raises:
        ConfigError: a folder is missing, or there is no photograph in it.
    """
    try:
        photographs = _list(config.sources, Sorter(config.layout, config.domain), "photographs")
    except ConfigError as problem:
        pattern = LAYOUTS[config.layout].photographs(config.domain, config.layout).pattern
        if not pattern:
            raise
        hint = (
            f"layout '{config.layout}' takes {config.domain} photographs whose path below the source matches {pattern}"
        )
        raise ConfigError(f"{problem}; {hint}") from problem
    depth = None
    if config.depth is not None and not config.estimates_depth():
        depth = _list((config.depth,), _DepthSorter(config.domain), "depth maps")
    kinds = {root: holdout_kind(root) for root in config.holdout}
    held = {
        root: _list((root,), Sorter("plain", config.domain), "held-out photographs")
        for root, kind in kinds.items()
        if kind == "photographs"
    }
    lists = [root for root, kind in kinds.items() if kind == "list"]
    corpora = [child(root, MANIFEST) for root in (*config.against, *(r for r, k in kinds.items() if k == "corpus"))]
    fingerprint = hashlib.sha256(config.model_dump_json(exclude={"out", "concurrency", "append", "card"}).encode())
    for listing in (photographs, depth, *held.values(), *map(_one_file, (*lists, *corpora))):
        fingerprint.update(b"-" if listing is None else listing.digest().encode())
    return Survey(photographs, depth, held, fingerprint.hexdigest()[:32])


def _list(sources: tuple[str, ...], sorter: Sorter, what: str) -> Listing:
    tables: list[pa.Table] = []
    containers: dict[str, tuple[File, Kind]] = {}
    for source in sources:
        table, found = list_source(source, sorter, what)
        tables.append(table)
        containers |= {file.uri: (file, kind) for file, kind in found}
    return Listing(unique(pa.concat_tables(tables)), list(containers.values()), sorter)


def unique(table: pa.Table) -> pa.Table:
    """The first row of every uri: sources may overlap."""
    numbered = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    rows = numbered.group_by("uri", use_threads=False).aggregate([("row", "min")])["row_min"]
    return table.take(rows)


class _DepthSorter(Sorter):
    """In a folder of depth maps everything that can be one is."""

    def __init__(self, domain: Domain) -> None:
        super().__init__("plain", domain)

    def role(self, name: str) -> str | None:
        """``depth`` or None."""
        hidden = any(part.startswith(".") for part in name.split("/"))
        return "depth" if PurePosixPath(name).suffix.lower() in DEPTH_SUFFIXES and not hidden else None


def _one_file(uri: str) -> Listing:
    """A single file that is no photograph, for the fingerprint."""
    files, path = filesystem(uri)
    info = files.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise ConfigError(f"there is no file {uri}; expected a corpus made by `python -m pipelines.ingest`, or a list")
    file = File(uri, uri, info.size or 0, info.mtime_ns or 0)
    return Listing(LISTED.empty_table(), [(file, "parquet")], Sorter("plain", "clear"))
