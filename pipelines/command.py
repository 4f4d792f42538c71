"""What every job's ``main`` has in common: expected errors are one line and exit code 2, Ctrl-C is 130."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence

from models.config import ConfigError, LabelingError, PoolError, parse_words
from pipelines.shown import shown

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
REFUSED = 2  # the exit code that argparse uses too

LATE_ERRORS = (
    ("models.images", "ImageError"),
)  # fmt: skip

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of an OSError: no room, or no right to any

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
        The exit code: ``main``'s own; 2 after a configuration error, an unreadable image, a missing file, a full disk
        or a label pool that cannot be used, here or in a worker, with one ``error: ...`` line on stderr; 130 after
        Ctrl-C. Any other exception is a defect and is left to show its traceback.

    Raises:
        SystemExit: from argparse, for ``--help`` (0) and unknown flags (2).
    """
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
    """The expected error behind an exception, None where there is none.

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
    full = isinstance(problem, OSError) and problem.errno in FULL
    return problem if full or isinstance(problem, _expected_errors()) else None


def sentence(problem: BaseException) -> str:
    """The message of an expected error, on one line."""
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
        ConfigError, LabelingError, PoolError, FileNotFoundError, NotADirectoryError, IsADirectoryError,
        PermissionError, FloatingPointError,  # a loss that is no number: the learning rate
    )  # fmt: skip
    loaded = ((sys.modules.get(module), name) for module, name in LATE_ERRORS)
    return (*errors, *(getattr(module, name) for module, name in loaded if module is not None))
