"""From corpus rows to training samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.stats import spearmanr

from models import images
from models.haze import HazeConfig
from pipelines.train import transforms
from pipelines.train.methods.scorer import DEFECTS
from pipelines.train.recipe import load_recipe, real_config
from pipelines.train.transforms import (
    Augmentation,
    CropConfig,
    RealConfig,
    Samples,
    Square,
    cut,
    cut_depth,
    decode_pixels,
    draw_square,
    least_shorter_side,
    on_device,
    real_photographs,
    scorer_samples,
    strong_augmentation,
    synthetic_pairs,
    unpaired_crops,
)
from tests.conftest import encoded

PLAIN = HazeConfig(darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0)
WHITE = PLAIN.model_copy(update={"airlight": (1.0, 1.0), "airlight_cast": 0.0})
CROP = CropConfig(size=32, scale=(0.5, 1.0), per_photo=3)
Photo = Callable[..., Any]


def texture(height: int, width: int) -> Any:
    """A smooth random field: no two places of it look alike. H W uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def row(pixels: Any, depth: Any = None, image_id: str = "a" * 32) -> dict[str, Any]:
    return {"image_id": image_id, "image": encoded(pixels), "depth": None if depth is None else encoded(depth)}


def jpeg_of(pixels: Any, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, "JPEG", quality=95, exif=exif)


def each(made: Samples) -> list[dict[str, Any]]:
    """One dictionary per sample."""
    return [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]


def transmission_of(pair: dict[str, Any]) -> Any:
    """What turned the clear crop into the hazy one under white haze, ``(1 - P) / (1 - J)``: (H, W) in [0, 1]."""
    hazy, clear = (1 - pair[name] / 255 for name in ("hazy", "clear"))
    return np.clip((hazy * clear).sum(-1) / np.maximum((clear * clear).sum(-1), 1e-6), 0, 1)


class TestPairs:
    def test_shapes_and_types(self, photo: Photo) -> None:
        pairs = each(synthetic_pairs([row(photo(1))], CROP, PLAIN))
        assert len(pairs) == 3
        for pair in pairs:
            assert {key: (value.shape, value.dtype.name) for key, value in pair.items()} == {
                "hazy": ((32, 32, 3), "uint8"),
                "clear": ((32, 32, 3), "uint8"),
                "transmission": ((32, 32), "uint8"),
                "airlight": ((3,), "float32"),
                "tint": ((3,), "float32"),
            }

    def test_haze_is_one_transmission_for_all_channels(self, photo: Photo) -> None:
        for pair in each(synthetic_pairs([row(photo(2))], CROP, WHITE, seed=1)):
            t = transmission_of(pair)
            assert 0 <= t.min() < t.max() <= 1
            expected = pair["clear"] / 255 * t[..., None] + 1 - t[..., None]
            assert np.abs(pair["hazy"] / 255 - expected).max() < 0.01
            assert np.array_equal(pair["airlight"], [1, 1, 1])
            assert np.abs(pair["transmission"] / 255 - t)[pair["clear"].min(2) < 100].max() < 0.02

    def test_depth_is_cropped_and_mirrored_with_the_photograph(self) -> None:
        """The photograph shows its own depth, so brightness and transmission must stay in step."""
        ramp = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(80, 0)
        pixels = np.stack([ramp] * 3, axis=-1)
        thin = WHITE.model_copy(update={"beta": (0.2, 0.8)})
        for seed in range(6):
            for pair in each(synthetic_pairs([row(pixels, ramp.astype(np.uint16) * 257)], CROP, thin, seed)):
                brightness = pair["clear"][..., 0].mean(0).astype(float)
                transmission = transmission_of(pair).mean(0)
                assert np.corrcoef(brightness, transmission)[0, 1] > 0.9

    @pytest.mark.parametrize("reduced", [1, 2, 3])
    def test_depth_is_the_same_square_of_the_photograph(self, reduced: int) -> None:
        """Also where the depth map has fewer pixels than the photograph, as for one that was decoded at full size."""
        field = texture(90, 132)
        small = np.asarray(Image.fromarray(field).reduce(reduced), np.float32)
        random = np.random.default_rng(0)
        for _ in range(20):
            square = draw_square(CropConfig(size=32, scale=(0.3, 1)), random)
            pixels = cut(np.stack([field] * 3, axis=-1), square, 32)
            depth = cut_depth(small, square, (90, 132), 32)
            assert (pixels.shape, depth.shape) == ((3, 32, 32), (32, 32))
            assert np.abs(pixels[0] - depth).mean() < 3

    def test_a_depth_map_of_another_size_is_fitted_to_the_photograph(self) -> None:
        field = texture(96, 128)
        small = np.asarray(Image.fromarray(field).resize((64, 48))).astype(np.uint16) * 257
        for pair in each(synthetic_pairs([row(np.stack([field] * 3, axis=-1), small)], CROP, WHITE, seed=0)):
            assert spearmanr(pair["clear"][..., 0].ravel(), transmission_of(pair).ravel()).statistic > 0.97

    def test_crops_are_mirrored_half_of_the_time(self) -> None:
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, 20:] = 255
        whole, random = CropConfig(size=16, scale=(1.0, 1.0)), np.random.default_rng(0)
        sides = [cut(pixels, draw_square(whole, random), 16)[0, 8, 2] > 128 for _ in range(60)]
        assert 15 < sum(sides) < 45

    def test_photographs_with_and_without_depth_come_together(self, photo: Photo) -> None:
        """Each sample is what its photograph gives alone, at the place of its row."""
        rows = [
            row(photo(k), texture(96, 128).astype(np.uint16) * 257 if k % 2 else None, image_id=f"{k:032x}")
            for k in range(4)
        ]
        together = synthetic_pairs(rows, CROP, HazeConfig(), seed=3)
        alone = [synthetic_pairs([one], CROP, HazeConfig(), seed=3) for one in rows]
        for key, values in together.items():
            assert np.array_equal(values, np.concatenate([one[key] for one in alone])), key


class TestSquares:
    @given(
        side=st.floats(0.0, 1.0), top=st.floats(0, 1), left=st.floats(0, 1),
        height=st.integers(1, 3000), width=st.integers(1, 3000),
    )  # fmt: skip
    def test_a_square_lies_within_any_photograph(
        self, side: float, top: float, left: float, height: int, width: int
    ) -> None:
        y, x, length = Square(side, top, left, mirrored=False).place(height, width)
        assert 1 <= length <= min(height, width)
        assert 0 <= y <= y + length <= height
        assert 0 <= x <= x + length <= width

    @given(sides=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4), size=st.integers(16, 512))
    def test_a_photograph_that_is_reduced_still_has_the_pixels_of_each_crop(
        self, sides: list[float], size: int
    ) -> None:
        squares = [Square(side, 0.5, 0.5, mirrored=False) for side in sides]
        shorter = least_shorter_side(squares, size)
        assert all(square.place(shorter, 2 * shorter)[2] >= size for square in squares)

    def test_mirroring_is_all_that_mirroring_does(self, photo: Photo) -> None:
        plain, mirrored = (cut(photo(1), Square(0.6, 0.2, 0.7, mirrored=flag), 32) for flag in (False, True))
        assert np.array_equal(plain, mirrored[:, :, ::-1])

    def test_sides_reach_the_whole_photograph(self) -> None:
        random = np.random.default_rng(1)
        sides = [draw_square(CropConfig(scale=(0.9, 1.0)), random).place(40, 60)[2] for _ in range(400)]
        assert set(sides) == {36, 37, 38, 39, 40}
        assert sides.count(40) > 400 / 4 / 4


class TestDecoding:
    @pytest.mark.parametrize(("shrink_to", "factor"), [(300, 1), (151, 1), (150, 2), (76, 2), (75, 4), (1, 8)])
    def test_a_jpeg_is_reduced_as_far_as_its_shorter_side_allows(
        self, photo: Photo, shrink_to: int, factor: int
    ) -> None:
        found = decode_pixels(jpeg_of(photo(1, height=300, width=400)), shrink_to)
        assert found.shape == (-(-300 // factor), -(-400 // factor), 3)
        assert min(found.shape[:2]) >= min(300, shrink_to)

    def test_it_shows_the_same_upright(self, photo: Photo) -> None:
        data = jpeg_of(photo(1, height=300, width=400), orientation=6)
        full, half = decode_pixels(data), decode_pixels(data, 150)
        assert (full.shape, half.shape) == ((400, 300, 3), (200, 150, 3))
        assert np.abs(images.resize(full, 150, 200).astype(float) - half).mean() < 4

    def test_what_is_damaged_is_refused_in_the_same_words(self, photo: Photo) -> None:
        with pytest.raises(images.TruncatedImage):
            decode_pixels(jpeg_of(photo(1, height=300, width=400))[:4000], 75)

    def test_other_formats_keep_their_size(self, photo: Photo) -> None:
        assert np.array_equal(decode_pixels(row(photo(1))["image"], 16), photo(1))


class TestRealPhotographs:
    def test_the_photograph_is_whole_and_its_augmentation_stays_in_place(self, photo: Photo) -> None:
        sample = each(real_photographs([row(photo(3, height=90, width=120))], RealConfig(size=48), seed=1))[0]
        assert sample["image_id"] == "a" * 32
        assert sample["photo"].shape == sample["strong"].shape == (48, 48, 3)
        assert not np.array_equal(sample["photo"], sample["strong"])
        assert np.array_equal(sample["photo"], images.resize(photo(3, height=90, width=120), 48, 48))

    @pytest.mark.parametrize("kind", ["published", "symmetric"])
    def test_augmentation_is_photometric_only(self, kind: Augmentation) -> None:
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[24:32, 36:44] = 230
        random, seen = np.random.default_rng(0), 0
        for _ in range(40):
            found = strong_augmentation(pixels, random, kind).mean(-1)
            assert found.shape == (64, 64)
            if np.ptp(found) > 16:  # two draws of the published kind may leave next to nothing
                y, x = np.nonzero(found > found.min() + 0.6 * np.ptp(found))
                assert (y.mean(), x.mean()) == pytest.approx((27.5, 39.5), abs=0.6)
                seen += 1
        assert seen > 30

    @pytest.mark.parametrize(("kind", "expected"), [("published", {4, 5, 6, 7, 8}), ("symmetric", {5, 6, 7, 8})])
    def test_every_number_of_bits_is_drawn(
        self, kind: Augmentation, expected: set[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bits: list[int] = []
        monkeypatch.setattr(ImageOps, "posterize", lambda image, number: (bits.append(number), image)[1])
        random, pixels = np.random.default_rng(1), np.zeros((8, 8, 3), np.uint8)
        for _ in range(200):
            strong_augmentation(pixels, random, kind)
        assert set(bits) == expected

    @pytest.mark.parametrize(("kind", "contrast", "level"), [("published", 0.72, 0.83), ("symmetric", 1.0, 1.0)])
    def test_the_published_augmentation_takes_contrast_and_light_away(
        self, kind: Augmentation, contrast: float, level: float, photo: Photo
    ) -> None:
        """Contrast is the deviation over the mean: a draw leaves 0.85 of it, two 0.72."""
        pixels = photo(3, height=64, width=64)
        random, found = np.random.default_rng(0), []
        for _ in range(1500):
            seen = strong_augmentation(pixels, random, kind)
            found.append((seen.mean(-1).std() / max(seen.mean(), 1e-9), seen.mean()))
        ratios = np.mean(found, axis=0) / (pixels.mean(-1).std() / pixels.mean(), pixels.mean())
        assert ratios == pytest.approx((contrast, level), abs=0.05)

    def test_real_photographs_may_be_compressed_before_they_are_augmented(
        self, photo: Photo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        monkeypatch.setattr(transforms, "jpeg", lambda image, quality: (seen.append(quality), image)[1])
        rows = [row(photo(k, height=40, width=40), image_id=f"{k:032x}") for k in range(4)] * 50
        for probability, low, high in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)):
            seen.clear()
            config = RealConfig(size=32, jpeg_probability=probability, jpeg_quality=(60, 62))
            real_photographs(rows, config)
            assert low <= len(seen) <= high
            assert set(seen) <= {60, 61, 62}

    def test_a_recipe_says_how_real_photographs_look(self) -> None:
        compact, full = (real_config(load_recipe(name)) for name in ("colabator_corun_compact", "colabator_corun"))
        assert compact == RealConfig(size=192, augmentation="symmetric", jpeg_probability=0, jpeg_quality=(60, 95))
        assert full == RealConfig(size=288, augmentation="published", jpeg_probability=0.5, jpeg_quality=(30, 95))


class TestUnpairedCrops:
    def test_there_are_crops_and_nothing_else(self, photo: Photo) -> None:
        samples = each(unpaired_crops([row(photo(5))], CROP, seed=1))
        assert [set(sample) for sample in samples] == [{"image"}] * 3
        assert {(s["image"].shape, s["image"].dtype.name) for s in samples} == {((32, 32, 3), "uint8")}
        assert not np.array_equal(samples[0]["image"], samples[1]["image"])

    def test_the_name_of_a_pair_changes_nothing(self, photo: Photo) -> None:
        alone, paired = row(photo(5)), row(photo(5)) | {"pair_id": "scene-7"}
        for one, other in zip(
            each(unpaired_crops([alone], CROP, 1)), each(unpaired_crops([paired], CROP, 1)), strict=True
        ):
            assert np.array_equal(one["image"], other["image"])


class TestScorerSamples:
    def test_labels_follow_the_haze(self, photo: Photo) -> None:
        samples = [s for seed in range(30) for s in each(scorer_samples([row(photo(4))], CROP, PLAIN, seed))]
        for sample in samples:
            assert sample["image"].shape == (32, 32, 3)
            assert 0 <= sample["density"] < 1
            assert (sample["defect"] == 0) == (sample["quality"] == 1)
        assert {int(s["defect"]) for s in samples} == set(range(len(DEFECTS) + 1))
        assert 0.1 < np.mean([s["density"] == 0 for s in samples]) < 0.4

    def test_density_is_that_of_the_haze_in_the_image(self) -> None:
        """White haze over a black photograph is ``1 - T``: the image shows its own transmission."""
        white = PLAIN.model_copy(update={"airlight": (1.0, 1.0), "airlight_cast": 0.0, "beta": (0.2, 1.0)})
        black = row(np.zeros((64, 64, 3), np.uint8))
        samples = [
            s for seed in range(10) for s in each(scorer_samples([black], CROP, white, seed)) if s["defect"] == 0
        ]
        assert any(s["density"] > 0.3 for s in samples)
        for sample in samples:
            haze = sample["image"] / 255
            assert sample["density"] == pytest.approx(haze.mean(), abs=0.005)

    def test_quality_falls_with_the_severity_of_the_defect(self) -> None:
        none = PLAIN.model_copy(update={"beta": (0.0, 0.0)})
        gray = row(np.full((64, 64, 3), 128, np.uint8))
        samples = [s for seed in range(60) for s in each(scorer_samples([gray], CROP, none, seed))]
        noisy = [s for s in samples if s["defect"] == 1 + DEFECTS.index("noisy")]
        assert len(noisy) > 8
        assert spearmanr([s["image"].std() for s in noisy], [s["quality"] for s in noisy]).statistic < -0.95


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda found, seed: each(synthetic_pairs(found, CROP, PLAIN, seed)), "hazy"),
        (lambda found, seed: each(real_photographs(found, RealConfig(size=48), seed)), "strong"),
        (lambda found, seed: each(unpaired_crops(found, CROP, seed)), "image"),
        (lambda found, seed: each(scorer_samples(found, CROP, PLAIN, seed)), "image"),
    ],
    ids=["pairs", "real", "unpaired", "scorer"],
)
def test_samples_depend_on_the_seed_and_the_photograph_s_name(make: Any, key: str, photo: Photo) -> None:
    first, again, other, unseeded = (make([row(photo(1))], seed)[0][key] for seed in (5, 5, 6, None))
    renamed = make([row(photo(1), image_id="b" * 32)], 5)[0][key]
    assert np.array_equal(first, again)
    assert not any(np.array_equal(first, one) for one in (other, unseeded, renamed))


@pytest.mark.parametrize(
    ("values", "shape", "dtype"),
    [
        (np.zeros((2, 5, 4, 3), np.uint8), (2, 3, 5, 4), torch.float32),
        (np.zeros((2, 5, 4), np.uint8), (2, 1, 5, 4), torch.float32),
        (np.zeros((2, 3), np.float32), (2, 3), torch.float32),
        (np.zeros(2, np.int64), (2,), torch.int64),
    ],
)
def test_a_batch_has_the_same_shapes_on_every_device(
    values: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    for device in ("cpu", "meta"):  # meta: shapes without numbers, on the path of a GPU
        found = on_device(device, values)
        assert (found.device.type, tuple(found.shape), found.dtype) == (device, shape, dtype)
    assert list(on_device("meta", np.array(["a"]))) == ["a"]
