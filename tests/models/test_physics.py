"""The scattering model, haze synthesis, procedural depth and the dark channel prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models.images import to_tensor
from models.physics import (
    HazeConfig,
    dark_channel,
    dark_channel_prior,
    guided_filter,
    jpeg,
    procedural_depth,
    scatter,
    synthesize,
    transmission_from_depth,
)

PLAIN = HazeConfig(darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0)
Photo = Callable[..., Any]


@pytest.fixture
def scene(photo: Photo) -> torch.Tensor:
    return to_tensor(np.stack([photo(1), photo(2)]))


def test_scattering_blends_towards_the_airlight() -> None:
    scene = torch.rand(2, 3, 4, 5)
    airlight = torch.tensor([[0.9, 0.8, 0.7], [0.5, 0.5, 0.5]])
    none, full = torch.ones(2, 1, 4, 5), torch.zeros(2, 1, 4, 5)
    assert torch.equal(scatter(scene, none, airlight), scene)
    assert torch.equal(scatter(scene, full, airlight), airlight[:, :, None, None].expand(2, 3, 4, 5))
    half = scatter(scene, none / 2, 1.0)
    torch.testing.assert_close((half - 0.5) * 2, scene)


def test_near_is_clear_and_optical_depth_grows_with_beta() -> None:
    depth = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3).expand(2, 1, 1, 3)
    found = transmission_from_depth(depth, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(-found.log().flatten(1), torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 2.0]]))


class TestSynthesis:
    def test_haze_is_the_scattering_model_when_nothing_else_is_on(self, scene: torch.Tensor) -> None:
        made = synthesize(scene, None, [3, 4], PLAIN)
        torch.testing.assert_close(made.hazy, scatter(scene, made.transmission, made.airlight))
        torch.testing.assert_close(made.transmission, transmission_from_depth(made.depth, made.beta))
        assert torch.equal(made.clear, scene)

    def test_same_seed_same_haze_in_any_batch(self, scene: torch.Tensor) -> None:
        both, alone = synthesize(scene, None, [3, 4]), synthesize(scene[1:], None, [4])
        assert torch.equal(both.hazy[1:], alone.hazy)
        assert not torch.equal(synthesize(scene[1:], None, [5]).hazy, alone.hazy)

    def test_ranges_are_kept(self, scene: torch.Tensor) -> None:
        config = HazeConfig(beta=(0.4, 0.6), airlight=(0.7, 0.8), airlight_cast=0.05)
        for seed in range(20):
            made = synthesize(scene[:1], None, [seed], config)
            assert 0.4 <= made.beta.item() <= 0.6
            assert made.airlight.min() >= 0.65
            assert made.airlight.max() <= 0.85
            assert made.hazy.min() >= 0
            assert made.hazy.max() <= 1

    def test_a_given_depth_is_used(self, scene: torch.Tensor) -> None:
        depth = torch.zeros(2, 1, 96, 128)
        depth[..., 64:] = 1.0
        made = synthesize(scene, depth, [1, 2], PLAIN)
        assert torch.equal(made.depth, depth)
        torch.testing.assert_close(made.hazy[..., 64:], scene[..., 64:])
        assert (made.transmission[..., :64] < 1).all()

    def test_a_crop_may_see_part_of_the_depth_axis(self, scene: torch.Tensor) -> None:
        config = PLAIN.model_copy(update={"depth_range_min": 0.3})
        spans = []
        for seed in range(12):
            depth = synthesize(scene[:1], None, [seed], config).depth
            spans.append(float(depth.max() - depth.min()))
            assert 0 <= depth.min() <= depth.max() <= 1
        assert min(spans) < 0.7 < max(spans)

    @pytest.mark.parametrize("shape", [(2, 1, 96, 127), (1, 1, 96, 128), (2, 3, 96, 128)])
    def test_shapes_that_disagree_are_errors(self, scene: torch.Tensor, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="depth is"):
            synthesize(scene, torch.zeros(shape), [1, 2])
        with pytest.raises(ValueError, match="3 seeds"):
            synthesize(scene, None, [1, 2, 3])


def test_procedural_depth_is_repeatable_and_reaches_both_ends(scene: torch.Tensor) -> None:
    maps = [procedural_depth(scene[0], seed) for seed in range(5)]
    for depth in maps:
        assert depth.shape == (1, 96, 128)
        assert depth.min() == 0
        assert depth.max() == 1
    assert torch.equal(procedural_depth(scene[0], 2), maps[2])
    assert not torch.equal(maps[0], maps[1])


def test_jpeg_loses_more_at_lower_quality(scene: torch.Tensor) -> None:
    losses = [float((jpeg(scene[0], quality) - scene[0]).abs().mean()) for quality in (95, 60, 20)]
    assert 0 < losses[0] < losses[1] < losses[2]


def test_dark_channel_is_the_window_s_minimum() -> None:
    image = torch.rand(1, 3, 9, 11)
    found = dark_channel(image, 2)
    assert found.shape == (1, 1, 9, 11)
    assert found[0, 0, 4, 5] == image[0, :, 2:7, 3:8].min()
    assert found[0, 0, 0, 0] == image[0, :, :3, :3].min()


def test_guided_filter_keeps_a_constant_and_follows_the_guide() -> None:
    guide = torch.zeros(1, 1, 32, 32)
    guide[..., 16:] = 1.0
    torch.testing.assert_close(guided_filter(guide, torch.full_like(guide, 0.3), 4, 1e-3), torch.full_like(guide, 0.3))
    noisy = guide + 0.1 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = guided_filter(guide, noisy, 8, 1e-3)
    assert (found - guide).abs().mean() < 0.4 * (noisy - guide).abs().mean()


def test_the_dark_channel_prior_brings_a_hazy_photograph_closer_to_the_clear_one(scene: torch.Tensor) -> None:
    scene = (scene * 1.3 - 0.25).clamp(0, 1)  # with dark pixels everywhere, which is the prior's assumption
    hazy = scatter(scene, torch.full((2, 1, 96, 128), 0.5), 0.9)
    found = dark_channel_prior(hazy)
    assert (found.scene - scene).square().mean() < 0.5 * (hazy - scene).square().mean()
    assert found.transmission.median().item() == pytest.approx(0.5, abs=0.15)
