"""What every job's ``main`` has in common: expected errors are one line and exit code 2, Ctrl-C is 130."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from models.settings import ConfigError
from pipelines.shown import shown

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
REFUSED = 2  # the exit code that argparse uses too

LATE_ERRORS = (
    ("models.images", "ImageError"), ("pseudolabel.entries", "PoolError"), ("pseudolabel.rounds", "LabelingError"),
)  # fmt: skip

log = logging.getLogger(__name__)


def run(
    main: Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse ``argv`` and call ``main`` with the result.

    Args:
        main: the job; returns its exit code, None meaning 0.
        parser: of the job's own flags.
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: ``main``'s own; 2 after a configuration error, an unreadable image, a missing file or a
        label pool that cannot be used, with one ``error: ...`` line on stderr; 130 after Ctrl-C. Any other exception
        is a defect and is left to show its traceback.

    Raises:
        SystemExit: from argparse, for ``--help`` (0) and unknown flags (2).
    """
    args = parser.parse_args(argv)
    try:
        return main(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except _expected_errors() as problem:
        log.debug("the error came from here", exc_info=True)
        print(f"error: {sentence(problem)}", file=sys.stderr)
        return REFUSED


def sentence(problem: BaseException) -> str:
    """The message of an expected error, on one line.

    An error that Ray carried over from a worker is unwrapped: its own text would be a traceback.
    """
    cause = getattr(problem, "cause", None)
    if isinstance(cause, _expected_errors()):
        problem = cause
    if isinstance(problem, OSError) and problem.filename is not None:
        text = f"{problem.strerror or type(problem).__name__}: {problem.filename}"
    else:
        text = str(problem) or type(problem).__name__
    return shown(" ".join(text.split()))


def _expected_errors() -> tuple[type[BaseException], ...]:
    """Errors that the user's own input, disk or other programs explain.

    Those of modules that are slow to load are looked up only where these are loaded: elsewhere nobody raised them.
    """
    errors: tuple[type[BaseException], ...] = (
        ConfigError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError,
    )  # fmt: skip
    loaded = ((sys.modules.get(module), name) for module, name in LATE_ERRORS)
    return (*errors, *(getattr(module, name) for module, name in loaded if module is not None))
