"""Depth maps: read from two formats, checked, resized, normalised."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.ingest_depth import BadDepth, read_depth


def ramp(height: int = 30, width: int = 40) -> np.ndarray:
    return np.tile(np.linspace(-2.0, 6.0, height)[:, None], (1, width))


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (1, 30, 40)])
def test_array_is_normalised_to_16_bits(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", ramp().reshape(shape))
    depth = pixels(read_depth(str(tmp_path / "a.npy"), 40, 30))
    assert depth.dtype == np.uint16
    np.testing.assert_array_equal(depth, np.rint((ramp() + 2) / 8 * 65_535))


def test_resized_to_the_photograph(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp().astype(np.float16))
    depth = pixels(read_depth(str(tmp_path / "a.npy"), 80, 60))
    assert depth.shape == (60, 80)
    assert (np.diff(depth[:, 0].astype(int)) >= 0).all()
    assert (depth[0, 0], depth[-1, 0]) == (0, 65_535)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png(tmp_path: Path, dtype: type) -> None:
    values = ((ramp() + 2) * 30).astype(dtype)
    Image.fromarray(values).save(tmp_path / "a.png")
    depth = pixels(read_depth(str(tmp_path / "a.png"), 40, 30))
    np.testing.assert_allclose(depth / 65_535, values / values.max(), atol=1e-4)


def with_nan() -> np.ndarray:
    values = ramp()
    values[3, 4] = np.nan
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_nan(), "not finite"),
        (np.full((30, 40), 3.0), "is 3 everywhere"),
        (np.zeros((30, 40, 3)), "shape"),
        (np.zeros((0, 40)), "shape"),
        (ramp(40, 30), "30x40, the photograph 40x30"),
        (np.array([["a", "b"]]), "no array file"),
        (np.array([{"code": 1}, None], dtype=object), "no array file"),
    ],
)
def test_refused_arrays(tmp_path: Path, values: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(BadDepth, match=message) as raised:
        read_depth(str(tmp_path / "a.npy"), 40, 30)
    assert raised.value.code == "bad_depth"


def test_refused_files(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY but no more")
    (tmp_path / "a.png").write_bytes(b"\x89PNG but no more")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(
        tmp_path / "colour.png"
    )
    for name, message in (("a.npy", "no array file"), ("a.png", r"a\.png"), ("colour.png", "colour")):
        with pytest.raises(BadDepth, match=message):
            read_depth(str(tmp_path / name), 40, 30)
