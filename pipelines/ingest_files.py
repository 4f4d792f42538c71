"""Files that an ingest starts from: listing them, held-out sets, depth maps by name. No Ray, no pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.images import IMAGE_SUFFIXES
from models.settings import ConfigError
from pipelines.corpus import MANIFEST, child, filesystem, open_corpus


def list_files(root: str, suffixes: Iterable[str], what: str) -> pa.Table:
    """Files below a folder whose suffix (any case) is one of ``suffixes``; others and hidden ones are ignored.

    Raises:
        ConfigError: nothing there, or no such file in it. ``what`` names them in the message.
    """
    suffixes = frozenset(suffixes)
    files, path = filesystem(root)
    info = files.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise ConfigError(f"there is no folder {root}; expected a folder of {what}")
    if info.type == pafs.FileType.File:
        found = [(root, PurePosixPath(path).stem, info)] if _suffix(path) in suffixes else []
    else:
        found = []
        for entry in files.get_file_info(pafs.FileSelector(path, recursive=True)):
            name = entry.path[len(path) :].lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            if entry.type == pafs.FileType.File and _suffix(name) in suffixes and not hidden:
                found.append((child(root, name), str(PurePosixPath(name).with_suffix("")), entry))
    if not found:
        raise ConfigError(f"there are no {what} in {root}; looked for {' '.join(sorted(suffixes))}")
    found.sort(key=lambda item: item[0])
    return pa.table(
        {
            "uri": pa.array([uri for uri, _, _ in found], pa.string()),
            "key": pa.array([key for _, key, _ in found], pa.string()),
            "size": pa.array([entry.size or 0 for *_, entry in found], pa.int64()),
            "mtime": pa.array([entry.mtime_ns or 0 for *_, entry in found], pa.int64()),
        }
    )


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def list_holdout(root: str) -> pa.Table:
    """The files that say what is held out: a folder's photographs, a corpus's manifest, or a list of ids."""
    kind = _holdout_kind(root)
    if kind == "corpus":
        return list_files(child(root, MANIFEST), {".json"}, "manifests")
    if kind == "list":
        return list_files(root, {_suffix(root)}, "image ids")
    return list_files(root, IMAGE_SUFFIXES, "held-out photographs")


def _holdout_kind(root: str) -> Literal["photographs", "corpus", "list"]:
    files, path = filesystem(root)
    if files.get_file_info(f"{path}/{MANIFEST}").type == pafs.FileType.File:
        return "corpus"
    is_file = files.get_file_info(path).type == pafs.FileType.File
    return "list" if is_file and _suffix(path) not in IMAGE_SUFFIXES else "photographs"


def listed_ids(root: str) -> set[str] | None:
    """Image ids of a held-out corpus or text file; None for photographs, which have to be hashed.

    Raises:
        ConfigError: a line that is no image id.
    """
    kind = _holdout_kind(root)
    if kind == "corpus":
        ids: set[str] = set()
        for uri in open_corpus(root).files():
            files, path = filesystem(uri)
            ids.update(pq.read_table(path, columns=["image_id"], filesystem=files)["image_id"].to_pylist())
        return ids
    if kind == "list":
        files, path = filesystem(root)
        with files.open_input_stream(path) as stream:
            lines = stream.read().decode(errors="replace").split("\n")
        found = {line.strip() for line in lines if line.strip()}
        for line in found:
            if not re.fullmatch(r"[0-9a-f]{32}", line):
                raise ConfigError(f"{root} holds '{line[:60]}'; expected one image id (32 hexadecimal digits) a line")
        return found
    return None


def match_depth(photographs: pa.Table, depth: pa.Table) -> dict[str, str]:
    """Depth map of a photograph, by uri: the same relative path, or else the same name where only one map has it.

    Raises:
        ConfigError: no photograph has one, which is a wrong folder rather than a wish.
    """
    by_path = dict(zip(texts(depth["key"]), texts(depth["uri"]), strict=True))
    by_name: dict[str, str | None] = {}
    for key, uri in by_path.items():
        name = PurePosixPath(key).name
        by_name[name] = None if name in by_name else uri
    found = {}
    for key, uri in zip(texts(photographs["key"]), texts(photographs["uri"]), strict=True):
        match = by_path.get(key) or by_name.get(PurePosixPath(key).name)
        if match is not None:
            found[uri] = match
    if not found:
        raise ConfigError(
            f"none of the {depth.num_rows} depth maps has the name of a photograph; expected names such as "
            f"{PurePosixPath(texts(photographs['key'])[0]).name}.npy"
        )
    return found


def texts(column: Any) -> list[str]:
    """A string column as a list."""
    values: list[str] = column.to_pylist()
    return values
