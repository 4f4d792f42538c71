"""What an ingest starts from: listing files, globs and containers, telling photographs from depth maps. No Ray, no
pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs

from models.config import ConfigError
from models.images import IMAGE_SUFFIXES
from models.paths import child, filesystem, is_local
from pipelines.corpus import (
    CATALOGUE,
    CATALOGUE_FOLDER,
    CONTAINERS,
    Domain,
    Kind,
    Location,
    container_kind,
    is_litter,
    kind_of,
    left_out_text,
    list_members,
    look_into,
    portable,
    printable,
    split_glob,
)
from pipelines.ingest.depth import DEPTH_SUFFIXES
from pipelines.ingest.layouts import LAYOUTS, LayoutName

LISTED = pa.schema(
    [
        ("uri", pa.string()),  # unique, for people
        ("key", pa.string()),  # path below the source without suffix
        ("size", pa.int64()),
        ("mtime", pa.int64()),  # of the file or its container, ns
        ("place", pa.string()),  # where to read it
        ("role", pa.string()),  # photograph, depth or left out
        ("depth", pa.string()),  # place of a map that lies beside it, or null
    ]
)
LEFT_OUT = "left out"
SHARD = re.compile(r"(train|test)-\d{5}-[0-9a-f]{8}\.parquet")
_SIDE_DEPTH = re.compile(r"(.+)\.depth\.(png|tiff?|npy|npz|mat)$", re.IGNORECASE)  # as in a WebDataset: key.depth.png
_DEPTH_COLUMN = "depth"
_CATALOGUE = re.compile(rf"(^|/)({re.escape(CATALOGUE)}|{CATALOGUE_FOLDER}/\d{{5,}}-[0-9a-f]{{8}}\.parquet)$")


@dataclass(frozen=True)
class SourceFile:
    """A file below a source, or a folder that cannot be listed.

    Attributes:
        uri: for people.
        name: its path from the source.
        size, mtime: bytes, and ns.
        path: to open it by, where that is not ``uri``.
        problem: why it cannot be read.
        is_folder: whether it is a folder.
    """

    uri: str
    name: str
    size: int
    mtime: int
    path: str = ""
    problem: str = ""
    is_folder: bool = False

    @property
    def container(self) -> str:
        """Return the container to open."""
        return self.path or self.uri


class Sorter:
    """Tells what a path is: a photograph of the wanted domain, a depth map, or nothing of interest."""

    suffixes = IMAGE_SUFFIXES  # of what is looked for

    def __init__(self, layout: LayoutName, domain: Domain, out: str | None = None) -> None:
        """Take ``out``, the folder of the corpus, whose shards are no source where it lies in one."""
        self.out = None if out is None else out.rstrip("/")
        self.photographs = LAYOUTS[layout].photographs(domain, layout)
        depth = LAYOUTS[layout].depth
        self.depth = None if depth is None else re.compile(depth, re.IGNORECASE)

    def is_own(self, uri: str) -> bool:
        """Return whether a file is a shard of the corpus that is made, or was one."""
        folder, _, name = uri.rpartition("/")
        return folder == self.out and SHARD.fullmatch(name) is not None

    def role(self, name: str) -> str | None:
        """Return ``photograph``, ``depth`` or None; hidden files and those of operating systems have no role."""
        if is_litter(name):
            return None
        suffix = PurePosixPath(name).suffix.lower()
        if _SIDE_DEPTH.match(name) or (self.depth and self.depth.search(name) and suffix in DEPTH_SUFFIXES):
            return "depth"
        return "photograph" if suffix in IMAGE_SUFFIXES and self.photographs.search(name) else None


class Prefix(NamedTuple):
    """A folder whose files are still to be listed: its path from ``root``, which is where ``source`` begins, and what
    the paths of files have to look like (``pattern``; "" for any).
    """

    source: str
    root: str
    folder: str = ""
    pattern: str = ""


class Found:
    """What files are: rows of :data:`LISTED`, containers, still closed, and how many of which kinds are left out. What
    cannot be read or listed counts as one photograph, which says so.
    """

    def __init__(self, sorter: Sorter) -> None:
        self.sorter = sorter
        self.rows: list[dict[str, Any]] = []
        self.containers: list[tuple[SourceFile, Kind]] = []
        self.left: Counter[str] = Counter()

    def add(self, file: SourceFile) -> None:
        """Take a file in."""
        if _CATALOGUE.search(file.name) or self.sorter.is_own(file.uri):  # the source is a corpus, or holds this one
            return
        kind, role = container_kind(file.name), self.sorter.role(file.name)
        if file.problem and (file.is_folder or role or kind) and not is_litter(file.name):
            place = str(Location(file.container, f"broken:{file.problem}"))
            self.rows.append(_row(file.uri, file.name, file.size, file.mtime, place, "photograph"))
        elif kind is not None and not is_litter(file.name):
            self.containers.append((file, kind))
        elif role is not None:
            self.rows.append(_row(file.uri, file.name, file.size, file.mtime, _place(file, role), role))
        else:
            self.left[kind_of(file.name)] += 1

    def table(self) -> pa.Table:
        """Return the rows so far, by name, and forget them."""
        rows, self.rows = sorted(self.rows, key=lambda row: str(row["uri"])), []
        return pa.Table.from_pylist(rows, LISTED)


class SourceListing(NamedTuple):
    """What :func:`list_source` found, and what it left for tasks to list."""

    files: pa.Table
    containers: list[tuple[SourceFile, Kind]]
    left: Counter[str]
    waiting: list[Prefix]


def list_source(source: str, sorter: Sorter, what: str = "photographs", most: int = 1 << 17) -> SourceListing:
    """List a source: its plain files as a table of :data:`LISTED`, its containers, and how many files of which
    kinds are left out; of local folders only, and until there are more than ``most`` entries: the rest waits.

    Args:
        source: a folder (searched recursively), a file, or a glob (``*``, ``?``, ``**``); a path or URI.
        sorter: decides what counts.
        what: what is looked for, for messages.
        most: files and folders to look at.

    Raises:
        ConfigError: nothing there.
    """
    found = Found(sorter)
    files, path = filesystem(source)
    info = files.get_file_info(path)
    waiting = []
    if info.type == pafs.FileType.File:
        found.add(_file(source, PurePosixPath(path).name, info))
    else:
        waiting = [_top(source, info.type == pafs.FileType.NotFound, what)]
    while waiting and is_local(files):
        inside = list(islice(entries(waiting[-1], recursive=False), most + 1))
        if len(inside) > most:
            break
        most -= len(inside)
        prefix = waiting.pop()
        waiting += place_all(prefix, inside, found)
    if not waiting and not found.rows and not found.containers:
        raise nothing_at(source, what, sorter, found.left)
    return SourceListing(found.table(), found.containers, found.left, waiting)


def nothing_at(source: str, what: str, sorter: Sorter, left: Counter[str]) -> ConfigError:
    """Return the error of a source where nothing is found."""
    known = " ".join(sorted({*sorter.suffixes, *CONTAINERS}))
    passed = f"; left out: {left_out_text(left)}" if left else ""
    return ConfigError(f"there are no {what} in {source}; looked for {known}{passed}")


def place_all(prefix: Prefix, inside: Iterable[SourceFile], found: Found) -> Iterator[Prefix]:
    """Take in what lies in a folder; the folders in it."""
    for file in inside:
        if file.is_folder and not file.problem:
            yield prefix._replace(folder=file.name)
        elif not prefix.pattern or re.fullmatch(prefix.pattern, file.name):
            found.add(file)


def _place(file: SourceFile, role: str) -> str:
    """Where to read a plain file. A depth map's place changes with it, so that shards with the old one are told."""
    return str(Location(file.container, "file", file.mtime if role == "depth" else 0, file.size))


def expand(file: SourceFile, kind: Kind, sorter: Sorter) -> pa.Table:
    """List the photographs and depth maps in a container, as :data:`LISTED`, and a row with the role :data:`LEFT_OUT`
    for each kind of member that is neither, its ``size`` their number. A container that is damaged counts as one
    photograph, which cannot be read.

    Raises:
        ConfigError: a table without a column of images.
    """
    try:
        members = list_members(file.container, kind)
    except OSError:
        row = _row(file.uri, file.name, file.size, file.mtime, str(Location(file.container, "broken")), "photograph")
        return pa.Table.from_pylist([row], LISTED)
    rows = []
    left: Counter[str] = Counter()
    for member in members:
        name = printable(str(PurePosixPath(member.name)))  # tar writes ./name
        place, uri = member.place, f"{file.uri}#{name}"
        if kind in ("parquet", "arrow"):
            row = _row(uri, f"{PurePosixPath(file.name).name}/{name}", 0, file.mtime, str(place), "photograph")
            if _DEPTH_COLUMN in member.columns:
                row["depth"] = str(Location(file.container, f"{kind}:{_DEPTH_COLUMN}", place.position))
            rows.append(row)
        elif (role := sorter.role(name)) is not None:
            if role == "depth":  # its format shows in its name only
                place = replace(place, kind=f"{kind}:{PurePosixPath(name).suffix.lower()}")
            rows.append(_row(uri, name, place.length, file.mtime, str(place), role))
        else:
            left[kind_of(name) + (" in an archive" if container_kind(name) and not is_litter(name) else "")] += 1
    rows += [_row(f"{file.uri}#*{what}", what, count, 0, "", LEFT_OUT) for what, count in left.items()]
    return pa.Table.from_pylist(rows, LISTED)


def left_out(listed: pa.Table) -> Counter[str]:
    """Return how many members of which kinds :func:`expand` left out."""
    rows = listed.filter(pc.equal(listed["role"], LEFT_OUT))
    found: Counter[str] = Counter()
    for what, count in zip(rows["key"].to_pylist(), rows["size"].to_pylist(), strict=True):
        found[what] += count
    return found


def _row(uri: str, name: str, size: int, mtime: int, place: str, role: str) -> dict[str, Any]:
    beside = _SIDE_DEPTH.match(name)
    key = beside[1] if beside else str(PurePosixPath(name).with_suffix("")) if role != LEFT_OUT else name
    return {"uri": uri, "key": key, "size": size, "mtime": mtime, "place": place, "role": role, "depth": None}


def _top(source: str, is_glob: bool, what: str) -> Prefix:
    if not is_glob:
        return Prefix(source, source)
    root, pattern = split_glob(source)
    files, path = filesystem(root)
    if pattern is None or files.get_file_info(path).type == pafs.FileType.NotFound:
        raise ConfigError(f"there is no folder {root}; expected a folder of {what}")
    return Prefix(source, root, "", pattern.pattern)


def entries(prefix: Prefix, recursive: bool) -> Iterator[SourceFile]:
    """Yield the files in a folder, and folders unless they too are listed here. Those of local folders come one by
    one, folders among them in any case; object storage tells all at a time.
    """
    files, path = filesystem(prefix.root)
    if is_local(files):
        for entry in look_into(path, prefix.folder):
            if entry.is_folder and not entry.problem:
                yield SourceFile("", entry.name, 0, 0, is_folder=True)
                continue
            name = printable(entry.name)
            place = portable(f"{path.rstrip('/')}/{entry.name}") if name != entry.name else ""
            yield SourceFile(
                child(prefix.root, name), name, entry.size, entry.mtime, place, entry.problem, entry.is_folder
            )
        return
    selector = pafs.FileSelector(f"{path}/{prefix.folder}".rstrip("/"), recursive=recursive)
    for entry in files.get_file_info(selector):
        name = entry.path[len(path) :].lstrip("/")
        if entry.type == pafs.FileType.File:
            yield _file(child(prefix.root, name), name, entry)
        elif entry.type == pafs.FileType.Directory and not recursive:
            yield SourceFile("", name, 0, 0, is_folder=True)


def _file(uri: str, name: str, info: Any) -> SourceFile:
    return SourceFile(uri, name, info.size or 0, info.mtime_ns or 0)


def match_depth(photographs: pa.Table, depth: pa.Table) -> dict[str, str]:
    """Place of a photograph's depth map, by uri: the same key, or else the same name where only one map has it. Those
    of other names have no say, so that tables may be cut by name.
    """
    by_path = dict(zip(depth["key"].to_pylist(), depth["place"].to_pylist(), strict=True))
    by_name: dict[str, str | None] = {}
    for key, place in by_path.items():
        name = PurePosixPath(key).name
        by_name[name] = None if name in by_name else place
    found = {}
    for key, uri in zip(photographs["key"].to_pylist(), photographs["uri"].to_pylist(), strict=True):
        match = by_path.get(key) or by_name.get(PurePosixPath(key).name)
        if match is not None:
            found[uri] = match
    return found


def no_match(maps: int, key: str) -> ConfigError:
    """Return the error when no photograph has a depth map, which is a wrong folder rather than a wish."""
    name = PurePosixPath(key).name
    return ConfigError(f"none of the {maps} depth maps has the name of a photograph; expected names such as {name}.npy")


def pair_ids(keys: Iterable[str], layout: LayoutName, pair_by: str | None) -> list[str | None]:
    """Return the scene of each photograph, by its key: group 1 of ``pair_by``, or as the layout says; None without
    one.
    """
    pattern = pair_by or LAYOUTS[layout].pair
    if pattern is None:
        return [None for _ in keys]
    expression = re.compile(pattern, re.IGNORECASE)
    found: list[str | None] = []
    for key in keys:
        match = expression.search(key if pair_by else PurePosixPath(key).name)
        scene = None if match is None else match[1]
        found.append(scene if pair_by or scene is None else f"{layout}/{scene}")
    return found
