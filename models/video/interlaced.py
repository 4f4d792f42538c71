"""Interlaced video: two moments in the lines of one frame, made one whole frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.video.pyav import av


class Deinterlacer:
    """Frames in, whole frames out, as many and at the same times: FFmpeg's ``bwdif``, and only on frames that say that
    they are interlaced. Nothing is done, and nothing held back, before the first of these.

    Attributes:
        count: interlaced frames so far.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._graph: Any = None
        self._size = (0, 0)
        self.count = 0

    def __call__(self, frame: Any) -> Iterator[Any]:
        """What can be shown once ``frame`` is there; None at the end gives the rest."""
        if frame is None:
            yield from self._finish()
            return
        self.count += bool(frame.interlaced_frame)
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        # A graph is made for one size.
        if self._size != (frame.width, frame.height):
            yield from self._finish()
            self._start(frame)
        self._graph.push(frame)
        yield from self._ready()

    def _start(self, frame: Any) -> None:
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=self._stream.time_base
        )
        whole = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        sink = graph.add("buffersink")
        source.link_to(whole)
        whole.link_to(sink)
        graph.configure()
        self._graph, self._size = graph, (frame.width, frame.height)

    def _finish(self) -> Iterator[Any]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph, self._size = None, (0, 0)

    def _ready(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if frame.pts is not None:  # the filter counts in finer steps
                frame.pts = round(frame.pts * frame.time_base / self._stream.time_base)
            frame.time_base = self._stream.time_base
            yield frame
