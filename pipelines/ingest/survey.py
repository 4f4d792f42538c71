"""What lies at the sources of an ingest, and a fingerprint of it: whether there is anything to do. No Ray, no
pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow import fs as pafs

from models.config import ConfigError
from models.paths import child, filesystem
from pipelines.corpus import MANIFEST, Domain, Kind, first_rows, is_litter
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import ROWS, holdout_kind
from pipelines.ingest.depth import DEPTH_SUFFIXES
from pipelines.ingest.discover import Prefix, Sorter, SourceFile, list_source
from pipelines.ingest.layouts import LAYOUTS

_NOT_PRINTED = {"out", "concurrency", "append", "card", "prune", "depth_gpus"}  # what the corpus does not depend on


@dataclass(frozen=True)
class Listing:
    """What lies at sources.

    Attributes:
        files: plain files, a table of ``LISTED``: those that the driver listed.
        containers: still closed.
        sorter: tells what a file is.
        left: how many plain files of which kinds are left out.
        waiting: folders that tasks have to list yet.
        parts: files of ``LISTED`` that tasks have written.
        roles: how many rows of which role are in ``parts``; ``example`` is the key of a photograph there.
        digest: stands for every file in ``parts`` with its size and time.
        seen: files of interest at a source, as far as that is not listed yet.
    """

    files: pa.Table
    containers: list[tuple[SourceFile, Kind]]
    sorter: Sorter
    left: Counter[str] = field(default_factory=Counter)
    waiting: tuple[Prefix, ...] = ()
    parts: tuple[str, ...] = ()
    roles: Counter[str] = field(default_factory=Counter)
    example: str = ""
    digest: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def fingerprint(self) -> str:
        """Return a digest of every file with its size and time, however they were listed."""
        files = [(file.uri, file.size, file.mtime) for file, _ in self.containers]
        total = self.digest + digest_of(self.files) + sum(_digest(*file) for file in files)
        return f"{total % (1 << 128):032x}"


def digest_of(listed: pa.Table) -> int:
    """Return a sum that identifies files with their sizes and times, in any order."""
    columns = (listed[name].to_pylist() for name in ("uri", "size", "mtime"))
    return sum(_digest(*row) for row in zip(*columns, strict=True)) % (1 << 128)


def _digest(uri: str, size: int, mtime: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{uri} {size} {mtime}".encode(), digest_size=16).digest())


@dataclass(frozen=True)
class SourceSurvey:
    """Everything an ingest depends on. ``holdout`` are held-out photographs, by source; ``settings`` stands for what is
    no photograph.
    """

    photographs: Listing
    depth: Listing | None
    holdout: dict[str, Listing] = field(default_factory=dict)
    settings: str = ""

    @property
    def is_complete(self) -> bool:
        """Tell whether all is listed."""
        return not any(listing.waiting for listing in self._listings() if listing is not None)

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of all listings and of the settings."""
        listings = ["-" if listing is None else listing.fingerprint() for listing in self._listings()]
        return hashlib.sha256("\n".join([*listings, self.settings]).encode()).hexdigest()[:32]

    def _listings(self) -> tuple[Listing | None, ...]:
        return self.photographs, self.depth, *self.holdout.values()


def survey(config: IngestConfig) -> SourceSurvey:
    """List everything the ingest depends on, as far as the driver does.

    Raises:
        ConfigError: a folder is missing, or there is no photograph in it.
    """
    try:
        photographs = _list(config.sources, Sorter(config.layout, config.domain, config.out), "photographs")
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
    settings = "\n".join([config.model_dump_json(exclude=_NOT_PRINTED), *map(_stamp, (*lists, *corpora))])
    return SourceSurvey(photographs, depth, held, settings)


def _list(sources: tuple[str, ...], sorter: Sorter, what: str) -> Listing:
    tables: list[pa.Table] = []
    containers: dict[str, tuple[SourceFile, Kind]] = {}
    left: Counter[str] = Counter()
    waiting: list[Prefix] = []
    seen: Counter[str] = Counter()
    room = ROWS
    for source in sources:
        listing = list_source(source, sorter, what, max(room, 0))
        tables.append(listing.files)
        containers |= {file.uri: (file, kind) for file, kind in listing.containers}
        left += listing.left
        waiting += listing.waiting
        seen[source] += listing.files.num_rows + len(listing.containers)
        room -= seen[source]
    files = first_rows(pa.concat_tables(tables), "uri")
    return Listing(files, list(containers.values()), sorter, left, tuple(waiting), seen=seen)


class _DepthSorter(Sorter):
    """In a folder of depth maps everything that can be one is."""

    suffixes = DEPTH_SUFFIXES

    def __init__(self, domain: Domain) -> None:
        super().__init__("plain", domain)

    def role(self, name: str) -> str | None:
        """Return ``depth`` or None."""
        return "depth" if PurePosixPath(name).suffix.lower() in DEPTH_SUFFIXES and not is_litter(name) else None


def _stamp(uri: str) -> str:
    """Return a mark of a file that is no photograph, such as a manifest or a list of ids: its size and time."""
    files, path = filesystem(uri)
    info = files.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise ConfigError(f"there is no file {uri}; expected a corpus made by `python -m pipelines.ingest`, or a list")
    return f"{uri} {info.size or 0} {info.mtime_ns or 0}"
