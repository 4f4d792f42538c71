"""What the service takes on at once: admission of requests, by number, client and bytes."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from pydantic import Field

from models.config import Settings
from serving.errors import refused

_OF_LATE = 9  # answers


class RequestLimits(Settings):
    """Limits of requests; those of pictures are :class:`models.images.ImageLimits`.

    Attributes:
        timeout_s: seconds after which a request gets 504.
        batch_timeout_s: seconds after which a batch gets 504.
        read_timeout_s: seconds in which a body has to arrive; a later one gets 408.
        max_pending: requests that one ingress reads, holds or has worked on; further ones get 503.
        max_wait_s: longest time in seconds that a new request may have to wait, estimated from recent answers; beyond
            it the request gets 503, so an overload does not end in answers that come too late for everybody.
        max_pending_bytes: bytes of all bodies together; a request that would exceed them gets 503.
        max_per_client: pending requests of one client (a token, else an address); further ones get 429.
        forwarded_for: the client's address is the last in ``X-Forwarded-For``. Set it only behind a reverse proxy that
            writes that header.
        retry_after_s: seconds that ``Retry-After`` says.
        batch_files: files in a batch.
        batch_bytes: bytes of all files of a batch, packed and unpacked.
        batch_answer_bytes: bytes of all results of a batch.
        batch_parallel: files of one batch that are worked on at a time.
    """

    timeout_s: float = Field(60.0, gt=0)
    batch_timeout_s: float = Field(300.0, gt=0)
    read_timeout_s: float = Field(30.0, gt=0)
    max_pending: int = Field(64, ge=1)
    max_wait_s: float = Field(30.0, gt=0)
    max_pending_bytes: int = Field(512 << 20, ge=1)
    max_per_client: int = Field(32, ge=1)
    forwarded_for: bool = False
    retry_after_s: float = Field(2.0, gt=0)
    batch_files: int = Field(100, ge=1)
    batch_bytes: int = Field(256 << 20, ge=1)
    batch_answer_bytes: int = Field(512 << 20, ge=1)
    batch_parallel: int = Field(4, ge=1)

    @property
    def longest_work_s(self) -> float:
        """Return the most seconds that a request whose body is there may be worked on."""
        return max(self.timeout_s, self.batch_timeout_s)

    @property
    def longest_s(self) -> float:
        """Return the seconds after which every request has its answer."""
        return self.read_timeout_s + self.longest_work_s


@dataclass
class Reservation:
    """A request that was admitted, and the bytes that it holds."""

    gate: Admission
    held: int = 0

    def hold(self, count: int) -> None:
        """Account for ``count`` more bytes of the body.

        Raises:
            ProblemError: 503 when all requests together would hold too much.
        """
        limits = self.gate.limits
        if self.gate.held + count > limits.max_pending_bytes:
            raise refused(503, "too many bytes are waiting; try again later", "overloaded", limits.retry_after_s)
        self.held += count
        self.gate.held += count


class Admission:
    """Who gets in. Used on one event loop, so nothing is locked."""

    def __init__(self, limits: RequestLimits) -> None:
        self.limits = limits
        self.pending = 0
        self.held = 0
        self.closed = False  # the service is about to end
        self._clients: Counter[str] = Counter()

    @contextmanager
    def admitted(self, client: str) -> Iterator[Reservation]:
        """Take a place for a request of ``client``, before any of its body is read.

        Raises:
            ProblemError: 429 when the client has too many requests already, 503 when there are too many in all, or
                the service is about to end.
        """
        limits = self.limits
        if self.closed:
            raise refused(503, "the service is about to end; try again later", "unavailable", limits.retry_after_s)
        if self._clients[client] >= limits.max_per_client:
            detail = f"this client has {limits.max_per_client} requests here already; wait for one to end"
            raise refused(429, detail, retry_after=limits.retry_after_s)
        if self.pending >= limits.max_pending:
            raise refused(503, "the queue is full; try again later", "overloaded", limits.retry_after_s)
        self.pending += 1
        self._clients[client] += 1
        place = Reservation(self)
        try:
            yield place
        finally:
            self.pending -= 1
            self.held -= place.held
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


class AnswerPace:
    """How long a new picture would wait: those under way, times the seconds between answers of late.

    The median of these, so that one picture that takes very long does not close the door to all others.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way = 0
        self._since = 0.0
        self._between: deque[float] = deque(maxlen=_OF_LATE)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a picture as worked on, or waiting for it, while the block runs."""
        if not self._under_way:
            self._since = self._clock()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def answered(self) -> None:
        """Note that one of the pictures is done."""
        now = self._clock()
        self._between.append(now - self._since)
        self._since = now

    @property
    def busy(self) -> bool:
        """Say whether a picture is worked on, or waits for it."""
        return self._under_way > 0

    @property
    def wait_s(self) -> float:
        """Return the seconds until a new picture's turn; 0 as long as too little is known."""
        known = len(self._between) > _OF_LATE // 2
        return self._under_way * statistics.median(self._between) if known else 0.0


class Budget:
    """Units of something, such as pixels in memory, that tasks take in turn: first come, first served.

    Args:
        total: units in all. Who asks for more than that gets all of them, alone.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, units: int) -> AsyncIterator[None]:
        """Wait for the units, and give them back at the end; who is cancelled while waiting leaves the line."""
        units = min(units, self._total)
        await self._take(units)
        try:
            yield
        finally:
            self._free += units
            self._call()

    async def _take(self, units: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((units, turn))
        self._call()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # called and cancelled at the same moment
                self._free += units
            self._call()
            raise

    def _call(self) -> None:
        while self._waiting:
            units, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
                continue
            if units > self._free:
                return
            self._waiting.popleft()
            self._free -= units
            turn.set_result(None)
