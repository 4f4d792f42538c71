"""AVIF in and out, HEIC in: upright once, in their colors, within limits, with typed errors."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from models import images
from models.images import heif
from models.images.limits import format_written

# Drawn: red grows to the right, green downwards, blue is 120; a red mark in the top left corner of the upright picture
# or, in "turned", of the stored one, whose orientation is 6.
HEIC = {path.stem: path.read_bytes() for path in (Path(__file__).parent / "heic").iterdir()}
FIRST = images.ImageLimits(first_frame=True)
PLACE = {1: "N", 2: (47.0, 22.0, 33.0)}


def drawn(width: int = 64, height: int = 48) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 120)], axis=-1).astype(np.uint8)
    pixels[:12, :16] = 250, 20, 20
    return pixels


def avif(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "AVIF", **{"quality": 95, "subsampling": "4:4:4"} | options)
    return buffer.getvalue()


def told(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    exif[0x8825] = PLACE
    return exif.tobytes()


def off(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def with_box(data: bytes, name: bytes, change: Any) -> bytes:
    """A file with other contents of the same length in its first box of that name."""
    at = data.index(name) + 4
    size = struct.unpack_from(">I", data, at - 8)[0] - 8
    changed = change(data[at : at + size])
    assert len(changed) == size
    return data[:at] + changed + data[at + size :]


def coded(primaries: int, transfer: int) -> Any:
    return lambda body: b"nclx" + struct.pack(">HH", primaries, transfer) + body[8:]


class TestAvif:
    def test_round_trip_with_all_that_goes_with_it(self) -> None:
        alpha = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
        read = images.decode(avif(np.dstack([drawn(), alpha]), exif=told(1), xmp=packet, icc_profile=profile))
        again = images.decode(images.encode(read, metadata=True))
        for photo in (read, again):
            assert photo.format == "AVIF"
            assert off(photo.pixels[:, 40:], drawn()[:, 40:]) < 2
            assert photo.alpha is not None
            assert off(photo.alpha, alpha) < 1
            assert photo.icc is not None
            assert photo.metadata is not None
            assert photo.metadata.xmp == packet
            assert photo.metadata == read.metadata
        assert again.metadata is not None
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + (again.metadata.exif or b""))
        assert (exif[0x010F], exif.get_ifd(0x8825)) == ("maker", PLACE)
        assert images.decode(images.encode(read)).metadata is None

    def test_gray_stays_gray(self) -> None:
        read = images.decode(avif(drawn()[:, :, 1], subsampling="4:0:0"))
        assert read.gray
        with Image.open(io.BytesIO(images.encode(read))) as written:
            assert written.mode == "L"

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_is_upright(self, orientation: int) -> None:
        read = images.decode(avif(drawn(), exif=told(orientation)))
        expected = images.decode(encoded_png(drawn(), orientation)).pixels
        assert read.pixels.shape == expected.shape
        assert off(read.pixels, expected) < 2
        header = images.probe(avif(drawn(), exif=told(orientation)))
        assert (header.height, header.width) == expected.shape[:2]
        assert off(images.decode(images.encode(read, metadata=True)).pixels, expected) < 3  # not turned again

    def test_quality_counts(self) -> None:
        noise = images.Photo(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        sizes = [len(images.encode(noise, "AVIF", quality)) for quality in (30, 60, 95)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2] / 2

    def test_animations_are_refused_unless_the_first_will_do(self) -> None:
        buffer = io.BytesIO()
        frames = [Image.fromarray(drawn()), Image.fromarray(drawn()[::-1])]
        frames[0].save(buffer, "AVIF", save_all=True, append_images=frames[1:], quality=90)
        with pytest.raises(images.UnsupportedFormat, match="several frames"):
            images.decode(buffer.getvalue())
        photo = images.decode(buffer.getvalue(), FIRST)
        assert photo.notes == ("only the first of 2 frames is taken",)
        assert off(photo.pixels, drawn()) < 10

    def test_a_side_that_readers_do_not_take_is_refused(self) -> None:
        with pytest.raises(images.ImageTooLarge, match="AVIF holds at most 32768"):
            images.encode(images.Photo(np.zeros((1, 32_769, 3), np.uint8)), "AVIF")


def encoded_png(pixels: np.ndarray, orientation: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=told(orientation))
    return buffer.getvalue()


class TestHeic:
    def test_is_read_with_all_that_goes_with_it(self) -> None:
        photo = images.decode(HEIC["plain"])
        assert images.probe(HEIC["plain"]) == images.Header("HEIC", 64, 48)
        assert (photo.format, photo.gray, photo.alpha, photo.notes) == ("HEIC", False, None, ())
        assert off(photo.pixels, drawn()) < 4
        assert photo.icc is not None
        assert photo.metadata is not None
        assert photo.metadata.exif is not None
        assert b"maker" in photo.metadata.exif
        assert photo.metadata.xmp == b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'

    def test_is_turned_once(self) -> None:
        photo = images.decode(HEIC["turned"])
        assert images.probe(HEIC["turned"]) == images.Header("HEIC", 48, 64)
        assert off(photo.pixels, np.rot90(drawn(), -1)) < 4
        again = images.decode(images.encode(photo, metadata=True))
        assert off(again.pixels, np.rot90(drawn(), -1)) < 6

    def test_alpha_and_gray(self) -> None:
        alpha = images.decode(HEIC["alpha"]).alpha
        assert alpha is not None
        assert off(alpha, np.tile(np.arange(64) * 4, (48, 1))) < 3
        assert images.decode(HEIC["gray"]).gray

    def test_ten_bits_come_as_eight_and_it_is_said(self) -> None:
        photo = images.decode(HEIC["ten"])
        assert photo.pixels.dtype == np.uint8
        assert off(photo.pixels, drawn()) < 4
        assert photo.notes == ("the 10 bits of each channel are taken as 8",)

    def test_several_pictures(self) -> None:
        with pytest.raises(images.UnsupportedFormat, match="the HEIC file has several frames"):
            images.decode(HEIC["several"])
        photo = images.decode(HEIC["several"], FIRST)
        assert off(photo.pixels, drawn()) < 4
        assert photo.notes == ("only the first of 2 frames is taken",)

    def test_a_thumbnail_is_no_second_picture(self) -> None:
        photo = images.decode(HEIC["thumbnail"])
        assert (photo.pixels.shape, photo.dropped) == ((48, 64, 3), ("thumbnail",))

    def test_a_gain_map_is_named(self) -> None:
        urn = b"urn:mpeg:hevc:2015:auxid:1"
        assert urn in HEIC["alpha"]
        named = HEIC["alpha"].replace(urn, b"apple:photo:aux:hdrgainmap".ljust(len(urn))[: len(urn)])
        photo = images.decode(named)
        assert photo.dropped == ("HDR gain map",)
        assert "gain map" in photo.notes[0]

    def test_it_is_written_as_jpeg_and_never_as_heic(self, tmp_path: Path) -> None:
        photo = images.decode(HEIC["plain"])
        assert images.decode(images.encode(photo)).format == "JPEG"
        assert images.lost(photo) == images.lost(photo, "JPEG") == ()
        with pytest.raises(images.UnsupportedFormat, match="cannot write format 'HEIC'"):
            images.encode(photo, "HEIC")
        with pytest.raises(images.UnsupportedFormat, match=r"known: \.avif, \.bmp"):
            images.write_image(photo, tmp_path / "a.heic")
        assert [format_written(name) for name in ("HEIC", "AVIF", "JPEG")] == ["JPEG", "AVIF", "JPEG"]
        assert format_written("HEIC", "PNG") == "PNG"

    def test_another_codec_is_refused(self) -> None:
        with pytest.raises(images.UnsupportedFormat, match="not compressed by HEVC"):
            images.decode(HEIC["plain"].replace(b"hvc1", b"vvc1"))

    @pytest.mark.parametrize("part", [b"Exif", b"application/rdf+xml"])
    def test_names_that_are_no_text_are_damage(self, part: bytes) -> None:
        """The decoder would end the process."""
        with pytest.raises(images.CorruptImage):
            heif.layout(HEIC["plain"].replace(part, part[:3] + b"\xe6" + part[4:], 1))


SOUND = {"AVIF": avif(drawn()), "HEIC": HEIC["gray"]}
COLORS = {"AVIF": avif(drawn()), "HEIC": HEIC["turned"]}


class TestBoth:
    @pytest.mark.parametrize("kind", SOUND)
    def test_a_file_that_was_cut_is_truncated(self, kind: str) -> None:
        data = SOUND[kind]
        for size in (len(data) // 2, len(data) - 1):
            for call in (images.decode, images.probe):
                with pytest.raises(images.TruncatedImage):
                    call(data[:size])

    @pytest.mark.parametrize("kind", SOUND)
    def test_what_stands_behind_the_end_does_not_matter(self, kind: str) -> None:
        sound = images.decode(SOUND[kind]).pixels
        for behind in (b"\xff" * 100, bytes(100)):
            assert np.array_equal(images.decode(SOUND[kind] + behind).pixels, sound)

    @pytest.mark.parametrize("kind", SOUND)
    def test_the_size_is_checked_before_the_pixels(self, kind: str) -> None:
        for call in (images.decode, images.probe):
            with pytest.raises(images.ImageTooLarge):
                call(SOUND[kind], images.ImageLimits(max_pixels=1000))
        claimed = with_box(SOUND[kind], b"ispe", lambda body: body[:4] + struct.pack(">II", 16_000, 16_000))
        with pytest.raises(images.ImageError):
            images.decode(claimed)

    @pytest.mark.parametrize("kind", SOUND)
    def test_formats_can_be_narrowed(self, kind: str) -> None:
        with pytest.raises(images.UnsupportedFormat, match=f"this is {kind}, not an image of an accepted format"):
            images.decode(SOUND[kind], images.ImageLimits(formats=("JPEG",)))
        other = next(name for name in SOUND if name != kind)
        with pytest.raises(images.UnsupportedFormat, match=f"this is {kind}"):
            images.decode(SOUND[kind], images.ImageLimits(formats=(other,)))

    @pytest.mark.parametrize("kind", SOUND)
    def test_the_common_brand_tells_nothing(self, kind: str) -> None:
        data = bytearray(SOUND[kind])
        assert b"mif1" in data[16:32]
        data[8:12] = b"mif1"
        data[16:20] = {"AVIF": b"avif", "HEIC": b"heic"}[kind]
        assert images.decode(bytes(data)).format == kind

    @pytest.mark.parametrize("kind", COLORS)
    def test_hdr_is_refused(self, kind: str) -> None:
        for transfer, name in ((16, "PQ"), (18, "HLG")):
            with pytest.raises(images.UnsupportedFormat, match=name):
                images.decode(with_box(COLORS[kind], b"colr", coded(9, transfer)))

    @pytest.mark.parametrize("kind", COLORS)
    def test_numbers_of_colors_count(self, kind: str) -> None:
        plain = images.decode(COLORS[kind])
        assert plain.icc is None
        for primaries, transfer in ((1, 1), (2, 2), (1, 6)):  # like sRGB, or not told
            same = images.decode(with_box(COLORS[kind], b"colr", coded(primaries, transfer)))
            np.testing.assert_array_equal(same.pixels, plain.pixels)
        wide = images.decode(with_box(COLORS[kind], b"colr", coded(12, 13)))  # Display P3
        assert wide.icc is not None
        red = plain.pixels[:, :, 0].astype(int) - wide.pixels[:, :, 0]
        assert red.min() < -5

    @pytest.mark.parametrize("kind", SOUND)
    def test_boxes_that_tell_nothing_are_damage(self, kind: str) -> None:
        for name in (b"meta", b"iprp", b"pitm", b"ipma"):
            with pytest.raises(images.ImageError):
                images.decode(SOUND[kind].replace(name, b"free"))
