"""Folders of this machine: on what kind of file system they lie, where a store may be, what makes them last."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# The root of a container without root rights, and some kinds of disks, are `fuse.` too.
LOCAL_FUSE = "fuse-overlayfs|ntfs-3g|exfat|mergerfs|lxcfs|snapfuse|squashfuse"
NETWORK = re.compile(rf"nfs4?|cifs|smb[23]?|9p|ceph|lustre|gpfs|beegfs|afs|glusterfs|fuse\.(?!({LOCAL_FUSE})$).+")
MEMORY = re.compile(r"tmpfs|ramfs")


def network_file_system(folder: str | Path) -> str | None:
    """Return the kind of network file system that `folder` lies on, which need not be there yet; None where it is local
    or the kind is unknown.
    """
    kind = _file_system(folder)
    return kind if NETWORK.fullmatch(kind) else None


def _file_system(folder: str | Path) -> str:
    if not MOUNTS.is_file():
        return ""
    place, kind, depth = Path(folder).resolve(), "", -1
    for line in MOUNTS.read_text().splitlines():
        where, _, what = line.partition(" - ")
        # mountinfo(5): the fifth field is the mount point, with spaces as \040.
        point = Path(where.split()[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= depth:  # of two at one place the later one is seen
            kind, depth = what.split()[0], len(point.parts)
    return kind


def caches(name: str) -> Iterator[Path]:
    """Yield folders called `name` in places for files that may be lost, the likeliest to be good first."""
    with suppress(RuntimeError):  # this user has no home
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        yield Path(cache) / "ray-dehaze" / "pools" / name
    for folder in dict.fromkeys(("/var/tmp", tempfile.gettempdir())):  # noqa: S108 - made for their owner alone, below
        yield Path(folder) / f"ray-dehaze-{os.getuid()}" / "pools" / name


def unfit(folder: Path, room: int) -> str | None:
    """Return why a store of `room` bytes cannot be in `folder`, in a few words; None where it can.

    The folder is made, for its owner alone.
    """
    kind = _file_system(folder)
    if NETWORK.fullmatch(kind):
        return f"lies on {kind}"
    if MEMORY.fullmatch(kind):
        return f"lies in memory ({kind})"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        return f"cannot be written ({problem.strerror})"
    free = shutil.disk_usage(folder).free
    return f"has {free >> 20:,} MiB free, and the labels want {room >> 20:,}" if free < room else None


def place_for_stores() -> tuple[str, int]:
    """Return where this machine keeps stores that cannot be in `--out`, and the bytes free; or why nowhere, and 0."""
    whys = []
    for folder in caches(""):
        why = unfit(folder, 0)
        if why is None:
            return str(folder), shutil.disk_usage(folder).free
        whys.append(f"{folder} {why}")
    return "; ".join(whys), 0
