"""The demo's own parts: which run it goes on with, which stages it repeats, what it says at the end."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.config import ConfigError
from pipelines.demo import __main__ as demo_command
from pipelines.demo.job import Demo, State, closing_table, example_photo

Folder = Callable[..., Path]


def test_an_out_that_is_no_folder_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert demo_command.main(["--out", "s3://bucket/demo", "--port", str(free)]) == 2
    assert "object storage is not supported" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def args(out: Path, *more: str) -> Any:
    return demo_command._parser().parse_args(["--out", str(out), *more])


class TestState:
    def test_a_finished_stage_is_not_repeated(self, tmp_path: Path) -> None:
        calls = []
        first = State(tmp_path / "state.json", "a")
        assert first.stage("ingest", lambda: calls.append(1) or {"n": 3}) == {"n": 3}
        again = State(tmp_path / "state.json", "a")
        assert again.stage("ingest", lambda: calls.append(2) or {"n": 4}) == {"n": 3}
        assert calls == [1]

    def test_a_stage_that_failed_is(self, tmp_path: Path) -> None:
        state = State(tmp_path / "state.json", "a")
        with pytest.raises(ZeroDivisionError):
            state.stage("pretrain", lambda: {"n": 1 // 0})
        assert State(tmp_path / "state.json", "a").stage("pretrain", lambda: {"n": 5}) == {"n": 5}

    def test_other_inputs_start_anew(self, tmp_path: Path) -> None:
        State(tmp_path / "state.json", "a").stage("ingest", lambda: {"n": 3})
        assert State(tmp_path / "state.json", "b").stage("ingest", lambda: {"n": 4}) == {"n": 4}


class TestRunFolder:
    def stages(self, run: Demo, *names: str) -> None:
        for name in names:
            run.state.stage(name, dict)

    def test_an_interrupted_run_goes_on(self, tmp_path: Path) -> None:
        first = Demo(args(tmp_path))
        assert first.run.name == "run-001"
        self.stages(first, "ingest", "pretrain")
        again = Demo(args(tmp_path))
        assert again.run == first.run
        assert set(again.state.values["stages"]) == {"ingest", "pretrain"}

    def test_how_it_runs_may_change_meanwhile(self, tmp_path: Path) -> None:
        self.stages(Demo(args(tmp_path)), "ingest")
        again = Demo(args(tmp_path, "--set", "train.workers=1", "--set", "train.log_every=1"))
        assert again.run.name == "run-001"
        assert again.pretrain.train.workers == 1

    def test_a_finished_one_is_followed_by_the_next(self, tmp_path: Path) -> None:
        self.stages(Demo(args(tmp_path)), "ingest", "serve")
        assert Demo(args(tmp_path)).run.name == "run-002"

    def test_other_folders_do_not_count(self, tmp_path: Path) -> None:
        first = Demo(args(tmp_path))
        self.stages(first, "ingest")
        (first.out / "run-before").mkdir()
        assert Demo(args(tmp_path)).run == first.run
        (first.out / "run-1000").mkdir()
        assert Demo(args(tmp_path)).run.name == "run-1001"

    def test_so_is_one_with_other_settings(self, tmp_path: Path) -> None:
        self.stages(Demo(args(tmp_path)), "ingest")
        assert Demo(args(tmp_path, "--set", "train.steps=3")).run.name == "run-002"

    def test_scratch_drops_the_packaged_weights(self, tmp_path: Path) -> None:
        assert Demo(args(tmp_path)).pretrain.init == "corun-compact"
        assert Demo(args(tmp_path, "--from-scratch")).pretrain.init is None


SUMMARY: dict[str, Any] = {
    "tables": {
        "real": {
            "hazy input": {"fade": {"mean": 1.5}, "clearness": {"mean": 0.5}},
            "dehazer": {"fade": {"mean": 0.5}, "clearness": {"mean": None}},
        }
    }
}


def test_the_table_says_times_figures_files_and_what_next(tmp_path: Path) -> None:
    pool = {"size": 7, "mean_clearness": 0.75, "mean_quality": 0.5, "acceptance_rate": 0.25}
    stages: dict[str, Any] = {
        "ingest": {"seconds": 3.4, "result": {}},
        "fine-tune": {"seconds": 61.0, "result": {"labels": {"pool": pool}}},
        "evaluate": {"seconds": 9.0, "result": {"summary": SUMMARY, "files": ["sheet.png"]}},
        "serve": {"seconds": 2.0, "result": {"file": "served.jpg"}},
    }
    text = closing_table(stages, tmp_path / "demo" / "run-001", "sqlite:////x/mlflow.db")
    words = text.split()
    assert "fade v" in text
    for expected in ("61", "1.500", "0.500", "sheet.png", "served.jpg", "25%", "sqlite:////x/mlflow.db"):
        assert expected in words, text
    assert "make serve OUT=" in text


def test_the_example_is_the_first_readable_photograph(photo_folder: Folder) -> None:
    folder = photo_folder(count=2)
    (folder / "a_broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert example_photo(folder).name == "photo_000.jpg"
    for path in folder.glob("photo_*"):
        path.unlink()
    with pytest.raises(ConfigError, match="no readable photograph"):
        example_photo(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hazy", "missing"], "--hazy: there is no folder missing"),
        (["--set", "train.setps=3"], "did you mean 'steps'"),
        (["--limit", "0"], "--limit is 0; expected 1 or more"),
        (["--port", "99999"], "--port is 99999; expected 1 to 65535"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo_command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_taken_port_is_found_out_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert demo_command.main(["--port", str(port), "--out", str(tmp_path / "out")]) == 2
    assert str(port) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    State(tmp_path / "state.json", "a").stage("ingest", lambda: {"n": 3})
    assert json.loads((tmp_path / "state.json").read_text())["stages"]["ingest"]["result"] == {"n": 3}
