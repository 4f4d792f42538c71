"""Damaged image files, the same every time, and a process that decodes them within bounds: run as a module, it prints
what became of each.
"""

from __future__ import annotations

import io
import json
import re
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from models import images
from models.images.profile import srgb_profile
from tests.models.images.directories import Entry, with_entries

HEIC = Path(__file__).parent / "heic"
LIMITS = images.ImageLimits(max_pixels=4_000_000)
ADDRESS_SPACE = 1 << 30  # above what the process holds before the first file
SIDES = (0, 1, 29, 31, 255, 256, 2000, 16_384, 60_000, 65_535, 0x7FFF_FFFF, 0xFFFF_FFFF)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def undated(avif: bytes) -> bytes:
    """Without the times when its tracks were made, the same bytes every time."""
    data = bytearray(avif)
    for name in (b"mvhd", b"tkhd", b"mdhd"):
        for found in re.finditer(name, avif):
            assert data[found.end()] == 1  # the version: numbers of 64 bits
            data[found.end() + 4 : found.end() + 20] = bytes(16)
    return bytes(data)


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def told() -> bytes:
    """EXIF with an orientation, a comment, a place and a thumbnail's worth of text."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x829A: (1, 250), 0x927C: bytes(300)}
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 33.0)}
    return exif.tobytes()


def adobe_profile() -> bytes:
    """Adobe RGB (1998), the same bytes every time."""
    data = bytearray(imagecodecs.cms_profile("adobergb"))
    data[24:36] = srgb_profile()[24:36]  # the creation time
    return bytes(data)


def with_more(jpeg: bytes, png: bytes) -> dict[str, bytes]:
    """A JPEG and a PNG with much beside the picture."""
    iptc = b"\x1c\2\5\0\4hill\x1c\2\xca\0\4view"
    resources = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc
    packet = b"http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version='1'><Container:Directory>a</Container:Directory></x>"
    bodies = ((0xED, resources), (0xFE, b"a comment"), (0xE2, b"MPF\0" + bytes(20)), (0xE1, packet))
    segments = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in bodies)
    points = struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
    parts = (
        (b"cHRM", points), (b"gAMA", struct.pack(">I", 100_000)), (b"tEXt", b"Title\0hill"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"hill " * 99)), (b"tIME", bytes(7)),
    )  # fmt: skip
    chunks = b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts)
    return {"jpeg more": jpeg[:2] + segments + jpeg[2:] + jpeg, "png more": png[:33] + chunks + png[33:]}


def seeds() -> dict[str, bytes]:
    """Sound files of every format and depth."""
    random = np.random.default_rng(7)
    deep = random.integers(0, 65_536, (20, 30, 4), dtype=np.uint16)
    image = Image.fromarray((deep[:, :, :3] >> 8).astype(np.uint8))
    lab = image.convert("RGB").tobytes()
    icc, adobe = srgb_profile(), adobe_profile()
    exif = told()
    return {
        "jpeg": encoded(image, "JPEG", exif=exif, icc_profile=icc, xmp=b"<x tiff:Orientation='3'/>"),
        "jpeg progressive": encoded(image, "JPEG", progressive=True, icc_profile=adobe),
        "jpeg gray": encoded(image.convert("L"), "JPEG"),
        "jpeg cmyk": encoded(image.convert("CMYK"), "JPEG"),
        **with_more(encoded(image, "JPEG"), encoded(image, "PNG")),
        "mpo": encoded(image, "MPO", save_all=True, append_images=[image]),
        "png": encoded(image, "PNG", icc_profile=adobe, exif=exif),
        "png palette": encoded(image.convert("P"), "PNG", transparency=3),
        "png 16 gray": imagecodecs.png_encode(deep[:, :, 0].copy()),
        "png 16 alpha": imagecodecs.png_encode(deep[:, :, :2].copy()),
        "png 16 color": images.encode(images.Photo(deep[:, :, :3], icc=adobe), "PNG"),
        "png 16 both": imagecodecs.png_encode(deep),
        "apng": encoded(image, "PNG", save_all=True, append_images=[image.rotate(180)]),
        "webp": encoded(image, "WEBP", exif=exif, icc_profile=icc),
        "webp lossless": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "webp animated": encoded(image, "WEBP", save_all=True, append_images=[image.rotate(180)]),
        "avif": encoded(image, "AVIF", exif=exif, icc_profile=icc, quality=90),
        "avif alpha": encoded(image.convert("RGBA"), "AVIF", quality=90),
        "avif animated": undated(encoded(image, "AVIF", save_all=True, append_images=[image.rotate(180)], quality=90)),
        **{f"heic {path.stem}": path.read_bytes() for path in sorted(HEIC.iterdir())},
        "bmp": encoded(image, "BMP"),
        "bmp palette": encoded(image.convert("P"), "BMP"),
        "tiff": encoded(image, "TIFF", exif=exif),
        "tiff deflate": encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        "tiff lzw": encoded(image, "TIFF", compression="tiff_lzw", icc_profile=adobe),
        "tiff jpeg": encoded(image, "TIFF", compression="jpeg"),
        "tiff fax": encoded(image.convert("1"), "TIFF", compression="group4"),
        "tiff cmyk": encoded(image.convert("CMYK"), "TIFF"),
        "tiff lab": encoded(Image.frombytes("LAB", image.size, lab), "TIFF"),
        "tiff 16": tiff(deep[:, :, :3], photometric="rgb", iccprofile=adobe),
        "tiff 16 deflate": tiff(deep, photometric="rgb", extrasamples=[1], compression="zlib", predictor=True),
        "tiff 16 lzw": tiff(deep[:, :, :3], photometric="rgb", compression="lzw", rowsperstrip=6, byteorder=">"),
        "tiff 16 packbits": tiff(deep[:, :, 0], photometric="minisblack", compression="packbits"),
        "tiff 16 tiles": tiff(deep[:, :, :3], photometric="rgb", tile=(16, 16), compression="zlib"),
        "tiff 16 planes": tiff(np.moveaxis(deep[:, :, :3], 2, 0), photometric="rgb", planarconfig="separate"),
        "tiff 16 cmyk": tiff(deep, photometric="separated"),
        "tiff 16 lab": tiff(deep[:, :, :3], photometric="cielab"),
        "tiff float": tiff((deep[:, :, :3] / 65_535).astype(np.float32), photometric="rgb", compression="zlib"),
        "bigtiff": tiff(deep[:, :, :3], photometric="rgb", bigtiff=True),
    }


# --- what is done to them ---


def noise(data: bytearray, random: np.random.Generator) -> None:
    for _ in range(int(random.integers(1, 9))):
        at = int(random.integers(0, len(data) if random.random() < 0.5 else min(200, len(data))))
        data[at] ^= 1 << int(random.integers(0, 8))


def cut(data: bytearray, random: np.random.Generator) -> None:
    del data[int(random.integers(0, len(data))) :]


def lengths(data: bytearray, random: np.random.Generator) -> None:
    """Numbers that may be lengths, counts, offsets or sides become others."""
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(0, len(data) if random.random() < 0.3 else min(400, len(data))))
        value = int(random.choice(SIDES))
        form = random.choice(["<I", ">I", "<H", ">H"])
        packed = struct.pack(form, value & (0xFFFF if form[1] == "H" else 0xFFFF_FFFF))
        data[at : at + len(packed)] = packed


def moved(data: bytearray, random: np.random.Generator) -> None:
    """Two stretches change places, or one is there twice or not at all."""
    a, b = sorted(int(value) for value in random.integers(0, len(data), 2))
    length = int(random.integers(1, 60))
    first, second = bytes(data[a : a + length]), bytes(data[b : b + length])
    kind = random.integers(0, 3)
    if kind == 0 and a + length <= b:
        data[a : a + length], data[b : b + length] = second, first
    elif kind == 1:
        data[b:b] = first
    else:
        del data[a : a + length]


def appended(data: bytearray, random: np.random.Generator) -> None:
    """Something behind the end: garbage, or a file of another format."""
    data += (
        random.bytes(int(random.integers(1, 5000))) if random.random() < 0.5 else b"PK\3\4<svg/>\xff\xd8\xff\xd9II*\0"
    )


def lying_size(data: bytearray, random: np.random.Generator) -> None:
    """Another size where the format keeps it, with a sound check sum."""
    width, height = (int(value) for value in random.choice(SIDES, 2))
    if data.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif data.startswith(b"\xff\xd8"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        data[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif data.startswith(b"BM"):
        data[18:26] = struct.pack("<II", width, height)
    elif data.startswith(b"RIFF"):
        data[24:30] = (width & 0xFFFFFF).to_bytes(3, "little") + (height & 0xFFFFFF).to_bytes(3, "little")
    elif (at := data.find(b"ispe")) > 0:
        data[at + 8 : at + 16] = struct.pack(">II", width, height)
    else:
        lying_tag(data, random)


def lying_tag(data: bytearray, random: np.random.Generator) -> None:
    """Another number in an entry of a TIFF's first directory: its type, count, or value; noise for other formats."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return noise(data, random)
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, at)[0]
    entry = at + 2 + 12 * int(random.integers(0, count))
    kind = random.integers(0, 4)
    if kind == 0:
        struct.pack_into(order + "H", data, entry + 2, int(random.integers(0, 20)))
    elif kind == 1:
        struct.pack_into(order + "I", data, entry + 4, int(random.choice(SIDES)))
    else:
        struct.pack_into(order + "I", data, entry + 8, int(random.choice(SIDES)))
    return None


def mended(data: bytearray, random: np.random.Generator) -> None:
    """Noise in a PNG whose check sums are put right again, so that the decoder gets to see it."""
    if not data.startswith(b"\x89PNG"):
        return noise(data, random)
    at, found = 8, []
    while at + 12 <= len(data):
        found.append((at, struct.unpack_from(">I", data, at)[0]))
        at += 12 + found[-1][1]
    at, length = found[int(random.integers(0, len(found)))]
    if length:
        data[at + 8 + int(random.integers(0, length))] ^= int(random.integers(1, 256))
        struct.pack_into(">I", data, at + 8 + length, zlib.crc32(data[at + 4 : at + 8 + length]))
    return None


CHANGES: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    noise, cut, lengths, moved, appended, lying_size, lying_tag, mended,
)  # fmt: skip


def mutants(count: int, seed: int = 11) -> Iterator[tuple[str, bytes]]:
    """``count`` files and what each is: the made-up ones first, then every seed changed in every way in turn."""
    sound = seeds()
    special = made_up(sound)
    yield from list(special.items())[:count]
    names = sorted(sound)
    for index in range(count - len(special)):
        random = np.random.default_rng((seed, index))
        name, change = names[index % len(names)], CHANGES[index // len(names) % len(CHANGES)]
        data = bytearray(sound[name])
        change(data, random)
        if random.random() < 0.2 and data:
            noise(data, random)
        yield f"{name}, {change.__name__}, {index}", bytes(data)


def png(width: int, height: int, depth: int, kind: int, pixels: bytes) -> bytes:
    parts = ((b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b""))
    chunks = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def made_up(sound: dict[str, bytes]) -> dict[str, bytes]:
    """Files that chance would not find."""
    zeros = zlib.compress(bytes(50_000_000), 9)
    jpeg = encoded(Image.new("RGB", (1500, 1000), (90, 120, 150)), "JPEG", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    one = np.zeros((1, 1, 3), np.uint16)
    bomb = bytearray(tiff(np.zeros((2000, 1000, 3), np.uint16), photometric="rgb", compression="zlib"))
    found: dict[str, bytes] = {
        "nothing": b"",
        "one byte": b"\x89",
        "bomb of 8 bits": png(1000, 1000, 8, 2, zeros),
        "bomb of 16 bits": png(30, 20, 16, 2, zeros),
        "bomb that claims much": png(60_000, 60_000, 16, 6, zeros),
        "16 bits of nothing": png(2000, 2000, 16, 6, zlib.compress(b"")),
        "many chunks": png(1, 1, 8, 2, b"")[:33] + (b"\0\0\0\0teSt" + struct.pack(">I", zlib.crc32(b"teSt"))) * 200_000,
        "many scans": jpeg[:scan] + jpeg[scan:-2] * 5000 + b"\xff\xd9",
        "many segments": b"\xff\xd8" + b"\xff\xe1\0\4ab" * 100_000 + jpeg[2:],
        "ones": b"\xff\xd8" + b"\xff" * 6_000_000,
        "a page that follows itself": bytes(bomb[:4]) + struct.pack("<I", 8) + bytes(bomb[8:]),
        "strips that are all the file": _with_counts(bytes(bomb) + bytes(10_000_000)),
        "JPEG behind PNG": sound["png"] + sound["jpeg"],
        "PNG behind TIFF": sound["tiff 16"] + sound["png"],
        "a name that is no text": sound["heic plain"].replace(b"Exif", b"Exi\xe6", 1),
        "a type that is no text": sound["heic plain"].replace(b"application/rdf", b"application/r\xe6f", 1),
        "GIF": encoded(Image.new("P", (4, 4)), "GIF"),
    }
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"):
        found[f"1x1 {kind}"] = images.encode(images.Photo(one), kind)
    return found


def _with_counts(data: bytes) -> bytes:
    """A TIFF of one strip a row, every strip being the whole file."""
    values = {278: [1], 273: [8] * 2000, 279: [len(data)] * 2000, 259: [1]}
    return with_entries(data, tuple(Entry(t, 4, len(n), struct.pack(f"<{len(n)}I", *n)) for t, n in values.items()))


# --- the process that reads them ---


def main(count: int, seed: int) -> dict[str, Any]:
    """Decode, probe and encode; whatever is no typed error ends the process."""
    for data in seeds().values():  # so that libraries are loaded and warm
        images.encode(images.decode(data, LIMITS.model_copy(update={"first_frame": True})), "PNG")
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ADDRESS_SPACE, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    slowest, file, grown = 0.0, "", {}
    for name, data in mutants(count, seed):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        outcomes[_outcome(name, data)] += 1
        took = time.process_time() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if after > peak + 4096:
            grown[name] = (after - peak) >> 10
        if took > slowest:
            slowest, file = took, name
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    return {
        "files": sum(outcomes.values()), "outcomes": dict(outcomes), "grown_mb": grown_mb, "slowest_s": slowest,
        "slowest": file, "growth": grown,
    }  # fmt: skip


def _outcome(name: str, data: bytes) -> str:
    header: images.Header | None = None
    try:
        header = images.probe(data, LIMITS)
    except images.ImageError:
        pass
    except BaseException:
        print(name, file=sys.stderr)
        raise
    try:
        photo = images.decode(data, LIMITS)
    except images.ImageError as problem:
        return problem.code
    except BaseException:
        print(name, file=sys.stderr)
        raise
    assert photo.pixels.dtype in (np.uint8, np.uint16)
    assert photo.pixels.shape[2:] == (3,)
    assert photo.alpha is None or (photo.alpha.shape, photo.alpha.dtype) == (photo.pixels.shape[:2], photo.pixels.dtype)
    expected = images.Header(photo.format, photo.pixels.shape[1], photo.pixels.shape[0])
    assert header == expected, f"{name}: {header}, not {expected}"
    images.decode(images.encode(photo, metadata=True), LIMITS)
    return "photo"


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
