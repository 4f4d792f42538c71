"""What a body is that is no photograph, and what its sender meant to do."""

from __future__ import annotations

import base64
import binascii
import re

from models.images import PICTURES, kind_of

_LOOK = 4096  # bytes, at the beginning
_BYTES = "send the bytes of the photograph themselves"
_CONVERT = "convert it to JPEG, PNG or TIFF first"
_BINARY = "send the file's own bytes (curl: --data-binary @photo.jpg)"
_PACKED = "unpack it, or send several photographs as a zip archive to /v1/batch"
_FORM = (
    "its request wants the header Content-Type: multipart/form-data; boundary=..., which clients write by themselves"
)
_QUERY = "options go into the query, and the photograph into the body or into 'file' of a multipart form"

# What to do with what models.images knows, by how its name begins; _CONVERT for the others.
_REMEDIES = {
    "a zip archive": "send it to /v1/batch",
    "a tar archive": _PACKED, "a 7z archive": _PACKED, "a RAR archive": _PACKED,
    "compressed by": "send it unpacked",
    "a video": "one video, sent alone, is a job (/v1/jobs); or use `dehaze apply`",
    "PDF": "send its pictures as JPEG, PNG or TIFF",
    "a pointer of Git LFS": "get the file itself: git lfs pull",
    "an HTML page": _BYTES, "XML": _BYTES, "macOS's companion": _BYTES, "sound": _BYTES,
}  # fmt: skip
# What only requests are: how the bytes begin, what they are, and what to do. The first that matches counts.
_REQUESTS = (
    (rb"\xff\xd8\xff[^\0\r\n]{1000}|\x89PNG\x1a", "a picture without its line breaks and zeros", _BINARY),
    (rb"(?:\xef\xbf\xbd){2}|\xc3\xbf\xc3\x98|\xef\xbf\xbdPNG|\xc2\x89PNG", "a picture read as text", _BINARY),
    (rb"b['\"](?:\\x[0-9a-f]{2}|RIFF|BM|II|MM)", "what Python prints for bytes", _BINARY),
    (rb"--[^\r\n]{1,200}\r?\nContent-Disposition: *form-data", "a multipart form", _FORM),
    (rb"\s*data:[\w.+-]+/[\w.+-]+[;,]", "a data: URL", "decode the base64 behind its comma, and send that"),
    (
        rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*[\"}]|\[\s*[\[{\"\d\]-])",
        "JSON",
        f"{_BYTES}, or as 'file' of a multipart form",
    ),
    (rb"https?://", "a URL, and the service fetches none", _BYTES),
    (
        rb"@?[^\0-\x1f]{1,200}\.\w{3,4}\s*\Z",
        "the name of a file",
        "curl wants an @ before it: --data-binary @photo.jpg",
    ),
    (rb"[\w.%+~-]+=[\w.%+~*/-]*(?:&[\w.%+~-]+=[\w.%+~*/-]*)*\s*\Z", "a url-encoded form", _QUERY),
    (rb"\xff\xfe|\xfe\xff", "text (UTF-16)", "a photograph was expected"),
)
_TABLE = [(re.compile(begin, re.DOTALL), what, remedy) for begin, what, remedy in _REQUESTS]
_BASE64 = re.compile(rb"\s*[A-Za-z0-9+/_-]{16}[A-Za-z0-9+/_\s=-]*\Z")


def explain(data: bytes) -> str | None:
    """Return ``this is ...; do ...`` for bytes that are recognized as no photograph; None where nothing is known."""
    head = data[:_LOOK]
    if (name := _in_base64(head)) is not None:
        return f"this is {name} in base64; decode it, and send the bytes themselves"
    for begin, what, remedy in _TABLE:
        if begin.match(head):
            return f"this is {what}; {remedy}"
    if (kind := kind_of(data)) is not None and kind not in PICTURES:
        remedy = next((remedy for name, remedy in _REMEDIES.items() if kind.startswith(name)), _CONVERT)
        return f"this is {kind}; {_BINARY if 'zeros' in kind else remedy}"
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
    kind = kind_of(begin)
    return f"{'an' if kind == 'AVIF' else 'a'} {kind}" if kind in PICTURES else None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as problem:
        if problem.start < len(head) - 4:  # not the last letter, cut through
            return False
        text = head[: problem.start].decode()
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)
