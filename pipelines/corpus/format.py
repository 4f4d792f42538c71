"""The corpus: a folder of Parquet shards with a manifest. Reading side and schema; no Ray.

A shard holds photographs of one split only, and its name starts with it (``train-00000-….parquet``), so that a job
reads the files of its split and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs
from pydantic import Field, ValidationError, model_validator

from models.config import ConfigError, Settings
from models.paths import absolute, child, filesystem, read_file, replacing

Domain = Literal["hazy", "clear"]
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

CORPUS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("depth", pa.binary()),
        pa.field("pair_id", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("phash", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
MANIFEST = "manifest.json"
REJECTS = "rejects/rejects.jsonl"
DUPLICATES = "rejects/duplicates.jsonl"
DEPTH_REPORT = "rejects/depth.jsonl"
CATALOGUE = "catalogue.parquet"  # of earlier versions: all in one file
CATALOGUE_FOLDER = "catalogue"
CARD = "card.html"


@contextmanager
def parquet_file(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what is read before the end is all that is fetched."""
    files, path = filesystem(uri)
    with files.open_input_file(path) as stream:
        yield pq.ParquetFile(stream)


class Manifest(Settings):
    """What a finished corpus says about itself.

    Attributes:
        found: files found; each is accepted, rejected or a duplicate.
        splits: accepted photographs by split.
        files, row_groups: shards, and row groups by shard.
        stored_bytes: of all shards.
        reasons: rejects by reason.
        repeats: duplicates by kind: ``exact``, ``near``, ``other_corpus``.
        depth: photographs with a depth map, by shard.
        settings: what the shards were made with.
        deciding: what was turned down by: the same is asked of photographs that are added.
        examined: stands for how files were examined.
        sources: fingerprints of the ingests that the corpus was made from: the first, and those that added to it.
        left_out: files of other kinds that the last ingest passed over, by kind.
        catalogue: files of the catalogue, below the corpus; none: it is ``catalogue.parquet``.
        retired: shards of former manifests that are still there for whoever reads them, and when each was replaced, in
            seconds since 1970.
    """

    version: Literal[2] = 2
    domain: Domain
    found: int = Field(ge=0)
    accepted: int = Field(ge=0)
    rejected: int = Field(ge=0)
    duplicates: int = Field(ge=0)
    splits: dict[Split, int]
    files: tuple[str, ...]
    row_groups: dict[str, int]
    stored_bytes: int = Field(0, ge=0)
    reasons: dict[str, int] = Field(default_factory=dict)
    repeats: dict[str, int] = Field(default_factory=dict)
    depth: dict[str, int] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    deciding: dict[str, Any] = Field(default_factory=dict)
    examined: str = ""
    sources: tuple[str, ...] = ()
    left_out: dict[str, int] = Field(default_factory=dict)
    catalogue: tuple[str, ...] = ()
    retired: dict[str, float] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return a digest of the photographs: shards are named for their content, so other ones have other names."""
        return hashlib.sha256(
            json.dumps([self.files, self.row_groups, self.accepted], sort_keys=True).encode()
        ).hexdigest()[:12]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.accepted + self.rejected + self.duplicates != self.found:
            raise ValueError(
                f"accepted {self.accepted} + rejected {self.rejected} + duplicates {self.duplicates} "
                f"are not the {self.found} files found"
            )
        sums = {"splits": self.accepted, "reasons": self.rejected, "repeats": self.duplicates}
        for name, total in sums.items():
            if sum(getattr(self, name).values()) != total:
                raise ValueError(f"{name} {getattr(self, name)} do not add up to {total}")
        return self


@dataclass(frozen=True)
class Corpus:
    """A corpus to read: where it is, and its manifest."""

    uri: str
    manifest: Manifest

    def names(self, split: str | None = None) -> list[str]:
        """Return file names of the shards, of one split or of all."""
        return [name for name in self.manifest.files if split is None or name.startswith(f"{split}-")]

    def files(self, split: str | None = None) -> list[str]:
        """Return absolute paths or URIs of the shards, of one split or of all."""
        return [child(self.uri, name) for name in self.names(split)]

    def catalogue(self) -> list[str]:
        """Return absolute paths or URIs of the files of the catalogue."""
        return [child(self.uri, name) for name in self.manifest.catalogue or (CATALOGUE,)]

    def count(self, split: str | None = None) -> int:
        """Return how many photographs there are in one split or in all."""
        splits = self.manifest.splits
        return sum(count for name, count in splits.items() if split in (None, name))

    def row_groups(self, split: str | None = None) -> list[tuple[str, int]]:
        """Return every (file, row group): the smallest pieces that can be read alone."""
        counts = self.manifest.row_groups
        files = [(child(self.uri, name), counts[name]) for name in self.names(split)]
        return [(uri, group) for uri, count in files for group in range(count)]


def split_of(image_id: str, test: float = 0.2) -> Split:
    """Return the split of a photograph: a pure function of its content, the same in every corpus.

    Args:
        image_id: hexadecimal content hash.
        test: share of photographs that are held out; raising it only moves photographs from train to test.
    """
    return "test" if int(image_id[:8], 16) / 2**32 < test else "train"


def image_id_of(data: bytes) -> str:
    """Return the identity of a photograph: the first 32 hexadecimal digits of the SHA-256 of its file."""
    return hashlib.sha256(data).hexdigest()[:32]


def open_corpus(uri: str | os.PathLike[str]) -> Corpus:
    """Read a corpus's manifest.

    Args:
        uri: a local folder or a URI that pyarrow knows (``s3://``, ``gs://``, ``hdfs://``, ``file://``).

    Raises:
        ConfigError: nothing there, no (finished) corpus, or one of another version.
    """
    root = absolute(uri)
    files, path = filesystem(root)
    if files.get_file_info(path).type == pafs.FileType.NotFound:
        raise ConfigError(f"there is no folder {root}; make a corpus with `python -m pipelines.ingest`")
    if files.get_file_info(f"{path}/{MANIFEST}").type != pafs.FileType.File:
        raise ConfigError(
            f"{root} is no corpus: it has no {MANIFEST}; "
            "point to a corpus, or make one with `python -m pipelines.ingest` (an interrupted one goes on)"
        )
    try:
        with files.open_input_stream(f"{path}/{MANIFEST}") as stream:
            return Corpus(root, Manifest.model_validate(json.loads(stream.read())))
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as problem:
        name = child(root, MANIFEST)
        raise ConfigError(f"{name} is not a manifest of version 2; run the ingest again: {problem}") from problem


def require_corpus(uri: str | os.PathLike[str], domain: str) -> Corpus:
    """Open a corpus as :func:`open_corpus` does, and check its domain and that it holds photographs.

    Raises:
        ConfigError: no corpus, an empty one, or one of the other domain.
    """
    corpus = open_corpus(uri)
    if corpus.manifest.domain != domain:
        raise ConfigError(f"{corpus.uri} is a corpus of {corpus.manifest.domain} photographs; expected {domain} ones")
    if corpus.manifest.accepted == 0:
        raise ConfigError(f"{corpus.uri} is an empty corpus: {corpus.manifest.rejected} files were rejected, none kept")
    return corpus


class _Pin(Settings):
    """A corpus as a run found it."""

    uri: str
    manifest: Manifest


def pinned(place: str, corpus: Corpus) -> Corpus:
    """Return the corpus as it was when it was first pinned at ``place``, and pin it there now if nothing is there yet.

    A run reads one and the same corpus to its end, over interruptions too, whatever ingests make of it meanwhile.

    Raises:
        ConfigError: it was made anew since, and shards of then are gone; or the file at ``place`` is damaged.
    """
    text = read_file(place)
    if text is not None:
        try:
            pin = _Pin.model_validate_json(text)
        except ValidationError as problem:
            raise ConfigError(f"{place} is damaged: delete it, and the run takes the corpus as it is now") from problem
        if pin.uri == corpus.uri:
            return _all_there(Corpus(pin.uri, pin.manifest), corpus)
    with replacing(place, durable=True) as stream:
        stream.write(_Pin(uri=corpus.uri, manifest=corpus.manifest).model_dump_json(indent=2).encode() + b"\n")
    return corpus


def _all_there(former: Corpus, now: Corpus) -> Corpus:
    gone = sorted(set(former.manifest.files) - set(now.manifest.files) - set(now.manifest.retired))
    if gone:
        raise ConfigError(
            f"{now.uri} was made anew since this run began, and {len(gone)} of the {len(former.manifest.files)} shards "
            f"that it reads were deleted, such as {gone[0]}: train from the start, or into another --out"
        )
    return former
