"""Files of weights, read without running anything in them; of a file that is none, one line says what it is instead."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.config import ConfigError

_AGAIN = "get the file again"
_UNPACK = "unpack it, and name the file of weights that is in it"
_POINTER = b"version https://git-lfs.github.com/spec/"
_STARTS = (
    (b"\x1f\x8b", f"it is a gzip archive: {_UNPACK}"),
    (b"BZh", f"it is a bzip2 archive: {_UNPACK}"),
    (b"\xfd7zXZ", f"it is an xz archive: {_UNPACK}"),
    (b"7z\xbc\xaf", f"it is a 7-Zip archive: {_UNPACK}"),
    (b"Rar!", f"it is a RAR archive: {_UNPACK}"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them: its weights have to be converted for torch first"),
    (b"\x89PNG", "it is a PNG picture: name the file of weights"),
    (b"\xff\xd8\xff", "it is a JPEG picture: name the file of weights"),
    (b"%PDF", "it is a PDF: name the file of weights"),
)
_MORE = (
    "it holds more than plain weights{}, and such a file can run code when it is read; get one with weights alone "
    "(safetensors, or a state dict that torch.save wrote)"
)


def read_weights_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a safetensors file, or one that ``torch.save`` wrote, whatever its name; on the CPU.

    Raises:
        ConfigError: no such file; no weights, or more than weights, in it. One line, with what it is.
    """
    return read_safetensors(path) if _is_safetensors(path) else read_torch(path)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file to the CPU.

    Raises:
        ConfigError: as :func:`read_weights_file`.
    """
    _check(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        reason = _cut_off(path) or f"it is no safetensors file ({_one_line(problem)})"
        raise _refused(path, reason) from problem


def read_torch(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a dictionary that ``torch.save`` wrote, to the CPU.

    Raises:
        ConfigError: as :func:`read_weights_file`.
    """
    _check(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch raises many kinds for a file that is not its own
        raise _refused(path, _fault_of_torch(Path(path), problem)) from problem
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; expected a state dict")
    return content


def reason_of(problem: BaseException, *files: str | os.PathLike[str]) -> str:
    """Return why a library could not load weights, in one line: what is wrong with one of the files, if that is it."""
    for file in files:
        try:
            _check(file)
            if Path(file).suffix != ".json":
                read_weights_file(file)
        except ConfigError as fault:
            return str(fault)
    text = _one_line(problem)
    return _MORE.format("") if "weights_only" in text else text


def no_weights(path: str | os.PathLike[str]) -> str | None:
    """Say what a file is that people take for weights or their configuration by mistake; None for nothing such."""
    with Path(path).open("rb") as stream:
        head = stream.read(1024)
    if not head:
        return f"it is empty: the download or the copy failed; {_AGAIN}"
    if head.startswith(_POINTER):
        return "it is a Git LFS pointer, not the file that it stands for: run 'git lfs pull' in the folder it came from"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith((b"<!doctype html", b"<html")) or b"<html" in text:
        return "it is a web page (HTML) that was saved in place of the file: download the file itself"
    if text.startswith((b"<?xml", b'{"error', b'{"message')):
        return f"it is what a server answered in place of the file: {_AGAIN}"
    if head[257:262] == b"ustar":
        return f"it is a tar archive: {_UNPACK}"
    return next((what for start, what in _STARTS if head.startswith(start)), None)


def _check(path: str | os.PathLike[str]) -> None:
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"cannot read weights {path}: it is a folder; name the file in it")
    if not file.is_file():
        raise ConfigError(f"there is no file {path}")
    reason = no_weights(file)
    if reason is not None:
        raise _refused(path, reason)


def _refused(path: str | os.PathLike[str], reason: str) -> ConfigError:
    return ConfigError(f"cannot read weights {os.fspath(path)}: {reason}")


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split()) or type(problem).__name__


def _is_safetensors(path: str | os.PathLike[str]) -> bool:
    if str(path).endswith(".safetensors"):
        return True
    try:
        with Path(path).open("rb") as stream:
            # The header's length takes 8 bytes; the header is JSON.
            return stream.read(9)[8:] == b"{"
    except OSError:
        return False  # which is said when it is read


def _cut_off(path: str | os.PathLike[str]) -> str | None:
    """Say how much of a safetensors file is missing, by the length in its header; None where nothing is."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if stream.read(1) != b"{":
            return None
        stream.seek(8)
        try:
            header = json.loads(stream.read(length)) if 8 + length <= size else {}
            # Offsets count from the end of the header.
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, LookupError):
            return None
    whole = 8 + length + max(ends, default=0)
    least = "" if ends else "at least "
    return f"it is cut off: {size} bytes of {least}{whole}; {_AGAIN}" if size < whole else None


def _fault_of_torch(path: Path, problem: Exception) -> str:
    with path.open("rb") as stream:
        head = stream.read(4)
    if head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            return f"it is cut off: the archive that torch.save writes lacks its end; {_AGAIN}"
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return "it is a TorchScript program, which is code; get its weights alone, as a state dict"
        if not any(name.endswith("/data.pkl") for name in names):
            shown = ", ".join(names[:3]) or "nothing"
            return f"it is a zip archive with {shown} in it, not one that torch.save wrote: {_UNPACK}"
    elif not head.startswith(b"\x80"):  # with which a pickle begins
        return f"it is no weights file: it begins with {head!r}; expected safetensors, or what torch.save wrote"
    if "weights_only" not in str(problem):
        return f"it is damaged, or cut off ({_one_line(problem)}); {_AGAIN}"
    found = re.search(r"GLOBAL ([\w.]+)", str(problem))
    return _MORE.format(f" ({found[1]})" if found else "")
