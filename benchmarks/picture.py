"""The README's picture: two of the demo's sample photographs before and after ``corun-compact``.

``python -m benchmarks.picture docs/before_after.jpg``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from models import images, zoo
from models.inference import dehaze
from pipelines.samples import make_samples

PHOTOGRAPHS = ("china_10.jpg", "china_07.jpg")
HEIGHT = 240


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    network = zoo.load(zoo.DEFAULT).network
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        hazy = make_samples(Path(folder)).hazy
        for name in PHOTOGRAPHS:
            before = images.read(hazy / name).pixels
            after = images.to_uint8(dehaze(network, images.to_tensor(before)).scene)[0]
            width = round(before.shape[1] * HEIGHT / before.shape[0])
            tiles += [images.resize(picture, width, HEIGHT) for picture in (before, after)]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(out, quality=90)


if __name__ == "__main__":
    main()
