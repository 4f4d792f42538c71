"""What a service in the open gets to see: damaged and made-up bodies, lies about them, and broken HTTP. The same every
time.
"""

from __future__ import annotations

import io
import json
import select
import socket
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import checkpoints as checkpoint
from models import zoo
from models.inference.dehazing import Dehazed
from tests.models.images.mutants import mutants, seeds

NETWORK = {"name": "corun", "stages": 1, "dim": 2}
FORM = {"content-type": "multipart/form-data; boundary=xyz"}
HEAD = b"POST /v1/dehaze HTTP/1.1\r\nHost: a\r\n"
_QUERIES = (
    "?strength=nan", "?strength=1e999", "?strength=-0", "?quality=99999999999999999999", "?format=../../etc/passwd",
    "?output=%00", "?model=%F0%9F%92%A9", "?model=" + "a" * 5000, "?format=", "?strength=1&strength=0", "?%ff=%fe",
)  # fmt: skip
_HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "image/png"}, {"content-type": "multipart/form-data"},
    {"content-type": "multipart/form-data; boundary=" + "b" * 300}, {"content-type": "application/json"},
    {"content-type": "x" * 8000}, {"x-request-id": "<script>"}, {"x-request-id": "a" * 4000},
    {"x-forwarded-for": "127.0.0.1," * 500}, {"authorization": "Bearer " + "t" * 9000}, {"content-encoding": "gzip"},
    {"x-request-timeout-seconds": "nan"}, {"x-request-timeout-seconds": "0.0001"}, {"host": ""},
    {"x-request-disconnect-disabled": "1"}, {"expect": "100-continue"}, {"range": "bytes=0-1"},
)  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """A request, and what it is."""

    what: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Nothing:
    """A network that changes nothing, at once."""

    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        return Dehazed(hazy, hazy[:, :1])


def quick_model(folder: Path) -> str:
    """The folder of a model that takes no time, so that what is measured is the service."""
    torch.manual_seed(0)
    return str(checkpoint.save(folder / "quick", zoo.build(NETWORK), {"network": NETWORK}))


def damaged(random: np.random.Generator, whole: bytes) -> bytes:
    """A few bytes changed, left out or put in, or the end cut off."""
    data = bytearray(whole)
    for _ in range(random.integers(1, 6)):
        place, size = int(random.integers(0, len(data))), int(random.integers(1, 30))
        match random.integers(0, 4):
            case 0:
                data[place] = random.integers(0, 256)
            case 1:
                del data[place : place + size]
            case 2:
                data[place:place] = random.bytes(size)
            case _:
                del data[max(1, place) :]
        data = data or bytearray(b"x")
    return bytes(data)


def archive(files: Iterable[tuple[str, bytes]], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive; names may repeat."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as packed:
        for name, data in files:
            packed.writestr(name, data)
    return buffer.getvalue()


def form(files: Iterable[bytes]) -> bytes:
    """A multipart form whose content type is :data:`FORM`."""
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return b"".join(head + data + b"\r\n" for data in files) + b"--xyz--\r\n"


def wrong() -> dict[str, bytes]:
    """Files that are no photographs."""
    return {
        "JSON": json.dumps({"file": "x" * 1000}).encode(),
        "nested JSON": b"[" * 100_000,
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a program": b"\x7fELF\x02\x01\x01" + bytes(2000),
        "PDF": b"%PDF-1.7\n" + b"0 0 obj\n" * 400,
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "gzip": b"\x1f\x8b\x08\0" + zlib.compress(bytes(1_000_000)),
        "zeros": bytes(300_000),
        "text": "\N{SNOWMAN}\0\r\n".encode() * 3000,
    }


def packed() -> dict[str, bytes]:
    """Zip archives to be careful with."""
    sound = seeds()
    inner = archive([("a.jpg", sound["jpeg"])])
    return {
        "a zip bomb": archive([(f"{n}.png", bytes(30_000_000)) for n in range(3)]),
        "a zip in a zip": archive([("a.zip", archive([("b.zip", inner)]))]),
        "names that climb": archive([("../../a.jpg", sound["jpeg"]), ("/etc/b.png", sound["png"])]),
        "many names": archive([(f"{n}", b"") for n in range(2000)]),
        "a long name": archive([("n" * 60_000, sound["jpeg"])]),
        "JPEG behind zip": inner + sound["jpeg"],
        "zip behind JPEG": sound["jpeg"] + inner,
    }


def requests(count: int, seed: int = 6) -> Iterator[Hostile]:
    """``count`` requests: image files changed in every way (7 of 10, some as a form), archives and forms that are
    damaged, what is no image, and sound files beside hostile queries and headers.
    """
    random = np.random.default_rng(seed)
    sound, files = seeds(), mutants(count, seed)
    plain, bombs = list(wrong().items()), list(packed().items())
    several = archive([(f"{name}.bin", data) for name, data in list(sound.items())[:8]])
    names = sorted(sound)
    for index in range(count):
        name = names[index % len(names)]
        match index % 10:
            case 7:
                kind, data = (plain + bombs)[index // 10 % (len(plain) + len(bombs))]
                path = "/v1/batch" if kind in dict(bombs) else "/v1/dehaze"
                yield Hostile(kind, path, data)
            case 8:
                part = damaged(random, several)
                yield (
                    Hostile("a damaged archive", "/v1/batch", part)
                    if index // 10 % 2
                    else Hostile("a damaged form", "/v1/batch", damaged(random, form([sound[name]] * 3)), FORM)
                )
            case 9:
                query, headers = _QUERIES[index // 10 % len(_QUERIES)], _HEADERS[index // 10 % len(_HEADERS)]
                yield Hostile(f"{query[:40]} {headers}"[:120], f"/v1/dehaze{query}", sound[name], headers)
            case digit:
                what, data = next(files)
                if digit == 6:
                    yield Hostile(f"{what} in a form", "/v1/dehaze", form([data]), FORM)
                else:
                    yield Hostile(what, "/v1/dehaze", data)


# --- HTTP that is broken ---


@dataclass(frozen=True)
class Broken:
    """Bytes for a connection, and the statuses that may come back; 0 is a connection that is closed without any."""

    raw: bytes
    statuses: tuple[int, ...]
    half_close: bool = False


def broken(jpeg: bytes) -> dict[str, Broken]:
    """What no client library sends."""
    length = b"Content-Length: %d\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "no HTTP": Broken(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200), (400,)),
        "HTTP/2": Broken(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
        "a strange method": Broken(b"BREW / HTTP/1.1\r\n\r\n", (400,)),
        "no path": Broken(b"POST  HTTP/1.1\r\n\r\n", (400,)),
        "a length that is none": Broken(HEAD + b"Content-Length: abc\r\n\r\n" + jpeg, (400,)),
        "a length below nothing": Broken(HEAD + b"Content-Length: -5\r\n\r\n" + jpeg, (400,)),
        "a length beyond numbers": Broken(HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", (400,)),
        "a length beyond limits": Broken(HEAD + b"Content-Length: 9999999999\r\n\r\n" + jpeg, (413,)),
        "two lengths": Broken(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", (400,)),
        "length and chunks": Broken(HEAD + b"Content-Length: 5\r\n" + chunked + b"0\r\n\r\n", (400,)),
        "a chunk beyond numbers": Broken(HEAD + chunked + b"FFFFFFFFFFFFFFFFFF\r\nabc", (400,)),
        "a chunk that is none": Broken(HEAD + chunked + b"zz\r\nabc\r\n", (400,)),
        "less than was said": Broken(HEAD + length % (2 * len(jpeg)) + jpeg, (0, 400), half_close=True),
        "more than was said": Broken(HEAD + length % (len(jpeg) // 2) + jpeg, (400, 422)),
        "a body cut off": Broken(HEAD + length % len(jpeg) + jpeg[: len(jpeg) // 2], (0, 400), half_close=True),
        "a head cut off": Broken(HEAD + b"X-Half: ", (0, 400), half_close=True),
        "a huge header": Broken(HEAD + b"X-Huge: " + b"h" * 400_000 + b"\r\n\r\n", (431,)),
        "many headers": Broken(HEAD + b"X-Many: 1\r\n" * 40_000 + b"\r\n", (431,)),
        "a huge path": Broken(b"GET /" + b"p" * 400_000 + b" HTTP/1.1\r\n\r\n", (431,)),
        "a header with a line": Broken(HEAD + b"X-A: b\rX-C: d\r\n\r\n", (400,)),
        "a websocket": Broken(
            b"GET /v1/dehaze HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            (400, 403, 404, 405),
        ),
    }


def talk(
    port: int,
    pieces: Iterable[bytes],
    *,
    pause: float = 0.0,
    half_close: bool = False,
    patience: float = 30.0,
    source: str = "127.0.0.1",
) -> bytes:
    """Send pieces, with ``pause`` seconds after each, until an answer begins; and what comes until the answer is whole
    or the connection closed.

    Raises:
        TimeoutError: neither happens within ``patience`` seconds.
    """
    with socket.create_connection(("127.0.0.1", port), patience, (source, 0)) as connection:
        try:
            for piece in pieces:
                for start in range(0, len(piece), 16_384):
                    connection.sendall(piece[start : start + 16_384])
                if select.select([connection], [], [], pause)[0]:
                    break
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return _answer(connection)
        except (BrokenPipeError, ConnectionResetError):
            return _rest(connection)


def _answer(connection: socket.socket) -> bytes:
    found = b""
    while not _is_whole(found):
        chunk = connection.recv(65_536)
        if not chunk:
            break
        found += chunk
    return found


def _rest(connection: socket.socket) -> bytes:
    try:
        return _answer(connection)
    except OSError:
        return b""


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    return bool(end) and len(body) >= sum(lengths)


def status_of(answer: bytes) -> int:
    """The status of the first answer; 0 for none."""
    return int(answer.split()[1]) if answer else 0


def endless(piece: bytes, count: int = 100_000) -> Iterator[bytes]:
    """The same piece, more often than anybody would read it."""
    for _ in range(count):
        yield piece
