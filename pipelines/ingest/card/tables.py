"""The catalogue of a corpus as a card reads it: table after table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from models.config import ConfigError
from models.paths import child, filesystem, read_file
from pipelines.corpus import DEPTH_REPORT, Corpus, parquet_file
from pipelines.ingest.card.data import COLUMNS


@dataclass(frozen=True)
class CatalogueTables:
    """The files of a catalogue; each time they are gone through, one row group after another is read."""

    files: list[str]

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield tables of ``COLUMNS``."""
        for uri in self.files:
            with parquet_file(uri) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=list(COLUMNS)).select(COLUMNS)


def read_catalogue(corpus: Corpus) -> CatalogueTables:
    """Open the columns of a corpus's catalogue that a card needs.

    Raises:
        ConfigError: there is none, it is damaged, or it belongs to another state of the corpus.
    """
    remedy = "run `python -m pipelines.ingest` with the corpus's sources again"
    found = 0
    for uri in corpus.catalogue():
        files, path = filesystem(uri)
        if files.get_file_info(path).type != pafs.FileType.File:
            raise ConfigError(f"there is no {uri}, which a card is made from; {remedy}")
        try:
            with parquet_file(uri) as file:
                metadata = file.metadata
        except pa.ArrowException as problem:
            raise ConfigError(f"{uri} is damaged ({problem}); {remedy}") from problem
        missing = [column for column in COLUMNS if column not in metadata.schema.to_arrow_schema().names]
        if missing:
            raise ConfigError(f"{uri} has no columns {', '.join(missing)}; {remedy}")
        found += metadata.num_rows
    if found != corpus.manifest.found:
        raise ConfigError(f"{uri} has {found} files, but {corpus.manifest.found} were found by the manifest; {remedy}")
    return CatalogueTables(corpus.catalogue())


def read_suspicious(root: str) -> list[dict[str, Any]]:
    """Return what ``rejects/depth.jsonl`` of a corpus says; nothing when there is no such file."""
    lines = read_file(child(root, DEPTH_REPORT)) or b""
    return [json.loads(line) for line in lines.decode().splitlines() if line.strip()]
