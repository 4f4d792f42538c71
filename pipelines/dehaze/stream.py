"""One photograph through standard input or standard output, named ``-``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pyarrow import fs as pafs

from models.config import ConfigError
from models.images import ImageError
from models.inference import device_of
from models.paths import absolute, filesystem
from models.predictor import Predictor
from pipelines.dehaze.names import names_folder, same_place
from pipelines.dehaze.options import execution_of, options_of
from pipelines.dehaze.outcome import NO_SPACE, SOME_FAILED
from pipelines.dehaze.plan import format_of
from pipelines.dehaze.work import said, write
from pipelines.disk_errors import NoSpaceError, no_space, reason_of
from pipelines.shown import say

STREAM = "-"
_ENDED = 141  # 128 + SIGPIPE: whoever read standard output has gone


def run_stream(source: str, target: str, args: argparse.Namespace) -> int:
    """Dehaze one photograph; ``source`` or ``target`` or both are :data:`STREAM`.

    Returns:
        0; 1: the photograph cannot be dehazed; 3: there is no room; 141: nobody reads standard output.

    Raises:
        ConfigError: flags that make no sense here, a terminal, a target that is there or cannot be written.
    """
    for flag in ("preview", "dry_run", "keep_dates"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag.replace('_', '-')} does not go with standard input or output")
    options = options_of(args)
    if target != STREAM:
        options = options.model_copy(update={"format": _checked(target, options.format, overwrite=args.overwrite)})
    elif sys.stdout is None or sys.stdout.isatty():
        what = "closed" if sys.stdout is None else "a terminal"
        raise ConfigError(f"standard output is {what}; send it to a file or a program: ... > clear.jpg")
    predictor = Predictor(
        args.model,
        args.tracking_uri,
        execution=execution_of(args),
        device=device_of(args.device),
        allow_networks=args.allow_networks,
    )
    name = "standard input" if source == STREAM else source
    try:
        made, info = predictor.dehaze_bytes(_read(source, target, predictor.limits.max_bytes), options)
    except (ImageError, MemoryError) as problem:
        say(f"failed: {name}: {' '.join(str(problem).split()) or 'out of memory'}", sys.stderr)
        return SOME_FAILED
    for note in said(info):
        say(f"note: {name}: {note}", sys.stderr)
    try:
        _write(target, made)
    except NoSpaceError as problem:
        say(f"error: {problem.advice}", sys.stderr)
        return NO_SPACE
    except BrokenPipeError:
        return _ENDED
    if target != STREAM and info.haze is not None:
        say(f"{name}: {info.verdict} ({info.haze:.2f})", sys.stderr)
    return 0


def _checked(target: str, file_format: str | None, *, overwrite: bool) -> str:
    """Return the format of a file to write.

    Raises:
        ConfigError: it is no file that can be written.
    """
    place = absolute(target)
    files, path = filesystem(place)
    kind = files.get_file_info(path).type
    if kind == pafs.FileType.Directory or names_folder(target):
        raise ConfigError(f"{target} is a folder; with standard input, give the name of a file")
    if kind != pafs.FileType.NotFound and not overwrite:
        raise ConfigError(f"{target} is there already; --overwrite replaces it")
    return format_of(target, file_format)


def _read(source: str, target: str, most: int) -> bytes:
    if source != STREAM:
        place = absolute(source)
        if "://" not in place and not Path(place).is_file():
            raise ConfigError(f"{source} is no file; for standard output, give one photograph")
        files, path = filesystem(place)
        with files.open_input_stream(path, compression=None) as stream:
            found: bytes = stream.read(most + 1)
        return found
    if sys.stdin is None or sys.stdin.isatty():
        what = "closed" if sys.stdin is None else "a terminal"
        raise ConfigError(f"standard input is {what}; give it a photograph: dehaze apply - clear.jpg < photo.jpg")
    if target != STREAM and same_place(f"/dev/fd/{sys.stdin.fileno()}", absolute(target)):
        raise ConfigError(f"{target} is the input; choose another name")
    data = sys.stdin.buffer.read(most + 1)
    if not data:
        raise ConfigError("standard input is empty; expected a photograph")
    return data


def _write(target: str, data: bytes) -> None:
    if target != STREAM:
        try:
            write(absolute(target), data)
        except NoSpaceError:
            raise
        except OSError as problem:
            raise ConfigError(f"cannot write {target}: {reason_of(problem)}") from problem
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left again at its end
        raise no_space(problem, "standard output") or problem from problem
