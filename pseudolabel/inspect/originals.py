"""The photographs that labels were made from, read from a corpus."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.config import ConfigError
from models.paths import absolute, filesystem
from pseudolabel.inspect.contents import rows
from pseudolabel.pool import MANIFEST


def find_originals(corpus: str, image_ids: Collection[str]) -> dict[str, NDArray[np.uint8]]:
    """Read some photographs of a corpus, (H, W, 3) uint8 RGB; those that it lacks or that are damaged are left out.

    Args:
        corpus: folder (path or URI) with the manifest that the ingest wrote.
        image_ids: which ones.

    Raises:
        ConfigError: no corpus, or one that cannot be read.
    """
    found: dict[str, bytes] = {}
    try:
        files, folder = filesystem(absolute(corpus))
        with files.open_input_stream(f"{folder}/{MANIFEST}") as source:
            names = [str(name) for name in json.loads(source.read())["files"]]
        for name in names:
            with files.open_input_file(f"{folder}/{name}") as source:
                some = rows(pq.ParquetFile(source), image_ids, ["image_id", "image"])
                found |= {row["image_id"]: row["image"] for row in some}
    except FileNotFoundError as problem:
        raise ConfigError(f"{corpus} is no complete corpus: {problem}") from problem
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as problem:
        raise ConfigError(f"cannot read the corpus {corpus}: {type(problem).__name__}: {problem}") from problem
    from models import images  # torch: only who asks for photographs waits for it

    decoded = {}
    for image_id, data in found.items():
        with suppress(images.ImageError):
            decoded[image_id] = images.eight_bits(images.decode(data).pixels)
    return decoded
