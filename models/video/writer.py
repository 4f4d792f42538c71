"""Frames into a video file, through PyAV: color, times, rotation and the other streams are those of the source."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from models.config import ConfigError
from models.paths import temporary_name
from models.video.extras import copy_extras, tags_of
from models.video.pyav import av
from models.video.reader import FULL_RANGE, Reader, VideoFrame

# suffix: (container, encoder when none is asked for)
WRITABLE = {
    ".mp4": ("mp4", "libx264"), ".m4v": ("mp4", "libx264"), ".mov": ("mov", "libx264"), ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}  # fmt: skip


class Writer:
    """A video file, written beside its place and moved there by :meth:`finish`; without that, nothing is left.

    Args:
        path: where it goes; the suffix says which container.
        reader: the source, which gives times, colors and the streams that are copied.
        codec: the encoder, or None for the container's usual one.
        crf: its quality, or None.
        metadata: copy the tags of the file (with the place where it was taken).

    Attributes:
        left_out: what the source holds and the result does not, in words.

    Raises:
        ConfigError: an encoder that is not there, or streams that do not fit the container.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, reader: Reader, codec: str | None, crf: int | None, *, metadata: bool) -> None:
        self._path, self._reader = path, reader
        container, usual = WRITABLE[path.suffix.lower()]
        self._codec, self._usual, self._crf = codec or usual, usual, crf
        self._temporary = path.with_name(temporary_name(path.name))
        # The index comes before the pictures: players begin before all of it has arrived.
        options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._temporary), "w", format=container, options=options)
        except (av.error.FFmpegError, OSError) as problem:
            raise self._refused(problem) from problem
        self._open = True
        # A header needs all streams, and that of the video is made with its first frame.
        self._waiting: list[Any] = []
        if metadata:
            self._container.metadata.update(reader.container.metadata)
        try:
            self._copies = {other.index: self._container.add_stream_from_template(other) for other in reader.others}
            for other in reader.others:
                tags_of(other, self._copies[other.index])
            self.left_out = copy_extras(reader.container, self._container, reader.stream)
        except (ValueError, av.error.FFmpegError) as problem:
            self._discard()
            raise ConfigError(
                f"the sound or subtitles of {reader.path} do not fit {path.name}: {problem}; choose another suffix, "
                "such as .mkv"
            ) from problem
        self._stream: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def write(self, frame: VideoFrame) -> None:
        """Encode a frame.

        Raises:
            ConfigError: it has another size than those before, or the encoder refuses it.
            OSError: it cannot be written.
        """
        try:
            if self._stream is None:
                self._start(frame)
            self._container.mux(self._stream.encode(self._encodable(frame)))
        except av.error.FFmpegError as problem:
            raise self._refused(problem) from problem

    def copy(self, packet: Any) -> None:
        """Copy a packet of another stream; those that come before the first frame wait for it."""
        if self._stream is None:
            self._waiting.append(packet)
            return
        packet.stream = self._copies[packet.stream.index]
        try:
            self._container.mux(packet)
        except av.error.FFmpegError as problem:
            raise self._refused(problem) from problem

    def finish(self) -> None:
        """Write what is left, and move the file to its place.

        Raises:
            ConfigError: there was no frame.
            OSError: it cannot be written.
        """
        if self._stream is None:
            raise ConfigError(f"{self._reader.path} has no frame that can be decoded")
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._open = False
            self._temporary.replace(self._path)
        except (av.error.FFmpegError, OSError) as problem:
            raise self._refused(problem) from problem

    def _start(self, first: VideoFrame) -> None:
        reader, color = self._reader, self._reader.color
        height, width = first.pixels.shape[:2]
        options = {} if self._crf is None else {"crf": str(self._crf)}
        try:
            stream: Any = self._container.add_stream(
                self._codec, rate=reader.stream.average_rate or Fraction(25), options=options
            )
        except (ValueError, av.error.FFmpegError) as problem:
            raise ConfigError(
                f"no encoder '{self._codec}' for {self._path.name}: {problem}; the usual one is {self._usual}"
            ) from problem
        tags_of(reader.stream, stream)
        stream.width, stream.height = width, height
        wanted = reader.stream.codec_context.pix_fmt
        stream.pix_fmt = _pixel_format(stream.codec_context.codec, wanted, color.bits > 8, (width, height))
        # Times go over as numbers, so they need the same unit.
        stream.time_base = stream.codec_context.time_base = reader.stream.time_base
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = color.space, color.transfer, color.primaries
        context.color_range = color.range
        if reader.aspect:
            context.sample_aspect_ratio = reader.aspect
        self._stream = stream
        waiting, self._waiting = self._waiting, []
        for packet in waiting:
            self.copy(packet)

    def _encodable(self, frame: VideoFrame) -> Any:
        color = self._reader.color
        if frame.pixels.shape[:2] != (self._stream.height, self._stream.width):
            size = f"{self._stream.width}x{self._stream.height} to {frame.pixels.shape[1]}x{frame.pixels.shape[0]}"
            raise ConfigError(f"{self._reader.path} changes its size from {size} at {frame.time:.2f} s; cut it there")
        picture = av.VideoFrame.from_ndarray(frame.pixels, format=color.rgb)
        picture = picture.reformat(
            format=self._stream.pix_fmt,
            src_colorspace=color.swscale,
            dst_colorspace=color.swscale,
            src_color_range="JPEG",
            dst_color_range="JPEG" if color.range == FULL_RANGE else "MPEG",
        )
        picture.pts, picture.time_base = frame.pts, self._reader.stream.time_base
        picture.colorspace, picture.color_range = color.space, color.range
        return picture

    def _refused(self, problem: Exception) -> Exception:
        if isinstance(problem, OSError):
            return OSError(problem.errno, problem.strerror or str(problem), str(self._path))
        return ConfigError(f"{self._path.name} cannot be written with '{self._codec}': {problem}")

    def _discard(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(Exception):  # it is thrown away
                self._container.close()
        self._temporary.unlink(missing_ok=True)


def _pixel_format(codec: Any, wanted: str | None, deep: bool, size: tuple[int, int]) -> str:
    """The source's own format where the encoder has it, without halved color on odd sizes, which encoders refuse; else
    one of 8 bits, or of 10 if it is ``deep``.
    """
    offered: list[str] = [described.name for described in codec.video_formats or ()]
    # yuvj is an old name of yuv of full range, and the range is said elsewhere.
    wanted = (wanted or "yuv420p").replace("yuvj", "yuv")
    odd = any(side % 2 for side in size)
    usual = "yuv444p" if odd else "yuv420p"
    choices = [*([f"{usual}10le"] if deep else []), usual, *offered]
    if not odd or "444" in wanted:
        choices = [wanted, *choices]
    return next(choice for choice in choices if choice in offered or not offered)
