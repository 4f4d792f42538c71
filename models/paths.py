"""Paths and URIs on ``pyarrow.fs``, and the one way to write a file: whole or not at all, there after a power cut.

pyarrow is imported where files are opened: networks, images and training methods also work where it is not installed.
Errors of object storage that pass are tried again by its clients, a few times, within seconds.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from models.config import ConfigError

_KEPT = 32  # characters of the name: with any of them, a file system takes it wherever it takes the whole name
_PIECE = 8 << 20  # of a file that is copied
_SECRETS = re.compile(r"pass|secret|token|sig|key", re.IGNORECASE)  # in names of options
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of file systems that sync files only


@functools.cache
def local_files() -> Any:
    """Return the class of the local file system."""
    from pyarrow import fs as pafs

    class LocalFiles(pafs.LocalFileSystem):  # type: ignore[misc]  # untyped
        """pyarrow's own, for names that are not UTF-8 too: it takes them as bytes only, and Python spells them with
        surrogates.
        """

    def encoded(what: Any) -> Any:
        if isinstance(what, list | tuple):
            return [os.fsencode(one) for one in what]
        return os.fsencode(what) if isinstance(what, str) else what

    def taking_any(name: str) -> Any:
        whole = getattr(pafs.LocalFileSystem, name)
        return lambda files, *paths, **options: whole(files, *map(encoded, paths), **options)

    for name in (
        "get_file_info", "open_input_stream", "open_input_file", "open_output_stream", "create_dir", "move",
        "delete_file",
    ):  # fmt: skip
        setattr(LocalFiles, name, taking_any(name))
    return LocalFiles


def is_uri(text: str | os.PathLike[str]) -> bool:
    """Return whether it is a URI rather than a local path."""
    return "://" in os.fspath(text)


def is_local(files: Any) -> bool:
    """Return whether a pyarrow file system is that of this machine."""
    from pyarrow import fs as pafs

    return isinstance(files, pafs.LocalFileSystem)


def absolute(uri: str | os.PathLike[str]) -> str:
    """Return a URI as it is, a local path made absolute (jobs change their working directory) and without ``..``,
    ``file://`` as a path.
    """
    text = os.fspath(uri)
    if not is_uri(text):
        home = text == "~" or text.startswith("~/")  # as shells have it; ~a.jpg may be a file
        return _one_way((Path(text).expanduser() if home else Path(text)).absolute())
    files, path = filesystem(text)
    return str(path) if is_local(files) else text


def _one_way(path: Path) -> str:
    """Spell a path without ``..``: what it leads to has one name, from whichever folder it was given."""
    parts = path.parts
    if ".." not in parts:
        return str(path)
    last = len(parts) - parts[::-1].index("..")
    return str(Path(*parts[:last]).resolve().joinpath(*parts[last:]))  # past links, whose parents are elsewhere


def filesystem(uri: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a path or URI, and the path on it.

    Raises:
        ConfigError: a URI that pyarrow does not understand, or with a password.
    """
    if not is_uri(uri):
        return local_files()(), uri
    import pyarrow as pa
    from pyarrow import fs as pafs

    _require_no_secret(uri)
    try:
        files, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as problem:  # an OSError: nobody there
        raise ConfigError(f"cannot open '{uri}': {problem}") from problem
    if "#" in uri or ("?" in uri and is_local(files)):  # pyarrow drops what comes after
        raise ConfigError(f"cannot open '{uri}': it has no options; a # of a name is written %23, a ? is written %3F")
    return files, str(path).rstrip("/") or "/"


def _require_no_secret(uri: str) -> None:
    """Refuse a password in a URI, because URIs are written down: in corpora, records of runs, MLflow, messages."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    keys = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRETS.search(key)]
    if (at and ":" in user) or keys:
        what = f"option '{keys[0]}'" if keys else "password"
        raise ConfigError(
            f"the URI {parts.scheme}://{host}{parts.path} comes with a secret (its {what}), and URIs are written down: "
            "leave it out, and give it by the environment of every node (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or a file such as ~/.aws/credentials)"
        )


def split_options(uri: str) -> tuple[str, str]:
    """Return a URI without its options, such as S3's ``?region=...``, and these with their ?; a path has none."""
    base, question, options = uri.partition("?") if is_uri(uri) else (uri, "", "")
    return base, question + options


def child(uri: str, name: str) -> str:
    """Return the path or URI of ``name`` (which may hold slashes) below a folder."""
    if not is_uri(uri):
        return str(Path(uri) / name)
    base, options = split_options(uri)  # a ? of the name is quoted
    return f"{base.rstrip('/')}/{quote(name, errors='surrogateescape')}{options}"


def name_of(uri: str | os.PathLike[str]) -> str:
    """Return the last part of a path or URI, without the options of a URI."""
    text = os.fspath(uri)
    return Path(unquote(urlsplit(text).path) if is_uri(text) else text).name


def read_file(uri: str) -> bytes | None:
    """Read a file; None where there is none.

    Raises:
        OSError: it cannot be read.
    """
    files, path = filesystem(uri)
    try:
        with files.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def names_in(uri: str, *, folders: bool = False) -> list[str]:
    """List the names directly in a folder, or of the folders there, in order; none where there is no folder."""
    from pyarrow import fs as pafs

    files, path = filesystem(uri)
    found = files.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if not folders or info.type == pafs.FileType.Directory)


def exists(uri: str) -> bool:
    """Return whether there is a file or a folder."""
    from pyarrow import fs as pafs

    files, path = filesystem(uri)
    return bool(files.get_file_info(path).type != pafs.FileType.NotFound)


def remove_folder(uri: str) -> None:
    """Remove a folder with all that is in it; object storage forgets it piece by piece. None there is fine."""
    files, path = filesystem(uri)
    if is_local(files):
        shutil.rmtree(path, ignore_errors=True)
    elif exists(uri):
        files.delete_dir(path)


def move(source: str, target: str) -> None:
    """Give a file or folder another name on its file system. Object storage copies what is in a folder, and forgets it
    afterwards: after an interruption both may be there.
    """
    from pyarrow import fs as pafs

    files, path = filesystem(source)
    goal = filesystem(target)[1]
    if is_local(files) or files.get_file_info(path).type == pafs.FileType.File:
        files.move(path, goal)
        return
    pafs.copy_files(path, goal, source_filesystem=files, destination_filesystem=files, use_threads=False)
    files.delete_dir(path)


def upload(folder: Path, uri: str, last: str) -> None:
    """Copy the files in and below a local folder, one by one; ``last`` is there when all of the others are."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        files, target = filesystem(child(uri, name))
        with (folder / name).open("rb") as source, files.open_output_stream(target) as stream:
            shutil.copyfileobj(source, stream, _PIECE)


@contextmanager
def local_copy(uri: str, names: Collection[str] | None = None) -> Iterator[Path]:
    """Yield a folder of files as one on this machine: itself where it is local, else a copy for a while.

    Args:
        uri: of the folder.
        names: of the files to copy, where they are there; by default of all.

    Raises:
        OSError: it cannot be read.
    """
    files, path = filesystem(uri)
    if is_local(files):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        with _hub_errors(uri):
            for name in (name for name in names_in(uri) if names is None or name in names):
                with files.open_input_stream(f"{path}/{name}") as source, (Path(folder) / name).open("wb") as target:
                    shutil.copyfileobj(source, target, _PIECE)
        yield Path(folder)


@contextmanager
def _hub_errors(uri: str) -> Iterator[None]:
    """Make an OSError, as of other storage, of what the client of the Hugging Face hub raises where nobody answers."""
    if not uri.startswith("hf://"):
        yield
        return
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # pyarrow needs the package too

    try:
        yield
    except HTTPError as problem:
        raise OSError(f"the Hugging Face hub does not answer: {problem}") from problem


def require_writable(uri: str) -> None:
    """Find out before long work that nothing could be written below a folder; leaves nothing there.

    Raises:
        ConfigError: so it is.
    """
    place = child(uri, temporary_name("writable"))
    try:
        with replacing(place) as stream:
            stream.write(b"?")
        files, path = filesystem(place)
        files.delete_file(path)
    except OSError as problem:
        raise ConfigError(f"cannot write to {uri}: {problem}") from problem


@contextmanager
def replacing(uri: str, *, durable: bool = False) -> Iterator[Any]:
    """Yield a stream to write a file with: readers see the old file or the whole new one, and nothing after an error.

    Args:
        uri: of the file.
        durable: on a local file system, the file is on the disk before it has its name, and the name when this ends.
    """
    files, path = filesystem(absolute(uri))
    folder, _, name = path.rpartition("/")
    durable = durable and is_local(files)
    make_folder(files, folder, durable=durable)
    temporary = f"{folder}/{temporary_name(name)}"
    try:
        with files.open_output_stream(temporary) as stream:
            yield stream
        if durable:
            persist(temporary)
            persist(folder)  # what the file speaks of is there before it is
        files.move(temporary, path)
        if durable:
            persist(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            files.delete_file(temporary)
        raise


def make_folder(files: Any, path: str, *, durable: bool = True) -> None:
    """Make a folder with those above it; ``durable``: on a local disk, it is still there after a power cut."""
    if durable and is_local(files):
        make_local_folder(Path(path))
    else:
        files.create_dir(path, recursive=True)


def make_local_folder(path: Path) -> None:
    """Make a folder on a local disk, with those above it; it is still there after a power cut."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        persist(one.parent)


def temporary_name(name: str) -> str:
    """Return a name beside ``name`` to write under, hidden and never taken; ``.photo.jpg.0123abcd.tmp``. A long name
    comes shortened, as file systems bound names by their bytes.
    """
    return f".{name[:_KEPT]}.{uuid.uuid4().hex[:8]}.tmp"


def persist(path: str | os.PathLike[str]) -> None:
    """Wait until a local file, or the names in a local folder, are on the disk.

    A file that is replaced by rename counts as there only when the new file was persisted before the rename, and its
    folder after it: otherwise a name can outlive what it stands for.

    Raises:
        OSError: it is gone, or cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in _NO_FOLDERS:
            raise
    finally:
        os.close(descriptor)
