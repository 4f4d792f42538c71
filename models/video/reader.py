"""Frames out of a video file, through PyAV, with what has to be kept: color, times, rotation and the other streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import ConfigError
from models.video.extent import Extent
from models.video.extras import copied_streams
from models.video.interlaced import Deinterlacer
from models.video.pyav import av

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
FULL_RANGE = 2
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
        try:
            self.color = _color(path, stream.codec_context)
        except ConfigError:
            self.container.close()
            raise
        self.path, self.stream, self.damaged, self.trouble = path, stream, 0, ""
        stream.thread_type = "SLICE"  # with frame threads, a damaged packet takes its neighbors along, silently
        self.others = copied_streams(self.container)
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
        # One matrix on both sides: YCbCr becomes RGB, and colors stay what they are.
        rgb = frame.to_ndarray(
            format=self.color.rgb,
            src_colorspace=self.color.swscale,
            dst_colorspace=self.color.swscale,
            src_color_range="JPEG" if self.color.range == FULL_RANGE else "MPEG",
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
    full = int(context.color_range) == FULL_RANGE or str(context.pix_fmt).startswith("yuvj")
    return Color(space, FULL_RANGE if full else 1, transfer, int(context.color_primaries), bits)
