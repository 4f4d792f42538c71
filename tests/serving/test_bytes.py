"""What the service answers is byte for byte what ``dehaze apply`` writes with as many threads: torch rounds sums in
another order with each number of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from pipelines.dehaze.apply import main as apply_main

Pixels = NDArray[np.uint8]
MODEL = "corun-compact"
KINDS = ("jpeg", "png", "png16", "alpha")
HALF = {"strength": "0.5"}


def sent(kind: str, pixels: Pixels) -> tuple[str, bytes]:
    """A file's suffix and bytes: JPEG, 8-bit PNG, 16-bit PNG, or PNG with alpha."""
    if kind == "png16":
        deep = pixels.astype(np.uint16) * 257 + np.arange(pixels.shape[1], dtype=np.uint16)[:, None]
        return ".png", bytes(imagecodecs.png_encode(deep))
    picture = Image.fromarray(pixels)
    if kind == "alpha":
        ramp = np.broadcast_to(np.linspace(0, 255, pixels.shape[1], dtype=np.uint8), pixels.shape[:2])
        picture.putalpha(Image.fromarray(np.ascontiguousarray(ramp)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if kind == "jpeg" else "PNG", **({"quality": 92} if kind == "jpeg" else {}))
    return ".jpg" if kind == "jpeg" else ".png", buffer.getvalue()


@pytest.fixture(scope="module")
def applied(
    photo: Callable[..., Pixels], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, bool], tuple[bytes, bytes]]:
    """By kind and whether at half strength: the file, and what ``dehaze apply`` makes of it."""
    folder = tmp_path_factory.mktemp("applied")
    files: dict[str, Path] = {}
    for seed, kind in enumerate(KINDS):
        suffix, data = sent(kind, photo(seed, 75, 101, hazy=True))
        files[kind] = folder / f"{kind}{suffix}"
        files[kind].write_bytes(data)
    torch.set_num_threads(1)  # as many as the services of these tests have
    found = {}
    for half in (False, True):
        out = folder / str(half)
        flags = ["--strength", HALF["strength"]] if half else []
        assert apply_main([*map(str, files.values()), "--model", MODEL, "--out", str(out), *flags]) == 0
        for kind, file in files.items():
            found[kind, half] = file.read_bytes(), (out / file.name).read_bytes()
    return found


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_in_this_process(service: Callable[..., TestClient], applied: Any, kind: str, half: bool) -> None:
    given, expected = applied[kind, half]
    answer = service(model=MODEL).post("/v1/dehaze", params=HALF if half else {}, content=given)
    assert answer.status_code == 200, answer.text
    assert answer.content == expected


def test_on_ray_serve(ray_service: Any, applied: Any) -> None:
    for (kind, half), (given, expected) in applied.items():
        query = {"model": "compact"} | (HALF if half else {})
        answer = ray_service.client.post("/v1/dehaze", params=query, content=given)
        assert answer.status_code == 200, answer.text
        assert answer.content == expected, (kind, half)


def test_the_kinds_are_what_they_are_called(applied: Any) -> None:
    assert imagecodecs.png_decode(applied["png16", False][1]).dtype == np.uint16
    assert Image.open(io.BytesIO(applied["alpha", False][1])).mode == "RGBA"
    assert Image.open(io.BytesIO(applied["jpeg", False][1])).format == "JPEG"
    assert all(applied[kind, False][1] != applied[kind, True][1] for kind in KINDS)
