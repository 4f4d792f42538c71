"""What a folder of results was made with, so that a result counts as done only when this call would make the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from pyarrow import fs as pafs
from pydantic import Field, ValidationError
from torch import nn

from models.config import ConfigError, Settings
from models.options import DehazeOptions, InferenceConfig
from models.paths import child, filesystem, replacing, temporary_name
from pipelines.dehaze.names import RECORD
from pipelines.dehaze.walk import entries
from pipelines.disk_errors import no_space, reason_of
from pipelines.shown import shown

_LEFT = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)  # what `replacing` writes before it is whole
_SURELY_LEFT_NS = 60 * 10**9  # another call in the same folder is done with its own by then


class MadeWith(DehazeOptions):
    """What decides how a result looks. ``weights`` identifies the network, whatever its name."""

    model: str
    weights: str
    precision: str
    tile: int | None
    working_side: int | None = None  # in records of before, whose results are exact


class FolderRecord(Settings):
    """The file :data:`RECORD` in a folder of results.

    Attributes:
        made: how.
        since_ns: results that the file system says are older than this are not of this record.
        replacing: older results are to be replaced.
        finished: the last call came to its end.
    """

    version: int = Field(1, ge=1, le=1)
    made: MadeWith
    since_ns: int = 0
    replacing: bool = False
    finished: bool = False


def made_with(model: str, network: nn.Module, options: DehazeOptions, execution: InferenceConfig) -> MadeWith:
    """Return how results are made. The memory that a network may use is left out: it changes from call to call."""
    return MadeWith(
        model=shown(model),
        weights=fingerprint(network),
        precision=execution.precision,
        tile=execution.tile,
        working_side=execution.working_side,
        **options.model_dump(),
    )


def fingerprint(network: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a network's class and weights."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_record(folder: str) -> FolderRecord | None:
    """Read the record of a folder of results; None where there is none.

    Raises:
        ConfigError: it is there and damaged.
    """
    place = child(folder, RECORD)
    files, path = filesystem(place)
    if files.get_file_info(path).type != pafs.FileType.File:
        return None
    try:
        with files.open_input_stream(path) as stream:
            return FolderRecord.model_validate(json.loads(stream.read()))
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as problem:
        raise ConfigError(f"{place} is damaged; delete it and pass --overwrite: {problem}") from problem


def compare(old: FolderRecord | None, made: MadeWith, folder: str, *, overwrite: bool) -> FolderRecord | None:
    """Return the record that a call goes on with; None when it starts a new one.

    Raises:
        ConfigError: results of other settings are there, and are not to be replaced.
    """
    if old is not None and old.made.model_dump(exclude={"model"}) == made.model_dump(exclude={"model"}):
        return old if not overwrite or (old.replacing and not old.finished) else None
    if old is not None and not overwrite:
        raise ConfigError(
            f"{folder} holds results of other settings ({_difference(old.made, made)}); "
            "choose another folder, or make them anew with --overwrite"
        )
    return None


def open_record(folder: str, made: MadeWith, *, overwrite: bool) -> FolderRecord:
    """Return the record to work under, and write it to the folder. With ``overwrite`` all results are made anew; a call
    that was interrupted in that goes on.

    Raises:
        ConfigError: as :func:`compare`; the folder cannot be written to.
        NoSpaceError: there is no room for the record.
    """
    old = read_record(folder)
    record = compare(old, made, folder, overwrite=overwrite)
    now = _clock(folder)
    if record is None:
        record = FolderRecord(made=made, since_ns=now, replacing=overwrite)
    interrupted = not record.finished
    record = record.model_copy(update={"finished": False, "replacing": overwrite or (interrupted and record.replacing)})
    _write(folder, record)
    if interrupted:
        sweep(folder, now - _SURELY_LEFT_NS)
    return record


def close_record(folder: str, record: FolderRecord) -> None:
    """Note that all that could be done is done."""
    _write(folder, record.model_copy(update={"finished": True}))


def sweep(folder: str, before_ns: int) -> None:
    """Remove what killed workers left half written before a time, below a folder and one folder at a time."""
    files, path = filesystem(folder)
    waiting = [path]
    while waiting:
        with contextlib.suppress(OSError):  # what cannot be read or removed does no harm
            for entry in entries(files, waiting.pop()):
                if entry.kind == "folder" and not entry.link:  # what links lead to is not ours
                    waiting.append(entry.path)
                elif entry.kind == "file" and _LEFT.fullmatch(entry.name) and entry.mtime < before_ns:
                    files.delete_file(entry.path)


def _write(folder: str, record: FolderRecord) -> None:
    place = child(folder, RECORD)
    with _writing(place), replacing(place) as stream:
        stream.write(json.dumps(record.model_dump(mode="json"), indent=1).encode())


def _clock(folder: str) -> int:
    """The time, in ns, by the clock that the results have theirs from: that of a file which is written now."""
    place = child(folder, temporary_name(RECORD))
    with _writing(child(folder, RECORD)):
        with replacing(place) as stream:
            stream.write(b"?")
        files, path = filesystem(place)
        now: int = files.get_file_info(path).mtime_ns or 0
        files.delete_file(path)
    return now


@contextlib.contextmanager
def _writing(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        full = no_space(problem, place)
        if full is not None:
            raise full from problem
        raise ConfigError(f"cannot write {place}: {reason_of(problem)}") from problem


def _difference(old: MadeWith, new: MadeWith) -> str:
    before, now = old.model_dump(), new.model_dump()
    changed: dict[str, Any] = {key: before[key] for key in before if before[key] != now[key]}
    if "model" in changed:
        changed.pop("weights", None)
    return ", ".join(f"{key} {value}, not {now[key]}" for key, value in changed.items())
