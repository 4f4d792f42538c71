"""Where the numerical references lie, and the random numbers that their weights are made of."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "references"


def random_of(name: str, shape: list[int]) -> NDArray[Any]:
    """Standard normal numbers that follow from a parameter's name."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return random.standard_normal(int(np.prod(shape))).reshape(shape)
