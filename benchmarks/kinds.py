"""What does a model do to each kind of haze, and to photographs without any?

``python -m benchmarks.kinds --clear CORPUS --hazy CORPUS --models corun-compact DIR dcp --out DIR`` hazes held-out
clear photographs with every kind of a recipe's ``haze.kinds``, dehazes them with each model, and writes tables in
Markdown and a contact sheet per kind. Real photographs are grouped by what their names begin with. Differences are to
the first model, photograph by photograph, with 95 % bootstrap intervals over photographs.

``--pairs DIR`` writes the same hazy photographs to files, and ``--results NAME=DIR`` measures what another program made
of them (files of the same names): all in one run.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.stats import bootstrap

from benchmarks.ingest_corpus import rows_of
from models import images, load
from models.contact_sheet import Line, contact_sheet
from models.haze import DarkChannelPrior, HazeConfig, synthesize
from models.inference import EXACT, dehaze
from pipelines import evaluate as metrics
from pipelines.train import decode_pixels, load_recipe

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]
Rows = dict[str, list[dict[str, float]]]  # by model, one row of figures per photograph

PAIRED = {"psnr": "PSNR (dB)", "ciede2000": "CIEDE2000", "level": "level (%)", "clipped": "clipped (%)"}
REAL = {"fade": "FADE", "brisque": "BRISQUE", "level": "level (%)", "clipped": "clipped (%)"}
SHOWN, SIDE = 6, 240  # photographs on a contact sheet, and their long side there in pixels


def held_out(uri: str, domain: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the photographs of a corpus's test split."""
    yield from ((Path(row["uri"]).stem, row["image"]) for row in rows_of(uri, domain, "test", ["uri", "image"]))


def clipped(made: Pixels, photo: Pixels) -> float:
    """Return the percent of pixels with a channel at 0 or 255, beyond that of the photograph."""
    share, before = (((p == 0) | (p == 255)).any(axis=2).mean() for p in (made, photo))
    return float(100.0 * (share - before))


def paired(made: Pixels, clear: Pixels) -> dict[str, float]:
    """Return the metrics of a picture whose clear truth is known."""
    return {
        "psnr": min(metrics.psnr(made, clear), 60.0),
        "ciede2000": metrics.ciede2000(made, clear),
        "level": metrics.level_shift(made, clear),
        "clipped": clipped(made, clear),
    }


def real(made: Pixels, hazy: Pixels) -> dict[str, float]:
    """Return the metrics of a picture whose clear truth nobody knows."""
    return {
        "fade": metrics.fade(made),
        "brisque": metrics.brisque(made),
        "level": metrics.level_shift(made, hazy),
        "clipped": clipped(made, hazy),
    }


def _network(name: str) -> Change:
    network: Any = DarkChannelPrior() if name == "dcp" else load(name).network
    return lambda photo: images.to_uint8(dehaze(network, images.to_tensor(photo), EXACT).scene)[0]


def interval(differences: ArrayLike, digits: int) -> str:
    """Return the mean with its 95 % interval over photographs as text; empty where fewer than two have a difference."""
    there = np.asarray(differences, np.float64)
    there = there[np.isfinite(there)]
    if len(there) < 2:
        return ""
    ends = bootstrap((there,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return f"{there.mean():+.{digits}f} [{ends.low:+.{digits}f}, {ends.high:+.{digits}f}]"


def table(rows: Rows, columns: dict[str, str]) -> str:
    """Return a Markdown table of the means, and of the differences to the first model."""
    first = next(iter(rows))
    lines = ["| | " + " | ".join(columns.values()) + " |", "| --- |" + " ---: |" * len(columns)]
    for name, figures in rows.items():
        cells = []
        for column in columns:
            values = np.array([row[column] for row in figures])
            change = "" if name == first else interval(values - [row[column] for row in rows[first]], 2)
            cells.append(f"{np.nanmean(values):.2f} {change}".strip())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


class Study:
    """Models, and the figures of the pictures that they are measured on, by group."""

    def __init__(self, models: Sequence[str], results: Sequence[str], out: Path, pairs: Path | None) -> None:
        self.changes = {Path(name).name if "/" in name else name: _network(name) for name in models}
        self.changes["none"] = lambda photo: photo
        self.results = {name: Path(folder) for name, _, folder in (entry.partition("=") for entry in results)}
        self.out, self.pairs = out, pairs
        self.log: dict[str, Rows] = {}

    def measure(self, group: str, pictures: Sequence[tuple[str, Pixels, Pixels | None]]) -> None:
        """Measure one group, (name, hazy, clear or None); write its contact sheet, print its table."""
        rows = self.log[group] = {name: [] for name in (*self.changes, *self.results)}
        lines = []
        for name, hazy, clear in pictures:
            if self.pairs:
                Image.fromarray(hazy).save(self.pairs / f"{group}-{name}.png")
            made = {model: change(hazy) for model, change in self.changes.items()}
            for model, folder in self.results.items():
                made[model] = np.asarray(Image.open(folder / f"{group}-{name}.png").convert("RGB"))
            for model, picture in made.items():
                rows[model].append(real(picture, hazy) if clear is None else paired(picture, clear))
            if len(lines) < SHOWN:
                shown = [*made.values(), *([] if clear is None else [clear])]
                lines.append(Line([Image.fromarray(metrics.bounded(picture, SIDE)) for picture in shown], name))
        known = pictures[0][2] is not None
        contact_sheet(lines, [*rows, *(["truth"] if known else [])]).save(self.out / f"{group}.png")
        print(f"\n### {group}, {len(pictures)} photographs\n\n{table(rows, PAIRED if known else REAL)}", flush=True)


def main() -> None:
    """Haze, dehaze, measure and print, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kinds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--clear", required=True, help="corpus")
    parser.add_argument("--hazy", help="corpus")
    parser.add_argument("--models", nargs="+", default=["corun-compact"], help="packaged names, folders, dcp")
    parser.add_argument("--results", action="append", default=[], metavar="NAME=DIR", help="of another program")
    parser.add_argument("--recipe", default="pretrain_corun_compact", help="whose kinds of haze; name or file")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--pairs", type=Path, help="folder for the hazy photographs")
    parser.add_argument("--photographs", type=int, default=24, help="of each kind")
    parser.add_argument("--side", type=int, default=384, help="long side of what is measured, in pixels")
    args = parser.parse_args()
    torch.manual_seed(0)
    for folder in (args.out, args.pairs):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    study = Study(args.models, args.results, args.out, args.pairs)
    haze: HazeConfig = load_recipe(args.recipe).haze
    scenes = [
        (f"{index:03}-{name}"[:60], metrics.bounded(decode_pixels(data), args.side))
        for index, (name, data) in zip(range(args.photographs), held_out(args.clear, "clear"), strict=False)
    ]
    for kind in haze.kinds or {"haze": {}}:
        config = haze.of_kind(kind) if haze.kinds else haze
        pictures = []
        for seed, (name, scene) in enumerate(scenes):
            hazy = synthesize(images.to_tensor(scene), None, [seed], config).hazy
            pictures.append((name, images.to_uint8(hazy)[0], scene))
        study.measure(kind, pictures)
    groups: dict[str, list[tuple[str, Pixels, Pixels | None]]] = {}
    for name, data in held_out(args.hazy, "hazy") if args.hazy else ():
        group = groups.setdefault("real-" + re.split(r"[_0-9-]", name)[0], [])
        if len(group) < args.photographs:
            group.append((name[:60], metrics.bounded(decode_pixels(data), args.side), None))
    for group_name, some in groups.items():
        if len(some) >= 3:
            study.measure(group_name, some)
    (args.out / "figures.json").write_text(json.dumps(study.log))


if __name__ == "__main__":
    main()
