"""Snapshots of the pool: Parquet files and a manifest, on anything `pyarrow.fs` can write.

The manifest is written last and moved into place, so a snapshot is there whole or not at all; one that is taken over
an older one replaces it in that moment. A snapshot of several shards has one part per shard.

A snapshot may go on with files of earlier ones beside it (:mod:`pseudolabel.pool.increments`): its manifest names all
that it consists of, in the order in which they were written. A label in a later file replaces one in an earlier file.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from models.config import PoolError, Settings
from models.paths import absolute, child, filesystem, is_local, make_folder, persist, replacing
from pseudolabel.pool.entries import Record
from pseudolabel.pool.history import History, Moment
from pseudolabel.pool.stats import PoolStats
from pseudolabel.pool.store import is_store

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FILE = re.compile(r"labels-.+-\d{5}\.parquet")  # its name, as `write_part` makes it
ROWS_PER_GROUP = 256
GROUPS_PER_FILE = 64
VERSIONS = 1, 2  # the second goes on with files of others


@functools.cache
def schema() -> Any:
    """Return the schema of the files; pyarrow is imported only here, so that a pool works where it is not installed."""
    import pyarrow as pa

    return pa.schema(
        {"image_id": pa.string(), "clearness": pa.float64(), "quality": pa.float64(), "teacher_step": pa.int64()}
        | dict.fromkeys(("label", "transmission", "trust"), pa.binary())
        | {"trust_shape": pa.list_(pa.int32(), 2)}
    )


class SnapshotError(PoolError):
    """A snapshot that is missing, incomplete, or cannot be written."""


class File(Settings):
    """One Parquet file of a part, in the snapshot's folder, or as `<snapshot>/<file>` in that of one beside it."""

    name: str
    rows: int
    bytes: int


class Part(Settings):
    """What one shard wrote; `run` is the id of its run, empty where it has none."""

    counters: PoolStats
    files: tuple[File, ...]
    history: History = History()
    run: str = ""

    def past(self, taken: float) -> History:
        """Return its history; of a part that was written before there were histories, one moment at `taken` with all
        its counts.
        """
        c = self.counters
        if self.history.moments or not c.offered:
            return self.history
        sums = c.clearness_sum, c.quality_sum, c.step_sum // max(c.size, 1)
        return History(moments=(Moment(int(taken), c.offered, c.accepted, c.replaced, c.size, *sums),))


class Manifest(Settings):
    """A whole snapshot: `taken` in seconds since 1970, `step` of the training checkpoint that it belongs to, if any."""

    version: int = 1
    taken: float = 0.0
    step: int | None = None
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: tuple[Part, ...], taken: float, step: int | None) -> Manifest:
        """Make a manifest of the version that such parts need."""
        shares = any("/" in file.name for part in parts for file in part.files)
        # False is the first, True the second.
        return cls(version=VERSIONS[shares], parts=parts, taken=taken, step=step)

    @property
    def run(self) -> str:
        """Return the id of the run that took it; empty where it has none, as with those of earlier versions."""
        return next((part.run for part in self.parts if part.run), "")

    def may_be_of(self, run: str) -> bool:
        """Return whether it is a snapshot of `run`, as far as is known."""
        return not run or not self.run or self.run == run


def write_part(uri: str | Path, name: str, records: Iterator[Record]) -> Iterator[File]:
    """Stream one shard's records to files called `labels-<name>-<n>.parquet`; memory holds one row group at a time.

    Yields:
        each file when it is there.

    Raises:
        SnapshotError: the place cannot be written (disk full, no permission); what was begun is removed. Or it is the
            folder of a store.
    """
    files_at, folder = filesystem(absolute(uri))
    if is_local(files_at) and is_store(Path(folder)):
        raise SnapshotError(f"cannot write the snapshot {uri}: a label pool has its store there; name another folder")
    # Lists of records, until one is empty.
    groups = iter(lambda: list(islice(records, ROWS_PER_GROUP)), [])
    files: list[File] = []
    path = folder
    try:
        make_folder(files_at, folder)
        for number, first in enumerate(groups):
            path = f"{folder}/labels-{name}-{number:05d}.parquet"
            # A file takes its further groups from the same iterator, as it writes them.
            rows = _write_file(files_at, path, chain([first], islice(groups, GROUPS_PER_FILE - 1)))
            files.append(File(name=path.rpartition("/")[2], rows=rows, bytes=files_at.get_file_info(path).size))
            yield files[-1]
    except OSError as problem:
        discard(files_at, [path, *(f"{folder}/{file.name}" for file in files)])
        raise SnapshotError(f"cannot write the snapshot {uri}: {problem}") from problem


def _write_file(files_at: Any, path: str, groups: Iterable[list[Record]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    # Uncompressed: what is in it is compressed already.
    with files_at.open_output_stream(path) as sink, pq.ParquetWriter(sink, schema(), compression="none") as writer:
        for group in groups:
            columns = {name: [getattr(record, name) for record in group] for name in schema().names}
            writer.write_table(pa.table(columns, schema=schema()))
            rows += len(group)
    if is_local(files_at):
        # Before the manifest names it.
        persist(path)
    return rows


def discard(files_at: Any, paths: list[str]) -> None:
    """Delete files, those of them that are there."""
    from pyarrow import fs as pafs

    for path in paths:
        if files_at.get_file_info(path).type == pafs.FileType.File:
            files_at.delete_file(path)


def write_manifest(uri: str | Path, manifest: Manifest) -> None:
    """Complete a snapshot, and remove the files of the one that was there before, but for those that this one or
    another beside it goes on with.

    Raises:
        SnapshotError: the place cannot be written.
    """
    from pyarrow import fs as pafs

    files_at, folder = filesystem(absolute(uri))
    try:
        with replacing(child(absolute(uri), MANIFEST), durable=True) as stream:
            stream.write(manifest.model_dump_json(indent=1).encode())
    except OSError as problem:
        raise SnapshotError(f"cannot write the snapshot {uri}: {problem}") from problem
    kept = {file.name for part in manifest.parts for file in part.files}
    names = [info.base_name for info in files_at.get_file_info(pafs.FileSelector(folder))]
    old = [name for name in names if FILE.fullmatch(name) and name not in kept]
    if old:  # rarely, as neighbors are many
        with suppress(SnapshotError):  # nobody knows which files one needs that cannot be read
            used = used_beside(files_at, folder)
            discard(files_at, [f"{folder}/{name}" for name in old if _as_beside(folder, name) not in used])


def used_beside(files_at: Any, folder: str) -> set[str]:
    """Return the full names of the files that a snapshot and those beside it consist of.

    Raises:
        SnapshotError: one of them cannot be read.
    """
    from pyarrow import fs as pafs

    beside = []
    for info in files_at.get_file_info(pafs.FileSelector(folder.rpartition("/")[0] or "/")):
        with suppress(UnicodeDecodeError):  # no name of ours
            beside.append(info.path)
    found = files_at.get_file_info([f"{path}/{MANIFEST}" for path in beside])
    whole = [path for path, info in zip(beside, found, strict=True) if info.type == pafs.FileType.File]
    return used_by(files_at, whole)


def used_by(files_at: Any, folders: Iterable[str]) -> set[str]:
    """Return the full names of the files that snapshots consist of, whose folders are given as paths.

    Raises:
        SnapshotError: one of them cannot be read.
    """
    return {
        _as_beside(folder, file.name)
        for folder in folders
        for part in _manifest(files_at, folder, folder).parts
        for file in part.files
    }


def read_manifest(uri: str | Path, step: int | None = None) -> Manifest:
    """Read the manifest of a snapshot whose files are all there, in the sizes that were written.

    Args:
        uri: folder of the snapshot.
        step: of the training checkpoint that it must belong to; None takes any.

    Raises:
        SnapshotError: no snapshot, one that was never completed or lacks something, or one of another step.
    """
    from pyarrow import fs as pafs

    files_at, folder = filesystem(absolute(uri))
    manifest = _manifest(files_at, folder, uri)
    if step is not None and manifest.step != step:
        raise SnapshotError(
            f"the snapshot {uri} belongs to the checkpoint of step {manifest.step}, not {step}: "
            "give the snapshot that was taken with this checkpoint"
        )
    files = [file for part in manifest.parts for file in part.files]
    # One question about all files, as object storage answers slowly.
    for file, found in zip(files, files_at.get_file_info([path_of(folder, file.name) for file in files]), strict=True):
        if found.type != pafs.FileType.File or found.size != file.bytes:
            raise SnapshotError(f"the snapshot {uri} is incomplete: {file.name} is missing or has another size")
    return manifest


def path_of(folder: str, name: str) -> str:
    """Return where a file of a snapshot is, whose folder is given as a path on its file system."""
    return f"{folder.rpartition('/')[0] if '/' in name else folder}/{name}"


def full_name(uri: str | Path, name: str) -> str:
    """Return the name of a snapshot's file as other snapshots beside it call it: `<snapshot>/<file>`."""
    return _as_beside(filesystem(absolute(uri))[1], name)


def _as_beside(folder: str, name: str) -> str:
    """:func:`full_name` of a file of the snapshot whose folder is given as a path."""
    return name if "/" in name else f"{folder.rpartition('/')[2]}/{name}"


def _manifest(files_at: Any, folder: str, uri: str | Path) -> Manifest:
    """The manifest in a folder on a file system, which errors call `uri`."""
    try:
        with files_at.open_input_stream(f"{folder}/{MANIFEST}") as source:
            manifest = Manifest.model_validate_json(source.read())
    except FileNotFoundError:
        raise SnapshotError(f"no complete snapshot at {uri}: it has no {MANIFEST}, which is written last") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
        raise SnapshotError(f"{uri} is no snapshot: its {MANIFEST} is not one of a label pool ({reason})") from problem
    except OSError as problem:
        raise SnapshotError(f"cannot read the snapshot {uri}: {problem}") from problem
    if manifest.version not in VERSIONS:
        raise SnapshotError(
            f"the snapshot {uri} has version {manifest.version}; this program reads {' and '.join(map(str, VERSIONS))}"
        )
    return manifest


def latest_snapshot(folder: str | Path, run: str = "") -> str | None:
    """Find the newest complete snapshot directly below `folder`, None when none was ever taken there.

    Args:
        folder: path or URI.
        run: id of the run; snapshots of other runs are passed over.

    Raises:
        SnapshotError: there are snapshots, and not one of them can be read.
    """
    from pyarrow import fs as pafs

    files_at, path = filesystem(absolute(folder))
    try:
        found = files_at.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    except OSError as problem:
        raise SnapshotError(f"cannot look for snapshots in {folder}: {problem}") from problem
    taken, broken = [], []
    for name in (info.base_name for info in found if info.type == pafs.FileType.Directory):
        if files_at.get_file_info(f"{path}/{name}/{MANIFEST}").type == pafs.FileType.NotFound:
            continue  # one under way, or given up
        uri = child(str(folder), name)
        try:
            manifest = read_manifest(uri)
            if manifest.may_be_of(run):
                taken.append((manifest.taken, uri))
        except SnapshotError as problem:
            broken.append(str(problem))
            log.warning("passed over: %s", problem)
    if broken and not taken:
        raise SnapshotError(f"no snapshot in {folder} can be read; {broken[0]}")
    return max(taken)[1] if taken else None


def read_part(uri: str | Path, part: Part) -> Iterator[tuple[str, list[Record]]]:
    """Yield records of one part, a row group's worth at a time, with the full name of their file.

    Raises:
        SnapshotError: a file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files_at, folder = filesystem(absolute(uri))
    for file in part.files:
        try:
            with files_at.open_input_file(path_of(folder, file.name)) as source:
                for batch in pq.ParquetFile(source).iter_batches(batch_size=ROWS_PER_GROUP):
                    yield full_name(uri, file.name), [record_of(row) for row in batch.to_pylist()]
        except (OSError, pa.ArrowException, KeyError) as problem:
            raise SnapshotError(f"cannot read {file.name} of the snapshot {uri}: {problem}") from problem


def record_of(row: dict[str, Any]) -> Record:
    """Return a row of a snapshot's file as a record."""
    return Record(**{**row, "trust_shape": cast("tuple[int, int]", tuple(row["trust_shape"]))})
