"""From corpus rows to training samples."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from models import images
from models.physics import HazeConfig
from pipelines.transforms import (
    DEFECTS,
    CropConfig,
    random_crop,
    real_photograph,
    scorer_samples,
    strong_augmentation,
    synthetic_pairs,
    unpaired_crop,
)

PLAIN = HazeConfig(darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0)
WHITE = PLAIN.model_copy(update={"airlight": (1.0, 1.0), "airlight_cast": 0.0})
CROP = CropConfig(size=32, scale=(0.5, 1.0), per_photo=3)
Photo = Callable[..., Any]


def texture(height: int, width: int) -> Any:
    """A smooth random field: no two places of it look alike. H W uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def row(pixels: Any, depth: Any = None, image_id: str = "a" * 32) -> dict[str, Any]:
    def png(image: Any) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return buffer.getvalue()

    return {"image_id": image_id, "image": png(pixels), "depth": None if depth is None else png(depth)}


def transmission_of(pair: dict[str, Any]) -> Any:
    """What turned the clear crop into the hazy one under white haze, ``(1 - P) / (1 - J)``: (H, W) in [0, 1]."""
    hazy, clear = (1 - pair[name] / 255 for name in ("hazy", "clear"))
    return np.clip((hazy * clear).sum(-1) / np.maximum((clear * clear).sum(-1), 1e-6), 0, 1)


class TestPairs:
    def test_shapes_and_types(self, photo: Photo) -> None:
        pairs = synthetic_pairs(row(photo(1)), CROP, PLAIN)
        assert len(pairs) == 3
        for pair in pairs:
            assert {key: (value.shape, value.dtype.name) for key, value in pair.items()} == {
                "hazy": ((32, 32, 3), "uint8"),
                "clear": ((32, 32, 3), "uint8"),
            }

    def test_a_seed_repeats_and_none_differs(self, photo: Photo) -> None:
        one, two, other = (synthetic_pairs(row(photo(1)), CROP, PLAIN, seed)[0]["hazy"] for seed in (5, 5, 6))
        assert np.array_equal(one, two)
        assert not np.array_equal(one, other)
        fresh = [synthetic_pairs(row(photo(1)), CROP, PLAIN)[0]["hazy"] for _ in range(2)]
        assert not np.array_equal(*fresh)

    def test_haze_is_one_transmission_for_all_channels(self, photo: Photo) -> None:
        for pair in synthetic_pairs(row(photo(2)), CROP, WHITE, seed=1):
            t = transmission_of(pair)
            assert 0 <= t.min() < t.max() <= 1
            expected = pair["clear"] / 255 * t[..., None] + 1 - t[..., None]
            assert np.abs(pair["hazy"] / 255 - expected).max() < 0.01

    def test_depth_is_cropped_and_mirrored_with_the_photograph(self) -> None:
        """The photograph shows its own depth, so brightness and transmission must stay in step."""
        ramp = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(80, 0)
        pixels = np.stack([ramp] * 3, axis=-1)
        thin = WHITE.model_copy(update={"beta": (0.2, 0.8)})
        for seed in range(6):
            for pair in synthetic_pairs(row(pixels, ramp.astype(np.uint16) * 257), CROP, thin, seed):
                brightness = pair["clear"][..., 0].mean(0).astype(float)
                transmission = transmission_of(pair).mean(0)
                assert np.corrcoef(brightness, transmission)[0, 1] > 0.9

    def test_depth_is_the_same_square_of_the_photograph(self) -> None:
        field = texture(90, 130)
        random = np.random.default_rng(0)
        for _ in range(20):
            square, cut = random_crop(
                np.stack([field] * 3, axis=-1), field, CropConfig(size=32, scale=(0.3, 1)), random
            )
            assert cut.shape == (32, 32)
            assert np.abs(square[..., 0].astype(float) - cut).mean() < 3

    def test_a_depth_map_of_another_size_is_fitted_to_the_photograph(self) -> None:
        field = texture(96, 128)
        small = np.asarray(Image.fromarray(field).resize((64, 48))).astype(np.uint16) * 257
        for pair in synthetic_pairs(row(np.stack([field] * 3, axis=-1), small), CROP, WHITE, seed=0):
            assert spearmanr(pair["clear"][..., 0].ravel(), transmission_of(pair).ravel()).statistic > 0.97

    def test_crops_are_mirrored_half_of_the_time(self) -> None:
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, 20:] = 255
        whole = CropConfig(size=16, scale=(1.0, 1.0))
        random = np.random.default_rng(0)
        sides = [random_crop(pixels, None, whole, random)[0][8, 2, 0] > 128 for _ in range(60)]
        assert 15 < sum(sides) < 45


class TestRealPhotographs:
    def test_the_photograph_is_whole_and_its_augmentation_stays_in_place(self, photo: Photo) -> None:
        sample = real_photograph(row(photo(3, height=90, width=120)), 48, seed=1)[0]
        assert sample["image_id"] == "a" * 32
        assert sample["photo"].shape == sample["strong"].shape == (48, 48, 3)
        assert not np.array_equal(sample["photo"], sample["strong"])
        assert np.array_equal(sample["photo"], images.resize(photo(3, height=90, width=120), 48, 48))

    def test_augmentation_is_photometric_only(self) -> None:
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[8:16, 20:28] = 230
        random = np.random.default_rng(0)
        for _ in range(20):
            found = strong_augmentation(pixels, random).mean(-1)
            assert found.shape == (32, 32)
            y, x = np.nonzero(found > found.min() + 0.6 * np.ptp(found))
            assert (y.mean(), x.mean()) == pytest.approx((11.5, 23.5), abs=0.6)


class TestUnpairedCrops:
    def test_there_are_crops_and_nothing_else(self, photo: Photo) -> None:
        samples = unpaired_crop(row(photo(5)), CROP, seed=1)
        assert [set(sample) for sample in samples] == [{"image"}] * 3
        assert {(s["image"].shape, s["image"].dtype.name) for s in samples} == {((32, 32, 3), "uint8")}
        assert not np.array_equal(samples[0]["image"], samples[1]["image"])

    def test_the_name_of_a_pair_changes_nothing(self, photo: Photo) -> None:
        alone, paired = row(photo(5)), row(photo(5)) | {"pair_id": "scene-7"}
        for one, other in zip(unpaired_crop(alone, CROP, 1), unpaired_crop(paired, CROP, 1), strict=True):
            assert np.array_equal(one["image"], other["image"])


class TestScorerSamples:
    def test_labels_follow_the_haze(self, photo: Photo) -> None:
        samples = [s for seed in range(30) for s in scorer_samples(row(photo(4)), CROP, PLAIN, seed)]
        for sample in samples:
            assert sample["image"].shape == (32, 32, 3)
            assert 0 <= sample["density"] < 1
            assert (sample["density"] == 0) == (sample["depth"] == 0)
            assert sample["density"] <= sample["depth"] + 1e-6  # 1 - exp(-x) <= x
            assert (sample["defect"] == 0) == (sample["quality"] == 1)
        assert {int(s["defect"]) for s in samples} == set(range(len(DEFECTS) + 1))
        assert 0.1 < np.mean([s["density"] == 0 for s in samples]) < 0.4

    def test_density_and_depth_are_those_of_the_haze_in_the_image(self) -> None:
        """White haze over a black photograph is ``1 - T``: the image shows its own transmission."""
        white = PLAIN.model_copy(update={"airlight": (1.0, 1.0), "airlight_cast": 0.0, "beta": (0.2, 1.0)})
        black = row(np.zeros((64, 64, 3), np.uint8))
        samples = [s for seed in range(10) for s in scorer_samples(black, CROP, white, seed) if s["defect"] == 0]
        assert any(s["density"] > 0.3 for s in samples)
        for sample in samples:
            haze = sample["image"] / 255
            assert sample["density"] == pytest.approx(haze.mean(), abs=0.005)
            assert sample["depth"] == pytest.approx(-np.log(1 - haze).mean(), abs=0.02)

    def test_quality_falls_with_the_severity_of_the_defect(self) -> None:
        none = PLAIN.model_copy(update={"beta": (0.0, 0.0)})
        grey = row(np.full((64, 64, 3), 128, np.uint8))
        samples = [s for seed in range(60) for s in scorer_samples(grey, CROP, none, seed)]
        noisy = [s for s in samples if s["defect"] == 1 + DEFECTS.index("noisy")]
        assert len(noisy) > 8
        assert spearmanr([s["image"].std() for s in noisy], [s["quality"] for s in noisy]).statistic < -0.95


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda found, seed: synthetic_pairs(found, CROP, PLAIN, seed), "hazy"),
        (lambda found, seed: real_photograph(found, 48, seed), "strong"),
        (lambda found, seed: unpaired_crop(found, CROP, seed), "image"),
        (lambda found, seed: scorer_samples(found, CROP, PLAIN, seed), "image"),
    ],
    ids=["pairs", "real", "unpaired", "scorer"],
)
def test_samples_depend_on_the_seed_and_the_photograph_s_name(make: Any, key: str, photo: Photo) -> None:
    first, again, other, unseeded = (make(row(photo(1)), seed)[0][key] for seed in (5, 5, 6, None))
    renamed = make(row(photo(1), image_id="b" * 32), 5)[0][key]
    assert np.array_equal(first, again)
    assert not any(np.array_equal(first, one) for one in (other, unseeded, renamed))
