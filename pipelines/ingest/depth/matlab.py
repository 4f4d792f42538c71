"""Matrices out of MATLAB files: version 5 (``save -v6`` and ``-v7``) by SciPy, 7.3 (HDF5) by h5py. No Ray.

Both follow what a damaged file says out of their own memory, which ends the process, or read for ever. So they work in
a process of their own, which runs this file as a program; another one takes its place when it dies or takes too long.
"""

from __future__ import annotations

import io
import json
import math
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECONDS = 60.0  # for a file
_MEMORY = 1 << 30  # of the process, beside four times the limit
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_STARTS = (0, 512, 1024, 2048)  # MATLAB puts a header of 512 bytes before it
_NUMERIC = {"double": "f8", "single": "f4", "logical": "?"}  # SciPy's names, beside those that are NumPy's too

_Variable = tuple[str, tuple[int, ...], str, Callable[[], NDArray[Any]]]


@dataclass(frozen=True)
class Matrix:
    """A variable: its declared shape, rows first, and what it holds.

    ``dtype`` is of kind "O" for cells, structures, text and sparse matrices; ``values`` are None for these, and for
    more bytes than were asked for.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    values: NDArray[Any] | None


def matrices(data: bytes, limit: int) -> dict[str, Matrix]:
    """Read the top-level variables of a MATLAB file of either generation.

    Args:
        data: the whole file.
        limit: bytes of a variable that is read.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    told, _, archive = _answer(limit.to_bytes(8, "big") + data).partition(b"\n")
    found: dict[str, Any] = json.loads(told)
    if "" in found:
        raise ValueError(found[""])
    with np.load(io.BytesIO(archive), allow_pickle=False) as values:
        read = {name: values[f"_{place}"] for place, name in enumerate(found) if f"_{place}" in values}
    return {
        name: Matrix(tuple(shape), read[name].dtype if name in read else np.dtype(kind), read.get(name))
        for name, (shape, kind) in found.items()
    }


class _Reader:
    """The process, and our end of the pipe to it."""

    def __init__(self) -> None:
        self.pipe, theirs = Pipe()
        program = [sys.executable, "-P", __file__, str(theirs.fileno())]
        self.process = subprocess.Popen(program, pass_fds=[theirs.fileno()])
        theirs.close()

    def answer(self, question: bytes) -> bytes:
        self.pipe.send_bytes(question)
        if not self.pipe.poll(SECONDS):
            raise ValueError(f"reading it takes more than {SECONDS:g} s")
        return self.pipe.recv_bytes()


_idle: list[_Reader] = []  # at most one, in between
_one_at_a_time = threading.Lock()


def _answer(question: bytes) -> bytes:
    with _one_at_a_time:
        reader = _idle.pop() if _idle else _Reader()
        try:
            answer = reader.answer(question)
            _idle.append(reader)
        except (EOFError, OSError) as problem:
            raise ValueError("it is damaged, and ends the program that reads it") from problem
        finally:
            if reader not in _idle:
                reader.process.kill()
                reader.process.wait()
        return answer


def _serve(pipe: Connection) -> None:
    """Answer until the other end is closed."""
    while True:
        try:
            question = pipe.recv_bytes()
        except EOFError:
            return
        try:
            pipe.send_bytes(_read(question[8:], int.from_bytes(question[:8], "big")))
        except Exception as problem:  # noqa: BLE001 - the readers raise almost anything on damaged files
            pipe.send_bytes(json.dumps({"": str(problem) or type(problem).__name__}).encode())


def _read(data: bytes, limit: int) -> bytes:
    """Return a line with shape and kind of each variable, then an archive of those that are real and not too large."""
    resource.setrlimit(resource.RLIMIT_DATA, (4 * limit + _MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    found = list(_hdf5(data) if any(data[at : at + len(_HDF5)] == _HDF5 for at in _HDF5_STARTS) else _matlab5(data))
    real = [(place, *one) for place, one in enumerate(found) if one[2] != "O"]
    values = {f"_{place}": read() for place, _, shape, kind, read in real if _size(shape, kind) <= limit}
    archive = io.BytesIO()
    np.savez(archive, **values)  # type: ignore[arg-type]  # NumPy's stubs take the names for its own options
    return json.dumps({name: (shape, kind) for name, shape, kind, _ in found}).encode() + b"\n" + archive.getvalue()


def _size(shape: tuple[int, ...], kind: str) -> int:
    return math.prod(shape) * np.dtype(kind).itemsize


def _matlab5(data: bytes) -> Iterator[_Variable]:
    if data[126:128] not in (b"IM", b"MI"):
        raise ValueError("the header is not that of MATLAB 5 or later")
    from scipy.io import loadmat, whosmat

    for name, shape, kind in whosmat(io.BytesIO(data)):
        numeric = _NUMERIC.get(kind) or (kind if kind.lstrip("u").startswith("int") else "O")
        yield name, shape, numeric, lambda name=name: loadmat(io.BytesIO(data), variable_names=[name])[name]  # type: ignore[misc]


def _hdf5(data: bytes) -> Iterator[_Variable]:
    """Data sets of the file itself: one behind a link, or kept in another file, would read whatever that path names."""
    import h5py

    file = h5py.File(io.BytesIO(data), "r")
    for key in file:
        entry = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
        if isinstance(entry, h5py.Dataset) and entry.external is None and not entry.is_virtual:
            kind = entry.dtype.str if entry.dtype.kind in "fiub" else "O"
            yield key, (entry.shape or ())[::-1], kind, lambda entry=entry: entry[()].T  # type: ignore[misc]


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
