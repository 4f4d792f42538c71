"""What a body is that is no photograph, and what its sender meant to do: one table of how such bytes begin."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

_LOOK = 4096  # bytes, at the beginning


class Kind(NamedTuple):
    """How the bytes begin, what they are, and what to do."""

    begin: bytes  # a regular expression
    what: str
    remedy: str


_BYTES = "send the bytes of the photograph themselves"
_CONVERT = "convert it to JPEG, PNG or TIFF first"
_BINARY = "send the file's own bytes (curl: --data-binary @photo.jpg)"
_PACKED = "unpack it, or send several photographs as a zip archive to /v1/batch"
_UNPACKED = "send it unpacked"
_VIDEO = "videos are for `dehaze apply`"
_FORM = (
    "its request wants the header Content-Type: multipart/form-data; boundary=..., which clients write by themselves"
)
_QUERY = "options go into the query, and the photograph into the body or into 'file' of a multipart form"
_SPACE = rb"(?:\xef\xbb\xbf)?\s*"

# The first that matches counts. What is accepted as a picture does not come here unless it is damaged.
KINDS = (
    Kind(rb"\xff\xd8\xff[^\0\r\n]{1000}|\x89PNG\x1a", "a picture without its line breaks and zeros", _BINARY),
    Kind(rb"(?:\xef\xbf\xbd){2}|\xc3\xbf\xc3\x98|\xef\xbf\xbdPNG|\xc2\x89PNG", "a picture read as text", _BINARY),
    Kind(rb"b['\"](?:\\x[0-9a-f]{2}|RIFF|BM|II|MM)", "what Python prints for bytes", _BINARY),
    Kind(rb"\x1f\x8b", "gzip", _UNPACKED),
    Kind(rb"\x28\xb5\x2f\xfd", "zstd", _UNPACKED),
    Kind(rb"\xfd7zXZ\0", "an xz archive", _PACKED),
    Kind(rb"BZh[1-9]1AY", "bzip2", _PACKED),
    Kind(rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _PACKED),
    Kind(rb"Rar!\x1a\x07", "a RAR archive", _PACKED),
    Kind(rb"[^\0]{1,100}\0.{156,256}ustar", "a tar archive", _PACKED),
    Kind(rb"PK(?:\x03\x04|\x05\x06)", "a zip archive", "send it to /v1/batch"),
    Kind(rb"....ftyp(?:heic|heix|heim|heis|hevc|mif1|msf1)", "HEIC", _CONVERT),
    Kind(rb"....ftypavi[fs]", "AVIF", _CONVERT),
    Kind(
        rb"....ftypcrx |II\x2a\0....CR|FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR|\0MRM|FOVb", "a camera's raw file", _CONVERT
    ),
    Kind(rb"....(?:ftyp|moov|mdat)", "a video (MP4 or MOV)", _VIDEO),
    Kind(rb"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", _VIDEO),
    Kind(rb"RIFF....AVI |\0\0\x01[\xb3\xba]|FLV\x01|\x30\x26\xb2\x75|OggS", "a video", _VIDEO),
    Kind(rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", _CONVERT),
    Kind(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000", _CONVERT),
    Kind(rb"GIF8[79]a", "GIF", _CONVERT),
    Kind(rb"8BPS", "a Photoshop file", _CONVERT),
    Kind(rb"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    Kind(rb"%PDF-", "PDF", "send its pictures as JPEG, PNG or TIFF"),
    Kind(rb"%!PS", "PostScript", _CONVERT),
    Kind(rb"version https://git-lfs", "a pointer of Git LFS", "get the file itself: git lfs pull"),
    Kind(rb"--[^\r\n]{1,200}\r?\nContent-Disposition: *form-data", "a multipart form", _FORM),
    Kind(_SPACE + rb"data:[\w.+-]+/[\w.+-]+[;,]", "a data: URL", "decode the base64 behind its comma, and send that"),
    Kind(_SPACE + rb"(?i:<!doctype html|<html|<head|<body)", "an HTML page", _BYTES),
    Kind(_SPACE + rb"(?:<\?xml.{0,1000}?)?<svg", "SVG", _CONVERT),
    Kind(_SPACE + rb"<\?xml", "XML", _BYTES),
    Kind(_SPACE + rb"(?:\{\s*[\"}]|\[\s*[\[{\"\d\]-])", "JSON", f"{_BYTES}, or as 'file' of a multipart form"),
    Kind(rb"https?://", "a URL, and the service fetches none", _BYTES),
    Kind(
        rb"@?[^\0-\x1f]{1,200}\.\w{3,4}\s*\Z",
        "the name of a file",
        "curl wants an @ before it: --data-binary @photo.jpg",
    ),
    Kind(rb"[\w.%+~-]+=[\w.%+~*/-]*(?:&[\w.%+~-]+=[\w.%+~*/-]*)*\s*\Z", "a url-encoded form", _QUERY),
    Kind(rb"\xff\xfe|\xfe\xff", "text (UTF-16)", "a photograph was expected"),
)
_TABLE = [(re.compile(kind.begin, re.DOTALL), kind) for kind in KINDS]
_BASE64 = re.compile(rb"\s*[A-Za-z0-9+/_-]{16}[A-Za-z0-9+/_\s=-]*\Z")
_PICTURES = {
    b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG": "a PNG",
    b"RIFF": "a WebP",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
}


def explain(data: bytes) -> str | None:
    """``this is ...; do ...`` for bytes that are recognised as no photograph; None where nothing is known."""
    head = data[:_LOOK]
    if (name := _in_base64(head)) is not None:
        return f"this is {name} in base64; decode it, and send the bytes themselves"
    for begin, kind in _TABLE:
        if begin.match(head):
            return f"this is {kind.what}; {kind.remedy}"
    if _is_text(head):
        return "this is text; a photograph was expected"
    return None


def _in_base64(head: bytes) -> str | None:
    if _BASE64.match(head) is None:
        return None
    try:
        begin = base64.b64decode(re.sub(rb"\s", b"", head)[:16], b"-_" if re.search(rb"[-_]", head[:16]) else None)
    except binascii.Error:
        return None
    return next((name for magic, name in _PICTURES.items() if begin.startswith(magic)), None)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as problem:
        if problem.start < len(head) - 4:  # not the last letter, cut through
            return False
        text = head[: problem.start].decode()
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)
