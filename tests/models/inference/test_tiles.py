"""Tiles cover an image, and feathered weights put it together without a seam."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.inference.tiles import Tile, feather, tiles_of

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(8, 128), share=st.floats(0.0, 0.5))
def test_tiles_cover_all_and_their_weights_never_vanish(height: int, width: int, side: int, share: float) -> None:
    overlap = int(side * share)
    total = torch.zeros(height, width)
    for tile in tiles_of(height, width, side, overlap):
        assert 0 <= tile.top < tile.bottom <= min(height, tile.top + side)
        assert 0 <= tile.left < tile.right <= min(width, tile.left + side)
        weights = feather(tile, height, width, overlap, CPU)
        assert 0 <= weights.min() <= weights.max() <= 1
        tile.of(total).add_(weights)
    assert total.min() > 0.2


def test_neighbors_overlap_by_what_was_asked() -> None:
    starts = [tile.left for tile in tiles_of(10, 1000, 256, 64)]
    assert starts[0] == 0
    assert starts[-1] == 1000 - 256
    assert max(b - a for a, b in pairwise(starts)) <= 256 - 64


def test_pixels_at_a_false_border_count_for_nothing() -> None:
    left = feather(Tile(0, 64, 0, 64), 64, 100, 16, CPU)[0]
    assert left[-4:].tolist() == [0] * 4
    assert left[:48].tolist() == [1] * 48
    right = feather(Tile(0, 64, 36, 100), 64, 100, 16, CPU)[0]
    assert right[:4].tolist() == [0] * 4
    assert right[-16:].tolist() == [1] * 16


@pytest.mark.parametrize("overlap", [-1, 64, 70])
def test_an_overlap_as_large_as_the_tile_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"overlap is {overlap}"):
        tiles_of(100, 100, 64, overlap)
