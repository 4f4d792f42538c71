"""What kind of file system a folder lies on, as Linux tells it."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(r"nfs4?|cifs|smb[23]?|9p|ceph|lustre|gpfs|beegfs|afs|glusterfs|fuse\..+")


def network_file_system(folder: str | Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of network file system that `folder` lies on; None where it is local, or nobody knows.

    Args:
        folder: need not be there yet.
        mounts: in the form of `/proc/self/mountinfo`.
    """
    if not mounts.is_file():
        return None
    place, kind, depth = Path(folder).resolve(), "", -1
    for line in mounts.read_text().splitlines():
        where, _, what = line.partition(" - ")
        point = Path(where.split()[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= depth:  # of two at one place the later one is seen
            kind, depth = what.split()[0], len(point.parts)
    return kind if NETWORK.fullmatch(kind) else None
