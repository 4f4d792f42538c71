"""`dehaze doctor` on this machine and on a cluster of one node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.paths import names_in
from pipelines import nodes
from pipelines.doctor import __main__ as command
from pipelines.doctor import findings, probe
from tests.conftest import SECRET


@pytest.fixture(autouse=True)
def _enough_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "STORES_GIB", 0)
    monkeypatch.setattr(findings, "TEMPORARY_GIB", 0)


def lines(text: str) -> dict[str, str]:
    """``ok`` or ``FAILED`` and what was found, by what was looked at."""
    rows = [line for line in text.splitlines() if line.startswith(("ok", "FAILED"))]
    return {row[8:30].strip(): f"{row[:8].strip()} {row[30:]}" for row in rows}


def test_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "_gpus", lambda: (0, ""))  # a new Python takes seconds to import torch
    out, database = tmp_path / "runs" / "one", f"sqlite:///{tmp_path}/mlflow.db"
    assert command.main(["--out", str(out), "--tracking-uri", database]) == 0
    found = lines(capsys.readouterr().out)
    assert found["--out"] == f"ok {out} can be written"
    assert found["MLflow"] == "ok answers"
    assert "nodes" not in found
    assert not out.parent.exists(), "it was not there before"

    assert command.main(["--out", str(tmp_path), "--tracking-uri", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().out
    assert lines(said)["MLflow"].startswith("FAILED this machine: cannot track at http://127.0.0.1:9: nothing answers")
    assert "1 of" in said
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db"}

    assert command.main(["--out", str(tmp_path / "mlflow.db")]) == 1
    assert lines(capsys.readouterr().out)["--out"].endswith("cannot be written: this machine: it is no folder")


def test_no_text_is_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--out", "--tracking-uri"):
        assert command.main([flag, ""]) == 2
        assert "not no text" in capsys.readouterr().err


def test_torch_is_asked_in_another_python() -> None:
    gpus, problem = probe._gpus()
    assert gpus >= 0
    assert gpus == 0 or not problem


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_of_one_node(
    bucket: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, good in ((bucket("runs/one"), True), (bucket("x").replace("://", "://no-such-"), False)):
        assert command.main(["--address", "auto", "--out", out]) == int(not good)
        said = capsys.readouterr()
        found = lines(said.out)
        assert found["nodes"] == "ok 1, all answer"
        assert found["clocks"].startswith("ok within")
        assert found["torch"].startswith("ok 2.")
        assert found["token authentication"].startswith("ok ")
        assert found["--out"].startswith("ok " if good else f"FAILED {out} cannot be written: ")
        assert SECRET not in said.out + said.err
    assert names_in(bucket("runs/one")) == []


@pytest.mark.usefixtures("ray_cluster")
def test_nodes_are_asked_and_their_errors_are_ours() -> None:
    def number(text: str) -> int:
        return int(text)

    ((node, answer),) = nodes.ask_nodes(number, "3")
    assert answer == 3
    assert node["Alive"]
    with pytest.raises(ValueError, match="three"):
        nodes.ask_nodes(number, "three")
