"""Zip archives: photographs out of one that is not trusted, and results into one.

What an archive says of itself is checked before anything is unpacked, and what comes out is counted again, so an
archive costs no more memory than its limits say.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from models.images import WRITTEN
from serving.engine import Answer
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


class Photographs(Protocol):
    """Those of a form, an archive or a folder: the name of each, and the names of files that are no photographs and
    that nobody meant to send.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def skipped(self) -> Sequence[str]: ...

    def read(self, index: int) -> bytes | Problem:
        """Return one of them, or why it is none."""


def is_litter(name: str) -> bool:
    """Say whether a name is that of a file that macOS, Windows or a network disk put beside the photographs."""
    *folders, last = (part.lower() for part in name.replace("\\", "/").split("/"))
    return last in _LITTER or last.startswith("._") or any(folder in _LITTER_FOLDERS for folder in folders)


def is_zip(data: bytes) -> bool:
    """Say whether the bytes begin as a zip archive does."""
    return data.startswith(_MAGIC)


class ZipPhotographs:
    """The files of an archive, without folders and :func:`is_litter`.

    Args:
        file: a binary file that can be read at any place; it stays open as long as photographs are read.
        limits: of what is accepted.

    Attributes:
        names: of the photographs.
        skipped: names of what is no photograph, and nobody meant to send.

    Raises:
        ProblemError: 422 for what is no archive, 413 for one of more files or bytes than accepted, 400 for one without
            files; at once, before the first file.
    """

    def __init__(self, file: Any, limits: ArchiveLimits) -> None:
        try:
            _check_directory(file, limits)
            self._archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as problem:
            raise refused(422, f"the archive cannot be read: {problem}", "corrupt_archive") from problem
        files = [entry for entry in self._archive.infolist() if not entry.is_dir()]
        self._entries = [entry for entry in files if not is_litter(entry.filename)]
        self._max_bytes = limits.max_bytes
        if not self._entries:
            raise refused(400, "the archive has no photographs in it")
        if (count := len(self._entries)) > limits.max_files:
            raise refused(
                413, f"the archive has {count:,} files; at most {limits.max_files} accepted", "too_many_files"
            )
        total = sum(entry.file_size for entry in self._entries)
        if total > limits.max_total:
            raise refused(
                413, f"the archive unpacks to {total:,} bytes; at most {limits.max_total:,} accepted", "too_large"
            )
        self.names = tuple(map(_name, self._entries))
        self.skipped = tuple(_name(entry) for entry in files if is_litter(entry.filename))

    def read(self, index: int) -> bytes | Problem:
        """Unpack a photograph, or say why it is none."""
        return _content(self._archive, self._entries[index], self._max_bytes)


def _name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a file; macOS writes UTF-8 without saying so, and it is read as code page 437."""
    if entry.flag_bits & _SAYS_UTF8:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


def _check_directory(file: Any, limits: ArchiveLimits) -> None:
    """The directory is parsed as a whole, so its size is checked first."""
    length = file.seek(0, io.SEEK_END)
    file.seek(max(0, length - _END - 65_535))
    end = file.read()
    place = end.rfind(b"PK\x05\x06")
    if place < 0 or place + _END > len(end):
        raise zipfile.BadZipFile("it has no end record; is it complete?")
    size = int.from_bytes(end[place + 12 : place + 16], "little")
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
    """Return a relative path that stays where it is unpacked: no root, no drive, no ``..``, nothing unprintable."""
    cleaned = "".join(letter if letter.isprintable() and letter not in '<>:"|?*' else "_" for letter in name)
    parts = [part.strip() for part in cleaned.replace("\\", "/").split("/")]
    kept = [part[-120:] for part in parts if part not in ("", ".", "..")]
    return "/".join(kept[-8:]) or "photo"


class Names:
    """Names of results, each once, whatever the case: ``a.jpg``, ``a (2).jpg``."""

    def __init__(self) -> None:
        self._taken = {MANIFEST}

    def taken(self, names: Iterable[str]) -> None:
        """Mark names as taken already."""
        self._taken.update(name.casefold() for name in names)

    def free(self, name: str) -> str:
        """Take ``name``, or a numbered one where it is taken."""
        path, free, count = PurePosixPath(name), name, 1
        while free.casefold() in self._taken:
            count += 1
            free = str(path.with_name(f"{path.stem} ({count}){path.suffix}"))
        self._taken.add(free.casefold())
        return free


class ResultArchive:
    """An archive of results, with a manifest at its end.

    Args:
        max_total: bytes of all results; those beyond are left out.
        file: to write to; it stays open.
    """

    def __init__(self, max_total: int, file: Any) -> None:
        self._left = max_total
        self._names = Names()
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)  # pictures are compressed as it is

    def add(self, name: str, data: bytes) -> str:
        """Write a file and return the name that it got.

        Raises:
            ProblemError: 413 when there is no room left.
        """
        if len(data) > self._left:
            raise refused(413, "the results so far fill the answer; send fewer files at once", "answer_full")
        self._left -= len(data)
        free = self._names.free(safe_name(name))
        self._zip.writestr(zipfile.ZipInfo(free), data)  # dated 1980: the same request gives the same archive
        return free

    def end(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, and what ends an archive."""
        self._zip.writestr(zipfile.ZipInfo(MANIFEST), manifest_text(manifest))
        self._zip.close()


def manifest_text(manifest: dict[str, Any]) -> bytes:
    """Return the manifest as it is written."""
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()


def manifest_of(entries: list[dict[str, Any]], skipped: Sequence[str]) -> dict[str, Any]:
    """Return the manifest of an archive: the outcome of each photograph."""
    done = sum(entry["status"] == "ok" for entry in entries)
    return {"ok": done, "failed": len(entries) - done, "skipped": list(skipped), "files": entries}


def done_entry(name: str, file: str, answer: Answer) -> dict[str, Any]:
    """Return an entry of the manifest: a photograph that was dehazed, and the name of its result."""
    told = {key: value for key, value in asdict(answer).items() if key not in ("data", "timing")}
    return {"source": name, "status": "ok", "file": file} | told | {"verdict": answer.verdict}


def failed_entry(name: str, problem: Problem) -> dict[str, Any]:
    """Return an entry of the manifest: a photograph that failed."""
    told = {"status": problem.status, "code": problem.code, "detail": problem.detail}
    return {"source": name, "status": "failed", "file": None, "problem": told}


_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}


def result_name(source: str, kind: str) -> str:
    """Return the name of a result: that of its source, with another suffix when it is of another format."""
    path = PurePosixPath(safe_name(source))
    extension = WRITTEN[kind]
    suffix = path.suffix.lower()
    return str(path) if _SAME.get(suffix, suffix) == extension else str(path.with_name(path.stem + extension))
