"""``python -m serving`` answers what it has taken before it ends."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.faults.conftest import serving

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_picture_under_way_is_answered(
    photo: Callable[..., NDArray[Any]], tmp_path: Path, sent: signal.Signals
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(1, 480, 640, hazy=True)).resize((4000, 3000)).save(buffer, "JPEG")
    # All pixels, so that it takes long on any machine.
    with serving(tmp_path, requests={"timeout_s": 200}, inference={"working_side": None}) as (service, port):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=250) as client, ThreadPoolExecutor(1) as pool:
            long = pool.submit(client.post, "/v1/dehaze", content=buffer.getvalue())
            time.sleep(3)  # it is being computed
            if sent == signal.SIGINT:
                os.killpg(service.pid, sent)  # as a terminal does
            else:
                service.send_signal(sent)
            time.sleep(3)
            assert not long.done(), "the picture was too quick to tell anything"
            late = client.get("/readyz")
            assert (late.status_code, late.json()["detail"]) == (503, "the service is about to end")
            assert long.result().status_code == 200
        assert service.wait(60) == 0


def test_a_slow_reader_gets_all_of_its_answer(photo: Callable[..., NDArray[Any]], tmp_path: Path) -> None:
    """More than the buffers of the system hold."""
    buffer = io.BytesIO()
    Image.fromarray(photo(1, 480, 640, hazy=True)).resize((4000, 3000)).save(buffer, "JPEG")
    with serving(tmp_path) as (service, port):
        url = f"http://127.0.0.1:{port}/v1/dehaze?format=bmp"
        with httpx.stream("POST", url, content=buffer.getvalue(), timeout=100) as answer:
            pieces = answer.iter_raw(1 << 20)
            size = len(next(pieces))
            service.send_signal(signal.SIGTERM)
            for _ in range(3):
                time.sleep(6)
                size += len(next(pieces))
            assert size + sum(map(len, pieces)) == int(answer.headers["content-length"]) > 36_000_000
        assert service.wait(60) == 0
