"""Depth files to arrays: NumPy, grayscale PNG and TIFF, MATLAB of both generations. No Ray.

Whatever the bytes are, the outcome is an array or :class:`BadDepth`. Declared shapes are checked before anything of
that size is allocated, and nothing is unpickled.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from models import images
from models.images import DEFAULT_LIMITS, ImageError
from pipelines.ingest.depth.matlab import matrices

DEPTH_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".npy", ".npz", ".mat"})
MAX_PIXELS = DEFAULT_LIMITS.max_pixels

_NAME = "depth"
_REAL = "fiub"  # kinds of dtype


class BadDepth(ImageError):  # noqa: N818 - named for its code, like its siblings in models.images
    """A depth map that cannot belong to its photograph."""

    code = "bad_depth"


def parse_depth(data: bytes, name: str) -> NDArray[np.float64]:
    """Read a depth file.

    Args:
        data: the whole file.
        name: its name or path; the suffix, one of :data:`DEPTH_SUFFIXES`, says how to read it. ``.npz`` and ``.mat``
            must hold an array named ``depth``, or else a single map. Arrays may have one axis of length 1 too many.
            Pictures are grayscale, of 8 or 16 bits.

    Returns:
        (H, W) float64 in the file's own unit, both sides at least 1, at most 100 megapixels. Values may be infinite
        or NaN: :func:`~pipelines.ingest.depth.attach.store_depth` decides about those.

    Raises:
        BadDepth: anything else, whatever the bytes are.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in DEPTH_SUFFIXES:
        raise BadDepth(f"depth map {name} has suffix '{suffix}'; expected one of {' '.join(sorted(DEPTH_SUFFIXES))}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old headers and doubled names; what matters is raised
            values = _read(data, suffix, name)
    except BadDepth:
        raise
    except ImageError as problem:
        raise BadDepth(f"depth map {name}: {problem}; metric distances are best kept in .npy") from problem
    except Exception as problem:  # the readers raise almost anything on damaged files
        kind = "array" if suffix in (".npy", ".npz") else "MATLAB"
        raise BadDepth(f"depth map {name} is no {kind} file that can be read: {_short(problem)}; save it again") from (
            problem
        )
    return _plane(values, name)


def _read(data: bytes, suffix: str, name: str) -> NDArray[Any]:
    if suffix == ".npy":
        return _read_array(io.BytesIO(data), len(data), name)
    if suffix == ".npz":
        return _read_archive(data, name)
    if suffix != ".mat":
        return _read_picture(data, name)
    return _read_matlab(data, name)


def _read_picture(data: bytes, name: str) -> NDArray[Any]:
    pixels = images.decode(data).pixels
    if (pixels != pixels[:, :, :1]).any():
        raise BadDepth(f"depth map {name} is a color picture; expected grayscale, so save it without a color map")
    return pixels[:, :, 0]


def _read_array(stream: IO[bytes], size: int, name: str) -> NDArray[Any]:
    """Read an ``.npy`` file or member of ``size`` bytes."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    _check(shape, dtype, name)
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > size - stream.tell():
        raise BadDepth(f"depth map {name} ends before its {shape} values; copy it again")
    stream.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _read_archive(data: bytes, name: str) -> NDArray[Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        info = members[_choose(dict.fromkeys(members, True), name)]
        with archive.open(info) as stream:
            return _read_array(stream, info.file_size, name)


def _read_matlab(data: bytes, name: str) -> NDArray[Any]:
    found = matrices(data, limit=8 * MAX_PIXELS)
    likely = {key: matrix.dtype.kind in _REAL and _is_map(matrix.shape) for key, matrix in found.items()}
    chosen = found[_choose(likely, name)]
    _check(chosen.shape, chosen.dtype, name)
    return np.asarray(chosen.values)


def _is_map(shape: tuple[int, ...]) -> bool:
    return sum(side > 1 for side in shape) == 2


def _choose(maps: Mapping[str, bool], name: str) -> str:
    """The name to read, of names and whether each could be a map: ``depth``, or the only one that could."""
    if _NAME in maps:
        return _NAME
    likely = [key for key, is_map in maps.items() if is_map]
    if len(likely) != 1:
        held = ", ".join(sorted(maps)[:8]) or "nothing"
        raise BadDepth(f"depth map {name} holds {held}; expected a matrix named '{_NAME}', or only one")
    return likely[0]


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Refuse an array by its declared shape and type, before it is read."""
    if dtype.kind not in _REAL:
        raise BadDepth(f"depth map {name} holds '{dtype}', not real numbers; save it as float32")
    if not 2 <= len(shape) <= 3 or 0 in shape or (len(shape) == 3 and 1 not in shape):
        raise BadDepth(f"depth map {name} has shape {shape}; expected (H, W)")
    if int(np.prod(shape, dtype=object)) > MAX_PIXELS:
        raise BadDepth(f"depth map {name} has shape {shape}; at most {MAX_PIXELS:,} values are accepted, so reduce it")


def _plane(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """(H, W) of an array that may have one axis of length 1 too many."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2:
        raise BadDepth(f"depth map {name} has shape {values.shape}; expected (H, W)")
    return np.ascontiguousarray(values, dtype=np.float64)


def _short(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0][:200]
