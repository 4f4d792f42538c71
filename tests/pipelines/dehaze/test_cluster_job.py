"""Folders on Ray."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from models.config import ConfigError
from models.options import DehazeOptions, InferenceConfig
from models.predictor import Predictor
from pipelines.dehaze import cluster_job as dehaze
from pipelines.dehaze.cluster_job import WorkerPool, execute, main
from pipelines.dehaze.outcome import FAILURES, FolderReport
from pipelines.dehaze.plan import make_plan
from pipelines.dehaze.record import RECORD
from pipelines.dehaze.walk import PhotoTask
from pipelines.dehaze.work import ExistingResults, FolderWorker, WorkerSetup

Folder = Callable[..., Path]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_in_a_folder_out_and_a_second_run_only_does_what_is_left(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo_folder("in/deep", count=3).parent
    whole = (folder / "deep" / "photo_000.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:900])
    out = tmp_path / "out"
    words = [str(folder), out.as_uri(), "--model", "dcp", "--concurrency", "1", "--preview"]
    assert main(words) == 1
    assert "3 dehazed, 0 there already, 1 failed" in capsys.readouterr().out
    assert (out / "deep" / "photo_000.jpg").read_bytes() == Predictor("dcp").dehaze_bytes(whole)[0]
    with (out / FAILURES).open(newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["path"] == str(folder / "cut.jpg")
    assert failure["reason"]

    (folder / "cut.jpg").unlink()
    assert main(words) == 0
    assert "0 dehazed, 3 there already, 0 failed" in capsys.readouterr().out
    photographs = [f"deep/photo_00{index}.jpg" for index in range(3)]
    assert names(out) == [RECORD, *sorted([*photographs, "dehaze-previews/sheet-000000.jpg"])]


def killed_by(name: str) -> type[WorkerSetup]:
    """Makes workers that die of one photograph, always; a mark is left each time. Local, so that Ray sends the code."""

    class Dying(FolderWorker):
        def _one(self, task: PhotoTask) -> str:
            if name in task.source:
                Path(f"{task.target}.{os.getpid()}.died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._one(task)

    class Killed(WorkerSetup):
        def worker(self) -> FolderWorker:
            return Dying(self)

    return Killed


@pytest.mark.usefixtures("ray_cluster")
def test_a_photograph_that_kills_its_workers_is_the_only_one_that_fails(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = photo_folder(count=8), tmp_path / "out"
    out.mkdir()
    plan = make_plan([str(source)], str(out), None)
    setup = killed_by("photo_004")(
        "dcp", None, DehazeOptions(), InferenceConfig(), "cpu", ExistingResults(0), threads=1
    )
    monkeypatch.setattr("pipelines.dehaze.work.BATCH", 3)
    with FolderReport(8, str(out)) as report:
        assert execute(plan, setup, WorkerPool(concurrency=1, num_gpus=0), report) == ""
    assert sum(report.counts.values()) == 8
    assert report.counts["failed"] == 1
    with (out / FAILURES).open(newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["path"].endswith("photo_004.jpg")
    assert "given up after several tries: worker 0 died" in failure["reason"]
    assert 6 <= len([name for name in names(out) if name.endswith("died")]) <= 8, "in its batch, then alone"
    assert len([name for name in names(out) if name.endswith(".jpg")]) == 7


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_cannot_start_and_targets_that_are_full_end_the_job(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(count=2)
    words = [str(source), str(tmp_path / "out"), "--model", "dcp", "--concurrency", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(dehaze, "placed", lambda *_: ("cuda:7", 0.0))
        assert main(words) == 2
        assert "there is no such GPU here" in capsys.readouterr().err
    assert main([*words, "--device", "cuda"]) == 2
    assert (
        "error: device 'cuda': no node of the Ray cluster has a GPU; expected cpu, or auto" in capsys.readouterr().err
    )
    monkeypatch.setattr(
        dehaze, "execute", lambda *_: "No space left on device: somewhere; free some space and repeat the command"
    )
    assert main(words) == 3
    assert "free some space and repeat the command" in capsys.readouterr().err


def test_bad_arguments_are_one_line(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(photo_folder(count=1))
    for words, message in (
        ([str(tmp_path / "nothing"), str(tmp_path / "out")], "there is no file or folder"),
        ([folder], "give SRC and DST"),
        ([folder, str(tmp_path / "out"), "--model", "dpc", "--dry-run"], "did you mean 'dcp'"),
        ([folder, str(tmp_path / "out"), "--concurrency", "0"], "concurrency"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_what_workers_refuse_and_what_the_cluster_has_not_is_one_line(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(photo_folder(count=1)), str(tmp_path / "out"), "--model", "dcp", "--concurrency", "1"]
    assert main([*words, "--num-cpus", "3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: this needs 3 CPUs, and the cluster has 2 CPUs at most: 1 worker with 3 CPUs")
    assert error.count("\n") == 1

    class Refusing(WorkerSetup):
        def worker(self) -> FolderWorker:
            raise ConfigError("no such model there")

    plan = make_plan([words[0]], words[1], None)
    setup = Refusing("dcp", None, DehazeOptions(), InferenceConfig(), "cpu", ExistingResults(0), threads=1)
    with FolderReport(1, None) as report, pytest.raises(ConfigError, match=r"^no such model there$"):
        execute(plan, setup, WorkerPool(concurrency=1, num_gpus=0), report)


def test_a_submitted_job_has_whole_paths(
    photo_folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    assert main([str(photo_folder(count=1)), "clear", "--model", "dcp"]) == 2
    assert "'clear' is relative, and this job runs in Ray's cache" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_the_plan_is_checked_where_the_photographs_are(
    photo_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(photo_folder(count=1))
    assert main([folder, folder, "--model", "dcp"]) == 2
    assert "is an input" in capsys.readouterr().err


def test_a_dry_run_needs_no_ray(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dehaze, "ray_session", None)
    assert main([str(photo_folder(count=2)), str(tmp_path / "out"), "--model", "dcp", "--dry-run"]) == 0
    assert "2 to dehaze" in capsys.readouterr().out
