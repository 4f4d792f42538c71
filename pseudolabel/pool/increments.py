"""Snapshots that share files: what the next one goes on with, and which files nobody needs any more.

What changed since the snapshot before is written to new files; files of earlier ones are named again as long as most
of their labels are still those of today. So a snapshot costs what changed, and all files together have at most about
twice the labels of the pool.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.paths import absolute, child, filesystem, remove_folder
from pseudolabel.pool.snapshots import (
    FILE,
    GROUPS_PER_FILE,
    MANIFEST,
    ROWS_PER_GROUP,
    File,
    SnapshotError,
    discard,
    full_name,
    read_manifest,
    used_by,
)

log = logging.getLogger(__name__)

LEAST_LIVE = 0.5  # of the rows of a file; where fewer are still labels of today, these are written anew
MOST_SMALL = 16  # files of a shard, each less than half full; as many are written anew as one
_OWN = re.compile(rf"{FILE.pattern}|{MANIFEST}|\.{MANIFEST}\.\w+\.tmp")  # the last of one who was killed


def files_of(base: str | Path, uri: str | Path, shard: int, shards: int) -> tuple[File, ...]:
    """Return the files of a shard in an earlier snapshot that a new one at `uri` may share; none where it cannot."""
    before, now = (filesystem(absolute(place))[1] for place in (base, uri))
    # Names lead from a snapshot to its neighbors only, and one that is replaced has none to share.
    if before == now or before.rpartition("/")[0] != now.rpartition("/")[0]:
        return ()
    try:
        manifest = read_manifest(base)
    except SnapshotError as problem:
        log.warning("a whole snapshot is taken: %s", problem)
        return ()
    if len(manifest.parts) != shards:
        return ()
    files = manifest.parts[shard].files
    return tuple(file.model_copy(update={"name": full_name(base, file.name)}) for file in files)


def lasting(files: Sequence[File], live: Mapping[str, int]) -> list[File]:
    """Choose the files of an earlier snapshot that a new one keeps; live rows of the others are to be written anew.

    Args:
        files: by their full names.
        live: how many rows of each are labels of today.
    """
    kept = [file for file in files if live.get(file.name, 0) >= max(1, file.rows * LEAST_LIVE)]
    # Many small files would slow down every restore.
    small = {file.name for file in kept if file.rows < ROWS_PER_GROUP * GROUPS_PER_FILE // 2}
    return [file for file in kept if file.name not in small] if len(small) >= MOST_SMALL else kept


def drop_snapshots(folder: str | Path, keep: int, latest: str) -> None:
    """Remove all snapshots directly below `folder` but the last `keep` up to the name `latest`, and those after it.

    Files that these go on with stay where they are, and so do folders with anything that is not of a snapshot. What
    cannot be removed now is left to the next time.
    """
    try:
        _drop(absolute(folder), keep, latest)
    except (SnapshotError, OSError) as problem:
        log.warning("snapshots that nobody needs any more stay in %s: %s", folder, problem)


def _drop(root: str, keep: int, latest: str) -> None:
    from pyarrow import fs as pafs

    files_at, path = filesystem(root)
    below: dict[str, list[str]] = {}
    for info in files_at.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True)):
        name, slash, file = info.path.removeprefix(f"{path}/").partition("/")
        if slash and info.type == pafs.FileType.File:
            below.setdefault(name, []).append(file)
    foreign = {name for name, files in below.items() if not all(map(_OWN.fullmatch, files))}
    whole = sorted(name for name in below.keys() - foreign if MANIFEST in below[name] and name <= latest)
    kept = {*whole[-keep:], *foreign, *(name for name in below if name > latest)}
    used = used_by(files_at, [f"{path}/{name}" for name in kept if MANIFEST in below[name]])
    for name in below.keys() - kept:
        gone = [file for file in below[name] if f"{name}/{file}" not in used]
        if len(gone) == len(below[name]):
            remove_folder(child(root, name))
        else:
            # The manifest first: without it the rest is no snapshot.
            discard(files_at, [f"{path}/{name}/{file}" for file in sorted(gone, key=lambda one: one != MANIFEST)])
