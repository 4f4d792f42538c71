"""A replica on Ray Serve whose device can be broken by a call."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from serving.app import Dehazer


class Broken:
    """A network on a device that is gone."""

    def run(self, hazy: Tensor) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")


class Breakable(Dehazer):
    """:class:`serving.app.Dehazer`, and a way to break it."""

    def break_device(self) -> int:
        """From now on every picture fails; the process id."""
        self._replica._default.current = self._replica._default.current[0], Broken()
        return os.getpid()
