"""16-bit and float color, CIELAB and profiles: read and written at full depth."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from models import images
from models.images.png import chunk
from models.images.profile import is_sound, srgb_profile
from tests.models.images.directories import Entry, with_entries
from tests.models.images.mutants import adobe_profile, encoded, tiff

SIZE = (23, 37)


def deep(channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65_536, (*SIZE, channels), dtype=np.uint16)


# --- PNG ---


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels: int) -> None:
    values = deep(channels)
    read = images.decode(imagecodecs.png_encode(values[:, :, 0].copy() if channels == 1 else values))
    colors = values[:, :, :1] if channels < 3 else values[:, :, :3]
    np.testing.assert_array_equal(read.pixels, np.broadcast_to(colors, (*SIZE, 3)))
    assert read.pixels.dtype == np.uint16
    assert (read.alpha is None) == (channels in (1, 3))
    if read.alpha is not None:
        np.testing.assert_array_equal(read.alpha, values[:, :, -1])


def test_interlaced_png_of_16_bits() -> None:
    values = deep(3)
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += b"".join(b"\0" + row.astype(">u2").tobytes() for row in values[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 2, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(images.decode(b"\x89PNG\r\n\x1a\n" + body).pixels, values)


def test_transparent_color_of_a_16_bit_png() -> None:
    values = deep(3)
    data = imagecodecs.png_encode(values)
    read = images.decode(data[:33] + chunk(b"tRNS", values[3, 4].astype(">u2").tobytes()) + data[33:])
    assert read.alpha is not None
    assert read.alpha[3, 4] == 0
    assert np.count_nonzero(read.alpha == 0) == 1
    np.testing.assert_array_equal(read.pixels, values)


@pytest.mark.parametrize("behind", [False, True])
def test_exif_of_a_16_bit_png_counts_wherever_it_stands(behind: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    inserted, values = chunk(b"eXIf", exif.tobytes()[6:]), deep(3)
    data = imagecodecs.png_encode(values)
    data = data[:-12] + inserted + data[-12:] if behind else data[:33] + inserted + data[33:]
    np.testing.assert_array_equal(images.decode(data).pixels, np.rot90(values, -1))
    assert images.probe(data) == ("PNG", SIZE[0], SIZE[1])


# --- TIFF ---


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"rowsperstrip": 7}, {"bigtiff": True}, {"tile": (16, 32)}, {"compression": "packbits"},
        {"compression": "zlib", "predictor": True}, {"compression": "lzw", "predictor": True, "tile": (16, 16)},
    ],
)  # fmt: skip
def test_layouts_of_16_bit_tiff(order: str, planar: str, options: dict[str, Any]) -> None:
    values = deep(3)
    stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
    data = tiff(stored, byteorder=order, photometric="rgb", planarconfig=planar, **options)
    np.testing.assert_array_equal(images.decode(data).pixels, values)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_color_between_zero_and_one(dtype: str) -> None:
    values = np.array([[[0, 0.25, 0.5], [0.75, 1, 0]]], dtype)
    data = tiff(values, photometric="rgb", compression="zlib", predictor=dtype != "float16")
    np.testing.assert_array_equal(images.decode(data).pixels, np.rint(values.astype(float) * 65_535))


@pytest.mark.parametrize("value", [-0.01, 1.5, float("nan"), float("inf")])
def test_float_color_with_another_white_is_refused(value: float) -> None:
    values = np.full((4, 4, 3), 0.5, np.float32)
    values[2, 1, 0] = value
    with pytest.raises(images.UnsupportedFormat, match="expected 0 to 1"):
        images.decode(tiff(values, photometric="rgb"))


def test_tiff_alpha_straight_premultiplied_and_unspecified() -> None:
    values = deep(4)
    values[:, :, 3] |= 0x8000
    straight = images.decode(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(straight.pixels, values[:, :, :3])
    np.testing.assert_array_equal(straight.alpha, values[:, :, 3])
    product = values.copy()
    product[:, :, :3] = np.rint(values[:, :, :3] * (values[:, :, 3:] / 65_535))
    undone = images.decode(tiff(product, photometric="rgb", extrasamples=["assocalpha"]))
    assert np.abs(undone.pixels.astype(int) - values[:, :, :3]).max() <= 1
    assert images.decode(tiff(values, photometric="rgb", extrasamples=["unspecified"])).alpha is None


def test_white_may_be_zero() -> None:
    values = deep(1)[:, :, 0]
    read = images.decode(tiff(values, photometric="miniswhite"))
    np.testing.assert_array_equal(read.pixels[:, :, 1], 65_535 - values)


def test_orientation_of_a_16_bit_tiff() -> None:
    values = deep(3)
    data = tiff(values, photometric="rgb", extratags=[(274, "H", 1, 8, True)])
    np.testing.assert_array_equal(images.decode(data).pixels, np.rot90(values, 1))
    packet = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="8"/>'
    data = tiff(values, photometric="rgb", extratags=[(700, "B", len(packet), packet, True)])
    np.testing.assert_array_equal(images.decode(data).pixels, np.rot90(values, 1))


# --- color ---


def test_profile_of_16_bit_gray_is_applied_to_the_last_bits() -> None:
    linear = imagecodecs.cms_profile("gray", whitepoint=[0.3127, 0.3290], gamma=1.0)
    values = np.linspace(0, 65_535, 4000).round().astype(np.uint16).reshape(40, 100)
    x = values / 65_535
    expected = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055) * 65_535  # IEC 61966-2-1
    for data in (tiff(values, photometric="minisblack", iccprofile=linear), with_profile(values, linear)):
        read = images.decode(data)
        assert np.abs(read.pixels - expected[:, :, None]).max() < 3
        assert read.icc == srgb_profile()


def with_profile(values: np.ndarray, profile: bytes) -> bytes:
    data: bytes = imagecodecs.png_encode(values)
    return data[:33] + chunk(b"iCCP", b"name\0\0" + zlib.compress(profile)) + data[33:]


def test_profile_of_16_bit_color_is_applied_and_carried_over() -> None:
    adobe = adobe_profile()
    values = deep(3)
    for data in (tiff(values, photometric="rgb", iccprofile=adobe), with_profile(values, adobe)):
        read = images.decode(data)
        assert (read.pixels.dtype, read.icc) == (np.uint16, srgb_profile())
        coarse = Image.fromarray(np.rint(values / 257).astype(np.uint8))
        eight = images.decode(encoded(coarse, "PNG", icc_profile=adobe))
        assert np.abs(read.pixels / 257 - eight.pixels).mean() < 0.6
        for kind in ("PNG", "TIFF"):
            again = images.decode(images.encode(read, kind))
            np.testing.assert_array_equal(again.pixels, read.pixels)
            assert again.icc == srgb_profile()


@pytest.mark.parametrize("profile", [b"no profile", srgb_profile()[:300], imagecodecs.cms_profile("gray", gamma=2.2)])
def test_profile_that_does_not_fit_16_bit_color_counts_as_none(profile: bytes) -> None:
    read = images.decode(tiff(deep(3), photometric="rgb", iccprofile=profile))
    np.testing.assert_array_equal(read.pixels, deep(3))
    assert read.icc is None


def ink_profile() -> bytes:
    """A printer whose cyan ink is red: a CMYK profile with a table of two points a channel (ICC.1:2001, lut8Type)."""
    identity = bytes(range(256))
    paper, red, black = (255, 128, 128), (135, 208, 195), (0, 128, 128)
    table = b"".join(
        bytes(black if k else red if c else paper)
        for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)
    )  # fmt: skip
    unit = struct.pack(">9i", *(65_536 * (index % 4 == 0) for index in range(9)))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + unit + identity * 4 + table + identity * 3
    text = b"red ink\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    body, entries = b"", b""
    for name, tag in ((b"desc", description), (b"A2B0", lut), (b"wtpt", b"XYZ \0\0\0\0" + D50)):
        entries += name + struct.pack(">II", 128 + 4 + 36 + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = b"\0\0\0\0\2\x40\0\0prtrCMYKLab " + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + D50
    whole = head.ljust(124, b"\0") + struct.pack(">I", 3) + entries + body
    return struct.pack(">I", len(whole) + 4) + whole


D50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)


def test_cmyk_with_a_profile() -> None:
    inks = np.zeros((8, 9, 4), np.uint8)
    inks[:, :3, 0] = 255  # this printer's red
    inks[:, 3:6, 3] = 255
    picture = Image.frombytes("CMYK", (9, 8), inks.tobytes())
    files = {
        "jpeg": encoded(picture, "JPEG", icc_profile=ink_profile(), quality=100, subsampling=0),
        "tiff": encoded(picture, "TIFF", icc_profile=ink_profile()),
        "tiff 16": tiff(inks.astype(np.uint16) * 257, photometric="separated", iccprofile=ink_profile()),
    }
    for name, data in files.items():
        read = images.decode(data)
        red, black, white = (read.pixels[4, x].astype(int) * 255 // np.iinfo(read.pixels.dtype).max for x in (1, 4, 8))
        assert red[0] > 230, name
        assert max(red[1:]) < 60, name
        assert black.max() < 30, name
        assert white.min() > 240, name
        assert read.icc == srgb_profile()
    plain = images.decode(tiff(inks.astype(np.uint16) * 257, photometric="separated"))
    np.testing.assert_array_equal(plain.pixels[4, [1, 4, 8]], [[0, 65_535, 65_535], [0] * 3, [65_535] * 3])


def test_gray_of_twelve_bits_is_spread_over_sixteen() -> None:
    levels = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
    levels[-1, -1] = 4095
    first, second = levels[:, ::2], levels[:, 1::2]
    stored = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8)
    sizes = {256: 8, 258: 12}  # width and bits: two pixels are three bytes
    entries = tuple(Entry(tag, 3, 1, struct.pack("<H", value)) for tag, value in sizes.items())
    read = images.decode(with_entries(tiff(stored.reshape(8, 12)), entries))
    np.testing.assert_array_equal(read.pixels[:, :, 0], np.rint(levels / 4095 * 65_535))
    assert read.gray


LAB = np.array(
    [[[54.29, 80.81, 69.89], [87.82, -79.29, 80.99], [100, 0, 0], [50, 0, 0]]]
)  # sRGB red, green, white, gray
RGB = np.array([[[255, 0, 0], [0, 255, 0], [255, 255, 255], [119, 119, 119]]])


@pytest.mark.parametrize(
    ("photometric", "dtype", "lightness", "offset", "unit"),
    [
        ("cielab", np.uint8, 2.55, 0, 1),
        ("icclab", np.uint8, 2.55, 128, 1),
        ("cielab", np.uint16, 655.35, 0, 256),
        ("icclab", np.uint16, 652.8, 128, 256),
    ],
)
def test_lab(photometric: str, dtype: type, lightness: float, offset: int, unit: int) -> None:
    stored = np.concatenate([LAB[:, :, :1] * lightness, (LAB[:, :, 1:] + offset) * unit], axis=2).round().astype(int)
    data = tiff(stored.astype(dtype), photometric=photometric)
    read = images.decode(data)
    assert read.pixels.dtype == dtype
    assert np.abs(read.pixels * (255 / np.iinfo(dtype).max) - RGB).max() < (12 if dtype is np.uint8 else 3)


def test_profile_that_claims_more_than_it_holds_counts_as_none() -> None:
    """Little CMS would make room for 200 MB of texts."""
    data = bytearray(srgb_profile())
    at = data.index(b"mluc") + 8
    data[at : at + 4] = (0xFF_0001).to_bytes(4, "big")
    assert not is_sound(bytes(data))
    picture = Image.new("RGB", (8, 8), (200, 10, 10))
    assert images.decode(encoded(picture, "PNG", icc_profile=bytes(data))).icc is None


@pytest.mark.parametrize("profile", [srgb_profile(), adobe_profile(), ink_profile()])
def test_sound_profiles_are_taken_and_cut_ones_are_not(profile: bytes) -> None:
    assert is_sound(profile)
    assert not any(is_sound(profile[:length]) for length in range(0, len(profile) - 12, 7))


# --- what is refused ---


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_truncated(kind: str) -> None:
    data = images.encode(images.Photo(deep(3)), kind)
    with pytest.raises(images.TruncatedImage):
        images.decode(data[: len(data) // 2])


def test_truncated_uncompressed_tiff() -> None:
    with pytest.raises(images.TruncatedImage):
        images.decode(tiff(deep(3), photometric="rgb")[:-100])


def retagged(start: bytes, *entries: Entry) -> bytes:
    """The header of a TIFF of 8 bits with further tags and something at byte 8."""
    whole = tiff((deep(3) >> 8).astype(np.uint8), photometric="rgb")
    made = with_entries(whole, entries)
    return made[:8] + start + made[8 + len(start) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(deep(3), photometric="rgb", compression="zstd"), "use deflate"),
        (tiff(deep(3), photometric="ycbcr"), "save it as RGB"),
        (tiff(deep(3).astype(np.int16), photometric="rgb"), "expected 0 to 65535"),
        (tiff(deep(3), photometric="rgb", extratags=[(50706, "B", 4, b"\1\4\0\0", True)]), "raw file"),
        (retagged(b"", Entry(254, 4, 1, b"\1\0\0\0"), Entry(330, 4, 1, b"\x08\0\0\0")), "raw file"),  # NEF, ARW
        (tiff(deep(1)[:, :, 0], photometric="cfa"), "raw file"),
        (retagged(b"CR\2\0"), "raw file"),
    ],
)
def test_unsupported(data: bytes, message: str) -> None:
    with pytest.raises(images.UnsupportedFormat, match=message):
        images.decode(data, images.ImageLimits())


def test_corrupt() -> None:
    data = bytearray(images.encode(images.Photo(deep(3)), "PNG"))
    data[200] ^= 1
    with pytest.raises(images.CorruptImage, match="damaged"):
        images.decode(bytes(data))
    rows = zlib.compress(bytes(1000))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 16, 6, 0, 0, 0))
    with pytest.raises(images.CorruptImage, match="damaged"):
        images.decode(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_limits_are_checked_before_a_decoder_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*args: Any, **options: Any) -> None:
        raise AssertionError("the pixels are decoded")

    monkeypatch.setattr(imagecodecs, "png_decode", called)
    monkeypatch.setattr(tifffile, "TiffFile", called)
    limits = images.ImageLimits(max_pixels=SIZE[0] * SIZE[1] - 1)
    for data in (
        imagecodecs.png_encode(deep(3)),
        tiff(deep(3), photometric="rgb"),
        tiff(deep(3), photometric="cielab"),
    ):
        with pytest.raises(images.ImageTooLarge, match="37x23"):
            images.decode(data, limits)
        with pytest.raises((AssertionError, images.CorruptImage), match="the pixels are decoded"):
            images.decode(data)


# --- round trips ---


@st.composite
def photos(draw: st.DrawFn) -> images.Photo:
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    channels = draw(st.sampled_from([1, 3]))
    colors = draw(hnp.arrays(dtype, (*size, channels)))
    alpha = draw(st.none() | hnp.arrays(dtype, size))
    icc = draw(st.sampled_from([None, srgb_profile()]))
    return images.Photo(
        np.repeat(colors, 4 - channels, axis=2)[:, :, :3], alpha, icc, draw(st.sampled_from(["PNG", "TIFF"]))
    )


@settings(max_examples=150, deadline=None)
@given(photo=photos())
def test_round_trip(photo: images.Photo) -> None:
    read = images.decode(images.encode(photo))
    np.testing.assert_array_equal(read.pixels, photo.pixels)
    assert (read.pixels.dtype, read.icc, read.format) == (photo.pixels.dtype, photo.icc, photo.format)
    assert (read.alpha is None) == (photo.alpha is None)
    if photo.alpha is not None:
        np.testing.assert_array_equal(read.alpha, photo.alpha)


@pytest.mark.parametrize(
    ("kind", "depth"), [("PNG", 16), ("TIFF", 16), ("JPEG", 8), ("WEBP", 8), ("AVIF", 8), ("BMP", 8)]
)
def test_depth_of_what_is_written(kind: str, depth: int) -> None:
    read = images.decode(images.encode(images.Photo(deep(3)), kind))
    assert read.pixels.dtype == np.dtype(f"uint{depth}")


def test_what_was_gray_is_written_as_gray_with_a_profile_of_its_own() -> None:
    gray = np.repeat(deep(1), 3, axis=2)
    assert images.encode(images.Photo(gray), "PNG")[25] == 2  # colors that happen to be equal
    assert images.encode(images.Photo(gray, gray=True), "PNG")[25] == 0
    assert images.encode(images.Photo(gray, alpha=gray[:, :, 0], gray=True), "PNG")[25] == 4
    assert images.encode(images.Photo(deep(3), gray=True), "PNG")[25] == 2  # it is not any more
    data = images.encode(images.Photo(gray, icc=srgb_profile(), gray=True), "PNG")
    assert data[25] == 0
    read = images.decode(data)
    assert (read.icc, read.gray) == (srgb_profile(), True)
    np.testing.assert_array_equal(read.pixels, gray)


def test_other_programs_read_what_is_written() -> None:
    photo = images.Photo(deep(3), alpha=deep(1)[:, :, 0], icc=srgb_profile())
    with Image.open(io.BytesIO(images.encode(photo, "PNG"))) as written:
        assert (written.mode, written.info["icc_profile"]) == ("RGBA", srgb_profile())
        assert np.abs(np.asarray(written).astype(int)[:, :, :3] - photo.pixels // 256).max() <= 1
    with tifffile.TiffFile(io.BytesIO(images.encode(photo, "TIFF"))) as file:
        page: Any = file.pages.first
        assert (page.photometric.name, page.extrasamples[0].name, page.bitspersample) == ("RGB", "UNASSALPHA", 16)
        assert page.iccprofile == srgb_profile()
    ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))


def test_only_deep_files_pay_for_their_libraries() -> None:
    code = """
import io, sys
import numpy as np
from PIL import Image
from models import images
for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"):
    data = images.encode(images.Photo(np.zeros((9, 9, 3), np.uint8)), kind, metadata=True)
    images.probe(data)
    images.decode(data)
print(sorted({"tifffile", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_peoples_own_files_may_be_larger_than_those_of_strangers(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3000, 4000, 3), np.uint16), photometric="rgb")
    assert images.read_image(tmp_path / "a.tif").pixels.shape == (3000, 4000, 3)
    with pytest.raises(images.ImageTooLarge, match="67,108,864 are accepted"):
        images.read_image(tmp_path / "a.tif", images.ImageLimits())
