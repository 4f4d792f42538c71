"""Exit codes and the one line that goes with them."""

from __future__ import annotations

import argparse
import errno
from typing import Any, ClassVar

import pytest

from models.config import ConfigError, LabelingError
from models.images import CorruptImage
from pipelines.command import run, sentence, user_error
from pseudolabel.pool import SnapshotError


def call(outcome: Any, argv: tuple[str, ...] = ()) -> int:
    def main(_args: argparse.Namespace) -> int | None:
        if isinstance(outcome, BaseException):
            raise outcome
        code: int | None = outcome
        return code

    parser = argparse.ArgumentParser()
    parser.add_argument("--flag")
    return run(main, parser, argv)


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_job_s_own_code(outcome: int | None, code: int) -> None:
    assert call(outcome) == code


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (ConfigError("train.steps is\n0"), "error: train.steps is 0"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), "error: No such file or directory: a.jpg"),
        (CorruptImage("b.jpg ends early"), "error: b.jpg ends early"),
        (SnapshotError("no space is left"), "error: no space is left"),
        (LabelingError("the run is going on already"), "error: the run is going on already"),
    ],
)
def test_what_the_user_can_change_is_one_line_and_2(
    problem: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(problem) == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_full_disk_is_the_user_s_and_other_trouble_with_disks_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(OSError(errno.ENOSPC, "No space left on device", "a.png")) == 2
    assert capsys.readouterr().err == "error: No space left on device: a.png; free some space and repeat the command\n"
    with pytest.raises(OSError, match="Input/output"):
        call(OSError(errno.EIO, "Input/output error"))


def test_the_user_s_error_is_found_among_those_that_it_took_along() -> None:
    """As Ray Train reports it: one worker could not read its corpus, the other lost its partner."""

    class FromTaskError(RuntimeError):
        cause = ConfigError("the corpus is empty")

    class WorkersError(RuntimeError):
        worker_failures: ClassVar = {0: RuntimeError("connection reset by peer"), 1: FromTaskError("Traceback ...")}

    found = user_error(WorkersError("Training failed"))
    assert isinstance(found, ConfigError)
    assert sentence(found) == "the corpus is empty"
    assert user_error(RuntimeError("a defect")) is None


def test_an_error_from_a_worker_is_unwrapped(capsys: pytest.CaptureFixture[str]) -> None:
    class FromWorkerError(ConfigError):
        cause = ConfigError("the corpus is empty")

    assert call(FromWorkerError("Traceback ...")) == 2
    assert capsys.readouterr().err == "error: the corpus is empty\n"


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_defect_shows_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        call(ZeroDivisionError())


def test_unknown_flags_are_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call(None, ("--flga", "1"))
    assert caught.value.code == 2
    assert "--flga" in capsys.readouterr().err
