"""What lies in the ``--out`` of a training run: whose checkpoints they are, the model, the results. No Ray."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config import ConfigError
from models.paths import persist, replacing
from pipelines.tracking import flatten

MODEL = "model"
RECIPE_FILE = "recipe.json"
RESULT_FILE = "result.json"
RUN_FILE = "run.json"
TRACKING_FILE = "tracking.json"
EARLIER = "earlier"
LOCAL = "local"  # checkpoints of a run in one process; those of Ray Train are in `ray`
_OURS = (
    "ray",
    LOCAL,
    "corpora",
    "pool",
    "pool-snapshots",
    "labels",
    MODEL,
    RECIPE_FILE,
    RESULT_FILE,
    TRACKING_FILE,
    RUN_FILE,
)
_CHECKPOINTS = {True: f"{LOCAL}/step-*", False: "ray/*/checkpoint_*"}  # by whether training is local
_SHOWN = 5  # differences that a message names
_AT_CWD, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file that is whole whenever it is read."""
    with replacing(str(path)) as stream:
        stream.write((json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What such a file says; nothing where there is none."""
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def require_same_run(out: Path, digest: str, trained: Mapping[str, Any]) -> None:
    """Refuse a folder that holds checkpoints or labels of something else than ``trained``, whose digest this is.

    Raises:
        ConfigError: it does; the message names what differs.
    """
    record = read_json(out / RUN_FILE)
    if record.get("digest") == digest or not _has_work(out):
        return
    remedy = "--fresh puts them aside and starts anew; or choose another --out"
    if "trained" not in record:
        raise ConfigError(f"{out} has checkpoints of an earlier version of this program: {remedy}")
    raise ConfigError(f"{out} has checkpoints of another run: {_differences(record['trained'], trained)}. {remedy}")


def _has_work(out: Path) -> bool:
    return any(next(out.glob(pattern), None) for pattern in (*_CHECKPOINTS.values(), "pool-snapshots/*/step-*"))


def require_same_way(out: Path, *, local: bool) -> None:
    """Refuse a folder with checkpoints that were made on Ray where training is ``local``, and the reverse.

    Raises:
        ConfigError: it has some.
    """
    if next(out.glob(_CHECKPOINTS[not local]), None) is not None:
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


def set_aside(out: Path) -> Path | None:
    """Move all that a run left in its folder to ``earlier/NUMBER`` there; None when there was nothing."""
    left = [out / name for name in _OURS if (out / name).exists()]
    if not left:
        return None
    numbers = [int(path.name) for path in (out / EARLIER).glob("[0-9]*") if path.name.isdigit()]
    folder = out / EARLIER / f"{max(numbers, default=0) + 1:03d}"
    folder.mkdir(parents=True)
    for path in left:
        path.rename(folder / path.name)
    return folder


def publish_model(checkpoint: Path, model: Path) -> None:
    """Put a checkpoint, without the training's state, in the place of a model; a whole one is there at any time."""
    for leftover in model.parent.glob(f".{model.name}.*.tmp"):
        shutil.rmtree(leftover)
    partial = model.with_name(f".{model.name}.{uuid.uuid4().hex[:8]}.tmp")
    shutil.copytree(checkpoint, partial, ignore=shutil.ignore_patterns("training_state.pt", ".*"))
    for path in (*partial.rglob("*"), partial):
        persist(path)
    if not model.exists():
        partial.rename(model)
    elif _exchanged(partial, model):
        shutil.rmtree(partial)
    else:  # a file system that cannot: the same command makes up for a crash between the two lines
        old = model.with_name(f".{model.name}.{uuid.uuid4().hex[:8]}.tmp")
        model.rename(old)
        partial.rename(model)
        shutil.rmtree(old)
    persist(model.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, where system and file system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0
