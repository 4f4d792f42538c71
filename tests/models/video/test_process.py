"""The end of the pipe to a process that reads somebody's video."""

import asyncio
import json
import subprocess
from multiprocessing.connection import Pipe
from typing import Any, cast

import numpy as np

from models.video import ClipProcess


def test_pixels_that_look_like_a_message_are_pixels() -> None:
    ours, theirs = Pipe()
    looks = b'{"refused": '
    theirs.send_bytes(json.dumps({"height": 2, "width": 2, "kind": "uint8", "time": 0.0}).encode())
    theirs.send_bytes(looks)

    async def read() -> Any:
        clip = ClipProcess(ours, cast("subprocess.Popen[bytes]", None))
        coming = await clip.next()
        assert coming is not None
        return await clip.pixels(coming)

    assert np.array_equal(asyncio.run(read()), np.frombuffer(looks, np.uint8).reshape(2, 2, 3))
    ours.close()
    theirs.close()
