"""Rows of an evaluation on disk, in parts as workers finish them, and the few pictures that are kept. No Ray."""

from __future__ import annotations

import csv
import heapq
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.config import ConfigError
from models.paths import child, filesystem, is_uri, names_in, remove_folder, require_writable, upload
from pipelines.evaluate.evaluator import HAZY, ROW_SCHEMA
from pipelines.evaluate.metrics import METRICS

Row = dict[str, Any]
Photograph = dict[str, Row]  # rows of one photograph by model

FOLDER = "rows"
SHEETS = ("contact_sheet.png", "pairs_sheet.png")
SUMMARY = "summary.json"
_PICTURES = ("thumbnail",)  # of every row, but never on disk


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a path to write a file at, which replaces ``path`` at the end: readers see the old file or the whole new
    one.

    Raises:
        ConfigError: it cannot be written, such as on a full disk.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as problem:
        free = shutil.disk_usage(path.parent).free >> 20 if path.parent.is_dir() else 0
        reason = os.strerror(problem.errno) if problem.errno else str(problem)
        raise ConfigError(
            f"cannot write {path}: {reason}; {free} MiB are free there: free some space and start it again"
        ) from problem
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def results_in(out: str) -> Iterator[Path]:
    """Yield a local folder for the results: ``out`` itself, or for a URI one that is uploaded at the end, in place of
    what an earlier evaluation left there.

    Raises:
        ConfigError: nothing can be written to the URI.
    """
    if not is_uri(out):
        yield Path(out)
        return
    require_writable(out)
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
        try:
            remove_folder(child(out, FOLDER))
            for name in set(SHEETS) & set(names_in(out)):
                files, path = filesystem(child(out, name))
                files.delete_file(path)
            upload(Path(made), out, SUMMARY)
        except OSError as problem:
            raise ConfigError(f"cannot write to {out}: {problem}") from problem


class Parts:
    """Parquet files of rows, one for each batch of photographs.

    Args:
        out: folder of the evaluation; parts of an earlier one are removed.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out / FOLDER
        for old in (*self.files(), *self.folder.glob(".part-*")):
            old.unlink()

    def write(self, rows: pa.Table) -> None:
        """Write the rows of one batch.

        Raises:
            ConfigError: the disk takes no more.
        """
        block = rows["block"][0].as_py()
        with writing(self.folder / f"part-{block:06d}.parquet") as path:
            pq.write_table(rows.drop_columns(list(_PICTURES)), path, compression="zstd")

    def files(self) -> list[Path]:
        """Return the files in the order of the batches."""
        return sorted(self.folder.glob("part-*.parquet"))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the tables part by part, in the order of the batches, whatever the order in which they were done."""
        for path in self.files():
            yield pq.read_table(path, columns=list(columns) if columns else None)

    def rows(self) -> Iterator[Row]:
        """Yield the rows one by one, without detections."""
        for table in self.tables([name for name in ROW_SCHEMA.names if name not in ("boxes", *_PICTURES)]):
            yield from table.to_pylist()

    def photographs(self) -> Iterator[tuple[str, str, Photograph]]:
        """Yield group, image id and the rows by model, of every photograph that was measured."""
        measured = (row for row in self.rows() if not row["error"])
        for key, rows in groupby(measured, key=itemgetter("group", "image_id")):
            yield (*key, {row["model"]: row for row in rows})

    def write_csv(self, path: Path, metrics: Sequence[str]) -> Path:
        """Write one line per photograph and model, in full precision; an empty cell means not measured."""
        columns = ("group", "image_id", "name", "model", "width", "height", *metrics, "seconds", "error", "note")
        with writing(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows())
        return path


class Gallery:
    """Photographs whose pictures are kept: where the subject gained least by the headline, and some at random.

    What it holds does not grow with the photographs it is shown. The same are kept in whatever order they come.

    Args:
        headline: of the table.
        subject: the model that the worst photographs are those of.
        worst, random: how many of each.
        first: the row that gains are measured from.
    """

    def __init__(self, headline: str, subject: str, worst: int, random: int, first: str = HAZY) -> None:
        self.headline, self.subject, self.first = headline, subject, first
        self._sizes = {"worst": worst, "random": random}
        self._heaps: dict[str, list[tuple[float, str, Photograph]]] = {"worst": [], "random": []}
        self.shown = 0

    def add(self, image_id: str, rows: Photograph) -> None:
        """Show it a photograph, its rows with thumbnails."""
        self.shown += 1
        gain = self.gain(rows)
        self._offer("random", -int(image_id, 16), image_id, rows)
        if gain is not None:
            self._offer("worst", -gain, image_id, rows)

    def gain(self, rows: Photograph) -> float | None:
        """Return how much better the subject is than the first row; None where one of them was not measured."""
        before, after = (rows.get(model, {}).get(self.headline) for model in (self.first, self.subject))
        if before is None or after is None or not math.isfinite(before + after):
            return None
        return float(METRICS[self.headline].gain(after, before))

    def _offer(self, name: str, priority: float, image_id: str, rows: Photograph) -> None:
        heap = self._heaps[name]
        heapq.heappush(heap, (priority, image_id, rows))
        if len(heap) > self._sizes[name]:
            heapq.heappop(heap)

    def worst(self) -> list[Photograph]:
        """Return the worst photographs, the worst first."""
        return [rows for _, _, rows in sorted(self._heaps["worst"], key=lambda entry: (-entry[0], entry[1]))]

    def random(self) -> list[Photograph]:
        """Return photographs at random, in the order of their ids."""
        return [rows for _, _, rows in sorted(self._heaps["random"], key=lambda entry: entry[1])]


def by_photograph(table: pa.Table) -> list[tuple[Mapping[str, Any], Photograph]]:
    """Return the rows of a batch by photograph: its first row, and those that were measured, by model."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in table.to_pylist():
        found.setdefault((row["group"], row["image_id"]), []).append(row)
    return [(rows[0], {row["model"]: row for row in rows if not row["error"]}) for rows in found.values()]
