"""Pools for the tests, and made-up labels for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from pseudolabel.pool.entries import LabelEntry
from pseudolabel.pool.label_pool import LabelPool


def entry(image_id: str, clearness: float = 0.5, quality: float = 0.5, step: int = 0, side: int = 8) -> LabelEntry:
    random = np.random.default_rng([int.from_bytes(image_id.encode()) % 2**32, step])
    return LabelEntry(
        image_id=image_id,
        label=random.integers(0, 256, (side, side, 3), dtype=np.uint8),
        transmission=random.integers(0, 256, (side, side), dtype=np.uint8),
        trust=random.random((2, 3), dtype=np.float32),
        clearness=clearness,
        quality=quality,
        teacher_step=step,
    )


@pytest.fixture
def open_pool(tmp_path: Path) -> Iterator[Callable[..., LabelPool]]:
    """``open_pool(name, **options)``: the pool in that folder, closed at the end."""
    with ExitStack() as stack:
        yield lambda name="pool", **options: stack.enter_context(
            closing(LabelPool(tmp_path / name, **{"sync": False} | options))
        )


@pytest.fixture
def pool(open_pool: Callable[..., LabelPool]) -> LabelPool:
    return open_pool()


@pytest.fixture
def other(open_pool: Callable[..., LabelPool]) -> LabelPool:
    """Another pool, to restore into."""
    return open_pool("other")
