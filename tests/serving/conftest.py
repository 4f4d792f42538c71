"""A service without Ray: the interface over an engine of this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from models.settings import parse
from serving.api import make_api
from serving.config import ServingConfig
from serving.replica import Replica

Pixels = NDArray[np.uint8]
BASE: dict[str, Any] = {"model": "dcp", "scorer": None, "threads": 1}


@pytest.fixture
def jpeg(photo: Callable[..., Pixels]) -> Callable[..., bytes]:
    """``jpeg(seed, height=96, width=128, format="JPEG")``: a hazy photograph as a file."""

    def make(seed: int = 1, height: int = 96, width: int = 128, format: str = "JPEG") -> bytes:  # noqa: A002
        buffer = io.BytesIO()
        Image.fromarray(photo(seed, height, width, hazy=True)).save(buffer, format, quality=92)
        return buffer.getvalue()

    return make


@pytest.fixture
def service() -> Iterator[Callable[..., TestClient]]:
    """``service(backend=None, metrics=None, **settings)``: a client of a service with these settings."""
    with ExitStack() as stack:

        def make(backend: Any = None, metrics: Any = None, **settings: Any) -> TestClient:
            config = parse(ServingConfig, BASE | settings)
            backend = backend if backend is not None else Replica(config, metrics)
            app = make_api(config, backend, metrics=metrics)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make
