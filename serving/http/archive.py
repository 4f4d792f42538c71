"""Zip archives in memory: photographs out of one that is not trusted, and results into one.

What an archive says of itself is checked before anything is unpacked, and what comes out is counted again, so an
archive costs no more memory than its limits say.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from serving.errors import Problem, refused

MANIFEST = "manifest.json"
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others are rare, and slow on hostile data
_SAYS_UTF8 = 0x800
_LITTER = frozenset({".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini", ".picasa.ini"})
_LITTER_FOLDERS = frozenset({"__macosx", "@eadir", ".appledouble"})
_END = 22  # bytes of the record at the end of an archive, without its comment
_DIRECTORY_ENTRY = 4096  # more bytes than the directory's line of a photograph has


@dataclass(frozen=True)
class ArchiveLimits:
    """``max_files`` in an archive, ``max_bytes`` of each unpacked, ``max_total`` of all unpacked."""

    max_files: int
    max_bytes: int
    max_total: int


@dataclass(frozen=True)
class ArchiveMember:
    """A file of a request: its name, and its bytes or why there are none."""

    name: str
    content: bytes | Problem


@dataclass(frozen=True)
class Sources:
    """The files of a batch, and the names of those that are no photographs and that nobody meant to send."""

    files: Iterator[ArchiveMember]
    skipped: tuple[str, ...] = ()


def is_litter(name: str) -> bool:
    """A file that macOS, Windows or a network disk put beside the photographs."""
    *folders, last = (part.lower() for part in name.replace("\\", "/").split("/"))
    return last in _LITTER or last.startswith("._") or any(folder in _LITTER_FOLDERS for folder in folders)


def is_zip(data: bytes) -> bool:
    """The bytes begin as a zip archive does."""
    return data.startswith(_MAGIC)


def unpack(data: bytes, limits: ArchiveLimits) -> Sources:
    """The files of an archive, each unpacked when it is asked for, without folders and :func:`is_litter`.

    Raises:
        ProblemError: 422 for what is no archive, 413 for one of more files or bytes than accepted, 400 for one without
            files; at once, before the first file.
    """
    try:
        _check_directory(data, limits)
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as problem:
        raise refused(422, f"the archive cannot be read: {problem}", "corrupt_archive") from problem
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    entries = [entry for entry in files if not is_litter(entry.filename)]
    if not entries:
        raise refused(400, "the archive has no photographs in it")
    if len(entries) > limits.max_files:
        raise refused(
            413, f"the archive has {len(entries):,} files; at most {limits.max_files} accepted", "too_many_files"
        )
    total = sum(entry.file_size for entry in entries)
    if total > limits.max_total:
        raise refused(
            413, f"the archive unpacks to {total:,} bytes; at most {limits.max_total:,} accepted", "too_large"
        )
    skipped = tuple(_name(entry) for entry in files if is_litter(entry.filename))
    return Sources(
        (ArchiveMember(_name(entry), _content(archive, entry, limits.max_bytes)) for entry in entries), skipped
    )


def _name(entry: zipfile.ZipInfo) -> str:
    """Of a file; macOS writes UTF-8 without saying so, and it is read as code page 437."""
    if entry.flag_bits & _SAYS_UTF8:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


def _check_directory(data: bytes, limits: ArchiveLimits) -> None:
    """The directory is parsed as a whole, so its size is checked first."""
    place = data.rfind(b"PK\x05\x06", max(0, len(data) - _END - 65_535))
    if place < 0 or place + _END > len(data):
        raise zipfile.BadZipFile("it has no end record; is it complete?")
    size = int.from_bytes(data[place + 12 : place + 16], "little")
    if size > (limits.max_files + 1) * _DIRECTORY_ENTRY:
        raise refused(413, f"the archive's directory has {size:,} bytes; send fewer files", "too_many_files")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, max_bytes: int) -> bytes | Problem:
    if entry.flag_bits & 1:
        return Problem(422, "encrypted", "the file is encrypted")
    if entry.compress_type not in _METHODS:
        return Problem(415, "unsupported_compression", "only stored and deflated files are accepted")
    too_large = Problem(413, "too_large", f"the file unpacks to more than the {max_bytes:,} bytes that are accepted")
    if entry.file_size > max_bytes:
        return too_large
    try:
        with archive.open(entry) as file:
            content = file.read(max_bytes + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as problem:
        return Problem(422, "corrupt", f"the file cannot be unpacked: {problem}")
    return too_large if len(content) > max_bytes else content


def safe_name(name: str) -> str:
    """A relative path that stays where it is unpacked: no root, no drive, no ``..``, nothing unprintable."""
    cleaned = "".join(letter if letter.isprintable() and letter not in '<>:"|?*' else "_" for letter in name)
    parts = [part.strip() for part in cleaned.replace("\\", "/").split("/")]
    kept = [part[-120:] for part in parts if part not in ("", ".", "..")]
    return "/".join(kept[-8:]) or "photo"


class ResultArchive:
    """An archive of results in memory, with a manifest at its end.

    Args:
        max_total: bytes of all results; those beyond are left out.
    """

    def __init__(self, max_total: int) -> None:
        self._left = max_total
        self._names = {MANIFEST}
        self._buffer = io.BytesIO()
        self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_STORED)  # pictures are compressed as it is

    def add(self, name: str, data: bytes) -> str:
        """Write a file and return the name that it got.

        Raises:
            ProblemError: 413 when there is no room left.
        """
        if len(data) > self._left:
            raise refused(413, "the results so far fill the answer; send fewer files at once", "answer_full")
        self._left -= len(data)
        free = self._free(safe_name(name))
        self._zip.writestr(zipfile.ZipInfo(free), data)  # dated 1980: the same request gives the same archive
        return free

    def close(self, manifest: dict[str, Any]) -> bytes:
        """The archive."""
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        self._zip.writestr(zipfile.ZipInfo(MANIFEST), text.encode())
        self._zip.close()
        return self._buffer.getvalue()

    def _free(self, name: str) -> str:
        path, free, count = PurePosixPath(name), name, 1
        while free.casefold() in self._names:
            count += 1
            free = str(path.with_name(f"{path.stem} ({count}){path.suffix}"))
        self._names.add(free.casefold())
        return free
