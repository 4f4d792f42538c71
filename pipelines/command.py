"""What every job's ``main`` has in common: expected errors are one line and exit code 2, Ctrl-C is 130."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from models.config import DehazeError, parse_words
from pipelines.disk_errors import NO_PLACE, in_words
from pipelines.shown import shown

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
REFUSED = 2  # the exit code that argparse uses too

# Errors that the user's own input, disk or programs explain.
EXPECTED = (
    DehazeError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError,
    FloatingPointError,  # a loss that is no number: the learning rate
)  # fmt: skip

_RAY_DATA = "\nFailed to apply UDF"  # where what it adds to messages of its tasks begins

log = logging.getLogger(__name__)


def run(
    main: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Parse ``argv`` and call ``main`` with the result.

    Args:
        main: the job; returns its exit code, None meaning 0.
        parser: of the job's own flags.
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: ``main``'s own; 2 after a configuration error, an unreadable image, a missing file, a full disk
        or a label pool that cannot be used, here or in a worker, with one ``error: ...`` line on stderr; 130 after
        Ctrl-C. Any other exception is a defect and is left to show its traceback.

    Raises:
        SystemExit: from argparse, for ``--help`` (0) and unknown flags (2).
    """
    if sys.stderr is None:  # whoever called has closed it; print would take standard output instead
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - as long as the process lives
    args = parse_words(parser, argv)
    try:
        return main(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as problem:
        expected = user_error(problem)
        if expected is None:
            raise
        log.debug("the error came from here", exc_info=True)
        print(f"error: {sentence(expected)}", file=sys.stderr)
        return REFUSED


def user_error(problem: BaseException | None) -> BaseException | None:
    """Find the expected error behind an exception; None where there is none.

    Ray wraps what is raised in its tasks, actors and training workers, sometimes several times over; its own text would
    be a traceback.
    """
    if problem is None:
        return None
    workers = getattr(problem, "worker_failures", None) or {}  # of Ray Train, by rank: one may have taken others along
    for inner in (getattr(problem, "cause", None), *workers.values()):
        found = user_error(inner) if isinstance(inner, BaseException) else None
        if found is not None:
            return found
    full = isinstance(problem, OSError) and problem.errno in NO_PLACE
    return problem if full or isinstance(problem, EXPECTED) else None


def sentence(problem: BaseException) -> str:
    """Return the message of an expected error, on one line."""
    text = in_words(problem) if isinstance(problem, OSError) else str(problem)
    text = text.partition(_RAY_DATA)[0] or type(problem).__name__
    return shown(" ".join(text.split()))
