"""Perceptual hashes tell copies from other photographs, and the search finds what comparing all would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.images import codec as images
from models.images.codec import Photo
from pipelines.corpus import similarity as near_duplicates
from pipelines.corpus.similarity import as_words, closest, distance, perceptual_hash, same_as

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


def none(count: int) -> np.ndarray:
    return np.full(count, None, dtype=object)


@given(st.integers(0, 50), st.integers(0, 40), st.integers(0, 15))
def test_closest_is_that_of_brute_force(seed: int, count: int, bits: int) -> None:
    a, b = words(seed, count), words(seed + 1, 17)
    b[:5] = a[:5] if count >= 5 else b[:5]
    index, best = closest(a, b, bits)
    for i in range(count):
        distances = np.bitwise_count(a[i] ^ b).sum(axis=1)
        assert (index[i] < 0) == (distances.min() > bits)
        if index[i] >= 0:
            assert distances[index[i]] == distances.min() == best[i]


@pytest.mark.parametrize("exhaustive", [10**9, 0])
@given(seed=st.integers(0, 30), count=st.integers(0, 60), bits=st.integers(0, 15))
def test_first_of_similar_ones_is_kept(exhaustive: int, seed: int, count: int, bits: int) -> None:
    hashes = words(seed, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_EXHAUSTIVE", exhaustive)  # 0: by parts, which is sure up to 15 bits
        kept, far_ = same_as(hashes, bits, none(count))
    models: list[int] = []
    for i in range(count):
        near = [j for j in models if np.bitwise_count(hashes[i] ^ hashes[j]).sum() <= bits]
        assert kept[i] == (near[0] if near else -1)
        if near:
            assert far_[i] == np.bitwise_count(hashes[i] ^ hashes[near[0]]).sum()
        else:
            models.append(i)


def test_hazes_of_one_scene_are_no_copies() -> None:
    hashes = np.repeat(words(0, 1), 4, axis=0)
    groups = np.array(["a", "a", None, None], dtype=object)
    kept, _ = same_as(hashes, 0, groups)
    assert kept.tolist() == [-1, -1, 0, 0]


def test_nothing_to_compare() -> None:
    index, _ = closest(words(0, 3), as_words([]), 10)
    assert index.tolist() == [-1, -1, -1]
    assert same_as(words(0, 1), 10, none(1))[0].tolist() == [-1]
