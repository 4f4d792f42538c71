"""A network stops in the middle when nobody waits for what it computes any more.

Torch has no such thing, but every module of a network can ask before it runs. That costs a call per module, and what is
computed stays the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_thread = threading.local()


class InterruptedWorkError(Exception):
    """Nobody waits for the result."""


def make_interruptible(network: nn.Module) -> None:
    """Let all modules of a network ask whether to go on. Not for a network that is compiled: it could not be."""
    for module in network.modules():
        module.register_forward_pre_hook(_ask)


@contextmanager
def interrupted_when(done: Callable[[], bool]) -> Iterator[None]:
    """Networks that this thread runs in here end with :class:`InterruptedWorkError` soon after ``done()`` is true."""
    _thread.done = done
    try:
        yield
    finally:
        _thread.done = None


def _ask(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001 - torch's signature
    done = getattr(_thread, "done", None)
    if done is not None and done():
        raise InterruptedWorkError
