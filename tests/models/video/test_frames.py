"""Frames dehazed in order: large ones from smaller versions, of which the network sees some."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.inference import EXACT, Dehazed, NoTransmissionError
from models.options import InferenceConfig, VideoOptions
from models.video import FrameDehazer

Photo = Callable[..., NDArray[np.uint8]]
Frames = list[NDArray[np.uint8]]
HEIGHT, WIDTH = 480, 640  # more than a quarter of a megapixel
LARGE = InferenceConfig()


class Network:
    """Takes haze of known airlight and transmission away; counts, and notes what it saw."""

    def __init__(self, transmission: bool = True) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._transmission = transmission

    def __call__(self, hazy: Tensor) -> Dehazed:
        self.shapes.append(tuple(hazy.shape))
        scene = ((hazy - 0.9 * 0.4) / 0.6).clamp(0, 1)
        return Dehazed(scene, torch.full_like(hazy[:, :1], 0.6) if self._transmission else None)


def play(
    frames: Iterable[NDArray[Any]], network: Network, execution: InferenceConfig = LARGE, **options: Any
) -> list[NDArray[Any]]:
    dehazer, shown = FrameDehazer(VideoOptions(**options)), []
    for index, pixels in enumerate(frames):
        frame = dehazer.opened(pixels, execution)
        found = None if frame.ask is None else network(frame.ask)
        shown.append(dehazer.shown(frame, found, index / 25, pixels.dtype))
        dehazer = pickle.loads(pickle.dumps(dehazer))  # noqa: S301 - as it goes from process to process
    return shown


def panned(photo: Photo, count: int, seed: int = 0, step: int = 2) -> Frames:
    """A hazy scene that a camera pans over."""
    clear = photo(seed, HEIGHT, WIDTH + step * count).astype(np.float32)
    hazy = (0.6 * clear + 0.4 * 0.9 * 255).round().astype(np.uint8)
    return [np.ascontiguousarray(hazy[:, step * i : step * i + WIDTH]) for i in range(count)]


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) / 255**2 + 1e-12))


def test_large_frames_become_what_a_network_of_all_pixels_makes_of_them(photo: Photo) -> None:
    frames, network = panned(photo, 7), Network()
    for found, wanted in zip(play(frames, network), play(frames, Network(), EXACT), strict=True):
        assert psnr(found, wanted) > 39
    assert network.shapes == [(1, 3, 288, 384)] * 2  # the first and the seventh


def test_other_scenes_are_seen_at_once(photo: Photo) -> None:
    network = Network()
    one, other = panned(photo, 2), [255 - frame for frame in panned(photo, 2, seed=5)]
    found = play([one[0], other[0], one[1], other[1]], network)
    assert len(network.shapes) == 4
    assert psnr(found[1], play(other[:1], Network(), EXACT)[0]) > 45


def test_small_frames_panoramas_and_exact_ones_are_all_seen_whole(photo: Photo) -> None:
    network = Network()
    play([frame[:240, :320] for frame in panned(photo, 3)], network)
    play(panned(photo, 3), network, EXACT)
    play(panned(photo, 3), network, wrap=True)
    assert network.shapes == [(1, 3, 240, 320)] * 3 + [(1, 3, HEIGHT, WIDTH)] * 6


@pytest.mark.parametrize(
    "options",
    [
        {"strength": "auto"},
        {"strength": -0.5},
        {"strength": 1.5},
        {"strength": 0.3, "smoothing": 0.0},
        {"keep_exposure": True},
        {"protect": True},
    ],
    ids=str,
)
def test_controls_do_to_large_frames_what_they_do_to_all_pixels(photo: Photo, options: dict[str, Any]) -> None:
    frames = panned(photo, 4)
    large, whole = (play(frames, Network(), execution, **options) for execution in (LARGE, EXACT))
    assert min(psnr(found, wanted) for found, wanted in zip(large, whole, strict=True)) > 40


def test_gray_stays_gray_and_borders_stay(photo: Photo) -> None:
    frames = [np.repeat(frame[:, :, :1], 3, axis=2) for frame in panned(photo, 4)]
    assert all((frame == frame[:, :, :1]).all() for frame in play(frames, Network()))
    for frame in frames:
        frame[:20] = frame[-20:] = 0
    network = Network()
    found = play(frames, network)
    assert network.shapes[0] == (1, 3, 264, 384)
    assert all(not frame[:20].any() and not frame[-20:].any() and frame[20:-20].any() for frame in found)


def test_sixteen_bits_stay(photo: Photo) -> None:
    frames = panned(photo, 2)
    deep = play([frame.astype(np.uint16) * 257 for frame in frames], Network())
    for found, wanted in zip(deep, play(frames, Network()), strict=True):
        assert found.dtype == np.uint16
        assert psnr(found / 257, wanted) > 50


def test_a_network_without_transmission(photo: Photo) -> None:
    frames = panned(photo, 4)
    found = play(frames, Network(transmission=False), strength=0.5)
    assert psnr(found[-1], play(frames, Network(), EXACT, strength=0.5)[-1]) > 45
    with pytest.raises(NoTransmissionError):
        play(frames, Network(transmission=False), strength="auto")
