"""Dehaze a video: frames through a network one after the other, smoothed over time, the sound copied."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from models.config import ConfigError
from models.inference import device_of, haze_of, verdict
from models.options import InferenceConfig, VideoOptions
from models.paths import absolute
from models.predictor import Predictor
from models.video import WRITABLE, FrameDehazer, Pixels, Reader, Told, VideoFrame, rewrite_video
from pipelines.dehaze.names import is_remote, same_place
from pipelines.dehaze.outcome import NO_SPACE, SOME_FAILED
from pipelines.disk_errors import no_space, reason_of
from pipelines.shown import progress, say

SUFFIX = "_dehazed"


def target_of(source: Path, target: str | None, *, overwrite: bool) -> Path:
    """Return where the result goes: the file or folder ``target``, or beside the source.

    Raises:
        ConfigError: it would replace the source, or is there already, or has a suffix that cannot be written.
    """
    suffix = source.suffix if source.suffix.lower() in WRITABLE else ".mp4"
    if target is None:
        place = source.with_name(f"{source.stem}{SUFFIX}{suffix}")
    else:
        place = Path(absolute(target))
        if place.is_dir() or target.endswith("/") or not place.suffix:
            place = place / f"{source.stem}{suffix}"
    if place.suffix.lower() not in WRITABLE:
        raise ConfigError(f"cannot write a video {place.name}; expected one of {' '.join(sorted(WRITABLE))}")
    if same_place(str(source), str(place)):
        raise ConfigError(f"{place} is the input; choose another name")
    if place.exists() and not overwrite:
        raise ConfigError(f"{place} is there already; --overwrite replaces it")
    return place


def dehaze_video(source: Path, target: Path, options: VideoOptions, predictor: Predictor) -> Told:
    """Dehaze a file; see :func:`models.video.rewrite_video`."""
    dehazer, haze = FrameDehazer(options), list[float]()

    def dehazed(frame: VideoFrame) -> Pixels:
        opened = dehazer.opened(frame.pixels, predictor.execution)
        found = None if opened.ask is None else predictor.run(opened.ask, wrap=options.wrap)
        if found is not None and (amount := haze_of(found.transmission)) is not None:
            haze.append(amount)
        bar.update()
        return dehazer.shown(opened, found, frame.time, frame.pixels.dtype)

    with progress(None, "dehaze", "frames") as bar:
        told = rewrite_video(source, target, options, dehazed, partial(setattr, bar, "total"))
    return replace(told, notes=(*_found(haze), *told.notes))


def _found(haze: Sequence[float]) -> Iterator[str]:
    if haze:
        mean = sum(haze) / len(haze)
        yield f"{verdict(mean)} ({mean:.2f} on average)"


def run_video(
    source: str,
    target: str | None,
    options: VideoOptions,
    execution: InferenceConfig,
    *,
    model: str,
    tracking_uri: str | None = None,
    device: str = "auto",
    allow_networks: Collection[str] = (),
    overwrite: bool = False,
    dry_run: bool = False,
) -> int:
    """Do what ``dehaze apply`` does for a video; 0; 1: parts are missing or damaged, or there is too little memory; 3:
    there is no room.

    Raises:
        ConfigError: as :func:`models.video.rewrite_video` and :func:`target_of`; no such model or device; a name of
            no local file.
    """
    for name in (source, target or ""):
        if is_remote(name):
            raise ConfigError(f"{name} is not on this machine, where videos are read and written: copy it first")
    path = Path(absolute(source))  # FFmpeg takes some relative names for something else
    place = target_of(path, target, overwrite=overwrite)
    if dry_run:
        reader = Reader(path)
        say(f"{path} -> {place}: {reader.frames or 'an unknown number of'} frames")
        reader.close()
        return 0
    predictor = Predictor(
        model, tracking_uri, execution=execution, device=device_of(device), allow_networks=allow_networks
    )
    try:
        told = dehaze_video(path, place, options, predictor)
        if options.keep_dates:
            modified = path.stat().st_mtime_ns
            os.utime(place, ns=(modified, modified))
    except MemoryError as problem:
        say(f"failed: {path}: {problem or 'out of memory'}", sys.stderr)
        return SOME_FAILED
    except OSError as problem:
        full = no_space(problem, str(place))
        if full is None:
            raise ConfigError(f"cannot write {place}: {reason_of(problem)}") from problem
        say(f"error: {full.advice}", sys.stderr)
        return NO_SPACE
    say(str(place))
    for line in (*told.notes, *told.problems):
        say(line, sys.stderr)
    return SOME_FAILED if told.problems else 0
