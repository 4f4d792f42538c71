"""Photographs of two corpora in one small file, for training on a machine that has nothing else.

``python -m benchmarks.gpu.pack --clear CORPUS --hazy CORPUS --out DIR`` writes ``DIR/photographs.zip``: JPEGs whose
shorter side is 384 pixels at most, depth maps, and an index with the split of each, so that what is held out of one
stays held out of the other. DIR with all that is in it, such as ``DIR/wheels``, stays below ``--megabytes``: where
photographs must be left out, all kinds (the letters that their file names begin with) keep equally many.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import sys
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from benchmarks.gpu.photographs import INDEX, PACK
from benchmarks.ingest_corpus import rows_of
from models import images

COLUMNS = ["image_id", "uri", "image", "depth", "split"]
DEPTH_SIDE = 192  # of the longer side: haze is smooth, and a depth map would weigh more than its photograph
HELD_OUT = 64  # photographs of a domain at most: as many as figures and sheet look at
CLEAR_SHARE = 0.6  # of the bytes: the rest is for hazy photographs


@dataclass(frozen=True)
class Packed:
    """A photograph as it is stored; ``depth`` is empty where there is none."""

    image_id: str
    kind: str
    split: str
    image: bytes
    depth: bytes = b""

    @property
    def size(self) -> int:
        """Return the bytes that this photograph takes in the archive."""
        return len(self.image) + len(self.depth) + 500  # with its entries in index and directory


def kind_of(uri: str) -> str:
    """Return the letters that the file's name begins with, in lower case; ``other`` where it begins otherwise."""
    found = re.match(r"[^\W\d_]+", PurePath(uri.rpartition("#")[2] or uri).name.rpartition(".")[0])
    return found.group().lower() if found else "other"


def shrunk(data: bytes, side: int, quality: int) -> bytes:
    """Return a photograph as a JPEG whose shorter side has at most ``side`` pixels."""
    pixels = images.eight_bits(images.decode(data, shrink_to=side).pixels)
    height, width = pixels.shape[:2]
    scale = min(1.0, side / min(height, width))
    if scale < 1:
        pixels = images.resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def shrunk_depth(data: bytes | None) -> bytes:
    """Return a depth map as an 8-bit PNG, near is white as in a corpus; empty bytes where there is none."""
    if data is None:
        return b""
    levels = images.decode(data).pixels[..., 0]
    depth = np.divide(levels, np.iinfo(levels.dtype).max, dtype=np.float32)
    picture = Image.fromarray(depth)
    picture.thumbnail((DEPTH_SIDE, DEPTH_SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    Image.fromarray((np.asarray(picture) * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def balanced(found: list[Packed], budget: int) -> list[Packed]:
    """Choose as many as fit, a photograph of each kind in turn; ``found`` in the order in which they are wanted."""
    kinds: dict[str, list[Packed]] = defaultdict(list)
    for one in found:
        kinds[one.kind].append(one)
    turns = itertools.zip_longest(*kinds.values())
    chosen, used = [], 0
    for one in (one for turn in turns for one in turn if one is not None):
        if used + one.size <= budget:
            chosen.append(one)
            used += one.size
    return chosen


def packed(corpus: str, domain: str, side: int, quality: int) -> list[Packed]:
    """Shrink the photographs of a corpus and return them ordered by content hash: all of the training split, and
    :data:`HELD_OUT` others.
    """
    found = [
        Packed(
            row["image_id"], kind_of(row["uri"]), row["split"], shrunk(row["image"], side, quality),
            shrunk_depth(row["depth"]),
        )
        for row in rows_of(corpus, domain, columns=COLUMNS)
    ]  # fmt: skip
    found.sort(key=lambda one: one.image_id[8:])  # the first digits say the split
    held_out = itertools.count()
    return [one for one in found if one.split == "train" or next(held_out) < HELD_OUT]


def write(out: Path, chosen: dict[str, list[Packed]]) -> Path:
    """Write the archive and return its path; JPEGs are not compressed again."""
    index = [
        {"image_id": one.image_id, "domain": domain, "kind": one.kind, "split": one.split, "depth": bool(one.depth)}
        for domain, some in chosen.items()
        for one in some
    ]
    with zipfile.ZipFile(out / PACK, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(INDEX, json.dumps(index), zipfile.ZIP_DEFLATED)
        for domain, some in chosen.items():
            for one in some:
                archive.writestr(f"{domain}/{one.image_id}.jpg", one.image)
                if one.depth:
                    archive.writestr(f"depth/{one.image_id}.png", one.depth)
    return out / PACK


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.pack", description=__doc__, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--clear", required=True, help="corpus of clear photographs")
    parser.add_argument("--hazy", required=True, help="corpus of hazy photographs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="what is carried along")
    parser.add_argument("--side", type=int, default=384, help="of the shorter side at most (default: 384)")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs (default: 90)")
    parser.add_argument("--megabytes", type=float, default=60.0, help="of all of DIR at most (default: 60)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    others = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file() and f.name != PACK)
    room = int(args.megabytes * 1e6) - others
    if room <= 0:
        print(f"error: {args.out} holds {others / 1e6:.1f} MB, and --megabytes is {args.megabytes:g}", file=sys.stderr)
        return 2
    found = {domain: packed(getattr(args, domain), domain, args.side, args.quality) for domain in ("clear", "hazy")}
    hazy = balanced(found["hazy"], int(room * (1 - CLEAR_SHARE)))
    clear = balanced(found["clear"], room - sum(one.size for one in hazy))
    path = write(args.out, {"clear": clear, "hazy": hazy})
    for domain, some in (("clear", clear), ("hazy", hazy)):
        splits, kinds = Counter(one.split for one in some), Counter(one.kind for one in some)
        print(
            f"{domain}: {len(some)} of {len(found[domain])} photographs ({splits['train']} to train on, "
            f"{splits['test']} held out, {sum(bool(one.depth) for one in some)} with depth); {dict(kinds)}"
        )
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; all of {args.out}: {(path.stat().st_size + others) / 1e6:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
