"""Nearly whole files: shown, with a note; a picture that lacks more than a few rows stays truncated."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from models import images
from tests.models.images.mutants import encoded, tiff

HEIGHT, WIDTH = 480, 200
STRICT = images.ImageLimits(strict=True)


def picture(height: int = HEIGHT) -> np.ndarray:
    random = np.random.default_rng(5)
    coarse = Image.fromarray(random.integers(0, 256, (24, 10, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


PIXELS = picture()
DEEP = PIXELS.astype(np.uint16) * 257


def jpeg(**options: Any) -> bytes:
    return encoded(Image.fromarray(PIXELS), "JPEG", quality=92, **options)


def chunk(name: bytes, body: bytes, check: int | None = None) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check or zlib.crc32(name + body))


def missing_rows(data: bytes, whole: np.ndarray) -> int:
    """How many rows a file's note says that are missing; they are at the end, and all others are as they were."""
    read = images.decode(data)
    assert images.probe(data) == (read.format, WIDTH, len(whole))
    (note,) = read.notes
    rows = int(note.split(" of ")[0].rsplit(" ")[-1]) if "ends early: " in note else 0
    np.testing.assert_array_equal(read.pixels[: len(whole) - rows], whole[: len(whole) - rows])
    with pytest.raises(images.TruncatedImage):
        images.decode(data, STRICT)
    return rows


JPEGS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 2}, {"subsampling": 0}]


@pytest.mark.parametrize("options", JPEGS)
def test_jpeg_without_its_end_marker(options: dict[str, Any]) -> None:
    data = jpeg(**options)
    whole = images.decode(data)
    assert whole.notes == ()
    for cut in (data[:-1], data[:-2], data[:-2] + bytes(3000)):
        assert missing_rows(cut, whole.pixels) == 0
    gray = encoded(Image.fromarray(PIXELS[:, :, 0]), "JPEG", **options)
    assert missing_rows(gray[:-2], images.decode(gray).pixels) == 0


@pytest.mark.parametrize("options", JPEGS)
def test_jpeg_that_lacks_some_of_the_last_rows(options: dict[str, Any]) -> None:
    data = jpeg(**options)
    whole = images.decode(data).pixels
    assert 0 < missing_rows(data[:-6], whole) <= 17
    rows = missing_rows(data[:-20], whole)
    assert 0 < rows <= 17
    read = images.decode(data[:-20]).pixels[-rows:]  # as it was, or what is above; no gray
    assert ((read == whole[-rows:]) | (read == whole[-rows - 1])).all()


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("tail", [b"", bytes(500_000)])  # a file system that kept the length and lost the data
def test_jpeg_that_lacks_more_is_truncated(options: dict[str, Any], tail: bytes) -> None:
    data = jpeg(**options)
    for share in (0.5, 0.85):
        with pytest.raises(images.TruncatedImage):
            images.decode(data[: int(len(data) * share)] + tail)


def test_progressive_jpeg_without_its_last_scan_is_truncated() -> None:
    data = jpeg(progressive=True)
    with pytest.raises(images.TruncatedImage):
        images.decode(data[: data.rindex(b"\xff\xda")])
    with pytest.raises(images.TruncatedImage):
        images.decode(data[: data.index(b"\xff\xda")])  # no scan at all


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_rows_that_are_missing_from_a_turned_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(exif=exif)
    whole, read = images.decode(data), images.decode(data[:-20])
    assert read.pixels.shape == whole.pixels.shape
    assert "17 of 480 rows" in read.notes[0]
    changed = (read.pixels != whole.pixels).any(axis=2).any(axis=1 if orientation == 3 else 0)
    assert 0 < changed.sum() <= 17
    assert changed[:17].sum() == changed.sum() or changed[-17:].sum() == changed.sum()


def test_small_pictures_must_be_whole() -> None:
    data = encoded(Image.fromarray(picture(20)), "JPEG")
    assert images.decode(data[:-2]).notes
    with pytest.raises(images.TruncatedImage):
        images.decode(data[:-20])


def test_a_nearly_whole_jpeg_may_be_asked_for_smaller() -> None:
    assert images.decode(jpeg()[:-20], shrink_to=50).notes


def test_bytes_before_a_marker_and_behind_the_end_do_no_harm() -> None:
    data = jpeg()
    at = data.index(b"\xff\xdb")
    for odd in (data[:at] + b"junk" + data[at:], data + b"garbage" * 99, data + b"\xff"):
        np.testing.assert_array_equal(images.decode(odd, STRICT).pixels, images.decode(data).pixels)


# --- PNG ---

PNGS = {8: (encoded(Image.fromarray(PIXELS), "PNG"), PIXELS), 16: (imagecodecs.png_encode(DEEP), DEEP)}


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("name", [b"tEXt", b"gAMA", b"iCCP", b"pHYs", b"tIME", b"prVt", b"acTL"])
def test_png_with_a_damaged_chunk_that_no_pixel_needs(depth: int, name: bytes) -> None:
    data, whole = PNGS[depth]
    for damaged in (chunk(name, b"\0\0\0\1words", 7), chunk(b"zTXt", b"x\0\5ab")):
        odd = data[:33] + chunk(b"tEXt", b"Title\0hill") + damaged + data[33:]
        read = images.decode(odd)
        np.testing.assert_array_equal(read.pixels, whole)
        assert damaged[4:8].decode() in read.notes[0]
        assert images.probe(odd) == ("PNG", WIDTH, HEIGHT)
        for strict in (images.decode, images.probe):
            with pytest.raises(images.CorruptImage):
                strict(odd, STRICT)


@pytest.mark.parametrize("depth", [8, 16])
def test_png_with_other_damage_stays_corrupt(depth: int) -> None:
    data = bytearray(PNGS[depth][0])
    data[30] ^= 1  # the header's check sum
    with pytest.raises(images.CorruptImage):
        images.decode(bytes(data))
    data = bytearray(PNGS[depth][0])
    data[len(data) // 2] ^= 1
    with pytest.raises(images.CorruptImage):
        images.decode(bytes(data))
    transparent = chunk(b"tRNS", bytes(6), 7)
    with pytest.raises(images.CorruptImage):
        images.decode(PNGS[depth][0][:33] + transparent + PNGS[depth][0][33:])


@pytest.mark.parametrize("depth", [8, 16])
def test_png_without_its_end(depth: int) -> None:
    data, whole = PNGS[depth]
    for cut in (1, 5, 12, 14, 16, 18):
        assert missing_rows(data[:-cut], whole) == 0
    assert 0 < missing_rows(data[:-200], whole) < 10
    for cut in (len(data) // 10, len(data) // 2):
        with pytest.raises(images.TruncatedImage):
            images.decode(data[:-cut])


def test_png_that_has_both_faults_has_both_notes() -> None:
    data = PNGS[16][0]
    read = images.decode(data[:33] + chunk(b"tIME", b"", 7) + data[33:-12])
    assert "tIME" in read.notes[0]
    assert "no end" in read.notes[0]


def test_check_sum_of_16_bit_pixels_that_are_whole() -> None:
    data = bytearray(PNGS[16][0])
    data[-14] ^= 1
    read = images.decode(bytes(data))
    np.testing.assert_array_equal(read.pixels, DEEP)
    assert "check sums" in read.notes[0]


def test_a_bomb_without_its_end_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 16, 6, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tIME", b"", 7) + chunk(b"IDAT", zlib.compress(bytes(10_000_000)))

    def inflate(*args: Any) -> Any:
        raise AssertionError("the pixels are inflated")

    monkeypatch.setattr(zlib, "decompressobj", inflate)
    with pytest.raises(images.ImageError):
        images.decode(bomb)


# --- the others ---


@pytest.mark.parametrize(
    "made",
    [
        (encoded(Image.fromarray(PIXELS[::-1]), "BMP"), PIXELS[::-1]),
        (tiff(PIXELS, photometric="rgb"), PIXELS),
        (tiff(PIXELS, photometric="rgb", rowsperstrip=64), PIXELS),
        (tiff(DEEP, photometric="rgb", rowsperstrip=64), DEEP),
        (tiff(DEEP, photometric="rgb", bigtiff=True), DEEP),
    ],
)
def test_uncompressed_pictures_that_lack_some_of_the_last_rows(made: tuple[bytes, np.ndarray]) -> None:
    data, whole = made
    row = whole[0].nbytes
    for cut, rows in ((1, 1), (row, 1), (3 * row - 5, 3), (12 * row, 12)):
        read = images.decode(data[:-cut])
        assert f" {rows} of 480 rows" in read.notes[0]
        kept = slice(rows, None) if read.format == "BMP" else slice(0, HEIGHT - rows)
        np.testing.assert_array_equal(read.pixels[kept], whole[kept])
        with pytest.raises(images.TruncatedImage):
            images.decode(data[:-cut], STRICT)
    with pytest.raises(images.TruncatedImage):
        images.decode(data[: -60 * row])


def test_webp_that_lacks_only_what_stands_behind_the_picture() -> None:
    data = encoded(Image.fromarray(PIXELS), "WEBP", exif=Image.Exif(), xmp=b"<x/>" * 20)
    assert missing_rows(data[:-30], images.decode(data).pixels) == 0
    with pytest.raises(images.TruncatedImage):
        images.decode(data[:-400])
