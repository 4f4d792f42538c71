"""What a replica does with a photograph: decode, compute, encode; without Ray and without HTTP.

Decoding and encoding run in a few threads, computing in one; the event loop only waits. Pixels in memory are a budget
that requests take in turn, so large photographs queue instead of adding up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from models.config import ConfigError
from models.images import Array, ImageError, ImageLimits, Photo, decode, encode, format_written, probe
from models.inference import Dehazed, NoTransmissionError, haze_of, verdict
from models.options import DehazeOptions
from models.predictor import render, wrapping
from models.video import FrameDehazer
from serving.engine.batching import Done, Outcome, Work
from serving.engine.health import SickError
from serving.engine.slots import ModelSlot, public
from serving.errors import Problem, ProblemError, image_problem, refused
from serving.limits import Budget
from serving.metrics import Metrics
from serving.sniff import explain

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
Compute = Callable[[Work], Awaitable[Outcome]]
Find = Callable[[str | None], Awaitable[ModelSlot]]


@dataclass(frozen=True)
class DehazeTask:
    """A photograph to dehaze: the file, how, and by which model (None: the default)."""

    data: bytes
    options: DehazeOptions
    model: str | None = None


@dataclass(frozen=True)
class Answer:
    """The file to hand out; its format and size; what made it; clearness in [0, 1], higher is clearer, or None
    without a scorer; seconds of each part; sentences on what is not as the photograph had it; and how much haze there
    was, 1 - mean transmission, or None where the model gives none.
    """

    data: bytes
    format: str
    width: int
    height: int
    model: str
    clearness_before: float | None
    clearness_after: float | None
    timing: dict[str, float]
    notes: tuple[str, ...] = ()
    haze: float | None = None

    @property
    def verdict(self) -> str | None:
        """Return the haze in words; None where it is not known."""
        return None if self.haze is None else verdict(self.haze)


@dataclass(frozen=True)
class FrameTask:
    """A frame of a video to dehaze: (H, W, 3) pixels, its time in seconds, what is remembered of those before it,
    whether its ends meet, and the model (None: the default).
    """

    pixels: Array
    time: float
    dehazer: FrameDehazer
    wrap: bool
    model: str | None = None


@dataclass(frozen=True)
class Frame:
    """A dehazed frame: its pixels, and what the next one has to be dehazed with."""

    pixels: Array
    dehazer: FrameDehazer


@dataclass(frozen=True)
class Score:
    """A photograph as it is: clearness and quality in [0, 1], higher is better."""

    width: int
    height: int
    clearness: float
    quality: float


class Engine:
    """The parts of a replica put together.

    Args:
        limits: of pictures.
        compute: does work, alone or with that of others.
        find: the model by its name; raises :class:`ProblemError` for one that there is not.
        threads: that decode and encode.
        max_pixels: in memory at a time, of all requests.
        metrics: counts.
    """

    def __init__(
        self, limits: ImageLimits, compute: Compute, find: Find, *, threads: int, max_pixels: int, metrics: Metrics
    ) -> None:
        self._limits = limits
        self._compute, self._find = compute, find
        self._threads = ThreadPoolExecutor(threads, "pictures", torch.set_num_threads, (1,))
        self._pixels = Budget(max_pixels)
        self._metrics = metrics

    async def dehaze(self, task: DehazeTask) -> Answer | Problem:
        """Dehaze a photograph; what is wrong with it, or with the service, is a value."""
        return await self._guarded(self._dehaze(task), task.data)

    async def frame(self, task: FrameTask) -> Frame | Problem:
        """Dehaze a frame, with the smoothing over time."""
        return await self._guarded(self._frame(task), b"")

    async def score(self, data: bytes) -> Score | Problem:
        """Score a photograph."""
        return await self._guarded(self._score(data), data)

    async def _dehaze(self, task: DehazeTask) -> Answer:
        version, network = (await self._find(task.model)).current
        start = time.perf_counter()
        header = await self._in_thread(probe, task.data, self._limits)
        async with self._pixels.taken(header.width * header.height):
            waited = time.perf_counter() - start
            (photo, hazy), decode_s = await self._in_thread(_timed, _opened, task.data, self._limits)
            wrap, notes = wrapping(photo, task.options)
            done = await self._computed(Work(network, hazy, task.options, wrap))
            (data, size), encode_s = await self._in_thread(_timed, _written, photo, hazy, done, task.options)
        busy = {"decode": decode_s, "model": done.model_s, "score": done.score_s, "encode": encode_s}
        timing = {"decode": decode_s, "queue": waited + done.queue_s} | busy
        self._metrics.stages(timing)
        self._metrics.haze(done.clearness_before)
        name = format_written(photo.format, task.options.format)
        scores = done.clearness_before, done.clearness_after
        haze = None if done.found is None else haze_of(done.found.transmission)
        return Answer(data, name, *size, public(version), *scores, timing, photo.notes + notes, haze)

    async def _frame(self, task: FrameTask) -> Frame:
        _, network = (await self._find(task.model)).current
        height, width, _ = task.pixels.shape
        async with self._pixels.taken(width * height):
            frame = await self._in_thread(task.dehazer.opened, task.pixels, network.execution)
            found = None
            if frame.ask is not None:
                found = _found(await self._computed(Work(network, frame.ask, wrap=task.wrap, rated=False)))
            pixels = await self._in_thread(task.dehazer.shown, frame, found, task.time, task.pixels.dtype)
        return Frame(pixels, task.dehazer)

    async def _score(self, data: bytes) -> Score:
        header = await self._in_thread(probe, data, self._limits)
        async with self._pixels.taken(header.width * header.height):
            _, hazy = await self._in_thread(_opened, data, self._limits)
            done = await self._computed(Work(None, hazy))
        if done.clearness_before is None or done.quality_before is None:
            raise refused(503, "this service has no scorer", "no_scorer")
        self._metrics.haze(done.clearness_before)
        return Score(header.width, header.height, done.clearness_before, done.quality_before)

    async def _computed(self, work: Work) -> Done:
        try:
            outcome = await self._compute(work)
        finally:
            work.dropped = True  # whoever waited was answered or has gone
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _guarded(self, answer: Awaitable[R], data: bytes) -> R | Problem:
        try:
            return await answer
        except ImageError as problem:
            told = image_problem(problem)
            known = None if told.status == 413 else explain(data)
            return told if known is None else replace(told, detail=known)
        except ProblemError as problem:
            return problem.problem
        except NoTransmissionError as problem:
            return Problem(400, "no_transmission", str(problem))
        except MemoryError:
            detail = "not enough memory at the moment; send a smaller picture or try later"
            return Problem(503, "out_of_memory", detail, 5.0)
        except SickError:
            return Problem(503, "replica_lost", "the replica that worked on it cannot compute any more", 1.0)
        except ConfigError as problem:  # of a model that is loaded on demand
            log.error("%s", problem)  # noqa: TRY400 - its sentence says all
            return Problem(503, "model_unavailable", "the model cannot be loaded at the moment", 30.0)
        except Exception:
            log.exception("a request failed")
            return Problem(500, "internal", "the service failed; its log says why")

    async def _in_thread(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))


def _timed(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
    start = time.perf_counter()
    return call(*args, **kwargs), time.perf_counter() - start


def _opened(data: bytes, limits: ImageLimits) -> tuple[Photo, Tensor]:
    photo = decode(data, limits)
    return photo, photo.tensor()


def _found(done: Done) -> Dehazed:
    if done.found is None:
        raise RuntimeError("there is nothing to show: the work was only scored")
    return done.found


def _written(photo: Photo, hazy: Tensor, done: Done, options: DehazeOptions) -> tuple[bytes, tuple[int, int]]:
    """The file, and its width and height."""
    picture = render(photo, hazy, _found(done), options, done.picture)
    height, width = picture.pixels.shape[:2]
    return encode(picture, options.format, options.quality, options.keep_metadata), (width, height)
