"""A picture for the documentation: some of the demo's sample photographs before and after a model.

``python -m benchmarks.picture docs/images/before_after.jpg``
``python -m benchmarks.picture docs/images/cddgan.jpg --model runs/cddgan/model --rows 2 --photographs china_10 ...``
``python -m benchmarks.picture docs/images/limits.jpg --rows 4 --photographs dense:china_00 dense:flower_00 ...``

``KIND:NAME`` is a clear sample under haze of a kind of ``pretrain_corun_compact``, with the truth beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import images, zoo
from models.haze import synthesize
from models.inference import dehaze
from pipelines.demo import make_samples
from pipelines.train import load_recipe

PHOTOGRAPHS = ("china_10", "china_07")
HEIGHT, SEED = 240, 1


def pixels(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read a sample, HW3."""
    return images.read_image(folder / f"{name}.jpg").pixels


def hazed(entry: str, clear: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return ``KIND:NAME`` under its haze, and without."""
    kind, _, name = entry.partition(":")
    truth = pixels(clear, name)
    haze = load_recipe("pretrain_corun_compact").haze.of_kind(kind)
    return images.to_uint8(synthesize(images.to_tensor(truth), None, [SEED], haze).hazy)[0], truth


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=zoo.DEFAULT, help="packaged name or checkpoint folder")
    parser.add_argument("--photographs", nargs="+", default=PHOTOGRAPHS, help="samples of pipelines.demo.samples")
    parser.add_argument("--rows", type=int, default=1)
    args = parser.parse_args()
    network = zoo.load(args.model).network
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        samples = make_samples(Path(folder))
        for name in args.photographs:
            before, truth = hazed(name, samples.clear) if ":" in name else (pixels(samples.hazy, name), None)
            after = images.to_uint8(dehaze(network, images.to_tensor(before)).scene)[0]
            width = round(before.shape[1] * HEIGHT / before.shape[0])
            shown = [picture for picture in (before, after, truth) if picture is not None]
            tiles += [images.resize(picture, width, HEIGHT) for picture in shown]
    per_row = len(tiles) // args.rows
    rows = [np.concatenate(tiles[k : k + per_row], axis=1) for k in range(0, len(tiles), per_row)]
    widest = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    Image.fromarray(np.concatenate(padded)).save(args.out, quality=90)


if __name__ == "__main__":
    main()
