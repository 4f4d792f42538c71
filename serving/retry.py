"""Work that a replica took with it is sent again, once: dehazing twice does no harm."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serving.errors import refused
from serving.metrics import Metrics

log = logging.getLogger(__name__)
R = TypeVar("R")


async def twice(send: Callable[[], Awaitable[R]], deaths: tuple[type[Exception], ...], metrics: Metrics) -> R:
    """Return the answer of ``send``, called again when it raises one of ``deaths``.

    Raises:
        ProblemError: 503 when it happens again.
    """
    try:
        return await send()
    except deaths as problem:
        log.warning("a replica died, and its work is sent again: %s", type(problem).__name__)
        metrics.retried()
    try:
        return await send()
    except deaths as problem:
        raise refused(503, "the work was lost twice; try again", "replica_lost", 1.0) from problem
