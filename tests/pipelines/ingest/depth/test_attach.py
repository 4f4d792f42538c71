"""Depth maps: read from every format, turned the right way round, normalized, and looked at with suspicion."""

from __future__ import annotations

import io
import os
import signal
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from models.config import ConfigError
from pipelines.ingest.depth import (
    DEPTH_SUFFIXES,
    BadDepth,
    DepthReport,
    inspect_depth,
    matlab,
    parse_depth,
    preflight,
    store_depth,
    suspicious_line,
)
from tests.conftest import encoded

WIDTH, HEIGHT = 40, 30


def ramp(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Larger below, and a little larger to the right, so that a transposed map is another one."""
    return np.linspace(1.0, 6.0, height)[:, None] + np.linspace(0.0, 1.0, width)


def levels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image)
    assert pixels.dtype == np.uint16
    return pixels


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def matlab5(*, compress: bool = True, **arrays: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, do_compression=compress)
    return buffer.getvalue()


def matlab7(**arrays: np.ndarray) -> bytes:
    """As MATLAB writes it: 512 bytes of its own, then HDF5 with rows and columns swapped."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=np.asarray(values).T, compression="gzip" if np.ndim(values) else None)
    data = bytearray(buffer.getvalue())
    data[:19] = b"MATLAB 7.3 MAT-file"
    return bytes(data)


FILES: dict[str, Callable[[np.ndarray], bytes]] = {
    "a.npy": npy,
    "a.npz": lambda values: npz(anything=values),
    "named.npz": lambda values: npz(depth=values, other=values + 1),
    "a.mat": lambda values: matlab5(d=values),
    "plain.mat": lambda values: matlab5(compress=False, d=values),
    "named.mat": lambda values: matlab5(depth=values, other=values + 1),
    "only.mat": lambda values: matlab5(d=values, scale=2.0, names=np.array(["x"], dtype=object), list=np.arange(9)),
    "new.mat": lambda values: matlab7(d=values),
    "RESIDE.MAT": lambda values: matlab7(depth=values, other=values + 1),
}


@pytest.mark.parametrize("name", FILES)
def test_arrays_are_read_as_they_are(name: str) -> None:
    np.testing.assert_array_equal(parse_depth(FILES[name](ramp()), name), ramp())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_are_read(kind: str, dtype: type) -> None:
    values = (ramp() * 30).astype(dtype)
    found = parse_depth(encoded(values, kind), f"a.{kind.lower()}")
    np.testing.assert_allclose(found / found.max(), values / values.max(), atol=1e-9)


@pytest.mark.parametrize("shape", [(30, 40, 1), (1, 30, 40)])
def test_one_axis_too_many(shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(parse_depth(npy(ramp().reshape(shape)), "a.npy"), ramp())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16, np.uint8, ">f8", bool])
def test_kinds_of_numbers(dtype: str) -> None:
    values = ramp().astype(dtype)
    for name in ("a.npy", "a.npz"):
        found = parse_depth(FILES[name](values), name)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, values)


COLOR = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.npy", npy(np.zeros((30, 40, 3))), "shape"),
        ("a.npy", npy(np.zeros((0, 40))), "shape"),
        ("a.npy", npy(np.zeros(7)), "shape"),
        ("a.npy", npy(np.array([["a", "b"]])), "real numbers"),
        ("a.npy", npy(np.ones((2, 2), complex)), "real numbers"),
        ("a.npy", npy(np.array([[{"code": 1}, None]], dtype=object)), "real numbers"),
        ("a.npy", npy(ramp())[:-8], "ends before"),
        ("a.npy", b"\x93NUMPY but no more", "no array file"),
        ("a.npy", b"", "no array file"),
        ("a.npz", npz(a=ramp(), b=ramp()), r"holds a, b; .* named 'depth'"),
        ("a.npz", npz(), "holds nothing"),
        ("a.npz", npz(depth=np.array([[None]], dtype=object)), "real numbers"),
        ("a.png", b"\x89PNG but no more", r"a\.png"),
        ("a.png", encoded(COLOR), "color picture"),
        ("a.tif", encoded(ramp().astype(np.float32), "TIFF"), r"run from 1.* kept in \.npy"),
        ("a.mat", matlab5(a=ramp(), b=ramp()), "holds a, b"),
        ("a.mat", matlab5(depth={"map": ramp()}), "real numbers"),
        ("a.mat", matlab5(depth=np.ones((2, 2, 3))), "shape"),
        ("a.mat", matlab7(a=ramp(), b=ramp()), "holds a, b"),
        ("a.mat", matlab7(depth=np.float64(3)), "shape"),
        ("a.mat", b"MATLAB 5.0 MAT-file", "no MATLAB file"),
        ("a.mat", matlab5(depth=np.ones((2, 2), complex)), "real numbers"),
        ("a.mat", matlab5(depth=scipy.sparse.eye(4)), "real numbers"),
        ("a.mat", matlab5(text="depth", cell=np.array([[ramp(), 1]], dtype=object)), "holds cell, text"),
        ("a.mat", matlab5(compress=False, depth=ramp())[:-16], "no MATLAB file"),
        ("a.jpg", b"", "suffix '.jpg'"),
        ("depth", b"", "suffix ''"),
    ],
)
def test_refused_files(name: str, data: bytes, message: str) -> None:
    with pytest.raises(BadDepth, match=message) as raised:
        parse_depth(data, name)
    assert raised.value.code == "bad_depth"
    assert name in str(raised.value)


def huge_npy() -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def huge_npz() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("depth.npy", huge_npy())
    return buffer.getvalue()


def huge_mat7() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("depth", (100_000, 100_000), "f8", chunks=(100, 100), fillvalue=1.0)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "data"), [("a.npy", huge_npy()), ("a.npz", huge_npz()), ("a.mat", huge_mat7())])
def test_declared_sizes_are_refused_before_they_are_allocated(name: str, data: bytes) -> None:
    with pytest.raises(BadDepth, match="at most 100,000,000"):
        parse_depth(data, name)


def test_a_matlab_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest.depth.files.MAX_PIXELS", 1000)
    with pytest.raises(BadDepth, match="at most 1,000"):
        parse_depth(matlab5(depth=np.zeros((1600, 1600))), "a.mat")


def test_a_matlab_file_that_takes_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(parse_depth(matlab5(depth=ramp()), "a.mat"), ramp())
    os.kill(matlab._idle[0].process.pid, signal.SIGSTOP)
    monkeypatch.setattr(matlab, "SECONDS", 0.2)
    with pytest.raises(BadDepth, match=r"takes more than 0\.2 s"):
        parse_depth(matlab5(depth=ramp()), "a.mat")
    monkeypatch.undo()
    np.testing.assert_array_equal(parse_depth(matlab5(depth=ramp()), "a.mat"), ramp())


def test_a_matlab_file_that_ends_its_reader_is_refused() -> None:
    whole = matlab5(compress=False, depth=ramp())
    kind = whole.index(struct.pack("<II", 9, ramp().nbytes))  # of the numbers: SciPy looks it up in a table of its own
    for code in (20, 99):
        with pytest.raises(BadDepth, match="ends the program that reads it"):
            parse_depth(whole[:kind] + struct.pack("<I", code) + whole[kind + 4 :], "a.mat")
    np.testing.assert_array_equal(parse_depth(whole, "a.mat"), ramp())


def test_hdf5_stays_in_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["depth"] = ramp()
    (tmp_path / "raw").write_bytes(ramp().tobytes())
    linked, external, virtual = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with h5py.File(linked, "w") as file:
        file["depth"] = h5py.ExternalLink(str(secret), "/depth")
    with h5py.File(external, "w") as file:
        file.create_dataset("depth", (30, 40), "f8", external=[(str(tmp_path / "raw"), 0, 9600)])
    with h5py.File(virtual, "w") as file:
        layout = h5py.VirtualLayout((30, 40), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "depth", (30, 40))
        file.create_virtual_dataset("depth", layout)
    for buffer in (linked, external, virtual):
        with pytest.raises(BadDepth, match="holds nothing"):
            parse_depth(buffer.getvalue(), "a.mat")


SEEDS = [
    *((name, write(ramp())) for name, write in FILES.items()),
    ("a.png", encoded((ramp() * 9000).astype(np.uint16))),
    ("a.tif", encoded((ramp() * 30).astype(np.uint8), "TIFF")),
]


@pytest.mark.parametrize(("name", "data"), SEEDS, ids=[name for name, _ in SEEDS])
def test_damaged_files_raise_nothing_else(name: str, data: bytes) -> None:
    random = np.random.default_rng(len(data))
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        # Half of the damage goes to the first bytes, where the headers are.
        for place in random.integers(0, random.choice([min(256, len(data)), len(data)]), random.integers(1, 9)):
            damaged[place] = random.integers(0, 256)
        cut = random.integers(1, len(data)) if random.random() < 0.3 else len(data)
        try:
            values = parse_depth(bytes(damaged[:cut]), name)
        except BadDepth:
            refused += 1
        else:
            assert values.ndim == 2
    assert refused


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(sorted(DEPTH_SUFFIXES)))
def test_any_bytes_raise_nothing_else(data: bytes, suffix: str) -> None:
    with pytest.raises(BadDepth):
        parse_depth(data, f"a{suffix}")


# Storing


def test_both_orders_and_the_full_range() -> None:
    unit = (ramp() - 1) / 6
    np.testing.assert_array_equal(levels(store_depth(ramp(), WIDTH, HEIGHT, "near")), np.rint(unit * 65_535))
    far = levels(store_depth(ramp(), WIDTH, HEIGHT, "far"))
    assert (far[0, 0], far[-1, -1]) == (65_535, 0)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-3, 1e6), offset=st.floats(1.0, 1e3), side=st.integers(3, 30))
def test_orders_mirror_and_units_do_not_matter(scale: float, offset: float, side: int) -> None:
    size = (side * 4, side * 3)
    near = levels(store_depth(ramp(), *size, "near")).astype(int)
    far = levels(store_depth((ramp() + offset) * scale, *size, "far")).astype(int)
    assert near.shape == (size[1], size[0])
    assert np.abs(near + far - 65_535).max() <= 2
    assert (np.diff(near, axis=0) >= 0).all()


def test_stored_maps_are_stored_unchanged() -> None:
    once = store_depth(ramp(), WIDTH, HEIGHT, "near")
    assert store_depth(parse_depth(once, "a.png"), WIDTH, HEIGHT, "near") == once


def test_outliers_do_not_squash_the_rest() -> None:
    values = ramp(300, 400)
    values[0, :20], values[1, :20] = 1e6, -1e6
    stored = levels(store_depth(values, 400, 300, "near")) / 65_535
    np.testing.assert_allclose(stored[5:], (ramp(300, 400)[5:] - 1) / 6, atol=0.02)


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_missing_values_take_their_neighbors(missing: float) -> None:
    values = ramp()
    values[10:14, 10:14] = missing
    stored = levels(store_depth(values, WIDTH, HEIGHT, "near")).astype(int)
    assert np.abs(stored - levels(store_depth(ramp(), WIDTH, HEIGHT, "near"))).max() < 0.1 * 65_535
    values[:, :9] = missing
    with pytest.raises(BadDepth, match=r"no value in 2\d% of its pixels .* leave it out"):
        store_depth(values, WIDTH, HEIGHT, "near")


@pytest.mark.parametrize("hole", [0.0, -1.0])
def test_holes_of_sensors_are_filled_in_distances_only(hole: float) -> None:
    values = ramp()
    values[10:14, 10:14] = hole
    filled = levels(store_depth(values, WIDTH, HEIGHT, "far")).astype(int)
    assert np.abs(filled - levels(store_depth(ramp(), WIDTH, HEIGHT, "far"))).max() < 0.1 * 65_535
    assert levels(store_depth(values, WIDTH, HEIGHT, "near"))[11, 11] == 0  # a disparity of 0 is the horizon


def test_zero_is_an_ordinary_level_of_eight_bits() -> None:
    values = np.rint((ramp() - 1) / 6 * 255)
    values = np.maximum(values - values[10, -1], 0)
    assert (levels(store_depth(values, WIDTH, HEIGHT, "far"))[:9] == 65_535).all()


@pytest.mark.parametrize("sky", [np.inf, 65_504.0])
def test_the_sky_of_distances_is_farthest_however_large(sky: float) -> None:
    values = ramp()
    values[:15] = sky
    stored = levels(store_depth(values, WIDTH, HEIGHT, "far"))
    assert (stored[:14] == 0).all()
    assert stored[16:].std() > 5000


def test_one_plane_before_the_sky() -> None:
    values = np.full((HEIGHT, WIDTH), 3.0)
    values[:15] = np.inf
    stored = levels(store_depth(values, WIDTH, HEIGHT, "far"))
    assert (stored[:14] == 0).all()
    assert (stored[16:] == 65_535).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((30, 40), 3.0), "shed is 3 everywhere"),
        (np.full((30, 40), np.nan), "no value in 100%"),
        (np.ones((30, 40, 3)), "shape"),
        (ramp(40, 30), r"30x40, the photograph 40x30; turn it by 90"),
        (ramp(30, 60), r"60x30, the photograph 40x30; .* crop it"),
    ],
)
@pytest.mark.parametrize("order", ["near", "far"])
def test_maps_that_cannot_be_stored(values: np.ndarray, message: str, order: str) -> None:
    with pytest.raises(BadDepth, match=message):
        store_depth(values, WIDTH, HEIGHT, order, name="shed")  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(arrays(np.float64, (6, 8), elements=st.floats(width=64)), st.sampled_from(["near", "far"]))
def test_any_numbers_are_stored_or_refused(values: np.ndarray, order: str) -> None:
    try:
        stored = levels(store_depth(values, 8, 6, order))  # type: ignore[arg-type]
    except BadDepth:
        return
    assert (stored.min(), stored.max()) == (0, 65_535)


# Looking


@cache
def street() -> tuple[np.ndarray, np.ndarray]:
    """A sky, a hill and ground with textures; nearness."""
    random = np.random.default_rng(7)
    photo = random.integers(30, 140, (120, 160, 3)).astype(np.uint8)
    photo[:40] = (190, 205, 230)
    depth = np.zeros((120, 160))
    depth[40:] = np.linspace(0.1, 1.0, 80)[:, None]
    photo[40:80, 30:70] = random.integers(140, 250, (40, 40, 3))
    depth[40:80, 30:70] = 0.6
    return photo, depth


def test_a_good_map_raises_no_suspicion() -> None:
    photo, depth = street()
    report = inspect_depth(store_depth(depth, 160, 120, "near"), photo)
    assert report.suspicions == ()
    assert report.score > 0.5
    assert report.sky is not None
    assert report.sky > 0.9


def test_the_same_map_turned_round_is_suspicious() -> None:
    photo, depth = street()
    right, wrong = (inspect_depth(store_depth(values, 160, 120, "near"), photo) for values in (depth, 1 - depth))
    assert "inverted" in wrong.suspicions
    assert wrong.score == pytest.approx(-right.score, abs=1e-6)


def test_a_measured_map_is_told_from_its_inverse() -> None:
    photo, _, disparity = skimage.data.stereo_motorcycle()
    stored = store_depth(disparity.astype(np.float64), photo.shape[1], photo.shape[0], "near")
    assert inspect_depth(stored, photo).suspicions == ()
    turned = store_depth(disparity.astype(np.float64), photo.shape[1], photo.shape[0], "far")
    assert inspect_depth(turned, photo).suspicions == ("inverted",)


def test_a_map_without_direction_says_nothing() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    report = inspect_depth(np.tile(np.linspace(0, 1, 160), (120, 1)), photo)
    assert abs(report.score) < 0.1
    assert report.sky is None
    assert report.suspicions == ()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(8, 200), st.integers(8, 200))
def test_any_map_has_a_report_and_its_inverse_the_opposite(seed: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    photo = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth = random.random((height, width))
    report, turned = inspect_depth(depth, photo), inspect_depth(-depth, photo)
    assert -1 <= report.score <= 1
    assert turned.score == pytest.approx(-report.score, abs=0.02)  # float32 ties


def test_few_levels() -> None:
    photo, depth = street()
    report = inspect_depth(np.floor(depth * 6), photo)
    assert "few levels" in report.suspicions
    assert report.levels <= 7


def test_mostly_one_value() -> None:
    photo, depth = street()
    report = inspect_depth(np.where(np.arange(120)[:, None] < 117, 0.3, depth), photo)
    assert "mostly one value" in report.suspicions
    assert report.largest > 0.95


def test_blank_regions_are_no_sky() -> None:
    photo, depth = street()
    assert inspect_depth(depth, photo).blank < 0.05
    holed = depth.copy()
    holed[60:110, 80:150] = 0
    assert "blank regions" in inspect_depth(holed, photo).suspicions


@pytest.mark.parametrize("other", ["coffee", "astronaut", "rocket"])
def test_the_map_of_another_photograph(other: str) -> None:
    photo = getattr(skimage.data, other)()
    _, _, disparity = skimage.data.stereo_motorcycle()
    finite = np.where(np.isfinite(disparity), disparity, 0).astype(np.float32)
    foreign = np.asarray(Image.fromarray(finite).resize((photo.shape[1], photo.shape[0])))
    assert "unrelated to the photograph" in inspect_depth(foreign, photo).suspicions


def report(score: float = 0.7, *suspicions: str) -> DepthReport:
    found = (*suspicions, *(("inverted",) if score < -0.25 else ()))
    return DepthReport(found, score, score, None, 500, 0.1, 0.0, None)


def test_preflight_stops_an_inverted_sample() -> None:
    sample = [report(-0.6)] * 6 + [report(0.6)] * 4 + [report(0.1)] * 50
    with pytest.raises(
        ConfigError, match=r"6 of 10 depth maps look inverted .* --depth-order far, or --depth-order near"
    ):
        preflight(sample, None)
    warning = preflight(sample, "near")
    assert warning is not None
    assert "larger is nearer" in warning
    assert "--depth-order far" in warning
    assert "pass --depth-order near" in (preflight(sample, "far") or "")


@pytest.mark.parametrize(
    "sample",
    [
        [],
        [report(-0.9)] * 7,
        [report(-0.9)] * 5 + [report(0.9)] * 5,
        [report(-0.2)] * 100,
        [report(-0.9)] * 4 + [report(0.2)] * 100,
        [report(0.9)] * 100,
    ],
)
@pytest.mark.parametrize("order", [None, "near", "far"])
def test_preflight_lets_others_pass(sample: list[DepthReport], order: str | None) -> None:
    assert preflight(sample, order) is None  # type: ignore[arg-type]


def test_preflight_stops_a_sample_without_levels() -> None:
    sample = [report(0.6, "few levels")] * 4 + [report(0.6, "mostly one value")] * 4 + [report()] * 4
    with pytest.raises(ConfigError, match=r"8 of 12 depth maps have next to no levels; .* leave --depth out"):
        preflight(sample, None)
    assert "next to no levels" in (preflight(sample, "far") or "")


def test_suspicious_line() -> None:
    line = suspicious_line("a.jpg", "a.png", report(-0.5, "few levels", "unrelated to the photograph", "blank regions"))
    assert list(line) == ["uri", "depth", "suspicions", "message"]
    assert line["suspicions"] == ["few levels", "unrelated to the photograph", "blank regions", "inverted"]
    assert "score -0.50" in line["message"]
    assert line["message"].count(";") == 3
