"""A replica on Ray Serve whose device can be broken by a call, and that others cannot replace for a while."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from serving.app import Dehazer


class Broken:
    """A network on a device that is gone."""

    def run(self, hazy: Tensor) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")


def barrier(port: int) -> Path:
    """A file: as long as it is there, no new replica of the service at that port gets ready."""
    return Path(tempfile.gettempdir()) / f"no-replicas-{port}"


class Breakable(Dehazer):
    """:class:`serving.app.Dehazer`, and a way to break it."""

    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        while barrier(config["port"]).exists():  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(0.1)
        await super().__init__(config)  # type: ignore[misc]

    def break_device(self) -> int:
        """From now on every picture fails; the process id."""
        self._replica._default.current = self._replica._default.current[0], Broken()
        return os.getpid()
