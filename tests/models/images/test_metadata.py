"""EXIF, XMP and resolution: dropped unless asked for, and fit for the new picture when they are."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models import images
from models.images.metadata import collect
from tests.models.images.directories import Entry, packed, with_directory, with_entries
from tests.models.images.mutants import encoded, tiff

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damage
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
PREVIEW = b"\xff\xd8 the old picture \xff\xd9"
PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" dc:title="hill">'
    b"<tiff:Orientation>6</tiff:Orientation>"
    b"<xmp:Thumbnails><i>b2xk</i></xmp:Thumbnails></r></x:xmpmeta>"
)
KINDS = ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"]


def block(order: str = "<", orientation: int = 6) -> bytes:
    """EXIF as a camera writes it: turned, with a maker's note, a place and a preview in a second directory."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    exif[0x0100] = 40
    exif[0x8769] = {
        0x9003: "2020:01:02 03:04:05", 0x829A: (1, 250), 0xA002: 40, 0x927C: b"note" * 50, 0x9286: b"ASCII\0\0\0words",
    }  # fmt: skip
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 33.5)}
    data = bytearray(exif.tobytes()[6:])
    count = struct.unpack_from(order + "H", data, 8)[0]
    struct.pack_into(order + "I", data, 8 + 2 + 12 * count, len(data))
    if order == ">":
        return bytes(data)  # a preview's directory is written little-endian here
    at = len(data) + 2 + 2 * 12 + 4
    entries = (Entry(513, 4, 1, struct.pack("<I", at)), Entry(514, 4, 1, struct.pack("<I", len(PREVIEW))))
    return bytes(data) + packed(entries, len(data)) + PREVIEW


def camera_photo(**options: Any) -> images.Photo:
    data = encoded(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0" + block(), xmp=PACKET, dpi=(300, 200), **options)
    assert PREVIEW in data
    return images.decode(data)


def test_metadata_is_dropped_unless_asked_for() -> None:
    photo = camera_photo()
    assert photo.metadata is not None
    for kind in (*KINDS, "BMP"):
        for source in (photo, images.Photo(photo.pixels.astype(np.uint16) * 257, metadata=photo.metadata)):
            data = images.encode(source, kind)
            assert b"maker" not in data
            assert b"hill" not in data
            told = images.decode(data).metadata or images.Metadata()
            assert (told.exif, told.xmp) == (None, None)
            assert told.dpi in (None, pytest.approx((96, 96), rel=1e-3))  # what Pillow writes into BMP


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_metadata_on_request(kind: str, depth: int) -> None:
    photo = camera_photo()
    pixels = photo.pixels if depth == 8 else photo.pixels.astype(np.uint16) * 257
    data = images.encode(images.Photo(pixels, alpha=pixels[:, :, 0], metadata=photo.metadata), kind, metadata=True)
    with Image.open(io.BytesIO(data)) as written:
        exif = written.getexif()
        inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert exif[0x010F] == "maker"
        assert exif.get(0x0112, 1) == 1
        assert inner[0x9003] == "2020:01:02 03:04:05"
        assert inner[0x9286] == b"ASCII\0\0\0words"
        assert float(inner[0x829A][0] if isinstance(inner[0x829A], tuple) else inner[0x829A]) in (1.0, 1 / 250)
        assert tuple(map(float, place[2])) == (47.0, 22.0, 33.5)
        assert {0x927C, 0xA002}.isdisjoint(inner)
        assert tuple(map(float, (exif[0x011A], exif[0x011B]))) == pytest.approx((200, 300), rel=1e-3)
        if kind not in ("WEBP", "AVIF"):
            assert written.info["dpi"] == pytest.approx((200, 300), rel=1e-3)  # turned with the picture
        packet = written.info.get("xmp") or written.info["XML:com.adobe.xmp"].encode()
        assert b'tiff:Orientation="1"' in packet
        assert b"<tiff:Orientation>1<" in packet
        assert b"b2xk" not in packet
    assert PREVIEW not in data
    read = images.decode(data)
    assert read.pixels.shape == photo.pixels.shape  # not turned again
    assert read.metadata is not None
    assert photo.metadata is not None
    assert (read.metadata.exif, read.metadata.xmp) == (photo.metadata.exif, photo.metadata.xmp)


def test_metadata_of_a_deep_tiff_and_of_big_endian_exif() -> None:
    values = PIXELS.astype(np.uint16) * 257
    plain = tiff(values, photometric="rgb", software=False, resolution=(100, 50), resolutionunit="CENTIMETER")
    read = images.decode(with_entries(plain, (Entry(0x010F, 2, 6, b"maker\0"),)))
    assert read.metadata is not None
    assert read.metadata.dpi == pytest.approx((254, 127))
    assert b"maker" in (read.metadata.exif or b"")
    little, big = (images.decode(encoded(Image.fromarray(PIXELS), "PNG", exif=block(order))) for order in "<>")
    assert little.metadata == big.metadata
    np.testing.assert_array_equal(big.pixels, np.rot90(PIXELS, -1))


def test_bmp_keeps_the_resolution() -> None:
    photo = images.Photo(PIXELS, metadata=images.Metadata(dpi=(300, 300)))
    with Image.open(io.BytesIO(images.encode(photo, "BMP", metadata=True))) as written:
        assert written.info["dpi"] == pytest.approx((300, 300), rel=1e-3)


def test_with_tensor_and_files_keep_it(tmp_path: Any) -> None:
    photo = camera_photo()
    (tmp_path / "kept.jpg").write_bytes(images.encode(photo.with_tensor(photo.tensor()), metadata=True))
    (tmp_path / "dropped.jpg").write_bytes(images.encode(photo))
    assert images.read_image(tmp_path / "kept.jpg").metadata == photo.metadata
    assert images.read_image(tmp_path / "dropped.jpg").metadata is None


@pytest.mark.parametrize(
    "packet", [b"\xff\xfe<\0", b"", b"no markup", b"<x/>" + bytes(3) + b"<y/>", b"<" * 70_000, b"<xmp:Thumbnails>", 7]
)
def test_xmp_that_is_damaged_or_too_long_counts_as_none(packet: Any) -> None:
    assert collect(None, packet, None, 1)[0] is None


@pytest.mark.parametrize("dpi", [None, 3, (0, 1), (float("nan"), 1), (-1, 1), (1e9, 1), ("a", "b"), (1, 2, 3)])
def test_senseless_resolution_counts_as_none(dpi: Any) -> None:
    assert collect(None, None, dpi, 1)[0] is None


def test_exif_that_names_the_same_bytes_over_and_over_counts_as_none() -> None:
    entries = b"".join(struct.pack("<HHII", tag, 7, 50_000, 8) for tag in range(1, 4000))
    inner = struct.pack("<H", 3999) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(inner)) + inner
    data += struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 0)
    assert collect(data, None, None, 1)[0] is None


@pytest.mark.parametrize(("tag", "kind"), [(301, 3), (318, 5), (0x4746, 3), (0x0112, 5)])
def test_numbers_without_end_are_not_unpacked(tag: int, kind: int) -> None:
    body = bytes(range(1, 251)) * 16_000  # four million bytes
    entry = Entry(tag, kind, len(body) // (2 if kind == 3 else 8), body)
    picture = Image.fromarray(PIXELS)
    png = encoded(picture, "PNG", exif=b"Exif\0\0" + with_directory(bytes(8), (entry,)))
    start = time.process_time()
    tracemalloc.start()
    try:
        assert images.decode(png).dropped == ("EXIF that is damaged or too long",)
        for pixels in (PIXELS, PIXELS.astype(np.uint16)):
            with pytest.raises(images.CorruptImage, match="claims more than"):
                images.decode(with_entries(tiff(pixels, photometric="rgb"), (entry,)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # fractions would take 130 MB
    assert time.process_time() - start < 5


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=200), at=st.integers(0, 400), order=st.sampled_from("<>"), size=st.integers(0, 500))
def test_damaged_metadata_is_cleaned_or_left_out(junk: bytes, at: int, order: str, size: int) -> None:
    data = bytearray(block(order))
    data[at : at + len(junk)] = junk
    found, _ = collect(bytes(data[: len(data) - size]), junk, None, 1)
    if found is not None and found.exif is not None:
        assert len(found.exif) <= 60_000
        assert collect(found.exif, found.xmp, None, 1) == (found, ())
        exif = Image.Exif()
        exif.load(found.exif)
        assert exif[0x0112] == 1
        assert PREVIEW not in found.exif


# --- the header alone, and smaller pictures ---


@pytest.mark.parametrize("kind", [*KINDS, "BMP"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_probe(kind: str, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS), kind, **({} if kind == "BMP" else {"exif": exif}))
    size = (24, 40) if orientation == 6 and kind != "BMP" else (40, 24)
    assert images.decode(data).pixels.shape == (size[1], size[0], 3)

    def load(self: Any) -> None:
        raise AssertionError("the pixels are decoded")

    for plugin in type(Image.open(io.BytesIO(data))).__mro__:
        if "load" in vars(plugin):
            monkeypatch.setattr(plugin, "load", load)
    assert images.probe(data) == images.Header(kind, *size)


@pytest.mark.parametrize("kind", [1, 3, 7])
def test_probe_and_decode_agree_on_an_orientation_of_an_odd_type(kind: int) -> None:
    for pixels in (PIXELS, PIXELS.astype(np.uint16)):
        data = with_entries(
            tiff(pixels, photometric="rgb"), (Entry(0x0112, kind, 1, b"\6\0"[: 2 if kind == 3 else 1]),)
        )
        assert images.probe(data)[1:] == images.decode(data).pixels.shape[1::-1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_probe_needs_only_the_beginning(kind: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    data = images.encode(images.Photo(pixels), kind)
    assert images.probe(data[:2000]) == (kind, 600, 400)
    with pytest.raises(images.ImageError):
        images.probe(data[:20])


def test_probe_checks_limits() -> None:
    data = images.encode(images.Photo(PIXELS), "PNG")
    with pytest.raises(images.ImageTooLarge, match="40x24"):
        images.probe(data, images.ImageLimits(max_pixels=900))
    with pytest.raises(images.UnsupportedFormat):
        images.probe(b"just text")
    with pytest.raises(images.TruncatedImage):
        images.probe(b"")


@pytest.mark.parametrize(
    ("shrink_to", "parts"), [(None, 1), (1, 8), (30, 8), (31, 4), (60, 4), (61, 2), (121, 1), (999, 1)]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_shrink_to(shrink_to: int | None, parts: int, orientation: int, photo: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photo(4, 240, 361)), "JPEG", quality=95, exif=exif)
    whole, read = images.decode(data), images.decode(data, shrink_to=shrink_to)
    size = (-(-240 // parts), -(-361 // parts))
    assert read.pixels.shape[:2] == (size if orientation == 1 else size[::-1])
    assert min(read.pixels.shape[:2]) >= min(shrink_to or 240, 240)
    small = images.resize(whole.pixels, *read.pixels.shape[1::-1])
    assert np.abs(small.astype(int) - read.pixels).mean() < 6
    if parts == 1:
        np.testing.assert_array_equal(read.pixels, whole.pixels)


def test_other_formats_are_not_shrunk() -> None:
    for kind in ("PNG", "WEBP", "AVIF", "TIFF", "BMP"):
        data = images.encode(images.Photo(PIXELS), kind)
        np.testing.assert_array_equal(images.decode(data, shrink_to=4).pixels, images.decode(data).pixels)
    with pytest.raises(ValueError, match="shrink_to is 0"):
        images.decode(data, shrink_to=0)
