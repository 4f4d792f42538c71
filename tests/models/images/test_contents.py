"""What files hold beside the picture: kept on request, or named as dropped."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, IptcImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from models import images
from models.images.contents import clean_iptc, contents
from models.images.metadata import clean, collect
from models.images.png import chunk
from tests.models.images.directories import EXIF_IFD, Entry, with_directory, with_entries
from tests.models.images.mutants import encoded, tiff

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
DEEP = PIXELS.astype(np.uint16) * 257
PICTURE = Image.fromarray(PIXELS)
JPEG = encoded(PICTURE, "JPEG")
KINDS = ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(*segments: bytes, behind: bytes = b"", **options: Any) -> bytes:
    data = encoded(PICTURE, "JPEG", **options)
    return data[:2] + b"".join(segments) + data[2:] + behind


def png(depth: int, *chunks: bytes) -> bytes:
    data = encoded(PICTURE, "PNG") if depth == 8 else imagecodecs.png_encode(DEEP)
    return data[:33] + b"".join(chunks[:1]) + data[33:-12] + b"".join(chunks[1:]) + data[-12:]


def xmp(inner: str) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r dc:title="hill" {inner}</r></x:xmpmeta>'.encode()


def record(number: int, text: bytes, group: int = 2) -> bytes:
    return struct.pack(">BBBH", 0x1C, group, number, len(text)) + text


IPTC = record(90, b"\x1b%G", 1) + record(5, b"hill") + record(25, b"haze") + record(25, b"valley")
PREVIEWS = record(200, b"\0\1") + record(202, b"old picture") + record(10, b"old picture", 8)


def resource(number: int, body: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HHI", number, 0, len(body)) + body + bytes(len(body) % 2)


def dropped(data: bytes) -> tuple[str, ...]:
    return images.decode(data).dropped


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_named_where_there_is_nothing(kind: str) -> None:
    for pixels in (PIXELS, DEEP):
        photo = images.decode(images.encode(images.Photo(pixels), kind))
        assert (photo.dropped, photo.notes, images.lost(photo)) == ((), (), ())
        photo = images.decode(images.encode(images.Photo(pixels, icc=b"x" and images_profile()), kind))
        assert photo.dropped == ()


def images_profile() -> bytes:
    from models.images.profile import srgb_profile

    return srgb_profile()


# --- HDR gain maps and other pictures ---

DIRECTORY = (
    '><Container:Directory><rdf:Seq><rdf:li Item:Semantic="GainMap" Item:Length="999"/></rdf:Seq></Container:Directory>'
)
GAIN_MAPS = {
    "Ultra HDR": jpeg(xmp=xmp('hdrgm:Version="1.0"' + DIRECTORY), behind=JPEG),
    "of a camera": jpeg(segment(0xE2, b"MPF\0" + bytes(50)), behind=jpeg(xmp=xmp('hdrgm:GainMapMax="3.5">'))),
    "ISO 21496-1": jpeg(segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4)), behind=JPEG),
    "Apple": jpeg(behind=jpeg(xmp=xmp('HDRGainMap:HDRGainMapVersion="65536">'))),
}


@pytest.mark.parametrize("name", GAIN_MAPS)
def test_gain_maps_are_named_in_any_case(name: str) -> None:
    photo = images.decode(GAIN_MAPS[name])
    assert "HDR gain map" in photo.dropped
    assert "the HDR gain map is left out" in photo.notes[0]
    np.testing.assert_array_equal(photo.pixels, images.decode(JPEG).pixels)


def test_what_is_written_does_not_speak_of_pictures_that_are_gone() -> None:
    packet = xmp(
        f'hdrgm:Version="1.0" GCamera:MotionPhoto=\'1\' xmpNote:HasExtendedXMP="AB12" GDepth:Format="RangeInverse"'
        f' GPano:ProjectionType="equirectangular"{DIRECTORY}<hdrgm:GainMapMax>3</hdrgm:GainMapMax><hdrgm:Gamma/>'
    )
    photo = images.decode(jpeg(xmp=packet))
    assert photo.dropped == ("HDR gain map", "depth map", "extended XMP", "motion photo")
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        written = images.encode(photo, kind, metadata=True)
        assert b"hill" in written
        assert b"equirectangular" in written  # still true
        for word in (b"hdrgm", b"Directory", b"MotionPhoto", b"HasExtendedXMP", b"GDepth"):
            assert word not in written
        assert images.decode(written).dropped == ()


@pytest.mark.parametrize(
    "packet", [b"<x><hdrgm:Gamma>", b"<x><hdrgm:Gamma ", b"<Container:Directory></x>", b"<x \xff/>"]
)
def test_xmp_that_does_not_end_is_dropped_and_named(packet: bytes) -> None:
    assert clean(packet) == (None, {"XMP that is damaged or too long"})


def test_hostile_xmp_takes_little_time() -> None:
    for packet in (b"<hdrgm:a " * 100_000, b"<hdrgm:a>" * 100_000, b' hdrgm:a="' * 100_000, b" hdrgm:a='" * 99_999):
        assert clean(packet)[0] is None


OTHERS = {
    "further pictures": encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE]),
    "motion photo": jpeg(behind=b"\0\0\0\x18ftypmp42" + bytes(300)),
    "data behind the end of the picture": jpeg(behind=b"SEFH and more SEFT"),
    "extended XMP": jpeg(segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40)),
    "content credentials (C2PA)": jpeg(segment(0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumb")),
    "thumbnail": jpeg(segment(0xE0, b"JFXX\0\x10")),
    "Photoshop resources": jpeg(segment(0xED, b"Photoshop 3.0\0" + resource(0x040C, b"old picture"))),
    "unknown application data": jpeg(segment(0xE5, b"who knows")),
    "other PNG chunks": png(8, chunk(b"prVt", b"who knows")),
    "time of the last change": png(8, chunk(b"tIME", bytes(7))),
    "raw profiles": png(16, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"0123"))),
    "unknown WebP chunks": encoded(PICTURE, "WEBP", lossless=True) + b"who \4\0\0\0know",
    "Photoshop layers": with_entries(encoded(PICTURE, "TIFF"), (Entry(37724, 7, 8, b"8BIMLayr"),)),
    "georeferencing": tiff(DEEP, photometric="rgb", extratags=[(33550, "d", 3, (1.0, 1.0, 0.0), True)]),
    "further channels": tiff(np.dstack([DEEP, DEEP]), photometric="rgb", extrasamples=[2, 0, 0]),
    "other EXIF tags": encoded(PICTURE, "PNG", exif=with_directory(bytes(8), (Entry(0xC4A5, 7, 8, b"PrintIM\0"),))),
    "maker's note": encoded(
        PICTURE, "WEBP", exif=with_directory(bytes(8), (Entry(EXIF_IFD, 4, 1, (Entry(0x927C, 7, 8, bytes(8)),)),))
    ),
    "EXIF that is damaged or too long": jpeg(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_be_kept_is_named(kind: str) -> None:
    data = OTHERS[kind]
    if kind == "unknown WebP chunks":  # inside the file, as its length says
        data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    photo = images.decode(data)
    assert photo.dropped == (kind,)
    assert kind in images.lost(photo)
    assert photo.notes == ()


def test_content_credentials_in_other_formats() -> None:
    webp = encoded(PICTURE, "WEBP") + b"C2PA\4\0\0\0jumb"
    tagged = with_entries(encoded(PICTURE, "TIFF"), (Entry(52545, 7, 4, b"jumb"),))
    for data in (png(8, chunk(b"caBX", b"jumb")), webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:], tagged):
        assert dropped(data) == ("content credentials (C2PA)",)


def test_thumbnails_of_exif_and_jfif() -> None:
    block = bytearray(with_directory(bytes(8), (Entry(0x010F, 2, 6, b"maker\0"),)))
    at = struct.unpack_from("<I", block, 4)[0]
    struct.pack_into("<I", block, at + 2 + 12, len(block))  # the next directory
    block += struct.pack("<HHHIII", 1, 513, 4, 1, 0, 0)
    assert dropped(jpeg(exif=b"Exif\0\0" + bytes(block))) == ("thumbnail",)
    assert dropped(encoded(PICTURE, "PNG", exif=bytes(block))) == ("thumbnail",)
    jfif = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1abc")
    assert dropped(JPEG[:2] + jfif + JPEG[20:]) == ("thumbnail",)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_frames_and_pages_that_are_left_out(kind: str) -> None:
    frames = [Image.new("RGB", (40, 24), (9, 9 * index, 9)) for index in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    note = images.decode(data, images.ImageLimits(first_frame=True)).notes[0]
    assert note == (
        "only the first page of the file is taken" if kind == "TIFF" else "only the first of 3 frames is taken"
    )


# --- IPTC ---


@pytest.mark.parametrize("depth", [8, 16])
def test_iptc_is_kept_in_jpeg_and_tiff_without_its_preview(depth: int) -> None:
    sources = [
        jpeg(segment(0xED, b"Photoshop 3.0\0" + resource(0x0404, IPTC + PREVIEWS))),
        with_entries(encoded(PICTURE, "TIFF"), (Entry(33723, 7, len(IPTC + PREVIEWS), IPTC + PREVIEWS),)),
        with_entries(
            encoded(PICTURE, "TIFF"), (Entry(34377, 7, len(IPTC) + 12, resource(0x0404, IPTC)[: len(IPTC) + 12]),)
        ),
    ]
    for data in sources:
        photo = images.decode(data)
        assert photo.metadata is not None
        assert photo.metadata.iptc == IPTC
        assert b"hill" not in images.encode(photo, "JPEG")
        pixels = photo.pixels if depth == 8 else photo.pixels.astype(np.uint16) * 257
        deep = images.Photo(pixels, metadata=photo.metadata)
        for kind in ("JPEG", "TIFF"):
            written = images.encode(deep, kind, metadata=True)
            assert b"old picture" not in written
            told = images.decode(written).metadata
            assert told is not None
            assert told.iptc == IPTC
            with Image.open(io.BytesIO(written)) as other:
                assert isinstance(other, JpegImagePlugin.JpegImageFile | TiffImagePlugin.TiffImageFile)
                found = IptcImagePlugin.getiptcinfo(other)
            assert found is not None
            assert found[(2, 25)] == [b"haze", b"valley"]
            assert images.lost(deep, kind) == ()
        for kind in ("PNG", "WEBP", "AVIF", "BMP"):
            assert images.lost(deep, kind) == ("IPTC",)
            assert b"haze" not in images.encode(deep, kind, metadata=True)


@pytest.mark.parametrize(
    "block", [IPTC[:-3], b"no IPTC at all", record(5, b"x" * 30_000) * 3, b"\x1c\2\5\x80\4" + bytes(9)]
)
def test_iptc_that_is_damaged_or_too_long(block: bytes) -> None:
    assert clean_iptc(block) is None
    if len(block) < 60_000:
        assert dropped(jpeg(segment(0xED, b"Photoshop 3.0\0" + resource(0x0404, block)))) == (
            "IPTC that is damaged or too long",
        )


# --- texts, comments and the tags of Windows ---

TEXTS = (("Title", "hill"), ("Author", "Zoë in 東京"), ("parameters", "a long story " * 50))


@pytest.mark.parametrize("depth", [8, 16])
def test_texts_of_a_png(depth: int) -> None:
    packed = zlib.compress(TEXTS[2][1].encode())
    data = png(
        depth,
        chunk(b"tEXt", b"Title\0hill"),
        chunk(b"iTXt", b"Author\0\0\0de\0Autor\0" + TEXTS[1][1].encode()),
        chunk(b"zTXt", b"parameters\0\0" + packed),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(">")),
    )
    photo = images.decode(data)
    assert photo.metadata is not None
    assert (photo.metadata.texts, photo.dropped) == (TEXTS, ())
    assert b"hill" not in images.encode(photo)
    written = images.encode(photo, metadata=True)
    with Image.open(io.BytesIO(written)) as other:
        assert isinstance(other, PngImagePlugin.PngImageFile)
        assert {key: str(other.text[key]) for key, _ in TEXTS} == dict(TEXTS)
    again = images.decode(written)
    assert again.metadata == photo.metadata
    for kind in ("JPEG", "WEBP", "AVIF", "TIFF"):
        assert images.lost(photo, kind) == ("text",)
    assert images.lost(photo, "BMP") == ("XMP", "text")


def test_text_that_is_damaged_or_a_bomb_is_named() -> None:
    bomb = zlib.compress(bytes(3_000_000))
    for body in (b"Title\0\0" + bomb, b"Title\0\0junk", b"\0\0" + zlib.compress(b"x")):
        damaged = png(16, b"", chunk(b"zTXt", body))
        assert "text that is damaged or too long" in contents(damaged, None).dropped
        assert contents(damaged, None).texts == ()
    many = b"".join(chunk(b"tEXt", b"Title\0" + b"x" * 300_000) for _ in range(5))
    assert len(contents(png(8, many), None).texts) == 3


def test_many_bombs_take_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Inflate:
        def decompress(self, data: bytes, most: int) -> bytes:
            sizes.append(most)
            return bytes(most)

    monkeypatch.setattr(zlib, "decompressobj", Inflate)
    contents(png(16, b"", chunk(b"zTXt", b"Title\0\0bomb") * 900), None)
    assert len(sizes) == 900
    assert sum(sizes) < 12 << 20


def test_comments_that_are_too_long_are_named() -> None:
    many = [segment(0xFE, b"x" * 65_000)] * 20
    found = contents(jpeg(*many), None)
    assert len(found.texts) == 16
    assert found.dropped == {"text that is damaged or too long"}


def test_comments_of_jpeg_and_png_are_the_same_text() -> None:
    for comment in ("hill", "Zoë in 東京"):
        photo = images.decode(jpeg(comment=comment.encode()))
        assert photo.metadata is not None
        assert photo.metadata.texts == (("Comment", comment),)
        for kind in ("JPEG", "PNG"):
            told = images.decode(images.encode(photo, kind, metadata=True)).metadata
            assert told is not None
            assert told.texts == (("Comment", comment),)
            assert images.lost(photo, kind) == ()
        assert images.lost(photo, "WEBP") == ("text",)
        assert comment.encode() not in images.encode(photo)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_tags_of_windows(kind: str) -> None:
    text = "Hügel".encode("utf-16-le") + b"\0\0"
    entries = tuple(Entry(tag, 1, len(text), text) for tag in range(0x9C9B, 0x9CA0))
    photo = images.decode(jpeg(exif=b"Exif\0\0" + with_directory(bytes(8), entries)))
    assert photo.dropped == ()
    assert text not in images.encode(photo, kind)
    with Image.open(io.BytesIO(images.encode(photo, kind, metadata=True))) as written:
        exif = written.getexif()
        for tag in range(0x9C9B, 0x9CA0):
            value = exif[tag]
            assert (bytes(value) if isinstance(value, tuple) else value) == text


def test_what_bmp_cannot_hold() -> None:
    exif = b"Exif\0\0" + with_directory(bytes(8), (Entry(0x010F, 2, 6, b"maker\0"),))
    photo = images.decode(jpeg(segment(0xED, b"Photoshop 3.0\0" + resource(0x0404, IPTC)), exif=exif, xmp=xmp(">")))
    assert images.lost(photo, "BMP") == ("EXIF", "IPTC", "XMP")
    assert images.lost(photo) == ()


def test_the_orientation_and_sizes_are_no_loss() -> None:
    exif = Image.Exif()
    for tag, value in {0x0112: 6, 0x0213: 1, 0x011A: 72.0, 0x0128: 2, 0x0100: 40, 0x013E: (0.3127, 0.329)}.items():
        exif[tag] = value
    assert collect(exif.tobytes(), None, None, 6)[1] == ()
