"""Matrices out of MATLAB files: version 5 (``save -v6`` and ``-v7``) and 7.3 (HDF5). No Ray.

Version 5 is read here because SciPy's reader follows the type codes of a damaged file out of its tables, which ends
the process. The format is MathWorks' "MAT-File Format": tagged elements, of which a top-level one may be a zlib
stream; a matrix is an element that holds flags, dimensions, name and numbers, in column-major order.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_STARTS = (0, 512, 1024, 2048)  # MATLAB puts a header of 512 bytes before it
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)  # double to uint64; cells, structures, text and sparse matrices come before
_COMPLEX = 0x0800


@dataclass(frozen=True)
class Matrix:
    """A variable: its declared shape, and what :meth:`values` reads it from.

    Attributes:
        shape: rows first.
        dtype: of the stored numbers; of kind "O" or "c" for cells, structures, text, sparse and complex matrices.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _source: Any

    def values(self) -> NDArray[Any]:
        """The matrix in its declared shape, rows first.

        Raises:
            ValueError: there are fewer or more numbers than the shape says.
        """
        if isinstance(self._source, memoryview):
            return np.frombuffer(self._source, self.dtype).reshape(self.shape, order="F")
        stored: NDArray[Any] = self._source[()]
        return stored.T


def matrices(data: bytes, limit: int) -> dict[str, Matrix]:
    """The top-level variables of a MATLAB file of either generation.

    Args:
        data: the whole file.
        limit: how many bytes all variables of a version 5 file, or a chunk of a newer one, may unpack to.

    Raises:
        ValueError: over the limit, or no such file.
        Exception: almost anything, for damaged files.
    """
    if any(data[start : start + len(_HDF5)] == _HDF5 for start in _HDF5_STARTS):
        return dict(_hdf5(data, limit))
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("the header is not that of MATLAB 5 or later")
    found = {}
    at = _HEADER
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        content = data[at + 8 : at + 8 + size]
        at += 8 + size
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(content, limit + 9)  # tag, and one too many
            kind = struct.unpack_from(f"{order}I", unpacked)[0]
            content = unpacked[8:]
        limit -= len(content)
        if limit < 0:
            raise ValueError("it unpacks to more bytes than are accepted")
        if kind == _MATRIX:
            name, matrix = _matrix(memoryview(content), order)
            found[name] = matrix
    return found


def _matrix(content: memoryview, order: str) -> tuple[str, Matrix]:
    parts = _elements(content, order)
    flags = struct.unpack_from(f"{order}I", next(parts)[1])[0]
    sides = next(parts)[1]
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    name = bytes(next(parts)[1]).decode("utf-8", "replace")
    if flags & 0xFF not in _NUMERIC_CLASSES:
        return name, Matrix(shape, np.dtype(object), None)
    if flags & _COMPLEX:
        return name, Matrix(shape, np.dtype(complex), None)
    kind, numbers = next(parts)
    return name, Matrix(shape, np.dtype(order + _NUMBERS[kind]), numbers)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each element inside a matrix: padded to 8 bytes, or small ones of 8 bytes in all."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:
            yield kind & 0xFFFF, content[at + 4 : at + 4 + min(kind >> 16, 4)]
            at += 8
        else:
            yield kind, content[at + 8 : at + 8 + size]
            at += 8 + size + -size % 8


def _hdf5(data: bytes, limit: int) -> Iterator[tuple[str, Matrix]]:
    """Data sets of the file itself: one behind a link, or kept in another file, would read whatever that path names."""
    import h5py

    file = h5py.File(io.BytesIO(data), "r")
    for key in file:
        entry = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
        if not isinstance(entry, h5py.Dataset) or entry.external is not None or entry.is_virtual:
            continue
        if math.prod(entry.chunks or ()) * entry.dtype.itemsize <= limit:
            yield key, Matrix((entry.shape or ())[::-1], entry.dtype, entry)
