"""Perceptual hashes tell copies from other photographs, and the search finds what comparing all would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import images
from models.images import Photo
from pipelines.corpus import similarity as near_duplicates
from pipelines.corpus.similarity import BANDS, as_words, close_pairs, close_pairs_by, closest, distance, perceptual_hash

Make = Callable[..., np.ndarray]


def far(a: np.ndarray, b: np.ndarray) -> int:
    return int(distance(as_words([perceptual_hash(a)]), as_words([perceptual_hash(b)]))[0])


def test_copies_are_near_and_others_far(photo: Make) -> None:
    whole = photo(1, height=240, width=320)
    assert far(whole, whole) == 0
    assert far(whole, images.decode(images.encode(Photo(whole), "JPEG", 40)).pixels) <= 12
    assert far(whole, images.resize(whole, 160, 120)) <= 12
    assert far(whole, whole[:, ::-1]) > 60
    assert all(far(whole, photo(seed, height=240, width=320)) > 60 for seed in range(2, 12))


def words(seed: int, count: int) -> np.ndarray:
    """Random hashes, of which every third is another one with a few bits turned."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, (count, 4), dtype=np.uint64)
    for i in range(2, count, 3):
        hashes[i] = hashes[random.integers(0, i)]
        for bit in random.integers(0, 256, random.integers(0, 20)):
            hashes[i, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return hashes


@given(st.integers(0, 50), st.integers(0, 40), st.integers(0, 15), st.booleans())
def test_closest_is_that_of_brute_force(seed: int, count: int, bits: int, every: bool) -> None:
    a, b = words(seed, count), words(seed + 1, 17)
    b[:5] = a[:5] if count >= 5 else b[:5]
    index, best = closest(a, b, bits, every)
    for i in range(count):
        distances = np.bitwise_count(a[i] ^ b).sum(axis=1)
        assert (index[i] < 0) == (distances.min() > bits)
        if index[i] >= 0:
            assert distances[index[i]] == distances.min() == best[i]


def brute(hashes: np.ndarray, bits: int) -> dict[tuple[int, int], int]:
    far = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    return {(i, j): int(far[i, j]) for i, j in zip(*np.nonzero(np.triu(far <= bits, 1)), strict=True)}


@given(seed=st.integers(0, 30), count=st.integers(0, 60), bits=st.integers(0, 15))
def test_all_close_pairs_are_found_once(seed: int, count: int, bits: int) -> None:
    hashes = words(seed, count)
    found = [row for i, j, far in close_pairs(hashes, bits) for row in zip(i, j, far, strict=True)]
    assert len(found) == len({row[:2] for row in found})
    assert {(i, j): far for i, j, far in found} == brute(hashes, bits)
    by_bands = [
        (min(i, j), max(i, j), far)
        for band in range(BANDS)  # sure up to 15 bits
        for pairs in close_pairs_by(hashes, band, bits)
        for i, j, far in zip(*pairs, strict=True)
    ]
    assert sorted(by_bands) == sorted(found)


@pytest.mark.parametrize("block", [4, 14, 1000])
def test_runs_of_any_lengths_are_compared(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    hashes = np.zeros((20, 4), np.uint64)
    hashes[:, 0] = run = np.repeat([3, 1, 2, 0], [5, 7, 1, 7])  # values of the first band
    hashes[:, 3] = np.arange(20)
    pairs = [(min(i, j), max(i, j)) for p in close_pairs_by(hashes, 0, 9) for i, j in zip(*p[:2], strict=True)]
    assert sorted(pairs) == [(i, j) for i in range(20) for j in range(i + 1, 20) if run[i] == run[j]]


def test_nothing_to_compare() -> None:
    index, _ = closest(words(0, 3), as_words([]), 10)
    assert index.tolist() == [-1, -1, -1]
    assert not [pair for pair in close_pairs(words(0, 1), 10) if len(pair[0])]
