"""The packaged dehazer on photographs that it never saw, with known haze: those of scikit-image and scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from models import images, zoo
from models.haze import HazeConfig, synthesize
from models.inference.dehazing import dehaze
from pipelines.evaluate import metrics

FOLDER = zoo.WEIGHTS / zoo.DEFAULT
HAZE = HazeConfig(
    beta=(0.4, 1.2), airlight=(0.8, 0.95), darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0
)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Tensor, Tensor]]:
    """Hazy and clear, 1 3 H W in [0, 1]."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    pictures: list[Any] = [data.coffee(), data.chelsea(), *load_sample_images().images]
    made = []
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        clear = images.to_tensor(images.resize(np.ascontiguousarray(picture), 256, round(256 * height / width)))
        made.append((synthesize(clear, None, [index], HAZE).hazy, clear))
    return made


def test_it_is_small_and_says_how_it_was_made() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10e6
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["network"] == {"name": "corun", "stages": 2, "dim": 8, "airlight": True}
    assert config["recipe"]["method"] in ("supervised", "colabator")
    assert "/" not in str(config["recipe"]["init"]).removeprefix("runs/").removesuffix("/model")  # no machine's paths


def test_it_brings_hazy_photographs_closer_to_the_clear_ones(pairs: list[tuple[Tensor, Tensor]]) -> None:
    network = zoo.load(zoo.DEFAULT).network
    before, after, fades = [], [], []
    for hazy, clear in pairs:
        scene = dehaze(network, hazy).scene
        pixels = {name: images.to_uint8(image)[0] for name, image in (("h", hazy), ("c", clear), ("s", scene))}
        before.append(metrics.psnr(pixels["h"], pixels["c"]))
        after.append(metrics.psnr(pixels["s"], pixels["c"]))
        fades.append(metrics.fade(pixels["s"]) / metrics.fade(pixels["h"]))
    assert np.mean(after) > np.mean(before) + 5.0
    assert np.mean(fades) < 0.6


def test_a_clear_photograph_stays_as_it_is(pairs: list[tuple[Tensor, Tensor]]) -> None:
    network = zoo.load(zoo.DEFAULT).network
    made = [[images.to_uint8(x)[0] for x in (dehaze(network, clear).scene, clear)] for _, clear in pairs]
    assert np.mean([metrics.psnr(*two) for two in made]) > 32.0
    assert abs(np.mean([metrics.level_shift(*two) for two in made])) < 3.0


def test_gray_stays_gray(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """A color cast would show first where there is no color."""
    network = zoo.load(zoo.DEFAULT).network
    for hazy, _clear in pairs:
        gray = hazy.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
        scene = dehaze(network, gray).scene
        spread = (scene.amax(dim=1) - scene.amin(dim=1)).mean()
        assert spread < 0.08
