"""What lies at the sources of an ingest, and a fingerprint of it: whether there is anything to do. No Ray, no
pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow import fs as pafs

from models.config import ConfigError
from models.paths import child, filesystem
from pipelines.corpus import MANIFEST, Domain, Kind, first_rows, is_litter
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import holdout_kind
from pipelines.ingest.depth import DEPTH_SUFFIXES
from pipelines.ingest.discover import Sorter, SourceFile, list_source
from pipelines.ingest.layouts import LAYOUTS

_NOT_PRINTED = {"out", "concurrency", "append", "card", "prune", "depth_gpus"}  # what the corpus does not depend on


@dataclass(frozen=True)
class Listing:
    """Plain files as a table of ``LISTED``, containers still closed, who sorts them, and
    how many plain files of which kinds are left out.
    """

    files: pa.Table
    containers: list[tuple[SourceFile, Kind]]
    sorter: Sorter
    left: Counter[str] = field(default_factory=Counter)

    def digest(self) -> str:
        """Stands for every file with its size and time."""
        lines = [(row["uri"], row["size"], row["mtime"]) for row in self.files.to_pylist()]
        lines += [(file.uri, file.size, file.mtime) for file, _ in self.containers]
        text = "\n".join(f"{uri} {size} {mtime}" for uri, size, mtime in sorted(lines))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class SourceSurvey:
    """Everything an ingest depends on. ``holdout`` are held-out photographs, by source."""

    photographs: Listing
    depth: Listing | None
    holdout: dict[str, Listing] = field(default_factory=dict)
    fingerprint: str = ""


def survey(config: IngestConfig) -> SourceSurvey:
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
    fingerprint = hashlib.sha256(config.model_dump_json(exclude=_NOT_PRINTED).encode())
    listings = ["-" if listing is None else listing.digest() for listing in (photographs, depth, *held.values())]
    fingerprint.update("\n".join([*listings, *map(_stamp, (*lists, *corpora))]).encode())
    return SourceSurvey(photographs, depth, held, fingerprint.hexdigest()[:32])


def _list(sources: tuple[str, ...], sorter: Sorter, what: str) -> Listing:
    tables: list[pa.Table] = []
    containers: dict[str, tuple[SourceFile, Kind]] = {}
    left: Counter[str] = Counter()
    for source in sources:
        table, found, others = list_source(source, sorter, what)
        tables.append(table)
        containers |= {file.uri: (file, kind) for file, kind in found}
        left += others
    return Listing(first_rows(pa.concat_tables(tables), "uri"), list(containers.values()), sorter, left)


class _DepthSorter(Sorter):
    """In a folder of depth maps everything that can be one is."""

    def __init__(self, domain: Domain) -> None:
        super().__init__("plain", domain)

    def role(self, name: str) -> str | None:
        """``depth`` or None."""
        return "depth" if PurePosixPath(name).suffix.lower() in DEPTH_SUFFIXES and not is_litter(name) else None


def _stamp(uri: str) -> str:
    """Stands for a file that is no photograph: a manifest, or a list of ids."""
    files, path = filesystem(uri)
    info = files.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise ConfigError(f"there is no file {uri}; expected a corpus made by `python -m pipelines.ingest`, or a list")
    return f"{uri} {info.size or 0} {info.mtime_ns or 0}"
