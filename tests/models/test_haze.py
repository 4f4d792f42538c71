"""The scattering model and its inverse, haze that is the same for the same seed, and the dark channel prior."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from models.config import ConfigError, parse
from models.haze import synthesis
from models.haze.depth import procedural_depth
from models.haze.prior import DarkChannelPrior, dark_channel
from models.haze.scattering import scatter, transmission_from_depth
from models.haze.synthesis import HazeConfig

Photo = Callable[..., np.ndarray]
PLAIN = {"darken_probability": 0.0, "noise_probability": 0.0, "jpeg_probability": 0.0}


def random_images(count: int = 2, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def scene_of(photo: Photo, seed: int = 0) -> Tensor:
    return torch.from_numpy(photo(seed)).permute(2, 0, 1)[None].float() / 255


def psnr(image: Tensor, reference: Tensor) -> float:
    return float(-10 * torch.log10((image - reference).square().mean()))


# --- the scattering model ---


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lowest=st.floats(0.05, 0.9),
    airlight=st.one_of(st.floats(0.0, 1.0), st.tuples(*[st.floats(0.0, 1.0)] * 3)),
)
def test_known_haze_is_taken_back(seed: int, lowest: float, airlight: float | tuple[float, ...]) -> None:
    """``J = (P - A (1 - T)) / T``: exact down to float32 rounding, which grows with 1/T and so needs a least T."""
    scene = random_images(seed=seed)
    noise = torch.rand(2, 1, 24, 32, generator=torch.Generator().manual_seed(seed + 1))
    transmission = lowest + (1 - lowest) * noise
    color = airlight if isinstance(airlight, float) else torch.tensor([airlight, airlight])
    hazy = scatter(scene, transmission, color)
    veil = scatter(torch.zeros_like(scene), transmission, color)
    torch.testing.assert_close((hazy - veil) / transmission, scene, atol=1e-6 / lowest, rtol=0)
    assert hazy.min() >= 0
    assert hazy.max() <= 1 + 1e-6  # a mixture of scene and airlight
    thinner = scatter(scene, transmission.sqrt(), color)
    assert ((thinner - scene).abs() <= (hazy - scene).abs() + 1e-6).all()  # less haze, nearer to the scene


def test_scatter_without_haze_is_the_scene_and_without_transmission_the_airlight() -> None:
    scene, airlight = random_images(), torch.tensor([[0.9, 0.8, 0.7], [0.2, 0.3, 0.4]])
    assert torch.equal(scatter(scene, torch.ones(2, 1, 24, 32), airlight), scene)
    gone = scatter(scene, torch.zeros(2, 1, 24, 32), airlight)
    assert torch.equal(gone, airlight[:, :, None, None].expand_as(scene))


@pytest.mark.parametrize("airlight", [0.8, torch.full((2, 3), 0.8), torch.full((2, 3, 1, 1), 0.8)])
def test_airlight_is_a_number_or_a_color_per_image(airlight: Tensor | float) -> None:
    scene, transmission = random_images(), torch.full((2, 1, 24, 32), 0.25)
    torch.testing.assert_close(scatter(scene, transmission, airlight), 0.25 * scene + 0.6)


def test_transmission_falls_with_distance_and_with_each_images_beta() -> None:
    depth = torch.linspace(0, 1, 5).view(1, 1, 1, 5).expand(2, 1, 1, 5)
    found = transmission_from_depth(depth, torch.tensor([0.5, 2.0]))
    expected = np.exp(-2 * np.array([[0.5], [2.0]]) * (1 - np.linspace(0, 1, 5)))
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-6)
    torch.testing.assert_close(transmission_from_depth(depth, 2.0)[0], found[1])


# --- haze synthesis ---


@settings(max_examples=25, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=6),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    block=st.sampled_from([1, 4096, 1 << 16]),
    measured=st.booleans(),
    data=st.data(),
)
def test_the_rest_of_the_batch_does_not_matter(
    seeds: list[int], size: tuple[int, int], block: int, measured: bool, data: st.DataObject
) -> None:
    """Bit for bit, whatever is before and behind it, and however the batch is cut into blocks."""
    count, config = len(seeds), HazeConfig(depth_range_min=0.4)
    clear = random_images(count, *size, seed=seeds[0] % 1000)
    depth = random_images(count, *size, seed=seeds[1] % 1000)[:, :1] if measured else None
    order = data.draw(st.permutations(range(count)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "BLOCK_PIXELS", block)
        one = synthesis.synthesize(clear, depth, seeds, config)
    moved = None if depth is None else depth[order]
    torch.manual_seed(99)  # the global generator must not matter
    other = synthesis.synthesize(clear[order], moved, [seeds[index] for index in order], config)
    for name in ("hazy", "transmission", "depth", "beta", "airlight"):
        assert torch.equal(getattr(one, name)[order], getattr(other, name)), name


def test_what_is_given_is_not_changed() -> None:
    clear, depth = random_images(3), random_images(3)[:, :1]
    before = clear.clone(), depth.clone()
    synthesis.synthesize(clear, depth, [1, 2, 3], HazeConfig(depth_range_min=0.3, darken_probability=1.0))
    assert torch.equal(clear, before[0])
    assert torch.equal(depth, before[1])


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    synthesis.synthesize(random_images(1), None, [1])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_is_another_haze() -> None:
    made = synthesis.synthesize(random_images(1).repeat(2, 1, 1, 1), None, [1, 2])
    assert made.beta[0] != made.beta[1]
    assert not torch.equal(made.airlight[0], made.airlight[1])
    assert not torch.equal(made.depth[0], made.depth[1])


def test_defaults_keep_to_their_ranges_and_use_them() -> None:
    made = synthesis.synthesize(random_images(1, 8, 8).repeat(200, 1, 1, 1), torch.rand(200, 1, 8, 8), range(200))
    for name, low, high in (("beta", 0.2, 2.8), ("airlight", 0.225, 1.0)):
        values = getattr(made, name)
        assert low <= values.min() < low + 0.1 * (high - low), name
        assert high - 0.1 * (high - low) < values.max() <= high, name
    assert made.hazy.min() >= 0
    assert made.hazy.max() <= 1
    cast = made.airlight.amax(1) - made.airlight.amin(1)
    assert 0.02 < cast.max() <= 0.05 + 1e-6


def test_configured_ranges_are_kept() -> None:
    config = HazeConfig(beta=(0.4, 0.6), airlight=(0.7, 0.8), airlight_cast=0.05)
    made = synthesis.synthesize(random_images(30, 8, 8), None, range(30), config)
    assert 0.4 <= made.beta.min() < 0.45 < 0.55 < made.beta.max() <= 0.6
    assert 0.65 <= made.airlight.min() < 0.7 < 0.8 < made.airlight.max() <= 0.85


def test_a_given_depth_is_used() -> None:
    clear, depth = random_images(2), torch.zeros(2, 1, 24, 32)
    depth[..., 16:] = 1.0
    made = synthesis.synthesize(clear, depth, [1, 2], HazeConfig(**PLAIN))
    assert torch.equal(made.depth, depth)
    torch.testing.assert_close(made.hazy[..., 16:], clear[..., 16:])
    assert (made.transmission[..., :16] < 1).all()


def test_plain_haze_is_the_scattered_scene() -> None:
    clear = random_images(4)
    made = synthesis.synthesize(clear, None, range(4), HazeConfig(**PLAIN))
    assert torch.equal(made.clear, clear)
    torch.testing.assert_close(made.transmission, transmission_from_depth(made.depth, made.beta))
    torch.testing.assert_close(made.hazy, scatter(clear, made.transmission, made.airlight))


def test_darkening_is_a_gamma_within_its_range() -> None:
    clear = 0.1 + 0.8 * random_images(8)
    made = synthesis.synthesize(clear, None, range(8), HazeConfig(**(PLAIN | {"darken_probability": 1.0})))
    veil = made.airlight[:, :, None, None] * (1 - made.transmission)
    near = made.transmission.expand_as(clear) > 0.5  # where the scene can be recovered in float32
    gamma = torch.log(((made.hazy - veil) / made.transmission).clamp(min=1e-4)) / torch.log(clear)
    medians = torch.stack([gamma[i][near[i]].median() for i in range(8)])
    assert 1.5 <= medians.min() < medians.max() <= 3.0
    for i in range(8):
        torch.testing.assert_close(gamma[i][near[i]], medians[i].expand_as(gamma[i][near[i]]), atol=0.02, rtol=0)


def test_noise_has_the_strength_asked_for() -> None:
    clear, depth = torch.full((36, 3, 48, 48), 0.5), torch.ones(36, 1, 48, 48)  # near: hazy is the noisy scene
    config = HazeConfig(**(PLAIN | {"noise_probability": 1.0}), noise_sigma=(0.03, 0.03))
    noise = synthesis.synthesize(clear, depth, range(36), config).hazy - 0.5
    np.testing.assert_allclose(noise.std(dim=(2, 3)), 0.03, rtol=0.1)
    correlation = np.array([np.corrcoef(n.flatten(1).numpy())[0, 1] for n in noise])
    assert (correlation > 0.999).any()  # gray
    assert (np.abs(correlation) < 0.1).any()  # per channel
    assert ((correlation > 0.1) & (correlation < 0.999)).any()  # correlated


def test_a_fifth_of_the_noise_is_correlated(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, int]] = []
    monkeypatch.setattr(synthesis, "_add_noise", lambda _scene, sigma, kind, _own: drawn.append((sigma, kind)))
    config = HazeConfig(noise_probability=1.0, darken_probability=0.0, jpeg_probability=0.0)
    synthesis.synthesize(torch.rand(1000, 3, 2, 2), torch.ones(1000, 1, 2, 2), range(1000), config)
    shares = np.bincount([kind for _, kind in drawn]) / 1000
    assert shares == pytest.approx([0.4, 0.4, 0.2], abs=0.05)
    sigmas = [sigma for sigma, _ in drawn]
    assert 0.008 <= min(sigmas) < 0.012 < 0.094 < max(sigmas) <= 0.098


def test_jpeg_qualities_reach_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(synthesis, "jpeg", lambda image, quality: (drawn.append(quality), image)[1])
    scenes = torch.rand(200, 3, 8, 8)
    for ends in ((60, 63), (95, 95)):
        drawn.clear()
        config = HazeConfig(**(PLAIN | {"jpeg_probability": 1.0, "jpeg_quality": ends}))
        synthesis.synthesize(scenes, None, range(200), config)
        counts = [drawn.count(quality) for quality in range(ends[0], ends[1] + 1)]
        assert sum(counts) == 200
        assert min(counts) > 200 / len(counts) / 2, "each about as often"


def test_jpeg_is_the_same_where_imagecodecs_is_missing(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(photo)[0]
    before = [synthesis.jpeg(scene, quality) for quality in (10, 60, 95)]
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    synthesis._jpeg_codec.cache_clear()
    try:
        after = [synthesis.jpeg(scene, quality) for quality in (10, 60, 95)]
        assert synthesis._jpeg_codec() is synthesis._jpeg_by_pillow
    finally:
        synthesis._jpeg_codec.cache_clear()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_jpeg_changes_pixels_a_little_and_less_at_high_quality(photo: Photo) -> None:
    scene = scene_of(photo)[0]
    low, high = (psnr(synthesis.jpeg(scene, quality), scene) for quality in (30, 95))
    assert 20 < low < high - 3 < 60
    made = synthesis.synthesize(scene[None], None, [3], HazeConfig(**(PLAIN | {"jpeg_probability": 1.0})))
    assert 25 < psnr(made.hazy, scatter(scene[None], made.transmission, made.airlight)) < 60


def test_a_crop_may_span_part_of_the_depth_axis() -> None:
    depth = torch.linspace(0, 1, 64).view(1, 1, 8, 8).repeat(40, 1, 1, 1)
    made = synthesis.synthesize(random_images(40, 8, 8), depth, range(40), HazeConfig(depth_range_min=0.25))
    low, high = made.depth.amin((1, 2, 3)), made.depth.amax((1, 2, 3))
    assert low.min() >= 0
    assert high.max() <= 1 + 1e-6
    assert 0.25 - 1e-6 <= (high - low).min() < 0.4
    assert 0.85 < (high - low).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("clear", "depth", "seeds", "named"),
    [
        ((2, 3, 4, 4), None, [1], r"\(2, 3, 4, 4\) with 1 seeds"),
        ((1, 1, 4, 4), None, [1], r"\(1, 1, 4, 4\)"),
        ((3, 4, 4), None, [1, 2, 3], r"\(3, 4, 4\)"),
        ((2, 3, 4, 4), None, [1, 2, 3], "3 seeds"),
        ((2, 3, 4, 4), (1, 1, 4, 4), [1, 2], r"depth is \(1, 1, 4, 4\)"),
        ((2, 3, 4, 4), (2, 3, 4, 4), [1, 2], r"depth is \(2, 3, 4, 4\)"),
        ((1, 3, 4, 4), (1, 1, 4, 5), [1], r"depth is \(1, 1, 4, 5\); expected \(1, 1, 4, 4\)"),
    ],
)
def test_shapes_that_disagree_are_named(
    clear: tuple[int, ...], depth: tuple[int, ...] | None, seeds: list[int], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        synthesis.synthesize(torch.rand(clear), None if depth is None else torch.rand(depth), seeds)


# --- procedural depth ---


@settings(max_examples=15, deadline=None)
@given(height=st.integers(2, 70), width=st.integers(2, 70), seed=st.integers(0, 2**63 - 1))
def test_procedural_depth_reaches_both_ends_and_repeats(height: int, width: int, seed: int) -> None:
    image = random_images(1, height, width)[0]
    depth = procedural_depth(image, seed)
    assert depth.shape == (1, height, width)
    assert (float(depth.min()), float(depth.max())) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert torch.equal(depth, procedural_depth(image, seed))


def test_procedural_depth_is_near_at_the_bottom_on_average() -> None:
    image = random_images(1)[0]
    depth = torch.stack([procedural_depth(image, seed) for seed in range(24)])
    assert depth[..., -4:, :].mean() > depth[..., :4, :].mean() + 0.2


def test_procedural_depth_follows_the_colors() -> None:
    image = torch.zeros(3, 48, 48)
    image[:, :, 24:] = 1.0
    steps = torch.stack([procedural_depth(image, seed).diff(dim=2).abs().mean((0, 1)) for seed in range(12)])
    assert steps.mean(0).argmax() == 23


def test_one_pixel_has_a_depth() -> None:
    assert 0 <= float(procedural_depth(torch.rand(3, 1, 1), 0)) <= 1


# --- dark channel prior ---


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_dark_channel_is_a_minimum_filter(radius: int) -> None:
    image = random_images(2, 13, 9)
    expected = [ndimage.minimum_filter(x.numpy().min(0), 2 * radius + 1, mode="nearest") for x in image]
    np.testing.assert_array_equal(dark_channel(image, radius)[:, 0], expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_dark_channel_prior_reduces_haze(photo: Photo, seed: int) -> None:
    clear = scene_of(photo, seed) ** 1.5
    depth = torch.linspace(0, 1, 96).view(1, 1, 96, 1).expand(1, 1, 96, 128)
    hazy = scatter(clear, transmission_from_depth(depth, 1.0), 0.9)
    found = DarkChannelPrior()(hazy)
    assert psnr(found.scene, clear) > psnr(hazy, clear) + 2
    assert (found.transmission <= 1).all()
    rows = found.transmission.mean(dim=(0, 1, 3))
    assert np.corrcoef(rows, depth[0, 0, :, 0])[0, 1] > 0.5


def test_dark_channel_prior_finds_a_constant_transmission(photo: Photo) -> None:
    scene = (torch.cat([scene_of(photo, 1), scene_of(photo, 2)]) * 1.3 - 0.25).clamp(
        0, 1
    )  # dark everywhere, as it assumes
    found = DarkChannelPrior()(scatter(scene, torch.full((2, 1, 96, 128), 0.5), 0.9))
    assert found.transmission.median().item() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (31, 17)])
def test_dark_channel_prior_takes_any_size(size: tuple[int, int]) -> None:
    hazy = random_images(2, *size)
    found = DarkChannelPrior()(hazy)
    assert (found.scene.shape, found.transmission.shape) == (hazy.shape, (2, 1, *size))
    assert float(found.transmission.min()) >= np.float32(0.1)
    assert float(found.scene.min()) >= 0
    assert float(found.scene.max()) <= 1
    torch.testing.assert_close(DarkChannelPrior()(hazy[1:]).scene[0], found.scene[1])


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_dark_channel_prior_of_a_flat_image_is_finite(level: float) -> None:
    assert math.isfinite(float(DarkChannelPrior()(torch.full((1, 3, 20, 20), level)).scene.sum()))


@pytest.mark.parametrize("ends", [(2.8, 0.2), (-0.1, 1.0)])
def test_a_range_has_its_smaller_end_first(ends: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="'beta' in haze"):
        parse(HazeConfig, {"beta": ends}, "haze")


# --- kinds of haze ---

KINDS = {
    "clear": {"share": 3, "beta": [0, 0]},
    "dark": {"airlight": [0.3, 0.4], "airlight_cast": 0},
}


def mixed(**options: object) -> HazeConfig:
    return parse(HazeConfig, {**PLAIN, "beta": [0.5, 1.0], "airlight": [0.9, 1.0], "kinds": KINDS, **options})


def test_every_photograph_gets_one_kind_by_its_seed() -> None:
    images, seeds = random_images(40), list(range(40))
    kinds = synthesis.kinds_of(seeds, mixed())
    made = synthesis.synthesize(images, None, seeds, mixed())
    for index, kind in enumerate(kinds):
        alone = synthesis.synthesize(images[index : index + 1], None, [index], mixed().of_kind(kind))
        torch.testing.assert_close(made.hazy[index], alone.hazy[0])
        if kind == "clear":
            torch.testing.assert_close(made.hazy[index], images[index])
        else:
            assert 0.3 <= float(made.airlight[index].min()) <= float(made.airlight[index].max()) <= 0.4


def test_kinds_come_in_their_shares() -> None:
    kinds = synthesis.kinds_of(range(2000), mixed())
    assert 0.7 < kinds.count("clear") / 2000 < 0.8


def test_a_kind_has_the_keys_of_all_but_what_it_says() -> None:
    assert mixed().of_kind("dark").beta == (0.5, 1.0)
    assert mixed().of_kind("clear").airlight == (0.9, 1.0)
    assert synthesis.kinds_of([1, 2], HazeConfig()) == ["", ""]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"beta": [2, 1]}, r"'beta' in kinds\.odd is \[2, 1\]: expected two numbers, 0 or more, the smaller one first"),
        ({"betta": [1, 2]}, r"unknown key 'betta' in kinds\.odd; did you mean 'beta'\?"),
        ({"shar": 1}, r"unknown key 'shar' in kinds\.odd; did you mean 'share'\?"),
        ({"share": 0}, "share is 0; expected a number above 0"),
        ({"kinds": {}}, "kinds of its own"),
    ],
)
def test_a_kind_that_is_none_is_refused(kind: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed(kinds={"odd": kind})


def test_uneven_haze_varies_where_depth_does_not() -> None:
    far = torch.zeros(2, 1, 24, 32)
    even, uneven = (
        synthesis.synthesize(random_images(), far, [1, 2], parse(HazeConfig, {**PLAIN, "unevenness": [u, u]}))
        for u in (0.0, 0.8)
    )
    assert float(even.transmission.std((1, 2, 3)).max()) == 0.0
    optical = -uneven.transmission.log()
    assert bool((optical.amax((1, 2, 3)) / optical.amin((1, 2, 3)) > 1.5).all())


def test_a_tinted_scene_is_lit_in_the_color_of_its_airlight_and_its_target_is_not() -> None:
    options = {**PLAIN, "beta": [0, 0], "airlight": [0.6, 0.6], "airlight_cast": 0.3, "tint_probability": 1.0}
    white = torch.ones(8, 3, 8, 8)
    made = synthesis.synthesize(white, None, range(8), parse(HazeConfig, options))
    assert torch.equal(made.clear, white)
    for hazy, airlight in zip(made.hazy[..., 0, 0], made.airlight, strict=True):
        assert float(hazy.max()) == pytest.approx(1.0)
        logs, tint = hazy.log(), (airlight / airlight.max()).log()
        strength = float((logs * tint).sum() / tint.square().sum())
        assert 0.0 <= strength <= 1.0
        torch.testing.assert_close(logs, strength * tint, atol=1e-4, rtol=0)


def test_a_warm_airlight_has_more_red_and_less_blue_and_the_haze_is_the_same() -> None:
    clear = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    gray = HazeConfig(airlight=(0.4, 0.6), airlight_cast=0.0)
    warm = gray.model_copy(update={"airlight_warmth": (0.1, 0.3)})
    plain, made = (synthesis.synthesize(clear, None, [1, 2, 3], config) for config in (gray, warm))
    shift = made.airlight - plain.airlight
    assert torch.equal(made.transmission, plain.transmission)
    assert torch.equal(made.airlight[:, 1], plain.airlight[:, 1])
    assert shift[:, 0].min() >= 0.1 - 1e-6
    assert shift[:, 0].max() <= 0.3 + 1e-6
    assert torch.allclose(shift[:, 0], -shift[:, 2], atol=1e-6)
    with pytest.raises(ConfigError, match=r"airlight_warmth.*the smaller one first"):
        parse(HazeConfig, {"airlight_warmth": [0.3, -0.1]})
