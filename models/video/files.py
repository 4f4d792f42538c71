"""Frames of a video file in and out, through PyAV: color, times, rotation and the other streams are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.config import ConfigError
from models.paths import temporary_name

try:
    import av
except ImportError as problem:
    raise ConfigError("videos need PyAV: pip install 'ray-dehaze[video]'") from problem

from models.video.extent import Extent
from models.video.extras import copied_streams, copy_extras, tags_of
from models.video.interlaced import Deinterlacer

# suffix: (container, encoder when none is asked for)
WRITABLE = {
    ".mp4": ("mp4", "libx264"), ".m4v": ("mp4", "libx264"), ".mov": ("mov", "libx264"), ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}  # fmt: skip
# Demuxers of files; others, such as those of playlists, would open whatever their text names.
_OPENING = {
    "format_whitelist": "mov,matroska,avi,asf,dv,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,mxf,ogg",
    "protocol_whitelist": "file",
}
# Before 19 PyAV takes tags that are no UTF-8 only when told so; since, it keeps their bytes as they are.
_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
_SPACES = {1: "ITU709", 5: "ITU601", 6: "SMPTE170M", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}  # H.273: libswscale's
_HDR = {16: "PQ", 18: "HLG"}
_HIGH_DEFINITION = 720  # lines from which a file that does not say is taken for BT.709, as players do
_FULL_RANGE = 2
_UPRIGHT = 90  # degrees

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Color:
    """How a video's numbers mean colors: H.273 codes, range (1 limited, 2 full), and bits of a component."""

    space: int
    range: int
    transfer: int
    primaries: int
    bits: int

    @property
    def swscale(self) -> str:
        """The name of the matrix for libswscale."""
        return _SPACES[self.space]

    @property
    def rgb(self) -> str:
        """The RGB format that holds these bits."""
        return "rgb24" if self.bits <= 8 else "rgb48le"


@dataclass(frozen=True)
class VideoFrame:
    """An upright frame: (H, W, 3) uint8 or uint16 RGB; ``pts`` in the stream's time base, ``time`` in seconds."""

    pixels: Pixels
    pts: int
    time: float


class Reader:
    """A video file, read once, one frame at a time.

    Attributes:
        frames: how many there are, as far as the file says; None when it does not.
        damaged: packets so far that could not be decoded, or not wholly.
        trouble: why reading ended before the file did, or nothing.

    Raises:
        ConfigError: no video in it, or one of a kind that cannot be dehazed.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.container = av.open(str(path), options=_OPENING, **_OPTIONS)
        except (av.error.FFmpegError, OSError) as problem:
            raise ConfigError(f"{path} cannot be read as a video: {problem.strerror or problem}") from problem
        stream: Any = self.container.streams.best("video")
        if stream is None:
            self.container.close()
            raise ConfigError(f"{path} has no video in it")
        self.path, self.stream, self.damaged, self.trouble = path, stream, 0, ""
        stream.thread_type = "SLICE"  # with frame threads, a damaged packet takes its neighbors along, silently
        self.others = copied_streams(self.container)
        self.color = _color(path, stream.codec_context)
        self._extent = Extent(self.container, stream)
        self.frames = self._extent.frames
        self._deinterlacer = Deinterlacer(stream)
        self._turns: int | None = None

    def packets(self) -> Iterator[Any]:
        """Yield what is in the file, in its order: a :class:`VideoFrame`, or a packet of another stream."""
        last: int | None = None
        for packet in self._demuxed():
            if packet is None or packet.stream is self.stream:
                for frame in self._decoded(packet):
                    found = self._frame(frame, last)
                    last = found.pts
                    yield found
            elif packet.dts is not None and packet.stream in self.others:
                yield packet

    @property
    def interlaced(self) -> int:
        """Frames so far that held two moments each; they were made whole."""
        return self._deinterlacer.count

    def cut_streams(self) -> list[str]:
        """The kinds of streams of which there was less than the file states. Ask when all of it was read."""
        return [stream.type for stream in (self.stream, *self.others) if self._extent.is_short(stream)]

    def _demuxed(self) -> Iterator[Any]:
        """All packets; None is the end."""
        try:
            for packet in self.container.demux():
                self._extent.see(packet)
                yield packet
        except av.error.FFmpegError as problem:  # of reading: what follows cannot be had
            self.trouble = problem.strerror or str(problem)
        yield None

    def _decoded(self, packet: Any) -> Iterator[Any]:
        if packet is None:
            yield from self._deinterlacer(None)
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            self.damaged += 1
            return
        self.damaged += packet.is_corrupt or any(frame.is_corrupt for frame in decoded)
        for frame in decoded:
            if self._turns is None:
                self._turns = _turns(self.path, frame.rotation)
            yield from self._deinterlacer(frame)

    def _frame(self, frame: Any, last: int | None) -> VideoFrame:
        base = self.stream.time_base
        pts = frame.pts
        if pts is None or (last is not None and pts <= last):  # damaged or raw streams; a muxer wants rising times
            rate = self.stream.average_rate or Fraction(25)
            pts = 0 if last is None else last + max(1, round(1 / (rate * base)))
        rgb = frame.to_ndarray(
            format=self.color.rgb,
            src_colorspace=self.color.swscale,
            dst_colorspace=self.color.swscale,
            src_color_range="JPEG" if self.color.range == _FULL_RANGE else "MPEG",
            dst_color_range="JPEG",
        )
        return VideoFrame(np.ascontiguousarray(np.rot90(rgb, self._turns or 0)), pts, float(pts * base))

    @property
    def aspect(self) -> Fraction | None:
        """Width of a pixel over its height, upright; known once a frame was read."""
        aspect: Fraction | None = self.stream.codec_context.sample_aspect_ratio
        return 1 / aspect if aspect and (self._turns or 0) % 2 else aspect

    def close(self) -> None:
        """Close the file."""
        self.container.close()


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
        options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._temporary), "w", format=container, options=options)
        except (av.error.FFmpegError, OSError) as problem:
            raise self._refused(problem) from problem
        self._open = True
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
        stream.pix_fmt = _pixel_format(stream.codec_context.codec, reader.stream.codec_context.pix_fmt, width, height)
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
            dst_color_range="JPEG" if color.range == _FULL_RANGE else "MPEG",
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


def _turns(path: Path, rotation: int) -> int:
    if rotation % _UPRIGHT:
        raise ConfigError(f"{path} is turned by {rotation} degrees; expected a multiple of 90")
    return rotation // _UPRIGHT


def _color(path: Path, context: Any) -> Color:
    transfer = int(context.color_trc)
    if transfer in _HDR:
        raise ConfigError(f"{path} is HDR ({_HDR[transfer]}); the networks know standard range only: convert it first")
    space = int(context.colorspace)
    if space not in _SPACES:
        space = 1 if context.height >= _HIGH_DEFINITION else 6
    described = context.format
    bits = max((component.bits for component in described.components), default=8) if described else 8
    full = int(context.color_range) == _FULL_RANGE or str(context.pix_fmt).startswith("yuvj")
    return Color(space, _FULL_RANGE if full else 1, transfer, int(context.color_primaries), bits)


def _pixel_format(codec: Any, wanted: str | None, width: int, height: int) -> str:
    """The source's own format where the encoder has it, without halved color on odd sizes, which encoders refuse."""
    offered: list[str] = [described.name for described in codec.video_formats or ()]
    wanted = (wanted or "yuv420p").replace("yuvj", "yuv")
    deep = "10" if "10" in wanted or "12" in wanted else ""
    odd = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    choices = [f"{odd}{'10le' if deep else ''}", odd, *offered]
    if not (width % 2 or height % 2) or "444" in wanted:
        choices = [wanted, *choices]
    return next(choice for choice in choices if choice in offered or not offered)
