"""Which file systems are not local."""

import os
from pathlib import Path

import pytest

from pseudolabel.pool import mounts

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /mnt/shared rw - nfs4 host:/export rw,vers=4.1
31 30 8:2 / /mnt/shared/disk rw - xfs /dev/sdb rw
32 22 0:30 / /mnt/two\\040words rw - cifs //host/share rw
33 22 8:3 / /over rw - ext4 /dev/sdc rw
34 22 0:31 / /over rw - fuse.s3fs s3fs rw
35 22 8:4 / /stick rw - fuseblk /dev/sdd rw
36 22 0:32 / /container rw - fuse.fuse-overlayfs fuse-overlayfs rw
37 22 0:33 / /elsewhere rw - fuse.sshfs host:/ rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/pool", None),
        ("/mnt/shared/runs/pool", "nfs4"),
        ("/mnt/shared/disk/pool", None),
        ("/mnt/sharedwith", None),
        ("/mnt/two words/pool", "cifs"),
        ("/over/pool", "fuse.s3fs"),
        ("/stick/pool", None),
        ("/container/pool", None),
        ("/elsewhere/pool", "fuse.sshfs"),
    ],
)
def test_the_mount_that_is_nearest_and_latest_counts(
    folder: str, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    assert mounts.network_file_system(folder) == kind


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "missing")
    assert mounts.network_file_system(tmp_path) is None


def test_a_user_without_a_home_has_places_for_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    places = list(mounts.caches("run"))
    assert places
    assert all(place.parts[-3] == "ray-dehaze-54321" for place in places)
