"""A video read and written in a process of its own: on a file that nobody vouches for FFmpeg may crash, or never end.

The process asks for each frame, and whoever started it answers. Messages are JSON; pixels follow theirs as they are.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models.config import ConfigError
from models.options import VideoOptions
from models.video.clip import Told, rewrite_video
from models.video.reader import Pixels, VideoFrame

_NICENESS = 10  # of the process: an encoder takes all processors
R = TypeVar("R")


@dataclass(frozen=True)
class Coming:
    """A frame before its pixels: height and width, their kind, and its time in seconds."""

    height: int
    width: int
    kind: str
    time: float


class ClipProcess:
    """Our end of the pipe. All methods raise ConfigError where the source cannot be read or the target cannot hold it,
    and OSError where the process fails.

    Attributes:
        told: what there is to say of the result, after the last frame.
    """

    def __init__(self, pipe: Connection, process: subprocess.Popen[bytes]) -> None:
        self._pipe, self._process = pipe, process
        self.told = Told()

    async def frames(self) -> int | None:
        """How many there are, as far as the file says; to be asked first, once."""
        found: int | None = (await self._message())["frames"]
        return found

    async def next(self) -> Coming | None:
        """The next frame, whose :meth:`pixels` have to be read and answered; None at the end."""
        message = await self._message()
        if "kind" in message:
            return Coming(**message)
        self.told = Told(**{name: tuple(lines) for name, lines in message.items()})
        return None

    async def pixels(self, coming: Coming) -> Pixels:
        """Those of a frame."""
        data = await self._passed(self._pipe.recv_bytes)  # no message, whatever a stranger's pixels look like
        return np.frombuffer(data, coming.kind).reshape(coming.height, coming.width, 3)

    async def answer(self, pixels: Pixels) -> None:
        """What the frame becomes; of the same size and kind."""
        await self._passed(self._pipe.send_bytes, np.ascontiguousarray(pixels).data.cast("B"))

    async def _message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self._passed(self._pipe.recv_bytes))
        if "refused" in message:
            raise ConfigError(message["refused"])
        return message

    async def _passed(self, call: Callable[..., R], *words: Any) -> R:
        try:
            return await asyncio.to_thread(call, *words)
        except (EOFError, ConnectionError) as problem:
            code = await asyncio.to_thread(self._process.wait)
            # The number of a signal, negated.
            if code < 0:
                raise ConfigError(f"the file ends the program that reads it (signal {-code})") from problem
            raise OSError(f"the process of a video ended with code {code}; the lines above say why") from problem


@asynccontextmanager
async def clip_process(folder: Path, source: str, target: str, options: VideoOptions) -> AsyncIterator[ClipProcess]:
    """Rewrite a video in a process that ends with this context.

    Args:
        folder: where it works; messages then have short names in them.
        source: a file in ``folder``.
        target: likewise.
        options: how.
    """
    ours, theirs = Pipe()
    words = [str(theirs.fileno()), source, target, options.model_dump_json()]
    # -P: nothing is imported from the folder, where strangers' files are.
    process = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-P", "-m", __name__, *words], cwd=folder, pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    # With a copy open here, the pipe would outlive the process.
    theirs.close()
    try:
        yield ClipProcess(ours, process)
    finally:
        process.kill()
        process.wait()
        ours.close()


def _serve(pipe: Connection, source: Path, target: Path, options: VideoOptions) -> None:
    """Until the video is written, or the other end is closed."""

    def tell(**message: Any) -> None:
        pipe.send_bytes(json.dumps(message).encode())

    def change(frame: VideoFrame) -> Pixels:
        height, width, _ = frame.pixels.shape
        tell(height=height, width=width, kind=frame.pixels.dtype.name, time=frame.time)
        pipe.send_bytes(frame.pixels.data.cast("B"))
        return np.frombuffer(pipe.recv_bytes(), frame.pixels.dtype).reshape(frame.pixels.shape)

    try:
        told = rewrite_video(source, target, options, change, lambda frames: tell(frames=frames))
        tell(**asdict(told))
    except ConfigError as problem:
        tell(refused=str(problem))
    except (EOFError, ConnectionError):
        sys.exit("nobody waits for the video any more")


if __name__ == "__main__":
    os.nice(_NICENESS)
    number, origin, goal, how = sys.argv[1:]
    _serve(Connection(int(number)), Path(origin), Path(goal), VideoOptions.model_validate_json(how))
