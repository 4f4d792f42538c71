"""Dehaze a video: frames through a network one after the other, smoothed over time, the sound copied."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.config import ConfigError
from models.images import quantize, to_tensor
from models.inference import Look, Tile, as_wanted, content_of, device_of, haze_of, look_at, steadied, verdict
from models.options import InferenceConfig
from models.paths import absolute
from models.predictor import Predictor
from pipelines.dehaze.names import is_remote, same_place
from pipelines.dehaze.options import VideoOptions
from pipelines.dehaze.outcome import NO_SPACE, SOME_FAILED
from pipelines.dehaze.video.files import WRITABLE, Reader, VideoFrame, Writer
from pipelines.dehaze.video.smoothing import Smoother
from pipelines.disk_errors import NoSpaceError
from pipelines.shown import say

SUFFIX = "_dehazed"


class FrameDehazer:
    """Dehazes the frames of one clip, in order."""

    def __init__(self, predictor: Predictor, options: VideoOptions) -> None:
        self._predictor, self._options = predictor, options
        self._smoother = Smoother(options.smoothing)
        self._look: tuple[Look, float, int] | None = None  # of the frame before, its time, and cuts until then
        self._inside: Tile | None = None
        self.haze: list[float] = []

    @torch.inference_mode()
    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """The frame to show."""
        whole = to_tensor(frame.pixels)
        self._inside = content_of(whole, self._inside)
        hazy = self._inside.of(whole)
        found = self._predictor.run(hazy, wrap=self._options.wrap)
        scene = self._smoother(hazy, found.scene, frame.time)
        look = self._steady(look_at(hazy, scene, found.transmission, self._options), frame.time)
        self._inside.of(whole).copy_(as_wanted(hazy, scene, found.transmission, look))
        if (haze := haze_of(found.transmission)) is not None:
            self.haze.append(haze)
        return VideoFrame(quantize(whole, np.dtype(frame.pixels.dtype))[0], frame.pts, frame.time)

    def _steady(self, look: Look, time: float) -> Look:
        """What the controls take from a frame as a whole wavers as the network does, and is averaged over time too."""
        if self._look is not None and self._options.smoothing > 0.0:
            before, then, cuts = self._look
            kept = math.exp(-max(time - then, 0.0) / self._options.smoothing)
            look = look if cuts != self._smoother.cuts else steadied(before, look, kept)
        self._look = look, time, self._smoother.cuts
        return look


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


@dataclass(frozen=True)
class Told:
    """What people should know about a result: ``problems`` make it less than the source, ``notes`` do not."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def dehaze_video(source: Path, target: Path, options: VideoOptions, predictor: Predictor) -> Told:
    """Dehaze a file. Memory is that of a few frames, however long it is.

    Args:
        source: a video.
        target: where the result goes, complete or not at all.
        options: how.
        predictor: the network.

    Raises:
        ConfigError: the source cannot be read, or the target cannot hold it.
    """
    reader = Reader(source)
    try:
        dehazer = FrameDehazer(predictor, options)
        count = 0
        with Writer(target, reader, options.codec, options.crf, metadata=options.keep_metadata) as writer:
            with tqdm(total=reader.frames, unit="frame", disable=None, dynamic_ncols=True) as progress:
                for found in reader.packets():
                    if isinstance(found, VideoFrame):
                        writer.write(dehazer(found))
                        count += 1
                        progress.update()
                    else:
                        writer.copy(found)
            writer.finish()
        notes = (*_found(dehazer.haze), *_notes(reader, writer.left_out))
        return Told(tuple(_problems(reader, count)), notes)
    finally:
        reader.close()


def _problems(reader: Reader, count: int) -> Iterator[str]:
    cut = reader.cut_streams()
    reason = f" ({reader.trouble})" if reader.trouble else ""
    if "video" in cut or reason:
        total = f"{count} of {reader.frames}" if reader.frames and reader.frames > count else f"the first {count}"
        yield f"{reader.path} ends early{reason}: {total} frames could be read and were dehazed"
    elif cut:
        yield f"{reader.path} ends early: its {' and '.join(dict.fromkeys(cut))} is shorter than the file says"
    if reader.damaged:
        yield f"{reader.path} is damaged: of {reader.damaged} packets the frame is missing or not whole"


def _found(haze: Sequence[float]) -> Iterator[str]:
    if haze:
        mean = sum(haze) / len(haze)
        yield f"{verdict(mean)} ({mean:.2f} on average)"


def _notes(reader: Reader, left_out: Sequence[str]) -> Iterator[str]:
    if reader.interlaced:
        yield f"{reader.path} is interlaced: whole frames were made of {reader.interlaced} frames of two fields each"
    if left_out:
        yield f"left out of the result: {', '.join(left_out)}"


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
    """Do what ``dehaze apply`` does for a video; 0; 1: parts are missing or damaged; 3: there is no room.

    Raises:
        ConfigError: as :func:`dehaze_video` and :func:`target_of`; no such model or device; a name of no local file.
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
    except NoSpaceError as problem:
        say(f"error: {problem.advice}", sys.stderr)
        return NO_SPACE
    say(str(place))
    for line in (*told.notes, *told.problems):
        say(line, sys.stderr)
    return SOME_FAILED if told.problems else 0
