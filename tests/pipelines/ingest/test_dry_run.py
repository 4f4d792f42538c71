"""``--dry-run``: counts and an estimate, and nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models.config import parse
from pipelines.ingest import job
from pipelines.ingest.__main__ import main
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.dry_run import dry_run
from pipelines.ingest.job import ingest

Folder = Callable[..., Path]


def state(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_counts_and_an_estimate_without_ray(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(count=12)
    shutil.make_archive(str(source / "more"), "zip", photo_folder("packed", count=3, seed=1))
    (source / "broken.png").write_text("no photograph")
    (source / "notes.txt").touch()
    monkeypatch.setattr(job, "ray_session", None)  # would fail
    before = state(tmp_path)
    assert main([str(source), "--domain", "hazy", "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("photographs 16 JPG 15 PNG 1", "new, to examine 16", "files opened to read 32", "left out: 1 TXT"):
        assert part in text
    assert state(tmp_path) == before
    found = dry_run(parse(IngestConfig, {"sources": [str(source)], "domain": "hazy", "out": str(tmp_path / "out")}))
    files = [path for path in source.iterdir() if path.suffix in (".jpg", ".png")]
    assert found.listed_bytes == found.new_bytes > sum(path.stat().st_size for path in files)
    assert found.seconds > 0


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_known_costs_nothing(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = photo_folder(count=12), tmp_path / "out"
    config = parse(IngestConfig, {"sources": [str(source)], "domain": "hazy", "out": str(out)})
    foreseen = dry_run(config)
    made = ingest(config)
    assert foreseen.stored == pytest.approx(made.stored_bytes, rel=0.2)
    before = state(out)
    words = [str(source), "--domain", "hazy", "--out", str(out), "--dry-run"]
    assert main(words) == 0
    assert "unchanged since the last ingest; nothing would be done" in capsys.readouterr().out
    shutil.copy(photo_folder("new", count=1, seed=1) / "photo_000.jpg", source / "new.jpg")
    found = dry_run(config)
    assert (found.found, found.new, found.sample) == (13, 1, 1)
    assert found.new_bytes == (source / "new.jpg").stat().st_size
    assert state(out) == before
