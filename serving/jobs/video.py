"""A job that is a video: its frames one after the other, in a process that reads and writes it and on the replicas."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models.config import ConfigError
from models.options import DEFAULT_OPTIONS, Controls, DehazeOptions, VideoOptions
from models.paths import local_copy, replacing
from models.video import FrameDehazer
from serving.engine import FrameTask
from serving.errors import Problem, ProblemError, refused
from serving.jobs.store import INPUT, RESULT, JobState
from serving.jobs.work import BEGUN, Work

if TYPE_CHECKING:  # PyAV is an extra
    from models.video import ClipProcess, Coming

TYPES = {".mp4": "video/mp4", ".mov": "video/quicktime", ".mkv": "video/x-matroska", ".webm": "video/webm"}
_FOR_PHOTOGRAPHS = ("format", "quality", "output")


def suffix_of(head: bytes, kind: str | None) -> str | None:
    """The suffix of the result for a video that begins so, a key of :data:`TYPES`; None for what is no video.

    Args:
        head: its first bytes.
        kind: what :func:`models.images.kind_of` says of them.
    """
    if kind is None or not kind.startswith("a video"):
        return None
    if "Matroska" in kind:
        return ".webm" if b"webm" in head[:64] else ".mkv"
    return ".mov" if "QuickTime" in kind else ".mp4"


def video_options(options: DehazeOptions, smoothing: float | None = None) -> VideoOptions:
    """Return the same for a video, and its smoothing; None is the usual one.

    Raises:
        ProblemError: 400 for one that only photographs have.
    """
    for name in _FOR_PHOTOGRAPHS:
        if getattr(options, name) != getattr(DEFAULT_OPTIONS, name):
            raise refused(400, f"{name}: this is for photographs, and a video was sent")
    controls = options.model_dump(include=set(Controls.model_fields))
    own = {} if smoothing is None else {"smoothing": smoothing}
    return VideoOptions(**controls, **own, wrap=bool(options.wrap))


class VideoWork(Work):
    """A video under way. Nothing of it outlives an interruption: it begins anew."""

    async def done(self) -> JobState:
        """See :meth:`Work.done`."""
        from models.video import clip_process

        if await asyncio.to_thread(self._store.begin, self._job, 0) > BEGUN:
            raise refused(503, f"the service ended {BEGUN} times while it worked on this video", "replica_lost")
        target = f"results/video{self.asked.video}"
        with contextlib.ExitStack() as stack:
            copy = local_copy(self._store.file(self._job), (INPUT,))
            folder = await asyncio.to_thread(stack.enter_context, copy)
            options = video_options(self.asked.options, self.asked.smoothing)
            try:
                async with clip_process(folder, INPUT, target, options) as clip:
                    await self._dehazed(clip, options)
            except asyncio.CancelledError:  # an orderly end: it was not the video
                self._store.end(self._job, 0)
                raise
            except ConfigError as problem:
                raise refused(422, str(problem), "bad_video") from problem
            await self._require_ours()
            size = await asyncio.to_thread(self._kept, folder / target)
        self._progress(
            status="done", ended=time.time(), total=self.state.done, size=size,
            detail="; ".join((*clip.told.problems, *clip.told.notes)) or None,
        )  # fmt: skip
        return self.state

    async def _dehazed(self, clip: ClipProcess, options: VideoOptions) -> None:
        total = await clip.frames() or 0
        self._require_fits(total)
        self._progress(status="running", total=total, done=0, size=self.asked.size)
        dehazer = FrameDehazer(options)
        while (coming := await clip.next()) is not None:
            self._require_fits(self.state.done + 1, coming)
            pixels = await clip.pixels(coming)
            async with self._slots:
                await self._doors.turn(self._config.yield_s)
                task = FrameTask(pixels, coming.time, dehazer, options.wrap, self.asked.model)
                found = await self._doors.outcome(partial(self._doors.frame, task))
            if isinstance(found, Problem):
                raise ProblemError(found)
            dehazer = found.dehazer
            await clip.answer(found.pixels)
            self._progress(done=self.state.done + 1)
            await self._note()

    def _require_fits(self, frames: int, coming: Coming | None = None) -> None:
        config = self._config
        if frames > config.max_frames:
            detail = f"the video has more than the {config.max_frames:,} frames accepted; cut it into parts"
            raise refused(413, detail, "too_large")
        if coming is not None and coming.height * coming.width > config.max_frame_pixels:
            size = f"{coming.width} x {coming.height}"
            detail = f"the video's frames have {size} pixels; at most {config.max_frame_pixels:,} are accepted"
            raise refused(413, detail, "too_large")

    def _kept(self, target: Path) -> int:
        """Move the result to its place, and return its size."""
        size = target.stat().st_size
        if size > self._room():
            raise refused(413, "the folder of jobs is full, and the result does not fit into it", "answer_full")
        with target.open("rb") as source, replacing(self._store.file(self._job, RESULT), durable=True) as stream:
            shutil.copyfileobj(source, stream)
        return size
