"""The image contract: what goes in, upright sRGB out, and nothing but typed errors."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from models import images
from models.images.png import chunk
from models.images.profile import srgb_profile
from models.paths import read_file
from tests.models.images.mutants import encoded

Make = Callable[..., np.ndarray]


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 256], axis=2).astype(np.uint8)


# --- what a file becomes ---


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_rgb_is_read_as_it_is(kind: str) -> None:
    photo = images.decode(encoded(Image.fromarray(gradient()), kind))
    np.testing.assert_array_equal(photo.pixels, gradient())
    assert (photo.format, photo.alpha, photo.icc) == (kind, None, None)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_are_close(kind: str, photo: Make) -> None:
    read = images.decode(encoded(Image.fromarray(photo(1)), kind, quality=95))
    assert read.format == kind
    assert np.abs(read.pixels.astype(int) - photo(1)).mean() < 6


def test_gray_becomes_three_equal_channels() -> None:
    gray = gradient()[:, :, 0]
    read = images.decode(encoded(Image.fromarray(gray), "PNG"))
    np.testing.assert_array_equal(read.pixels, np.repeat(gray[:, :, None], 3, axis=2))


def test_bilevel_is_black_and_white() -> None:
    read = images.decode(encoded(Image.fromarray(gradient()[:, :, 0]).convert("1"), "PNG"))
    assert set(np.unique(read.pixels)) == {0, 255}


def test_gray_with_alpha() -> None:
    rgb = gradient()
    image = Image.merge("LA", [Image.fromarray(rgb[:, :, 0]), Image.fromarray(rgb[:, :, 1])])
    read = images.decode(encoded(image, "PNG"))
    np.testing.assert_array_equal(read.pixels[:, :, 2], rgb[:, :, 0])
    np.testing.assert_array_equal(read.alpha, rgb[:, :, 1])


def test_palette_with_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    image.putdata([0, 1, 2, 1])
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    read = images.decode(encoded(image, "PNG", transparency=1))
    np.testing.assert_array_equal(read.pixels[:, :, :3], [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]])
    np.testing.assert_array_equal(read.alpha, [[255, 0], [255, 0]])


def test_cmyk() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red, green, blue = images.decode(encoded(cmyk, "JPEG")).pixels[4, 4].astype(int)
    assert red > 230
    assert max(green, blue) < 30


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_depth(kind: str) -> None:
    values = np.linspace(0, 65_535, 24 * 40).astype(np.uint16).reshape(24, 40)
    read = images.decode(encoded(Image.fromarray(values), kind))
    assert read.pixels.dtype == np.uint16
    np.testing.assert_array_equal(read.pixels[:, :, 1], values)
    np.testing.assert_array_equal(images.decode(images.encode(read)).pixels, read.pixels)


def png(header: bytes, rows: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255, 0, 0
    upright[:16, 24:] = 0, 255, 0
    upright[16:, :24] = 0, 0, 255
    undo = {  # how a camera that writes this orientation stores the upright picture
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    read = images.decode(
        encoded(stored, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    )
    assert read.pixels.shape == upright.shape
    for y, x in ((8, 12), (8, 36), (24, 12), (24, 36)):
        assert np.abs(read.pixels[y, x].astype(int) - upright[y, x]).max() < 40


def swapped_profile() -> bytes:
    """An RGB profile whose red and green primaries are swapped, so that a conversion is plain to see."""
    data = bytearray(srgb_profile())
    count = struct.unpack(">I", data[128:132])[0]
    for index in range(count):
        entry = 132 + 12 * index
        name = bytes(data[entry : entry + 4])
        if name in (b"rXYZ", b"gXYZ"):
            data[entry : entry + 4] = b"gXYZ" if name == b"rXYZ" else b"rXYZ"
        if name == b"desc":
            start, length = struct.unpack(">II", data[entry + 4 : entry + 12])
            at = bytes(data).find("sRGB".encode("utf-16-be"), start, start + length)
            data[at : at + 8] = "Swap".encode("utf-16-be")
    return bytes(data)


def test_profile_is_converted_to_srgb_and_carried_over() -> None:
    data = encoded(Image.new("RGB", (8, 8), (255, 0, 0)), "PNG", icc_profile=swapped_profile())
    read = images.decode(data)
    assert read.pixels[0, 0].tolist()[1] > 250
    assert read.pixels[0, 0].tolist()[0] < 5
    assert read.icc == srgb_profile()
    with Image.open(io.BytesIO(images.encode(read))) as written:
        assert written.info["icc_profile"] == srgb_profile()
    np.testing.assert_array_equal(images.decode(images.encode(read)).pixels, read.pixels)


@pytest.mark.parametrize("profile", [b"no profile at all", srgb_profile()[:200]])
def test_damaged_profile_counts_as_none(profile: bytes) -> None:
    read = images.decode(encoded(Image.fromarray(gradient()), "PNG", icc_profile=profile))
    np.testing.assert_array_equal(read.pixels, gradient())
    assert read.icc is None


def test_profile_for_another_color_model_counts_as_none() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    read = images.decode(encoded(Image.fromarray(gradient()), "PNG", icc_profile=lab))
    np.testing.assert_array_equal(read.pixels, gradient())


# --- what is refused ---


def test_too_many_bytes() -> None:
    data = encoded(Image.fromarray(gradient()), "PNG")
    images.decode(data, images.ImageLimits(max_bytes=len(data)))
    with pytest.raises(images.ImageTooLarge, match="at most"):
        images.decode(data, images.ImageLimits(max_bytes=len(data) - 1))


def test_pixels_are_counted_from_the_header() -> None:
    bomb = png(struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0), b"")  # no pixel data at all
    with pytest.raises(images.ImageTooLarge):
        images.decode(bomb)
    smaller = png(struct.pack(">IIBBBBB", 2_000, 1_000, 8, 2, 0, 0, 0), b"")
    with pytest.raises(images.ImageTooLarge, match="2000x1000"):
        images.decode(smaller, images.ImageLimits(max_pixels=1_999_999))
    with pytest.raises(images.ImageError) as raised:
        images.decode(smaller, images.ImageLimits(max_pixels=2_000_000))
    assert raised.value.code in ("corrupt", "truncated")


def test_aspect() -> None:
    data = encoded(Image.new("RGB", (100, 2)), "PNG")
    assert images.decode(data).pixels.shape == (2, 100, 3)
    with pytest.raises(images.ImageTooLarge, match="100x2"):
        images.decode(data, images.ImageLimits(max_aspect=49))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_truncated(kind: str, photo: Make) -> None:
    data = encoded(Image.fromarray(photo(3)), kind)
    with pytest.raises(images.TruncatedImage) as raised:
        images.decode(data[: len(data) * 2 // 3])
    assert raised.value.code == "truncated"


def test_empty_file_is_truncated() -> None:
    with pytest.raises(images.TruncatedImage, match="empty"):
        images.decode(b"")


def test_corrupt() -> None:
    data = bytearray(encoded(Image.fromarray(gradient()), "PNG"))
    at = data.index(b"IDAT") + 8
    data[at : at + 40] = bytes(40)
    with pytest.raises(images.CorruptImage) as raised:
        images.decode(bytes(data))
    assert raised.value.code == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(gradient()), "GIF"),
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"just text",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_unsupported(data: bytes) -> None:
    with pytest.raises(images.UnsupportedFormat, match="accepted format") as raised:
        images.decode(data)
    assert raised.value.code == "unsupported_format"


def box(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + bytes(12)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (box(b"crx "), "a camera's raw file"),
        (box(b"isom"), r"a video \(MP4\)"), (box(b"qt  "), r"a video \(QuickTime\)"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"), (b"\0\0\0\x0cJXL \r\n", "JPEG XL"), (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"), (b"8BPS\0\1", "a Photoshop file"), (b"%PDF-1.7\n", "PDF"),
        (encoded(Image.fromarray(gradient()), "GIF"), "GIF"), (encoded(Image.fromarray(gradient()), "ICO"), "an icon"),
        (b"<?xml version='1.0'?>\n<!-- hill -->\n<svg/>", "SVG"), (b"  <svg width='9'/>", "SVG"),
        (b"<!DOCTYPE html><html>", "an HTML page"), (b"\xef\xbb\xbf<HTML>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"), (b"PK\3\4", "a zip archive"),
        (b"\x1f\x8b\x08", "compressed by gzip"), (b"/9j/4AAQSkZJRg==", "an image in base64"),
        (b"data:image/png;base64,iVBOR", "an image in base64"), (b"\0\5\x16\7\0\2", "AppleDouble"),
        (b"RIFF\0\0\0\0AVI LIST", r"a video \(AVI\)"), (b"\x1a\x45\xdf\xa3\x93", "Matroska"),
        (bytes(5000), "5,000 bytes of nothing but zeros"),
    ],
)  # fmt: skip
def test_errors_say_what_a_file_is(data: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "hill.jpg").write_bytes(data)
    with pytest.raises(images.UnsupportedFormat, match=rf"hill\.jpg: this is .*{kind}.*, not an image of an accepted"):
        images.read_image(tmp_path / "hill.jpg", images.ImageLimits())
    with pytest.raises(images.UnsupportedFormat, match=kind):
        images.probe(data, images.ImageLimits())


def test_formats_can_be_narrowed() -> None:
    with pytest.raises(images.UnsupportedFormat, match=r"this is PNG, .* \(JPEG\)"):
        images.decode(encoded(Image.fromarray(gradient()), "PNG"), images.ImageLimits(formats=("JPEG",)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_animation_only_on_request(kind: str) -> None:
    frames = [Image.fromarray(gradient()), Image.new("RGB", (40, 24), (9, 9, 9))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.raises(images.UnsupportedFormat, match="several frames"):
        images.decode(data)
    read = images.decode(data, images.ImageLimits(first_frame=True))
    np.testing.assert_array_equal(read.pixels, gradient())


def test_jpeg_with_a_second_picture_is_a_jpeg(photo: Make) -> None:
    first, second = Image.fromarray(photo(1)), Image.fromarray(photo(2))
    read = images.decode(encoded(first, "MPO", save_all=True, append_images=[second], quality=95))
    assert read.format == "JPEG"
    assert np.abs(read.pixels.astype(int) - photo(1)).mean() < 6


# --- round trips ---

PIXELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)))


@settings(max_examples=50, deadline=None)
@given(pixels=PIXELS, kind=st.sampled_from(["PNG", "TIFF", "BMP"]))
def test_lossless_round_trip(pixels: np.ndarray, kind: str) -> None:
    read = images.decode(images.encode(images.Photo(pixels), kind))
    np.testing.assert_array_equal(read.pixels, pixels)
    assert read.format == kind


@settings(max_examples=50, deadline=None)
@given(pixels=PIXELS)
def test_tensor_round_trip(pixels: np.ndarray) -> None:
    tensor = images.to_tensor(pixels)
    assert tensor.shape == (1, 3, *pixels.shape[:2])
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(images.to_uint8(tensor)[0], pixels)


def test_channel_order_is_rgb() -> None:
    red = images.decode(encoded(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG"))
    assert red.tensor()[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_to_uint8_rounds_half_up_and_clamps() -> None:
    values = torch.tensor([-1.0, 0.5 / 255, 0.49 / 255, 1.5 / 255, 2.0]).view(1, 1, 1, 5)
    assert images.to_uint8(values).ravel().tolist() == [0, 1, 0, 2, 255]


def test_16_bit_tensor_round_trip() -> None:
    values = np.arange(0, 65_536, 97, dtype=np.uint16)[:600].reshape(10, 20, 3)
    photo = images.Photo(values)
    np.testing.assert_array_equal(photo.with_tensor(photo.tensor()).pixels, values)


def test_to_tensor_names_what_it_got() -> None:
    with pytest.raises(ValueError, match="float64"):
        images.to_tensor(np.zeros((4, 4, 3)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_put_back(kind: str) -> None:
    alpha = gradient()[:, :, 1]
    photo = images.Photo(gradient(), alpha=alpha, format=kind)
    read = images.decode(images.encode(photo.with_tensor(photo.tensor() * 0.5)))
    np.testing.assert_array_equal(read.alpha, alpha)
    assert read.pixels[alpha > 0].max() <= 140


@pytest.mark.parametrize("kind", ["JPEG", "BMP"])
def test_alpha_is_dropped_where_there_is_none(kind: str) -> None:
    assert images.decode(images.encode(images.Photo(gradient(), alpha=gradient()[:, :, 1]), kind)).alpha is None


def test_with_tensor_refuses_another_size_under_alpha() -> None:
    photo = images.Photo(gradient(), alpha=gradient()[:, :, 1])
    with pytest.raises(ValueError, match="alpha"):
        photo.with_tensor(torch.zeros(1, 3, 8, 8))
    assert images.Photo(gradient()).with_tensor(torch.zeros(1, 3, 8, 9)).pixels.shape == (8, 9, 3)


def test_16_bit_color_is_rounded_to_8_where_the_format_has_no_more() -> None:
    values = np.array([[[0, 128, 65_535], [257, 386, 65_406]]], np.uint16)
    read = images.decode(images.encode(images.Photo(values), "BMP"))
    np.testing.assert_array_equal(read.pixels, [[[0, 0, 255], [1, 2, 254]]])


def test_encoding_is_deterministic() -> None:
    photo = images.Photo(gradient(), icc=srgb_profile())
    assert images.encode(photo, "JPEG") == images.encode(photo, "JPEG")


def test_quality_matters(photo: Make) -> None:
    small, large = (len(images.encode(images.Photo(photo(2)), "JPEG", quality)) for quality in (30, 95))
    assert small * 2 < large


def test_unknown_format_and_impossible_side() -> None:
    with pytest.raises(images.UnsupportedFormat, match="GIF"):
        images.encode(images.Photo(gradient()), "GIF")
    with pytest.raises(images.ImageTooLarge, match="16383"):
        images.encode(images.Photo(np.zeros((1, 16_400, 3), np.uint8)), "WEBP")


# --- files ---


def test_a_uri_with_options_is_written_by_its_name(bucket: Callable[[str], str]) -> None:
    images.write_image(images.Photo(np.zeros((4, 5, 3), np.uint8)), bucket("a.png"))
    assert (read_file(bucket("a.png")) or b"").startswith(b"\x89PNG")


def test_read_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    with pytest.raises(images.ImageError, match=r"broken\.jpg"):
        images.read_image(tmp_path / "broken.jpg")
    with pytest.raises(images.ImageTooLarge, match=r"broken\.jpg"):
        images.read_image(tmp_path / "broken.jpg", images.ImageLimits(max_bytes=3))
    with pytest.raises(FileNotFoundError):
        images.read_image(tmp_path / "missing.jpg")


@pytest.mark.parametrize(("width", "height"), [(20, 10), (80, 60), (40, 24)])
def test_resize(width: int, height: int) -> None:
    resized = images.resize(gradient(), width, height)
    assert resized.shape == (height, width, 3)
    assert abs(resized.mean() - gradient().mean()) < 3
    assert images.resize(gradient()[:, :, 0], width, height).shape == (height, width)


def test_resize_16_bits() -> None:
    deep = gradient().astype(np.uint16) * 257
    resized = images.resize(deep, 20, 10)
    assert resized.dtype == np.uint16
    np.testing.assert_allclose(resized / 257, images.resize(gradient(), 20, 10), atol=1)


@pytest.mark.parametrize(
    "pixels",
    [gradient() / 255, gradient()[..., 0], np.dstack([gradient(), gradient()[..., 0]]), gradient().transpose(2, 0, 1)],
)
def test_pixels_that_are_no_photograph_are_named(pixels: np.ndarray) -> None:
    with pytest.raises(images.ImageError, match=f"pixels are {pixels.dtype}.*expected uint8 or uint16"):
        images.Photo(pixels)


@pytest.mark.parametrize("alpha", [gradient()[:3, :, 0], gradient()[..., 0].astype(np.uint16)])
def test_alpha_that_does_not_fit_is_named(alpha: np.ndarray) -> None:
    with pytest.raises(images.ImageError, match=f"alpha is {alpha.dtype}.*expected uint8"):
        images.Photo(gradient(), alpha=alpha)


def test_warnings_of_a_program_are_not_shown_again_for_every_photograph() -> None:
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda *told: shown.append(told)  # type: ignore[assignment]
        for _ in range(4):
            images.decode(encoded(Image.fromarray(gradient()), "PNG"))
            warnings.warn("once", stacklevel=1)
    assert len(shown) == 1
