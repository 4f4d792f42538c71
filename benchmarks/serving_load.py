"""A client of the service that costs little: HTTP over plain sockets, in a process of its own.

A client library would use as much of a core as Serve's proxy does. This one writes bytes that were made before, reads
the status and ``Content-Length``, and throws the body away.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

REFUSED = (429, 503)
RETRY_S = 2.0  # what ``Retry-After`` says unless configured
FAILED = 0  # the status of a request without an answer
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Request:
    """What is sent: a path with its query, and a body."""

    path: str
    body: bytes
    media_type: str = "application/octet-stream"

    def raw(self) -> bytes:
        """Return the bytes that are sent: head and body."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {self.media_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass(frozen=True)
class Sent:
    """A request that was answered: when it was sent and answered (seconds of ``time.monotonic``), and its status."""

    begun: float
    ended: float
    status: int

    @property
    def seconds(self) -> float:
        """Return the seconds from the first byte sent to the last received."""
        return self.ended - self.begun


@dataclass(frozen=True)
class Load:
    """What came of some load, and the processor's seconds that making it took."""

    sent: list[Sent]
    cpu_s: float


class Client:
    """Keeps connections open for the requests of one address.

    Args:
        port: of the service on loopback.
        source: address that it comes from; the service counts clients by it.
    """

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._port, self._source = port, source
        self._free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def send(self, raw: bytes) -> Sent:
        """Send bytes and wait for the answer."""
        begun = time.monotonic()
        try:
            status = await self._exchange(raw)
        except (OSError, EOFError, ValueError):
            status = FAILED
        return Sent(begun, time.monotonic(), status)

    async def _exchange(self, raw: bytes) -> int:
        kept = bool(self._free)
        reader, writer = self._free.pop() if kept else await self._connected()
        try:
            writer.write(raw)
            try:
                status, length, last = await _head(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                if not kept:
                    raise
                writer.close()  # the service had closed a connection that it kept
                self._free.clear()
                return await self._exchange(raw)
            while length:
                length -= len(await reader.readexactly(min(length, _CHUNK)))
        except BaseException:
            writer.close()
            raise
        if last:
            writer.close()
        else:
            self._free.append((reader, writer))
        return status

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port, limit=_CHUNK, local_addr=(self._source, 0))

    def close(self) -> None:
        """Let go of the connections."""
        while self._free:
            self._free.pop()[1].close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, int, bool]:
    """Read the head of an answer: status, bytes of the body, and whether the connection closes then."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length"))
    return int(lines[0].split()[1]), length, any(line == b"connection: close" for line in lines)


def closed(port: int, requests: Sequence[Request], concurrency: int, seconds: float) -> Load:
    """Run ``concurrency`` clients, each of which sends its next request when the last was answered, or ``RETRY_S``
    after it was refused. What is under way at the end is given up, so the service has nothing more to do then.
    """
    return asyncio.run(_measured(_closed(port, requests, concurrency, seconds)))


def opened(port: int, requests: Sequence[Request], rate: float, seconds: float, sources: int = 1) -> Load:
    """Send requests at random times, ``rate`` per second on average, whether the last ones were answered or not, from
    ``sources`` addresses in turn. Ends when the last is answered.
    """
    return asyncio.run(_measured(_opened(port, requests, rate, seconds, sources)))


async def _measured(work: Awaitable[list[Sent]]) -> Load:
    cpu = time.process_time()
    return Load(await work, time.process_time() - cpu)


async def _closed(port: int, requests: Sequence[Request], concurrency: int, seconds: float) -> list[Sent]:
    found: list[Sent] = []
    turn = itertools.cycle([request.raw() for request in requests])
    client = Client(port)

    async def one() -> None:
        while True:
            found.append(await client.send(next(turn)))
            if found[-1].status in REFUSED:
                await asyncio.sleep(RETRY_S)

    senders = [asyncio.create_task(one()) for _ in range(concurrency)]
    await asyncio.sleep(seconds)
    for sender in senders:
        sender.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    client.close()
    return found


async def _opened(port: int, requests: Sequence[Request], rate: float, seconds: float, sources: int) -> list[Sent]:
    clients = itertools.cycle([Client(port, f"127.0.0.{1 + number}") for number in range(sources)])
    turn = itertools.cycle([request.raw() for request in requests])
    chance = random.Random(1)
    due, end = time.monotonic(), time.monotonic() + seconds
    tasks: list[asyncio.Task[Sent]] = []
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(next(clients).send(next(turn))))
        due += chance.expovariate(rate)
    return list(await asyncio.gather(*tasks))
