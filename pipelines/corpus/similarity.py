"""Photographs that look the same: 256-bit perceptual hashes and the search for close ones. No Ray.

The hash keeps the signs of a DCT's 16x16 lowest frequencies. On 727 real photographs a recompressed or resized copy
differs in at most 6 bits, a copy cropped by 2 % in at most 34, the hazy and the clear photograph of one scene in 32
to 52, and no two different scenes in less than 90.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

Hashes = NDArray[np.uint64]  # (N, 4)

BITS = 256
WORDS = BITS // 64
_EXHAUSTIVE = 1_000_000_000  # comparisons: some seconds on one core
_CHUNK = 1 << 17  # comparisons at a time: they stay in the cache
_BANDS = 16


def perceptual_hash(pixels: NDArray[np.uint8]) -> bytes:
    """The hash of an upright photograph (H, W, 3): 32 bytes."""
    import imagehash

    return np.packbits(imagehash.phash(Image.fromarray(pixels), hash_size=16).hash.ravel()).tobytes()


def as_words(hashes: list[bytes]) -> Hashes:
    """32-byte hashes as (N, 4)."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, WORDS)


def words_of(column: pa.ChunkedArray) -> Hashes:
    """A column of 32-byte hashes without nulls as (N, 4)."""
    arrays = [chunk for chunk in column.chunks if len(chunk)]
    parts = [
        np.frombuffer(array.buffers()[1], np.uint64).reshape(-1, WORDS)[array.offset : array.offset + len(array)]
        for array in arrays
    ]
    return np.concatenate(parts) if parts else as_words([])


def distance(a: Hashes, b: Hashes) -> NDArray[Any]:
    """Different bits of rows, 0..256."""
    bits: NDArray[Any] = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int16)
    return bits


def _close(a: Hashes, b: Hashes, bits: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """All pairs of rows within ``bits``: indices and distances. Half of the hash rules nearly all of them out."""
    half = np.bitwise_count(a[:, None, 0] ^ b[None, :, 0])
    half += np.bitwise_count(a[:, None, 1] ^ b[None, :, 1])
    i, j = np.nonzero(half <= bits)
    far = distance(a[i], b[j])
    near = far <= bits
    return i[near], j[near], far[near]


def closest(hashes: Hashes, others: Hashes, bits: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each hash the nearest of ``others`` within ``bits``.

    Returns:
        Its index, -1 where none is near enough, and its distance.
    """
    index, best = np.full(len(hashes), -1), np.full(len(hashes), bits + 1, np.int16)
    if len(hashes) and len(others):
        for rows, found, far in _candidates(hashes, others, bits):
            order = np.lexsort((found, far))[::-1]  # the nearest is written last
            order = order[far[order] < best[rows[order]]]
            best[rows[order]], index[rows[order]] = far[order], found[order]
    return index, best


def same_as(hashes: Hashes, bits: int, groups: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which earlier photograph each one repeats. A photograph that repeats another is no model for later ones, so that
    a chain of small changes does not swallow photographs that differ.

    Args:
        hashes: in the order of preference: of two that are close the first is kept.
        bits: how many may differ.
        groups: (N,) names or None; photographs of one group never repeat each other (hazes of one scene look alike).

    Returns:
        The index of the one that is kept instead, -1 for those that are kept themselves, and the distance to it.
    """
    count = len(hashes)
    kept, far = np.full(count, -1), np.zeros(count, np.int16)
    if count < 2:
        return kept, far
    pairs = [(left, right, d) for left, right, d in _candidates(hashes, hashes, bits, within=True) if len(left)]
    if not pairs:
        return kept, far
    first, second, distances = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.lexsort((second, first))
    for i, j, d in zip(first[order].tolist(), second[order].tolist(), distances[order].tolist(), strict=True):
        alike = groups[i] is not None and groups[i] == groups[j]
        if kept[i] < 0 and kept[j] < 0 and not alike:
            kept[j], far[j] = i, d
    return kept, far


def _candidates(
    a: Hashes, b: Hashes, bits: int, within: bool = False
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Pairs of rows that differ in at most ``bits``, in pieces; ``within``: of one table, the smaller index first.

    All are compared when that is affordable. Beyond, only those that agree in one of sixteen parts of 16 bits: which
    is sure up to 15 different bits and likely for more; the work still grows with the square, divided by some
    thousands.
    """
    if len(a) * len(b) <= _EXHAUSTIVE:
        step = max(1, _CHUNK // len(b))
        for start in range(0, len(a), step):
            from_ = start if within else 0
            i, j, far = _close(a[start : start + step], b[from_:], bits)
            i, j = i + start, j + from_
            use = i < j if within else np.ones(len(i), bool)
            yield i[use], j[use], far[use]
        return
    left, right = a.view(np.uint16), b.view(np.uint16)
    for band in range(_BANDS):
        yield from _band(a, b, left[:, band], right[:, band], bits, within)


def _band(
    a: Hashes, b: Hashes, left: NDArray[Any], right: NDArray[Any], bits: int, within: bool
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Pairs whose 16-bit parts ``left`` and ``right`` agree: each row against the next one of its run, then the one
    after it, until all runs are through.
    """
    order = np.argsort(right, kind="stable")
    parts, sorted_b = right[order], b[order]
    if within:
        rows, low = order, np.arange(1, len(order) + 1)
        high = np.searchsorted(parts, parts, side="right")
    else:
        rows = np.arange(len(a))
        low, high = (np.searchsorted(parts, left, side=side) for side in ("left", "right"))
    hashes = a[rows]
    while len(rows := rows[live := low < high]):
        hashes, low, high = hashes[live], low[live], high[live]
        for start in range(0, len(rows), _CHUNK):
            piece = slice(start, start + _CHUNK)
            far = distance(hashes[piece], sorted_b[low[piece]])
            near = far <= bits
            first, second = rows[piece][near], order[low[piece]][near]
            if within:
                first, second = np.minimum(first, second), np.maximum(first, second)
            yield first, second, far[near]
        low = low + 1
