"""Photographs that must not get into a corpus: held-out ones, and those that another corpus has. No Ray, no pixels."""

from __future__ import annotations

import re
from typing import Literal

import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.config import ConfigError
from models.images import IMAGE_SUFFIXES
from models.paths import filesystem
from pipelines.corpus import MANIFEST, WORDS, as_words, container_kind, open_corpus
from pipelines.ingest.decide import Banned

Reason = Literal["held_out", "other_corpus"]


def holdout_kind(root: str) -> Literal["photographs", "corpus", "list"]:
    """What a held-out set is: a folder or file of photographs, a corpus, or a text file of image ids."""
    files, path = filesystem(root)
    if files.get_file_info(f"{path}/{MANIFEST}").type == pafs.FileType.File:
        return "corpus"
    is_file = files.get_file_info(path).type == pafs.FileType.File
    photographs = path.lower().endswith(tuple(IMAGE_SUFFIXES)) or container_kind(path) is not None
    return "list" if is_file and not photographs else "photographs"


def banned_by_corpus(root: str, reason: Reason) -> Banned:
    """Everything in a corpus; only ids, names and hashes are read.

    Raises:
        ConfigError: no corpus.
    """
    ids: set[str] = set()
    hashes: list[bytes] = []
    names: list[str] = []
    for uri in open_corpus(root).files():
        files, path = filesystem(uri)
        table = pq.read_table(path, columns=["image_id", "uri", "phash"], filesystem=files)
        ids.update(table["image_id"].to_pylist())
        names += table["uri"].to_pylist()
        hashes += [bytes.fromhex(text).ljust(8 * WORDS, b"\0") for text in table["phash"].to_pylist()]
    return Banned(reason, ids, as_words(hashes), names)


def banned_by_list(root: str) -> Banned:
    """Image ids of a text file, one a line: equal files only.

    Raises:
        ConfigError: a line that is no image id.
    """
    files, path = filesystem(root)
    with files.open_input_stream(path) as stream:
        lines = stream.read().decode(errors="replace").split("\n")
    found = {line.strip() for line in lines if line.strip()}
    for line in found:
        if not re.fullmatch(r"[0-9a-f]{32}", line):
            raise ConfigError(f"{root} holds '{line[:60]}'; expected one image id (32 hexadecimal digits) a line")
    return Banned("held_out", found)
