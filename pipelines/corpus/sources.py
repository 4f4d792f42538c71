"""Where photographs come from: files, zip and tar archives, Parquet and Arrow files. One way to name a place in them
and to read it, on any file system that pyarrow knows. No Ray, no pixels.
"""

from __future__ import annotations

import functools
import itertools
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from models.config import ConfigError
from models.paths import filesystem
from pipelines.corpus.listing import is_raw, local_path

Kind = Literal["file", "zip", "tar", "stream", "parquet", "arrow", "broken"]
CONTAINERS: dict[str, Kind] = {
    ".zip": "zip", ".tar": "tar", ".parquet": "parquet", ".arrow": "arrow",
    ".tar.gz": "stream", ".tgz": "stream", ".tar.bz2": "stream", ".tbz2": "stream", ".tar.xz": "stream",
    ".txz": "stream",
}  # fmt: skip
SEQUENTIAL = ("stream", "parquet", "arrow")  # what lies side by side is cheap to read together, and dear one by one
# What the readers of containers raise on damaged or encrypted ones, beside OSError.
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, pa.ArrowException, zlib.error, lzma.LZMAError, struct.error, EOFError,
    RuntimeError, NotImplementedError, IndexError, ValueError,
)  # fmt: skip
_IMAGE_COLUMNS = ("image", "img", "photo", "jpg", "jpeg", "png", "webp", "bytes", "content", "data")


class Unreadable(OSError):  # noqa: N818 - named for what it says of an entry
    """An entry of a container that is there and cannot be read."""


class Missing(Unreadable):
    """A cell of a table that is null."""


@dataclass(frozen=True)
class Location:
    """Where bytes are: a whole file, or an entry of a container.

    Attributes:
        container: path or URI of the file to open.
        kind: what it is, and after a colon the column of a Parquet or Arrow file or the suffix of an archive's
            member, where
            that matters: ``parquet:image``, ``tar:.npy``.
        position: byte offset in a tar archive, else the number of the member or row; of no meaning for a whole file.
        length: bytes of the entry, as far as they are known (0 when not).
    """

    container: str
    kind: str = "file"
    position: int = 0
    length: int = 0

    def __str__(self) -> str:
        return f"{self.kind}|{self.position}|{self.length}|{self.container}"

    @classmethod
    def of(cls, text: str) -> Location:
        """Parse a location from its ``str``."""
        kind, position, length, container = text.split("|", 3)
        return cls(container, kind, int(position), int(length))

    @property
    def base(self) -> str:
        """Return the kind without its part from the colon on."""
        return self.kind.partition(":")[0]

    @property
    def label(self) -> str:
        """Return a name for messages that ends with the suffix of the entry; of a table's cell ``.png``."""
        if self.base == "file":
            return self.container
        extra = self.kind.partition(":")[2]
        return f"{self.container}@{self.position}{extra if extra.startswith('.') else '.png'}"

    @property
    def sequential(self) -> bool:
        """Return whether neighbors should be read together."""
        return self.base in SEQUENTIAL


@dataclass(frozen=True)
class Member:
    """An entry of a container: its name inside, and where it is."""

    name: str
    place: Location
    columns: tuple[str, ...] = ()  # of a row: the other columns that hold bytes


def container_kind(path: str) -> Kind | None:
    """Return the kind of container that a file name stands for, or None."""
    lower = path.lower()
    return next((kind for suffix, kind in CONTAINERS.items() if lower.endswith(suffix)), None)


def read_place(place: Location) -> bytes:
    """Read the bytes of one entry; :func:`read_places` is far cheaper for many of a sequential container.

    Raises:
        OSError: gone or unreadable.
    """
    found = next(iter(read_places([place])))[1]
    if isinstance(found, OSError):
        raise found
    return found


def read_places(places: Sequence[Location]) -> Iterator[tuple[int, bytes | OSError]]:
    """Read many entries; each container is passed through once when equal containers follow each other.

    Yields:
        The index in ``places`` and its bytes, or the error that reading it met. Entries of one sequential container
        come in the order of their positions.
    """
    runs = itertools.groupby(range(len(places)), key=lambda i: (places[i].container, places[i].kind))
    for (container, kind), indices in runs:
        run = list(indices)
        base, _, column = kind.partition(":")
        if base == "stream":
            yield from _from_stream(container, {places[i].position: i for i in run})
        elif base in ("parquet", "arrow"):
            yield from _from_rows(container, base, column, {places[i].position: i for i in run})
        else:
            for i in run:
                yield i, _one(places[i])


def _one(place: Location) -> bytes | OSError:
    if place.base == "broken":
        problem = place.kind.partition(":")[2]
        return Unreadable(problem or f"{place.container} is damaged: nothing in it can be listed")
    try:
        if place.base == "zip":
            archive = _zip(place.container, _state(place.container))
            return archive.read(archive.infolist()[place.position])
        if place.base == "tar":
            with _open(place.container) as stream:
                return bytes(stream.read_at(place.length, place.position))
        with _open(place.container, in_order=True) as stream:
            return bytes(stream.read())
    except OSError as problem:
        return problem
    except _DAMAGE as problem:
        return Unreadable(f"cannot read from {place.container}: {problem}")


def _open(container: str, *, in_order: bool = False) -> Any:
    """Open a file for reading, at any place unless ``in_order``; also one whose name is not UTF-8."""
    if is_raw(container):
        return pa.OSFile(os.fsencode(local_path(container)), "rb")
    files, path = filesystem(container)
    return files.open_input_stream(path, compression=None) if in_order else files.open_input_file(path)


@functools.lru_cache(maxsize=4)
def _zip(container: str, state: tuple[int, ...]) -> zipfile.ZipFile:  # noqa: ARG001 - another state, another archive
    """An archive with its directory read, kept open by each worker process."""
    return zipfile.ZipFile(_open(container))


def _state(container: str) -> tuple[int, ...]:
    """Return what changes when a local file is replaced or written anew; of a URI nothing is asked, which takes time.

    Raises:
        OSError: it is gone.
    """
    if "://" in container:
        return ()
    status = local_path(container).stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _from_stream(container: str, wanted: dict[int, int]) -> Iterator[tuple[int, bytes | OSError]]:
    """Members of a compressed tar archive, by number."""
    left = dict(wanted)
    problem: Exception = Unreadable(f"{container} has fewer members than before")
    try:
        for number, (member, stream) in enumerate(_tar_members(container, "r|*")):
            if number in left:
                data = stream.extractfile(member)
                yield left.pop(number), data.read() if data is not None else Unreadable(f"{member.name} is no file")
            if not left:
                return
    except (OSError, *_DAMAGE) as caught:
        problem = caught
    for index in left.values():
        yield index, problem if isinstance(problem, OSError) else Unreadable(f"cannot read {container}: {problem}")


def _from_rows(container: str, base: str, column: str, wanted: dict[int, int]) -> Iterator[tuple[int, bytes | OSError]]:
    left = dict(wanted)
    try:
        for start, rows in _row_blocks(container, base, column, sorted(wanted)):
            for row in [row for row in left if start <= row < start + len(rows)]:
                yield left.pop(row), _cell(rows[row - start].as_py(), container, row)
    except (OSError, *_DAMAGE) as problem:
        for index in left.values():
            yield index, problem if isinstance(problem, OSError) else Unreadable(f"cannot read {container}: {problem}")
        return
    for row, index in left.items():
        yield index, Unreadable(f"{container} has no row {row} any more")


def _row_blocks(container: str, base: str, column: str, rows: list[int]) -> Iterator[tuple[int, Any]]:
    """(first row, column) of the row groups or record batches that hold any of ``rows``, which are sorted."""
    start = 0
    if base == "arrow":
        for batch in _record_batches(container):
            if rows and any(start <= row < start + batch.num_rows for row in rows):
                yield start, batch.column(column)
            start += batch.num_rows
        return
    with _parquet(container) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if any(start <= row < start + count for row in rows):
                for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[column]):
                    yield start, batch.column(0)
                    start += batch.num_rows
            else:
                start += count


def _cell(value: Any, container: str, row: int) -> bytes | OSError:
    """Bytes of a cell: binary, or the struct of bytes and path that Hugging Face datasets write."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        path = value.get("path") if isinstance(value, dict) else None
        return Missing(f"row {row} of {container} holds no bytes" + (f", only the path {path}" if path else ""))
    return bytes(data)


def list_members(container: str, kind: Kind) -> list[Member]:
    """List the entries of a container: every file of an archive, every row of a table.

    Raises:
        ConfigError: a table without a column of images.
        OSError: missing or damaged.
    """
    try:
        if kind == "zip":
            infos = _zip(container, _state(container)).infolist()
            return [
                Member(info.filename, Location(container, kind, number, info.file_size))
                for number, info in enumerate(infos)
                if not info.is_dir()
            ]
        if kind in ("tar", "stream"):
            stream = kind == "stream"
            members = enumerate(_tar_members(container, "r|*" if stream else "r:"))
            return [
                Member(member.name, Location(container, kind, number if stream else member.offset_data, member.size))
                for number, (member, _) in members
                if member.isreg()
            ]
        return _rows(container, kind)
    except ConfigError:
        raise
    except _DAMAGE as problem:
        raise Unreadable(f"{container} is damaged: {problem}") from problem


def _tar_members(container: str, mode: Any) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    with _open(container, in_order=mode == "r|*") as stream, tarfile.open(fileobj=stream, mode=mode) as archive:
        while (member := archive.next()) is not None:
            yield member, archive
            archive.members = []  # type: ignore[attr-defined]  # else it keeps every header it has seen


def _rows(container: str, kind: Kind) -> list[Member]:
    schema, count = _table(container, kind)
    column = image_column(schema)
    if column is None:
        raise ConfigError(
            f"{container} has no column of images; expected binary, or a struct with 'bytes', in one of its columns "
            f"{', '.join(schema.names)}"
        )
    others = tuple(name for name in schema.names if name != column and _holds_bytes(schema.field(name).type))
    return [Member(str(row), Location(container, f"{kind}:{column}", row), others) for row in range(count)]


def _table(container: str, kind: Kind) -> tuple[pa.Schema, int]:
    if kind == "parquet":
        with _parquet(container) as file:
            return file.schema_arrow, file.metadata.num_rows
    batches = _record_batches(container)
    first = next(batches, None)
    if first is None:
        raise Unreadable(f"{container} holds no rows")
    return first.schema, first.num_rows + sum(batch.num_rows for batch in batches)


def image_column(schema: pa.Schema) -> str | None:
    """Return the column that holds the photographs: a usual name, or else the only one that can; None without
    either.
    """
    able = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    named = [name for name in _IMAGE_COLUMNS if name in able]
    return named[0] if named else able[0] if len(able) == 1 else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _parquet(container: str) -> pq.ParquetFile:
    return pq.ParquetFile(_open(container))


def _record_batches(container: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file: the streaming format, which Hugging Face datasets are saved in, or the file
    format.
    """
    local = "://" not in container and not is_raw(container)
    with pa.memory_map(container) if local else _open(container) as stream:
        if stream.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(stream)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            return
        stream.seek(0)
        yield from pa.ipc.open_stream(stream)
