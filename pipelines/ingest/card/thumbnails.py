"""Thumbnails for a data card: photographs and depth maps, from their sources or from the corpus's shards. No Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq

from models import images
from models.images import ImageLimits, Photo, eight_bits
from models.paths import child, filesystem
from pipelines.corpus import Location, read_place
from pipelines.reports import Picture, Row

Read = Callable[[Row], bytes]

SIDE = 160  # pixels of the longer side
MOST_BYTES = 10_000  # of one thumbnail, before base64
_QUALITIES = (70, 50, 30, 10)
_READERS = 4
# What an ingest rejects for its shape or its frames can still be looked at.
_LIMITS = ImageLimits(first_frame=True, max_aspect=65_536)


@dataclass(frozen=True)
class PictureRequest:
    """A picture to make: the photograph of a catalogue row, the depth map that its shard holds, or the photograph of
    another corpus, of which only the ``uri`` is known.
    """

    row: Row
    what: Literal["image", "depth", "elsewhere"] = "image"


Made = Mapping[tuple[str, str], Picture]  # by uri and what it is


def pictures(out: str, wishes: Iterable[PictureRequest], read: Read) -> Made:
    """Make thumbnails. Each photograph is read once; for one that cannot be read or decoded there is the reason.

    Args:
        out: folder of the corpus. A photograph whose source has gone comes from its shard, as depth maps do.
        wishes: what to make.
        read: the bytes of a catalogue row's photograph; raises OSError.
    """
    todo = {(wish.row["uri"], wish.what): wish for wish in wishes}
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(todo, pool.map(lambda wish: _picture(out, wish, read), todo.values()), strict=True))


def _picture(out: str, wish: PictureRequest, read: Read) -> Picture:
    uri = wish.row["uri"]
    try:
        jpeg = thumbnail(images.decode(_load(out, wish, read), _LIMITS).pixels)
    except OSError as problem:
        return Picture(uri, wish.row, problem=os.strerror(problem.errno) if problem.errno else str(problem))
    except ValueError as problem:  # ImageError, ConfigError, Arrow's for a damaged shard
        return Picture(uri, wish.row, problem=str(problem))
    return Picture(uri, wish.row, jpeg)


def _load(out: str, wish: PictureRequest, read: Read) -> bytes:
    if wish.what == "depth":
        return stored(out, wish.row, "depth")
    if wish.what == "elsewhere":
        return read_place(Location(wish.row["uri"]))
    if (wish.row["size"] or 0) > _LIMITS.max_bytes:
        raise ValueError(f"too large to show: {wish.row['size']:,} bytes")
    try:
        return read(wish.row)
    except OSError:
        if not wish.row["shard"]:
            raise
        return stored(out, wish.row, "image")


def read_photograph(row: Row) -> bytes:
    """Read a row's photograph from where it was found.

    Raises:
        OSError: it cannot be read any more.
    """
    return read_place(Location.of(row["place"]))


def stored(out: str, row: Row, column: str) -> bytes:
    """Read a photograph's ``image`` or ``depth`` cell in its shard.

    Raises:
        OSError: it is not there, or empty.
        ValueError: the shard is damaged.
    """
    if not row["shard"]:
        raise FileNotFoundError("it is not part of the corpus")
    files, path = filesystem(child(out, row["shard"]))
    with files.open_input_file(path) as stream:  # row groups without this id are not read: ids are sorted
        cells = pq.read_table(stream, columns=[column], filters=pc.field("image_id") == row["image_id"])[column]
    if len(cells) == 0 or not cells[0].is_valid:
        raise FileNotFoundError(f"{row['shard']} holds no {column} of it")
    data: bytes = cells[0].as_py()
    return data


def thumbnail(pixels: images.Array) -> bytes:
    """Make a JPEG of at most :data:`MOST_BYTES`, or else of the lowest quality.

    Args:
        pixels: (H, W, 3) uint8 or uint16.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    small = images.resize(eight_bits(pixels), width, height)
    for quality in _QUALITIES:
        jpeg = images.encode(Photo(small), "JPEG", quality)
        if len(jpeg) <= MOST_BYTES:
            break
    return jpeg
