"""Frames smoothed over time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.images import to_tensor
from models.video import smoothing
from models.video.smoothing import Smoother

Photo = Callable[..., NDArray[np.uint8]]


def hazy_and_clear(photo: Photo, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A scene of which haze took half."""
    clear = to_tensor(photo(seed, 96, 128))
    return clear * 0.5 + 0.45, clear


def wavering(hazy: Tensor, clear: Tensor, index: int) -> Tensor:
    """What a network does that finds the transmission too high and too low by turns: the exact inverse for T."""
    transmission = 0.5 + (0.03 if index % 2 else -0.03)
    return ((hazy - 0.9 * (1 - transmission)) / transmission).clamp(0, 1)


def unrest(frames: list[Tensor]) -> float:
    """RMS of what changes from frame to frame."""
    return float(torch.stack([(b - a).pow(2).mean() for a, b in itertools.pairwise(frames)]).mean().sqrt())


def test_a_wavering_transmission_comes_to_rest_and_the_scene_stays_right(photo: Photo) -> None:
    hazy, clear = hazy_and_clear(photo)
    smooth = Smoother(0.5)
    raw = [wavering(hazy, clear, index) for index in range(30)]
    calm = [smooth(hazy, scene, index / 25) for index, scene in enumerate(raw)]
    assert unrest(calm[10:]) < 0.15 * unrest(raw[10:])
    error = [float((scene - clear).abs().mean()) for scene in (calm[-1], raw[-1])]
    assert error[0] < 0.5 * error[1]
    assert smooth.cuts == 0


def test_none_and_the_first_frame_change_nothing(photo: Photo) -> None:
    hazy, clear = hazy_and_clear(photo)
    assert Smoother(0.0)(hazy, clear, 0.0) is clear
    torch.testing.assert_close(Smoother(0.5)(hazy, clear, 0.0), clear, atol=1e-6, rtol=0)


def test_a_cut_forgets(photo: Photo) -> None:
    smooth = Smoother(0.5)
    hazy, clear = hazy_and_clear(photo)
    for index in range(5):
        smooth(hazy, clear * 0.8, index / 25)
    other = to_tensor(255 - photo(7, 96, 128))
    found = smooth(other, other * 0.9, 5 / 25)
    torch.testing.assert_close(found, other * 0.9, atol=1e-6, rtol=0)
    assert smooth.cuts == 1


def test_the_edge_of_a_frame_forgets_like_its_middle(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    still = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 16, 21], align_corners=True)
    monkeypatch.setattr(smoothing, "_motion", lambda before, now: still)
    hazy, clear = hazy_and_clear(photo)
    smooth = Smoother(0.5)
    for index, brighter in enumerate((0.0, 0.05)):
        smooth(hazy + brighter, clear, index / 25)
    assert smooth._memory is not None
    count = smooth._memory.count
    torch.testing.assert_close(count, torch.full_like(count, 1 + math.exp(-((0.05 / 0.06) ** 2))), atol=1e-3, rtol=0)


def test_grain_does_not_make_the_edges_flicker(photo: Photo) -> None:
    hazy, clear = hazy_and_clear(photo)
    smooth, random = Smoother(0.5), torch.Generator().manual_seed(0)
    for index in range(8):
        grain = 0.01 * torch.randn(hazy.shape, generator=random)
        smooth((hazy + grain).clamp(0, 1), clear, index / 25)
    assert smooth._memory is not None
    count = smooth._memory.count[0, 0]
    edge = torch.cat([count[0], count[-1], count[:, 0], count[:, -1]])
    assert float(edge.mean()) > 0.9 * float(count[2:-2, 2:-2].mean())


def test_a_lasting_change_is_followed_in_the_time_given(photo: Photo) -> None:
    hazy, clear = hazy_and_clear(photo)
    smooth = Smoother(0.2)
    for index in range(20):
        smooth(hazy, clear, index / 25)
    late = [smooth(hazy, clear * 0.7, (20 + index) / 25) for index in range(26)]
    errors = [float((scene - clear * 0.7).abs().mean()) for scene in late]
    whole = float((clear * 0.3).abs().mean())
    assert errors[0] > 0.6 * whole
    assert errors[-1] < 0.05 * whole


def test_fields_follow_the_scene(photo: Photo) -> None:
    """A transmission that differs over the scene, and a camera that pans 2 pixels a frame: no smearing."""
    wide = to_tensor(photo(3, 96, 220))
    transmission = torch.linspace(0.3, 0.9, 220).expand(1, 1, 96, 220)
    hazy = wide * transmission + 0.9 * (1 - transmission)
    smooth = Smoother(0.5)
    for index in range(40):
        window = slice(2 * index, 2 * index + 128)
        found = smooth(hazy[..., window], wide[..., window], index / 25)
    error = (found - wide[..., window]).abs()
    assert float(error.mean()) < 0.01


def test_details_are_kept(photo: Photo) -> None:
    hazy, clear = hazy_and_clear(photo)
    smooth = Smoother(0.5)
    for index in range(6):
        sharp = clear + 0.05 * torch.randn(clear.shape, generator=torch.Generator().manual_seed(index))
        found = smooth(hazy, sharp.clamp(0, 1), index / 25)
    high = [image - torch.nn.functional.avg_pool2d(image, 9, 1, 4) for image in (found, sharp.clamp(0, 1))]
    assert float((high[0] - high[1]).pow(2).mean().sqrt()) < 0.01


def test_sizes_of_every_kind(photo: Photo) -> None:
    for height, width in ((1, 1), (1, 64), (33, 17), (401, 300)):
        smooth = Smoother(0.5)
        frame = to_tensor(photo(1, max(8, height), max(8, width)))[..., :height, :width]
        for index in range(2):
            found = smooth(frame, frame * 0.9, index / 25)
        assert found.shape == frame.shape
        assert bool(torch.isfinite(found).all())
