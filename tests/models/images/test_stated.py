"""Colors that files state: honored or refused, in 8 and in 16 bits alike, and never carried along to the result."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from models import images
from models.images.png import chunk
from models.images.profile import (
    is_hdr,
    is_sound,
    srgb_gray_profile,
    srgb_profile,
)
from models.images.profile import (
    stated as stated_colors,
)
from tests.models.images.directories import EXIF_IFD, Entry, with_directory, with_entries
from tests.models.images.mutants import adobe_profile, encoded, tiff

RAMP = np.linspace(0, 65_535, 24 * 40).round().astype(np.uint16).reshape(24, 40)
COLORS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)
D65 = (0.3127, 0.3290)
SRGB = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def shown(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, from linear light in [0, 1]."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def matrix(points: tuple[float, ...]) -> np.ndarray:
    """RGB to XYZ."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in zip(points[::2], points[1::2], strict=True)])
    primaries = xyz[1:].T
    return primaries * np.linalg.solve(primaries, xyz[0])


def converted(values: np.ndarray, points: tuple[float, ...]) -> np.ndarray:
    """Linear light of one space with white D65 as sRGB in [0, 1]."""
    return shown(np.clip(values @ (np.linalg.inv(matrix(SRGB)) @ matrix(points)).T, 0, 1))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(points: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in points)))


def cicp(*code: int) -> bytes:
    return chunk(b"cICP", bytes(code))


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))


def png(pixels: np.ndarray, depth: int, *chunks: bytes) -> bytes:
    if depth == 16:
        data = imagecodecs.png_encode(pixels)
    else:
        data = encoded(Image.fromarray((pixels / 257).round().astype(np.uint8)), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def read(data: bytes) -> np.ndarray:
    """Pixels in [0, 1]."""
    pixels = images.decode(data).pixels
    return pixels / np.iinfo(pixels.dtype).max


def stored(pixels: np.ndarray, depth: int) -> np.ndarray:
    return pixels / 65_535 if depth == 16 else (pixels / 257).round() / 255


DEPTHS = pytest.mark.parametrize("depth", [8, 16])


@DEPTHS
@pytest.mark.parametrize("gamma", [1.0, 0.7, 1 / 1.8])
def test_gamma_of_a_png(depth: int, gamma: float) -> None:
    tolerance = 1.6 / 255 if depth == 8 else 24 / 65_535
    for pixels in (RAMP, COLORS):
        data = png(pixels, depth, gama(gamma))
        expected = shown(stored(pixels, depth) ** (1 / gamma))
        found = read(data)
        assert np.abs(found - expected.reshape(24, 40, -1)).max() < tolerance
        assert images.decode(data).icc == srgb_profile()


@DEPTHS
@pytest.mark.parametrize(
    "chunks",
    [
        (gama(1 / 2.2),), (gama(0.45455), chrm(SRGB)), (chrm(SRGB),), (chunk(b"sRGB", b"\0"), gama(1.0), chrm(P3)),
        (cicp(1, 13, 0, 1),), (cicp(1, 13, 0, 1), gama(1.0)), (cicp(2, 2, 0, 1),), (gama(0.0),), (gama(20.0),),
        (chrm((0.0,) * 8),), (chunk(b"gAMA", b"ab"), chunk(b"cHRM", b"ab"), chunk(b"cICP", b"ab")),
    ],
)  # fmt: skip
def test_what_means_srgb_or_nothing_changes_nothing(depth: int, chunks: tuple[bytes, ...]) -> None:
    photo = images.decode(png(COLORS, depth, *chunks))
    np.testing.assert_array_equal(photo.pixels / np.iinfo(photo.pixels.dtype).max, stored(COLORS, depth))
    assert photo.icc is None


@DEPTHS
@pytest.mark.parametrize(
    ("chunks", "points", "power"),
    [
        ((chrm(P3),), P3, None),
        ((gama(1.0), chrm(P3)), P3, 1.0),
        ((cicp(12, 13, 0, 1),), P3, None),
        ((cicp(12, 8, 0, 1), gama(0.7), chunk(b"sRGB", b"\0"), iccp(adobe_profile())), P3, 1.0),
        ((cicp(9, 4, 0, 1),), (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046), 2.2),
        ((iccp(adobe_profile()), gama(1.0)), (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 563 / 256),
        ((iccp(b"no profile"), gama(1.0), chrm(P3)), P3, 1.0),
    ],
)
def test_primaries_of_a_png_and_what_comes_first(
    depth: int, chunks: tuple[bytes, ...], points: tuple[float, ...], power: float | None
) -> None:
    values = stored(COLORS, depth)
    light = linear(values) if power is None else values**power
    found = read(png(COLORS, depth, *chunks))
    assert np.abs(found - converted(light, points)).max() < (3 / 255 if depth == 8 else 0.004)
    gray = read(png(RAMP, depth, *chunks[:1])) if chunks[0][4:8] != b"iCCP" else None
    if gray is not None:  # primaries mean nothing to gray
        one = stored(RAMP, depth)
        expected = one if power is None else shown(one**power)
        assert np.abs(gray[:, :, 1] - expected).max() < (1.6 / 255 if depth == 8 else 0.001)


@DEPTHS
@pytest.mark.parametrize(
    "chunks",
    [
        (cicp(9, 16, 0, 1),),
        (cicp(9, 18, 0, 1), gama(0.45455)),
        (cicp(12, 13, 1, 1),),
        (cicp(1, 13, 0, 0),),
        (cicp(99, 13, 0, 1),),
    ],
)
def test_hdr_and_odd_codes_are_refused(depth: int, chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(images.UnsupportedFormat, match=r"HDR pictures \((PQ|HLG)\)|cICP"):
        images.decode(png(COLORS, depth, *chunks))


def hdr_profile(named: bool) -> bytes:
    """Display P3 that says it is PQ: by its tag, or by its name alone."""
    made = stated_colors(P3, None)
    assert made is not None
    name = "Rec2100 PQ" if named else "wide"
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(name), 28) + name.encode("utf-16-be")
    places = struct.iter_unpack(">4sII", made[132 : 132 + 12 * made[131]])
    tags = (
        {name: made[at : at + size] for name, at, size in places}
        | {b"desc": text}
        | ({} if named else {b"cicp": b"cicp\0\0\0\0\x0c\x10\0\1"})
    )
    at, entries, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags.items():
        entries += tag + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    whole = made[4:128] + struct.pack(">I", len(tags)) + entries + body
    return struct.pack(">I", len(whole) + 4) + whole


@pytest.mark.parametrize("named", [False, True])
def test_hdr_profiles_are_refused(named: bool) -> None:
    profile = hdr_profile(named)
    assert is_sound(profile)
    eight = Image.fromarray((COLORS >> 8).astype(np.uint8))
    files = [encoded(eight, kind, icc_profile=profile) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")]
    for data in (*files, png(COLORS, 16, iccp(profile)), tiff(COLORS, photometric="rgb", iccprofile=profile)):
        with pytest.raises(images.UnsupportedFormat, match="HDR"):
            images.decode(data)
    assert not is_hdr(srgb_profile())
    assert not is_hdr(adobe_profile())


# --- TIFF, EXIF, BMP ---


def rationals(tag: int, values: tuple[float, ...]) -> tuple[Any, ...]:
    numbers = [part for value in values for part in (round(value * 1_000_000), 1_000_000)]
    return (tag, 5, len(values), tuple(numbers), True)


@DEPTHS
def test_tags_of_a_tiff(depth: int) -> None:
    pixels = COLORS if depth == 16 else (COLORS / 257).round().astype(np.uint8)
    values = stored(COLORS, depth)
    curve = tuple(np.linspace(0, 65_535, 1 << depth).round().astype(int).tolist())  # linear light
    points = [rationals(318, P3[:2]), rationals(319, P3[2:])]
    tolerance = 3 / 255 if depth == 8 else 0.004
    for tags, expected in (
        (points, converted(linear(values), P3)),
        ([*points, (301, 3, len(curve), curve, True)], converted(values, P3)),
        ([(301, 3, 3 * len(curve), curve * 3, True)], shown(values)),
    ):
        data = tiff(pixels, photometric="rgb", extratags=tags)
        assert np.abs(read(data) - expected).max() < tolerance
        assert images.decode(data).icc == srgb_profile()
    gray = RAMP if depth == 16 else (RAMP / 257).round().astype(np.uint8)
    data = tiff(gray, photometric="minisblack", extratags=[(301, 3, len(curve), curve, True)])
    assert np.abs(read(data)[:, :, 0] - shown(stored(RAMP, depth))).max() < tolerance


@DEPTHS
def test_tags_of_a_tiff_that_mean_srgb(depth: int) -> None:
    pixels = COLORS if depth == 16 else (COLORS / 257).round().astype(np.uint8)
    light = np.linspace(0, 1, 1 << depth)
    for curve in (linear(light), light**2.2):
        table = tuple((curve * 65_535).round().astype(int).tolist())
        tags = [rationals(318, D65), rationals(319, SRGB[2:]), (301, 3, len(table), table, True)]
        photo = images.decode(tiff(pixels, photometric="rgb", extratags=tags))
        np.testing.assert_array_equal(photo.pixels, pixels)
    tags = [rationals(318, P3[:2]), rationals(319, P3[2:])]
    profiled = images.decode(tiff(pixels, photometric="rgb", extratags=tags, iccprofile=srgb_profile()))
    np.testing.assert_array_equal(profiled.pixels, pixels)  # the profile comes first


def adobe_tags(interoperability: bool) -> tuple[Entry, ...]:
    """EXIF that says Adobe RGB: as cameras do (DCF), or as many programs do."""
    if interoperability:
        index = (Entry(1, 2, 4, b"R03\0"),)
        inner: tuple[Entry, ...] = (
            Entry(0xA001, 3, 1, struct.pack("<H", 0xFFFF)), Entry(0xA005, 4, 1, index),
            Entry(0xA500, 5, 1, struct.pack("<II", 22, 10)),
        )  # fmt: skip
    else:
        inner = (Entry(0xA001, 3, 1, struct.pack("<H", 2)),)
    white = Entry(318, 5, 2, struct.pack("<4I", 3127, 10_000, 329, 1000))
    return (Entry(0x010F, 2, 6, b"maker\0"), white, Entry(EXIF_IFD, 4, 1, inner))


def adobe_exif(interoperability: bool) -> bytes:
    return with_directory(bytes(8), adobe_tags(interoperability))


@pytest.mark.parametrize("interoperability", [False, True])
def test_adobe_rgb_by_exif(interoperability: bool) -> None:
    exif = b"Exif\0\0" + adobe_exif(interoperability)
    picture = Image.fromarray((COLORS >> 8).astype(np.uint8))
    options: dict[str, Any] = {"quality": 95}
    for kind in ("JPEG", "TIFF"):
        if kind == "TIFF":
            options = {}
            tagged, own = (
                with_entries(encoded(picture, kind, **more), adobe_tags(interoperability))
                for more in ({}, {"icc_profile": srgb_profile()})
            )
        else:
            tagged = encoded(picture, kind, exif=exif, **options)
            own = encoded(picture, kind, exif=exif, icc_profile=srgb_profile(), **options)
        plain, profiled = (
            encoded(picture, kind, **options),
            encoded(picture, kind, icc_profile=adobe_profile(), **options),
        )
        assert np.abs(read(tagged) - read(profiled)).max() < 3 / 255
        assert np.abs(read(tagged) - read(plain)).max() > 20 / 255
        np.testing.assert_array_equal(read(own), read(plain))  # an embedded profile comes first
    for kind in ("PNG", "WEBP"):  # their specifications say sRGB
        options = {} if kind == "PNG" else {"lossless": True}
        np.testing.assert_array_equal(read(encoded(picture, kind, exif=exif, **options)), np.asarray(picture) / 255)


def test_profile_inside_a_bmp() -> None:
    picture = Image.fromarray((COLORS >> 8).astype(np.uint8))
    plain = encoded(picture, "BMP")
    profile, pixels = adobe_profile(), plain[54:]
    head = bytearray(124)
    head[:40] = plain[14:54]
    struct.pack_into("<I", head, 0, 124)
    head[56:60] = b"DEBM"
    struct.pack_into("<II", head, 112, 124 + len(pixels), len(profile))
    data = b"BM" + struct.pack("<IHHI", 138 + len(pixels) + len(profile), 0, 0, 138) + head + pixels + profile
    np.testing.assert_array_equal(read(data), read(encoded(picture, "PNG", icc_profile=profile)))


def test_floating_values_are_taken_as_srgb_and_a_note_says_so() -> None:
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(4, 5, 3)
    photo = images.decode(tiff(values, photometric="rgb"))
    assert "not as linear light" in photo.notes[0]
    np.testing.assert_array_equal(photo.pixels, np.rint(values * 65_535))
    linear_profile = stated_colors(SRGB, 1.0)
    photo = images.decode(tiff(values, photometric="rgb", iccprofile=linear_profile))
    assert photo.notes == ()
    assert np.abs(photo.pixels / 65_535 - shown(values.astype(float))).max() < 0.001
    assert images.decode(tiff(COLORS, photometric="rgb")).notes == ()


# --- what is written ---


def colors_stated(data: bytes) -> list[str]:
    """What a file says of its colors beside an embedded sRGB profile."""
    found = [name.decode() for name in (b"gAMA", b"cHRM", b"cICP") if name in data]
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        found += [hex(tag) for tag in (301, 318, 319) if tag in exif]
        found += [hex(tag) for tag in (0xA001, 0xA005, 0xA500) if tag in exif.get_ifd(EXIF_IFD)]
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", "").encode()
        assert b"hill" in packet
        found += [word for word in ("65535", "Adobe RGB", "319/1000", "22/10") if word.encode() in packet]
        if "icc_profile" in image.info:
            assert image.info["icc_profile"] in (srgb_profile(), srgb_gray_profile())
    return found


PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r dc:title="hill" exif:ColorSpace="65535" exif:Gamma="22/10"'
    b' photoshop:ICCProfile="Adobe RGB (1998)"><exif:ColorSpace>65535</exif:ColorSpace>'
    b"<photoshop:ICCProfile>Adobe RGB (1998)</photoshop:ICCProfile><tiff:WhitePoint><rdf:Seq><rdf:li>319/1000</rdf:li>"
    b"</rdf:Seq></tiff:WhitePoint></r></x:xmpmeta>"
)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_stale_colors_are_not_carried_along(kind: str) -> None:
    exif, packet = chunk(b"eXIf", adobe_exif(True)), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET)
    sources = [png(pixels, depth, gama(1.0), chrm(P3), exif, packet) for pixels in (COLORS, RAMP) for depth in (8, 16)]
    sources.append(png(COLORS, 8, cicp(12, 13, 0, 1), exif, packet))
    eight = Image.fromarray((COLORS >> 8).astype(np.uint8))
    sources.append(encoded(eight, "JPEG", exif=b"Exif\0\0" + adobe_exif(True), xmp=PACKET))
    for data in sources:
        photo = images.decode(data)
        written = images.encode(photo, kind, metadata=True)
        assert colors_stated(written) == []
        again = images.decode(written)
        tolerance = 0 if kind in ("PNG", "TIFF") else 30
        assert (
            np.abs(again.pixels.astype(int) - photo.pixels).max()
            <= tolerance * (257 if again.pixels.dtype.itemsize > 1 else 1)
            or again.pixels.dtype != photo.pixels.dtype
        )


def test_profiles_of_our_own() -> None:
    for profile in (srgb_gray_profile(), stated_colors(P3, 1.8, gray=True), stated_colors(P3, None)):
        assert profile is not None
        assert is_sound(profile)
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    assert stated_colors((0.3, 0.3, *[0.3] * 6), None) is None


def test_a_png_without_colors_of_its_own_is_read_without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "PNG")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert images.decode(file.getvalue()).pixels[..., 0].tolist() == np.arange(64).reshape(8, 8).tolist()
