"""The photographs that labels were made from, read from a corpus."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.config import ConfigError
from pseudolabel.pool import MANIFEST, locate


def find_originals(corpus: str, image_ids: Collection[str]) -> dict[str, NDArray[np.uint8]]:
    """Some photographs of a corpus, (H, W, 3) uint8 RGB; those that it lacks or that are damaged are left out.

    Args:
        corpus: folder (path or URI) with the manifest that the ingest wrote.
        image_ids: which ones.

    Raises:
        ConfigError: no corpus, or one that cannot be read.
    """
    found: dict[str, bytes] = {}
    try:
        filesystem, folder = locate(corpus)
        with filesystem.open_input_stream(f"{folder}/{MANIFEST}") as source:
            files = [str(name) for name in json.loads(source.read())["files"]]
        for name in files:
            if len(found) < len(image_ids):
                with filesystem.open_input_file(f"{folder}/{name}") as source:
                    found |= _find(pq.ParquetFile(source), set(image_ids))
    except FileNotFoundError as problem:
        raise ConfigError(f"{corpus} is no complete corpus: {problem}") from problem
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as problem:
        raise ConfigError(f"cannot read the corpus {corpus}: {type(problem).__name__}: {problem}") from problem
    return _decoded(found)


def _find(file: Any, wanted: set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for group in range(file.num_row_groups):
        names = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
        if wanted.intersection(names):
            data = file.read_row_group(group, columns=["image"])["image"]
            found |= {name: data[row].as_py() for row, name in enumerate(names) if name in wanted}
    return found


def _decoded(found: dict[str, bytes]) -> dict[str, NDArray[np.uint8]]:
    from models import images  # torch: only who asks for photographs waits for it

    decoded = {}
    for image_id, data in found.items():
        try:
            pixels = images.decode(data).pixels
        except images.ImageError:
            continue
        decoded[image_id] = pixels if pixels.dtype == np.uint8 else images.to_uint8(images.to_tensor(pixels))[0]
    return decoded
