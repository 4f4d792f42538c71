"""Photographs that must not get into a corpus: held-out ones, and those that another corpus has. No pixels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.config import ConfigError
from models.images import IMAGE_SUFFIXES
from models.paths import filesystem
from pipelines.corpus import EXHAUSTIVE, MANIFEST, WORDS, closest, container_kind, open_corpus, words_of
from pipelines.ingest.decide.parts import ROWS, Work, by_text, gather, load, load_all, scatter, store
from pipelines.ingest.decide.rows import accepted, banned

Reason = Literal["held_out", "other_corpus"]
BANNED = pa.schema(
    [
        ("image_id", pa.string()),  # "" where it is not known
        ("name", pa.string()),
        ("phash", pa.binary(32)),  # null where it is not known
    ]
)


@dataclass(frozen=True)
class Banned:
    """What must not get in: files of ``BANNED`` by part of the sheet, and how many hashes there are in them."""

    reason: Reason
    files: Sequence[str]
    hashes: int = 0


def holdout_kind(root: str) -> Literal["photographs", "corpus", "list"]:
    """Return what a held-out set is: a folder or file of photographs, a corpus, or a text file of image ids."""
    files, path = filesystem(root)
    if files.get_file_info(f"{path}/{MANIFEST}").type == pafs.FileType.File:
        return "corpus"
    is_file = files.get_file_info(path).type == pafs.FileType.File
    photographs = path.lower().endswith(tuple(IMAGE_SUFFIXES)) or container_kind(path) is not None
    return "list" if is_file and not photographs else "photographs"


def banned_by_corpus(work: Work, stage: str, root: str, reason: Reason) -> Banned:
    """Ban everything in a corpus; only ids, names and hashes are read.

    Raises:
        ConfigError: no corpus.
    """
    corpus = open_corpus(root)
    shards = corpus.files()
    tasks = min(len(shards), -(-corpus.count() // ROWS))
    jobs = [{"shards": shards[task::tasks], "out": work.place(stage, task)} for task in range(tasks)]
    work.run(partial(_of_shards, parts=work.parts), jobs)
    return Banned(reason, [work.place(stage, task) for task in range(tasks)], corpus.count())


def _of_shards(shards: Sequence[str], out: str, parts: int) -> None:
    tables = [BANNED.empty_table()]
    for uri in shards:
        files, path = filesystem(uri)
        table = pq.read_table(path, columns=["image_id", "uri", "phash"], filesystem=files)
        hashes = [bytes.fromhex(text).ljust(8 * WORDS, b"\0") for text in table["phash"].to_pylist()]
        tables.append(pa.table([table["image_id"], table["uri"], hashes], schema=BANNED))
    store_banned(out, pa.concat_tables(tables), parts)


def store_banned(out: str, table: pa.Table, parts: int) -> None:
    """Cut a table of ``BANNED`` as the sheet is."""
    scatter(out, table, by_text(table["image_id"], parts), parts)


def banned_by_list(work: Work, stage: str, root: str) -> Banned:
    """Ban the image ids of a text file, one a line: equal files only.

    Raises:
        ConfigError: a line that is no image id.
    """
    files, path = filesystem(root)
    with files.open_input_stream(path) as stream:
        lines = stream.read().decode(errors="replace").split("\n")
    found = sorted({line.strip() for line in lines if line.strip()})
    for line in found:
        if not re.fullmatch(r"[0-9a-f]{32}", line):
            raise ConfigError(f"{root} holds '{line[:60]}'; expected one image id (32 hexadecimal digits) a line")
    store_banned(work.place(stage), pa.table([found, found, pa.nulls(len(found))], schema=BANNED), work.parts)
    return Banned("held_out", [work.place(stage)])


def ban(work: Work, bans: Sequence[Banned], bits: int, photographs: int) -> None:
    """Take what is banned out of the sheet.

    Args:
        work: holds the sheet.
        bans: in the order in which they count.
        bits: within which a photograph looks like a banned one; -1: equal files only.
        photographs: that are accepted as yet; few of both are all compared.
    """
    for one in bans:
        every = photographs * one.hashes
        work.run(partial(_ban, reason=one.reason, files=one.files, bits=bits, every=every), work.jobs(sheet="sheet"))


def _ban(part: int, sheet: str, reason: str, files: Sequence[str], bits: int, every: int) -> None:
    table = load(sheet)
    rows = accepted(table)
    hashes = words_of(table["phash"].take(pa.array(rows)))
    names, best = np.full(len(rows), None, dtype=object), np.full(len(rows), bits + 1, np.int16)
    for uri in files if bits >= 0 and every else ():
        known = load_all(uri)
        known = known.filter(pc.is_valid(known["phash"]))
        index, far = closest(hashes, words_of(known["phash"]), bits, every <= EXHAUSTIVE)
        nearer = (index >= 0) & (far < best)
        best[nearer] = far[nearer]
        names[nearer] = np.array(known["name"].take(pa.array(index[nearer])).to_pylist(), dtype=object)
    known = gather(files, part) if files else BANNED.empty_table()
    store(sheet, table.schema, [banned(table, reason, rows, known, names, best)])
