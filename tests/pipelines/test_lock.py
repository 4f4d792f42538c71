"""Two jobs into one folder: the second is refused, and a dead one locks nobody out."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from models.config import ConfigError
from pipelines.ingest.__main__ import main
from pipelines.lock import only_one
from pipelines.train import __main__ as training
from pipelines.train import job

Folder = Callable[..., Path]


def test_the_second_ingest_is_refused_in_one_line(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(photo_folder(count=1)), str(tmp_path / "out")
    with only_one(out, "ingest"):
        assert main([source, "--domain", "hazy", "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: another ingest (process ")
    assert f"is writing {out}: wait for it, or choose another --out" in error
    assert error.count("\n") == 1
    with only_one(out, "ingest"):
        pass
    assert not Path(out).exists(), "nothing came of it"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a report")
    with pytest.raises(ConfigError, match="out is a file: choose a folder"), only_one(str(tmp_path / "out"), "ingest"):
        pass


def test_it_is_given_back_after_an_error(tmp_path: Path) -> None:
    def failing() -> None:
        with only_one(str(tmp_path), "ingest"):
            raise ConfigError("no photographs")

    with pytest.raises(ConfigError, match="no photographs"):
        failing()
    with only_one(str(tmp_path), "ingest"):
        assert (tmp_path / ".ingest.lock").is_file()


def test_a_process_that_died_locks_nobody_out(tmp_path: Path) -> None:
    script = "import os, sys\nfrom pipelines.lock import only_one\nwith only_one(sys.argv[1], 'ingest'): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    assert (tmp_path / ".ingest.lock").is_file()
    with only_one(str(tmp_path), "ingest"):
        pass
    assert not (tmp_path / ".ingest.lock").exists()


def test_a_second_training_is_refused_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "PATIENCE_S", 0.3)
    out = tmp_path / "out"
    kept = out / "local" / "step-0000001"
    kept.mkdir(parents=True)
    words = ["--recipe", "demo_pretrain", "--clear", str(tmp_path), "--out", str(out), "--local", "--fresh"]
    with only_one(str(out), "training"):
        assert training.main(words) == 2
    assert f"error: another training (process {os.getpid()} on " in capsys.readouterr().err
    assert kept.is_dir()


def test_who_is_about_to_go_is_waited_for(tmp_path: Path) -> None:
    held = only_one(str(tmp_path), "training")
    held.__enter__()
    timer = threading.Timer(0.5, held.__exit__, (None, None, None))
    timer.start()
    with only_one(str(tmp_path), "training", 30.0):
        timer.join()


def test_children_do_not_keep_a_lock_that_is_given_back(tmp_path: Path) -> None:
    with only_one(str(tmp_path), "training"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
    try:
        with only_one(str(tmp_path), "training"):
            pass
    finally:
        child.kill()
        child.join()
