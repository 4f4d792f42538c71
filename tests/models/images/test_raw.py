"""Camera raw files: recognized before their thumbnail is taken for them, developed once upright, typed errors."""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import images
from tests.models.images import mutants
from tests.models.images.directories import Entry, with_entries
from tests.models.images.raws import BLUE, CAMERA, GREEN, RED, dng, mosaic, scene

pytest.importorskip("rawpy", reason="rawpy is not installed")

LIMITS = images.DEFAULT_LIMITS.model_copy(update={"max_pixels": 1_000_000})


@pytest.mark.parametrize("sub", [False, True])
def test_developed_in_16_bits_of_srgb(sub: bool) -> None:
    photo = images.decode(dng(sub=sub))
    assert (photo.format, photo.pixels.dtype, photo.pixels.shape) == ("RAW", np.uint16, (48, 64, 3))
    assert images.probe(dng(sub=sub)) == images.Header("RAW", 64, 48)
    levels = photo.pixels[40, 4:-4].astype(float) / 65_535
    assert np.ptp(levels, axis=1).max() < 0.02  # gray stays gray: the white balance
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)[:-4, GREEN]
    exposed = light / scene()[40, 4:-8, GREEN]
    assert exposed.max() - exposed.min() < 0.02 * exposed.max()  # by sRGB's curve, and not that of BT.709
    red = photo.pixels[8, 10] / 65_535
    assert red[RED] > 0.8 > 0.35 > max(red[GREEN], red[BLUE])


@pytest.mark.parametrize(("orientation", "row", "column"), [(1, 4, 4), (3, -5, -5), (6, 4, -5), (8, -5, 4)])
def test_upright_once(orientation: int, row: int, column: int) -> None:
    data = dng(None, orientation)
    photo = images.decode(data)
    height, width = photo.pixels.shape[:2]
    assert (width, height) == ((64, 48) if orientation < 5 else (48, 64))
    assert images.probe(data) == images.Header("RAW", width, height)
    assert photo.pixels[row, column, RED] > 2 * photo.pixels[row, column, GREEN]


def test_pixels_that_are_not_square_become_square() -> None:
    wide = dng(None, 6, (50718, "2I", 2, (2, 1, 1, 1), True))
    assert images.decode(wide).pixels.shape[:2] == (128, 48)
    assert images.probe(wide) == images.Header("RAW", 48, 128)


def test_a_sensor_without_colors_is_gray() -> None:
    entries = [Entry(262, 3, 1, struct.pack("<I", 34892))]  # linear values
    data = with_entries(mutants.tiff(mosaic(scene()), extratags=CAMERA, photometric="minisblack"), entries)
    photo = images.decode(data)
    assert photo.gray
    assert (photo.pixels == photo.pixels[:, :, :1]).all()
    with Image.open(io.BytesIO(images.encode(photo))) as image:
        assert image.mode == "L"


def test_a_dark_exposure_comes_out_as_a_camera_shows_it() -> None:
    dark = images.decode(dng(scene() * 0.3)).pixels
    assert dark[:, -8:-2].min() > 60_000
    assert dark.mean() > 20_000


def test_results_are_jpeg_or_16_bits_where_asked() -> None:
    photo = images.decode(dng())
    assert images.encode(photo).startswith(b"\xff\xd8\xff")
    again = images.decode(images.encode(photo, "PNG"))
    assert (again.pixels == photo.pixels).all()
    assert again.pixels.dtype == np.uint16


def test_metadata_on_request() -> None:
    data = dng(None, 6, sub=True)
    photo = images.decode(data)
    assert images.decode(b"IIRO" + data[4:]).metadata == photo.metadata  # as ORF begins
    with Image.open(io.BytesIO(images.encode(photo, metadata=True))) as image:
        exif = image.getexif()
        assert (exif[271], exif[306], exif[274]) == ("maker", "2020:01:02 03:04:05", 1)
    with Image.open(io.BytesIO(images.encode(photo))) as image:
        assert not image.getexif()


# --- what is refused ---


@pytest.mark.parametrize("size", [-1, -3000, 3000, 400])
@pytest.mark.parametrize("options", [{}, {"sub": True}, {"tile": (16, 16)}])
def test_cut(size: int, options: Any) -> None:
    data = dng(**options)[:size]
    for read in (images.decode, images.probe):
        with pytest.raises((images.TruncatedImage, images.CorruptImage)):
            read(data)


def test_limits_count_before_anything_is_developed() -> None:
    few = LIMITS.model_copy(update={"max_pixels": 3000})
    for limits, match in ((few, "3,072 pixels"), (LIMITS.model_copy(update={"max_aspect": 1.2}), "times as long")):
        for read in (images.decode, images.probe):
            with pytest.raises(images.ImageTooLarge, match=match):
                read(dng(), limits)


@pytest.mark.parametrize("begin", [b"FUJIFILMCCD-RAW 0201FF129502", b"IIRO", b"IIU\0\x18\0\0\0", b"\0\0\0\x18ftypcrx "])
def test_what_libraw_does_not_know(begin: bytes) -> None:
    with pytest.raises((images.UnsupportedFormat, images.TruncatedImage)):
        images.decode(begin + bytes(500))


def test_only_where_the_limits_name_it() -> None:
    """A service develops no strangers' files."""
    for data in (dng(), dng(sub=True), b"FUJIFILMCCD-RAW 0201FF129502"):
        for read in (images.decode, images.probe):
            with pytest.raises(images.UnsupportedFormat, match="this is a camera's raw file"):
                read(data, images.ImageLimits())


def test_without_rawpy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert images.reads_suffix(".DNG")
    monkeypatch.setitem(sys.modules, "rawpy", None)
    assert not images.reads_suffix(".DNG")
    assert images.reads_suffix(".JPG")
    for read in (images.decode, images.probe):
        with pytest.raises(images.UnsupportedFormat, match=r"pip install 'ray-dehaze\[raw\]'"):
            read(dng())


def test_damaged_files_give_a_photo_or_a_typed_error() -> None:
    sound = [dng(), dng(None, 6, sub=True), dng(tile=(16, 16))]
    codes = set()
    for index in range(600):
        random = np.random.default_rng(index)
        data = bytearray(sound[index % 3])
        mutants.CHANGES[index // 3 % len(mutants.CHANGES)](data, random)
        try:
            header = images.probe(bytes(data), LIMITS)
            photo = images.decode(bytes(data), LIMITS)
        except images.ImageError as problem:
            codes.add(problem.code)
        else:
            assert header == images.Header(photo.format, photo.pixels.shape[1], photo.pixels.shape[0])
    assert codes == {"too_large", "unsupported_format", "corrupt", "truncated"}
