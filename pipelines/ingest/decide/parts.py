"""Tables that no process holds whole: cut into parts by hash, kept in files, and worked on a part at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.paths import child, filesystem, remove_folder, replacing
from pipelines.mapping import map_tables

ROWS = 1 << 17  # of a part: some hundred MB while it is worked on
Job = dict[str, Any]  # names and numbers, as JSON


@dataclass(frozen=True)
class Work:
    """The folder that holds an ingest's tables meanwhile, and into how many parts each is cut; ``alone``: without Ray,
    all of it in this process, a part at a time.
    """

    root: str
    parts: int = 1
    concurrency: int | None = None
    alone: bool = False

    def place(self, stage: str, number: int = 0) -> str:
        """Return the file of one source of a stage's table."""
        return child(self.root, f"{stage}/{number:05d}.arrow")

    def places(self, stage: str) -> list[str]:
        """Return the files of all sources of a stage's table, as many as parts."""
        return [self.place(stage, part) for part in range(self.parts)]

    def jobs(self, **stages: str) -> list[Job]:
        """Return a job for each part, with its number as ``part`` and the file of each of the named stages."""
        files = {name: self.places(stage) for name, stage in stages.items()}
        return [{"part": part} | {name: files[name][part] for name in files} for part in range(self.parts)]

    def run(self, function: Callable[..., Any], jobs: Iterable[Job], here: int = 1) -> list[Any]:
        """Call a function for each job, in tasks; results, which JSON can hold, in the order of the jobs. A single job,
        or as many as ``here`` says, is done here: a small corpus is decided on without a task.
        """
        waiting = list(jobs)
        if self.alone or len(waiting) <= here:
            return [function(**job) for job in waiting]
        tables = [pa.table({"number": [n], "job": [json.dumps(job)]}) for n, job in enumerate(waiting)]
        results: list[Any] = [None] * len(waiting)
        for table in map_tables(tables, partial(_call, function=function), self.concurrency):
            results[table["number"][0].as_py()] = json.loads(table["result"][0].as_py())
        return results

    def clear(self) -> None:
        """Delete all of it."""
        remove_folder(self.root)

    def clear_stage(self, stage: str) -> None:
        """Delete the files of a stage that is through."""
        remove_folder(child(self.root, stage))


def _call(table: pa.Table, function: Callable[..., Any]) -> pa.Table:
    """Runs in a task."""
    result = function(**json.loads(table["job"][0].as_py()))
    return pa.table({"number": table["number"], "result": [json.dumps(result)]})


def store(uri: str, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
    """Write tables into one file, where each can be read alone."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with replacing(uri) as stream, pa.ipc.new_file(stream, schema, options=options) as writer:
        for part in parts:
            writer.write_batch(pa.RecordBatch.from_arrays([c.combine_chunks() for c in part.columns], schema=schema))


def load(uri: str, number: int = 0, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one of the tables of a file, or some columns of it."""
    files, path = filesystem(uri)
    with files.open_input_file(path) as stream, pa.ipc.open_file(stream) as reader:
        table = pa.Table.from_batches([reader.get_batch(number)])
    return table if columns is None else table.select(columns)


def load_all(uri: str) -> pa.Table:
    """Read all tables of a file as one."""
    files, path = filesystem(uri)
    with files.open_input_file(path) as stream, pa.ipc.open_file(stream) as reader:
        return reader.read_all().combine_chunks()


def scatter(uri: str, table: pa.Table, targets: NDArray[Any], count: int) -> None:
    """Write a table cut by rows into ``count`` parts."""
    # Rows of a part end up side by side, in their old order; `bounds` are the places where the parts begin.
    order = np.argsort(targets, kind="stable")
    bounds = np.searchsorted(targets[order], np.arange(count + 1))
    ordered = table.take(pa.array(order)).combine_chunks()
    store(uri, table.schema, (ordered.slice(a, b - a) for a, b in pairwise(bounds.tolist())))


def gather(uris: Iterable[str], number: int) -> pa.Table:
    """Load one part of a table, from all the files that have some of it."""
    return pa.concat_tables([load(uri, number) for uri in uris]).combine_chunks()


def hashes_of(texts: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return a number for each text, the same in every process."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(b"".join(digests), np.uint64)


def by_text(texts: pa.ChunkedArray, count: int) -> NDArray[np.int64]:
    """Return the part of each row by the hash of a text: (rows,)."""
    return (hashes_of(texts) % np.uint64(count)).astype(np.int64) if count > 1 else np.zeros(len(texts), np.int64)


def by_content(examined: pa.Table, count: int) -> NDArray[np.int64]:
    """Return the part of the sheet that each row belongs to: equal files to the same one."""
    ids = examined["image_id"]
    return by_text(pc.if_else(pc.equal(ids, ""), examined["uri"], ids), count)
