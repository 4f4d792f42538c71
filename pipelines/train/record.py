"""What lies in the ``--out`` of a training run: whose checkpoints they are, the model, the results. No Ray."""

from __future__ import annotations

import ctypes
import fnmatch
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models.checkpoints import CONFIG
from models.config import ConfigError
from models.paths import (
    child,
    exists,
    filesystem,
    is_uri,
    make_folder,
    move,
    names_in,
    persist,
    read_file,
    remove_folder,
    replacing,
    temporary_name,
    upload,
)
from pipelines.tracking import flatten
from pipelines.train.labels import KEPT_CHECKPOINTS

MODEL = "model"
RECIPE_FILE = "recipe.json"
RESULT_FILE = "result.json"
RUN_FILE = "run.json"
TRACKING_FILE = "tracking.json"
EARLIER = "earlier"
LOCAL = "local"  # checkpoints of a run in one process; those of Ray Train are in `ray`
METRICS = ".metrics.json"  # beside a checkpoint; dotted, so that it stays out of the model
_OURS = (
    "ray", LOCAL, "corpora", "pool", "pool-snapshots", "labels", "validation",
    MODEL, RECIPE_FILE, RESULT_FILE, TRACKING_FILE, RUN_FILE,
)  # fmt: skip
_CHECKPOINTS = {True: f"{LOCAL}/step-*", False: "ray/*/checkpoint_*"}  # by whether training is local
_SHOWN = 5  # differences that a message names
_AT_CWD, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def write_json(place: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write a file that is whole whenever it is read."""
    with replacing(os.fspath(place)) as stream:
        stream.write((json.dumps(values, indent=2) + "\n").encode())


def read_json(place: str | os.PathLike[str]) -> dict[str, Any]:
    """Read such a file; nothing where there is none."""
    return dict(json.loads(read_file(os.fspath(place)) or b"{}"))


def require_same_run(out: str, digest: str, trained: Mapping[str, Any]) -> None:
    """Refuse a folder that holds checkpoints or labels of something else than ``trained``, whose digest this is.

    Raises:
        ConfigError: it does; the message names what differs.
    """
    record = read_json(child(out, RUN_FILE))
    if record.get("digest") == digest or not _has_work(out):
        return
    remedy = "--fresh puts them aside and starts anew; or choose another --out"
    if "trained" not in record:
        raise ConfigError(f"{out} has checkpoints of an earlier version of this program: {remedy}")
    raise ConfigError(f"{out} has checkpoints of another run: {_differences(record['trained'], trained)}. {remedy}")


def _has_work(out: str) -> bool:
    return any(_has(out, pattern) for pattern in (*_CHECKPOINTS.values(), "pool-snapshots/*/step-*"))


def _has(out: str, pattern: str) -> bool:
    """Whether there is a folder of such a name."""
    first, _, rest = pattern.partition("/")
    found = fnmatch.filter(names_in(out, folders=True), first)
    return any(_has(child(out, name), rest) for name in found) if rest else bool(found)


def require_same_way(out: str, *, local: bool) -> None:
    """Refuse a folder with checkpoints that were made on Ray where training is ``local``, and the reverse.

    Raises:
        ConfigError: it has some.
    """
    if _has(out, _CHECKPOINTS[not local]):
        began, now = ("on Ray", "with --local") if local else ("with --local", "on Ray")
        raise ConfigError(
            f"{out} has checkpoints of a run that began {began}, which cannot go on {now}: go on {began}, start anew "
            "with --fresh, or choose another --out"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = flatten(before), flatten(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    shown = ", ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in keys[:_SHOWN])
    return shown + (f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")


def set_aside(out: str) -> str | None:
    """Move all that a run left in its folder to ``earlier/NUMBER`` there; None when there was nothing."""
    left = [name for name in _OURS if exists(child(out, name))]
    if not left:
        return None
    earlier = child(out, EARLIER)
    numbers = [int(name) for name in names_in(earlier, folders=True) if name.isdigit()]
    folder = child(earlier, f"{max(numbers, default=0) + 1:03d}")
    files, path = filesystem(folder)
    make_folder(files, path, durable=False)
    for name in left:
        move(child(out, name), child(folder, name))
    return folder


class Checkpoints:
    """Those of a run, ``step-<step>`` in a folder or at a URI; the last few are kept, each counts when it is whole."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _names(self) -> list[str]:
        return [name for name in names_in(self._folder, folders=True) if name.startswith("step-")]

    def latest(self) -> tuple[int, str] | None:
        """Return the most steps, and the checkpoint of them; None where there is none."""
        for name in reversed(self._names()):
            place = child(self._folder, name)
            if exists(child(place, METRICS)):
                return int(name.partition("-")[2]), place
        return None

    def keep(self, write: Callable[[Path], object], metrics: Mapping[str, float], step: int) -> None:
        """Keep the checkpoint that ``write`` puts into a folder, and remove the oldest ones."""
        name = f"step-{step:07d}"
        if is_uri(self._folder):
            with tempfile.TemporaryDirectory() as folder:
                _write(Path(folder), write, metrics)
                upload(Path(folder), child(self._folder, name), METRICS)
        else:
            self._keep_here(Path(self._folder), name, write, metrics)
        for old in self._names()[:-KEPT_CHECKPOINTS]:
            remove_folder(child(self._folder, old))

    def _keep_here(
        self, folder: Path, name: str, write: Callable[[Path], object], metrics: Mapping[str, float]
    ) -> None:
        partial = folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a run that died here
        partial.mkdir(parents=True)
        _write(partial, write, metrics)
        for path in (*partial.iterdir(), partial):
            persist(path)
        partial.rename(folder / name)
        persist(folder)


def _write(folder: Path, write: Callable[[Path], object], metrics: Mapping[str, float]) -> None:
    write(folder)
    (folder / METRICS).write_text(json.dumps(metrics))


def publish_model(checkpoint: Path, model: str) -> None:
    """Put a checkpoint, without the training's state, in the place of a model.

    A whole one is there at any time; on object storage each of its files is, which are of the same network.
    """
    ignored = shutil.ignore_patterns("training_state.pt", ".*")
    if is_uri(model):
        with tempfile.TemporaryDirectory() as folder:
            upload(shutil.copytree(checkpoint, Path(folder) / MODEL, ignore=ignored), model, CONFIG)
        return
    target = Path(model)
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(leftover)
    partial = target.with_name(temporary_name(target.name))
    shutil.copytree(checkpoint, partial, ignore=ignored)
    for path in (*partial.rglob("*"), partial):
        persist(path)
    if not target.exists():
        partial.rename(target)
    elif _exchanged(partial, target):
        shutil.rmtree(partial)
    else:  # a file system that cannot: the same command makes up for a crash between the two lines
        old = target.with_name(temporary_name(target.name))
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old)
    persist(target.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, where system and file system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0
