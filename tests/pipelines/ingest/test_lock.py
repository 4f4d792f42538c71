"""Two ingests into one folder: the second is refused, and a dead one locks nobody out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models.config import ConfigError
from pipelines.ingest.__main__ import main
from pipelines.ingest.lock import LOCK, only_ingest

Folder = Callable[..., Path]


def test_the_second_ingest_is_refused_in_one_line(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(photo_folder(count=1)), str(tmp_path / "out")
    with only_ingest(out):
        assert main([source, "--domain", "hazy", "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: another ingest (process ")
    assert f"is writing {out}: wait for it, or choose another --out" in error
    assert error.count("\n") == 1
    with only_ingest(out):
        pass
    assert not list(Path(out).iterdir())


def test_it_is_given_back_after_an_error(tmp_path: Path) -> None:
    def failing() -> None:
        with only_ingest(str(tmp_path)):
            raise ConfigError("no photographs")

    with pytest.raises(ConfigError, match="no photographs"):
        failing()
    with only_ingest(str(tmp_path)):
        assert (tmp_path / LOCK).is_file()


def test_a_process_that_died_locks_nobody_out(tmp_path: Path) -> None:
    script = "import os, sys\nfrom pipelines.ingest.lock import only_ingest\nwith only_ingest(sys.argv[1]): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    assert (tmp_path / LOCK).is_file()
    with only_ingest(str(tmp_path)):
        pass
    assert not (tmp_path / LOCK).exists()
