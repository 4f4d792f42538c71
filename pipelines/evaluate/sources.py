"""Which photographs an evaluation looks at: corpora and plain folders, a split, a limit. No Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from models import images
from models.config import ConfigError
from models.images import IMAGE_SUFFIXES
from models.paths import filesystem
from pipelines.corpus import (
    MANIFEST,
    Corpus,
    image_id_of,
    left_out_text,
    photographs_below,
    portable,
    printable,
    require_corpus,
    split_of,
)

Split = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Entry:
    """One photograph to evaluate: a row of ``row_group`` of the shard at ``path``, or the file at ``path`` itself.

    ``size`` is its width and height, None where its header cannot be read.
    """

    image_id: str
    name: str
    split: str
    path: str
    row_group: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Selection:
    """The photographs chosen from one source, ordered by image id.

    ``split`` is what was used, which is ``all`` when the one asked for is empty; ``in_sample`` says that some of
    them belong to the training split of a corpus.
    """

    source: str
    is_corpus: bool
    found: int
    split: Split
    in_sample: bool
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()


def is_corpus(path: str) -> bool:
    """A URI or a folder with a manifest is a corpus; any other folder holds photographs."""
    return "://" in path or (Path(path) / MANIFEST).is_file()


def size_of(data: bytes) -> tuple[int, int] | None:
    """Upright width and height by the header; None for what is no picture."""
    try:
        header = images.probe(data)
    except images.ImageError:
        return None
    return header.width, header.height


def folder_entries(folder: Path) -> tuple[list[Entry], list[str]]:
    """Photographs of a plain folder with the ids and splits that ingest would give them, one entry per content; and
    warnings of what is left out.

    Raises:
        ConfigError: the folder is missing or holds no photograph.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; expected a folder of photographs or a corpus")
    entries: dict[str, Entry] = {}
    warnings = []
    paths, left = photographs_below(folder)
    for path in paths:
        name = printable(path.relative_to(folder).as_posix())
        try:
            data = path.read_bytes()
        except OSError as problem:
            warnings.append(f"{folder}: {name} cannot be read and is left out: {problem.strerror or problem}")
            continue
        image_id = image_id_of(data)
        entry = Entry(image_id, name, split_of(image_id), portable(path.resolve()), size=size_of(data))
        entries.setdefault(image_id, entry)
    if left:
        warnings.append(f"{folder}: left out are {left_out_text(left)}")
    if not entries:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        why = f"; {'; '.join(warnings[:3])}" if warnings else ""
        raise ConfigError(f"{folder} holds no photograph ({suffixes}) and no manifest.json of a corpus{why}")
    return list(entries.values()), warnings


def corpus_entries(corpus: Corpus) -> list[Entry]:
    """Photographs of a corpus; only their ids, names and splits are read."""
    entries = []
    for path in corpus.files():
        files, inner = filesystem(path)
        with files.open_input_file(inner) as stream:
            shard = pq.ParquetFile(stream)
            for group in range(shard.num_row_groups):
                rows = shard.read_row_group(group, columns=["image_id", "uri", "split", "width", "height"]).to_pylist()
                entries += [
                    Entry(row["image_id"], row["uri"], row["split"], path, group, (row["width"], row["height"]))
                    for row in rows
                ]
    return entries


def choose(path: str, domain: str, split: Split | None, limit: int | None, default: Split) -> Selection:
    """Choose photographs deterministically: by split, then the first ``limit`` by image id.

    Ids are hashes of the content, so the first few are a random sample that stays the same.

    Args:
        path: a corpus (folder or URI with a manifest) or a plain folder of photographs.
        domain: what a corpus must hold, ``hazy`` or ``clear``.
        split: as the user asked for; None means ``test`` in a corpus and ``default`` in a folder.
        limit: at most so many; None for all.

    Raises:
        ConfigError: nothing there, or a corpus of the other domain.
    """
    corpus = is_corpus(path)
    entries, notes = (corpus_entries(require_corpus(path, domain)), []) if corpus else folder_entries(Path(path))
    wanted: Split = split or ("test" if corpus else default)
    chosen = [e for e in entries if wanted in ("all", e.split)]
    warnings: list[str] = []
    if not chosen:
        warnings.append(
            f"the {wanted} split of {path} is empty: all {len(entries)} photographs are evaluated, "
            "so a model may have been trained on them and the figures are not held out"
        )
        chosen, wanted = entries, "all"
    chosen = sorted(chosen, key=lambda e: (e.image_id, e.name))[:limit]
    fallback = bool(warnings)
    # A folder evaluated as a whole, unasked, is the user's own: nothing says that a model was trained on it.
    in_sample = any(e.split == "train" for e in chosen) and (corpus or fallback or split is not None)
    if in_sample and not fallback:
        warnings.append(f"photographs of the training split of {path} are evaluated: the figures are not held out")
    return Selection(path, corpus, len(entries), wanted, in_sample, tuple(chosen), (*warnings, *notes))
