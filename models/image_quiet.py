"""Silence the image libraries: what they have to say about a file becomes a typed error or nothing."""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import _imaging

_LIBRARIES = ("PIL", "tifffile", "imagecodecs")

_lock = threading.Lock()
_users = 0
_caught: warnings.catch_warnings[None] | None = None
_levels: dict[str, int] = {}


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines of these libraries. Threads share it: the last one that leaves restores what the
    first one found, since the filters belong to the whole process.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _caught, _users  # noqa: PLW0603 - the state that warnings and logging keep is global too
    with _lock:
        _silence_libtiff()
        _users += 1
        if _users > 1:
            return
        _caught = warnings.catch_warnings()
        _caught.__enter__()
        warnings.filterwarnings("ignore", module=rf"({'|'.join(_LIBRARIES)})(\.|$)")
        for name in _LIBRARIES:
            logger = logging.getLogger(name)
            _levels[name] = logger.level
            logger.setLevel(logging.CRITICAL + 1)


def _leave() -> None:
    global _caught, _users  # noqa: PLW0603
    with _lock:
        _users -= 1
        if _users or _caught is None:
            return
        _caught.__exit__(None, None, None)
        _caught = None
        for name, level in _levels.items():
            logging.getLogger(name).setLevel(level)


@functools.cache
def _silence_libtiff() -> None:
    """Pillow's libtiff writes to the process's stderr what it also reports, and Pillow has no switch for it."""
    library = ctypes.CDLL(_imaging.__file__)  # also finds what it is linked with
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        setter = getattr(library, name, None)  # missing where libtiff is linked statically
        if setter is not None:
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
