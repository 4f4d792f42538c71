"""Large photographs in bands of pixels: the same bytes as whole, in a fraction of the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.images import Photo
from models.inference import guided
from models.inference.controls import controlled, haze_of
from models.inference.dehazing import DEFAULT_CONFIG, EXACT, dehaze
from models.inference.memory import peak_bytes
from models.inference.pixels import dehaze_pixels
from models.options import Controls, DehazeOptions, InferenceConfig
from models.predictor import Predictor

CPU = torch.device("cpu")


def large(dtype: type = np.uint8, height: int = 900, width: int = 1210) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    smooth = np.kron(random.random((9, 11, 3)), np.ones((100, 110, 1)))[:height, :width]
    noisy = 0.3 + 0.5 * smooth + 0.1 * random.random((height, width, 3))
    return (noisy * np.iinfo(dtype).max).astype(dtype)


def network() -> nn.Module:
    return Predictor("dcp").network


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bars", [0, 50])
def test_the_same_bytes_as_whole(dtype: type, strength: float, bars: int) -> None:
    pixels = np.pad(large(dtype), ((bars, bars), (0, 0), (0, 0)))
    controls = Controls(strength=strength)
    done = dehaze_pixels(network(), pixels, DEFAULT_CONFIG, controls, CPU)
    assert done is not None
    photo = Photo(pixels)
    found = dehaze(network(), photo.tensor())
    whole = photo.with_tensor(controlled(photo.tensor(), found.scene, found.transmission, controls))
    assert np.array_equal(done[0], whole.pixels)
    assert done[1] == pytest.approx(haze_of(found.transmission), abs=1e-5)


@pytest.mark.parametrize(("output", "across"), [("image", 1), ("side-by-side", 2)])
def test_alpha_goes_with_each_picture(output: Literal["image", "side-by-side"], across: int) -> None:
    pixels = large()[:40, :60]
    made = Predictor("dcp").dehaze_photo(Photo(pixels, alpha=pixels[..., 0]), DehazeOptions(output=output))
    assert made.pixels.shape == (40, 60 * across, 3)
    np.testing.assert_array_equal(made.alpha, np.tile(pixels[..., 0], (1, across)))


def test_what_is_done_whole() -> None:
    pixels, gray = large(), np.repeat(large()[:, :, :1], 3, axis=2)
    for wanted in (Controls(strength=1.2), Controls(strength="auto"), Controls(protect=True), Controls(distance=0.1)):
        assert dehaze_pixels(network(), pixels, DEFAULT_CONFIG, wanted, CPU) is None
    for other in (pixels[:200], gray):
        assert dehaze_pixels(network(), other, DEFAULT_CONFIG, Controls(), CPU) is None
    for config in (EXACT, InferenceConfig(tile=512)):
        assert dehaze_pixels(network(), pixels, config, Controls(), CPU) is None


def test_no_whole_picture_of_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "_BAND", 1 << 15)
    net, sizes = network(), [np.tile(large(), (tiles, tiles, 1)) for tiles in (2, 3)]

    def growth(work: Callable[[NDArray[np.uint8]], object]) -> float:
        """Bytes that a larger photograph takes more, in those of its floats."""
        small, big = (peak_bytes(lambda of=pixels: work(of)) for pixels in sizes)  # type: ignore[misc]
        return (big - small) / (4 * (sizes[1].size - sizes[0].size))

    assert growth(lambda pixels: dehaze_pixels(net, pixels, DEFAULT_CONFIG, Controls(), CPU)) < 0.2
    assert growth(lambda pixels: dehaze(net, Photo(pixels).tensor())) > 1.0
