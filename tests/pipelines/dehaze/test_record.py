"""When results that are there count."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest
from torch import nn

from models import zoo
from models.config import ConfigError
from models.inference.dehazing import EXACT
from models.options import DehazeOptions, InferenceConfig
from models.paths import replacing
from pipelines.dehaze.record import (
    RECORD,
    MadeWith,
    close_record,
    fingerprint,
    made_with,
    open_record,
    read_record,
    sweep,
)
from pipelines.disk_errors import NoSpaceError

NETWORK = nn.Conv2d(3, 3, 1)


def made(**options: object) -> MadeWith:
    return made_with("m", NETWORK, DehazeOptions.model_validate(options), InferenceConfig())


def test_the_same_settings_go_on_and_others_are_refused(tmp_path: Path) -> None:
    folder = str(tmp_path)
    first = open_record(folder, made(strength=0.5), overwrite=False)
    assert first.since_ns > 0
    assert not first.finished
    assert open_record(folder, made(strength=0.5), overwrite=False).since_ns == first.since_ns
    with pytest.raises(ConfigError, match=r"other settings \(strength 0\.5, not 1\.0\); .* --overwrite"):
        open_record(folder, made(), overwrite=False)
    assert read_record(folder) == first


def test_a_model_is_known_by_its_weights(tmp_path: Path) -> None:
    open_record(str(tmp_path), made(), overwrite=False)
    again = made_with("another/path", NETWORK, DehazeOptions(), InferenceConfig(memory_mb=64))
    assert open_record(str(tmp_path), again, overwrite=False)
    other = made_with("m", nn.Conv2d(3, 3, 1), DehazeOptions(), InferenceConfig())
    with pytest.raises(ConfigError, match="weights"):
        open_record(str(tmp_path), other, overwrite=False)
    assert fingerprint(NETWORK) == fingerprint(NETWORK) != fingerprint(nn.Conv2d(3, 3, 1))


def test_exact_results_of_before_go_on_with_exact_alone(tmp_path: Path) -> None:
    exact = made_with("m", NETWORK, DehazeOptions(), EXACT)
    record = open_record(str(tmp_path), exact, overwrite=False).model_dump(mode="json")
    del record["made"]["working_side"]  # as it was before there was a choice
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert open_record(str(tmp_path), exact, overwrite=False)
    with pytest.raises(ConfigError, match="working_side None, not 384"):
        open_record(str(tmp_path), made(), overwrite=False)


def test_an_interrupted_overwrite_goes_on_and_a_finished_one_begins_anew(tmp_path: Path) -> None:
    folder = str(tmp_path)
    first = open_record(folder, made(), overwrite=False)
    close_record(folder, first)
    os.utime(tmp_path / RECORD, ns=(0, 0))  # long ago
    second = open_record(folder, made(), overwrite=True)
    assert second.replacing
    assert second.since_ns > first.since_ns
    assert open_record(folder, made(), overwrite=True).since_ns == second.since_ns
    assert open_record(folder, made(), overwrite=False).replacing
    close_record(folder, second)
    assert open_record(folder, made(), overwrite=True).since_ns > second.since_ns


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_disk_that_is_full_at_the_start_makes_no_older_file_a_result(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "older.jpg").touch()
    os.utime(tmp_path / "older.jpg", ns=(10**18, 10**18))
    written = []

    def until_full(place: str) -> object:
        written.append(place)
        if len(written) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replacing(place)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.dehaze.record.replacing", until_full)
        with contextlib.suppress(NoSpaceError):
            open_record(str(tmp_path), made(), overwrite=False)
    assert open_record(str(tmp_path), made(), overwrite=False).since_ns > 10**18
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "older.jpg"]


def test_a_finished_overwrite_is_over(tmp_path: Path) -> None:
    folder = str(tmp_path)
    close_record(folder, open_record(folder, made(), overwrite=True))
    assert not open_record(folder, made(), overwrite=False).replacing


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ConfigError, match=r"damaged; delete it and pass --overwrite"):
        open_record(str(tmp_path), made(), overwrite=False)


def test_what_killed_workers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    left, fresh, own = (tmp_path / "deep" / name for name in (".a.jpg.0123abcd.tmp", ".b.jpg.0123abcd.tmp", ".c.tmp"))
    for path in (left, fresh, own):
        path.touch()
    os.utime(left, ns=(10, 10))
    sweep(str(tmp_path), 1000)
    assert (left.exists(), fresh.exists(), own.exists()) == (False, True, True)


def test_the_sweep_follows_no_links_and_takes_any_name(tmp_path: Path) -> None:
    (tmp_path / "out" / os.fsdecode(b"d\xff")).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "circle").symlink_to(tmp_path / "out")
    left = tmp_path / "out" / os.fsdecode(b"d\xff") / f".{os.fsdecode(bytes([0xE9]))}\n.jpg.0123abcd.tmp"
    other = tmp_path / "elsewhere" / ".a.jpg.0123abcd.tmp"
    for path in (left, other):
        path.touch()
        os.utime(path, ns=(10, 10))
    sweep(str(tmp_path / "out"), 1000)
    assert (left.exists(), other.exists()) == (False, True)


def test_a_folder_of_an_earlier_version_is_gone_on_with() -> None:
    """The names of classes are part of what a folder's record says: another one would refuse all that is there."""
    assert fingerprint(zoo.load("corun-compact").network) == "1cbd137ea51a47e5"
