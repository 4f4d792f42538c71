"""Whether a video's file ends before it should: what its container states against what came out of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

_MICROSECONDS = 1_000_000  # in which FFmpeg gives a container's duration
_TOLERANCE_S = 0.1  # of stated durations, beside two frames
_INDEXED = ("mov", "mp4")  # every packet stands in the index
_TIMED = ("matroska", "flv")  # the header states the time of the end


class Extent:
    """Counts packets and notes how far they reach. MPEG-TS and raw streams state nothing to compare that with."""

    def __init__(self, container: Any, video: Any) -> None:
        self._container, self._video = container, video
        self._kinds = set(container.format.name.split(","))
        self._packets: Counter[int] = Counter()
        self._end = self._video_end = 0.0

    @property
    def frames(self) -> int | None:
        """Return how many frames there should be, as far as the file says; by its length where it gives no number."""
        if self._video.frames:
            # Frames outside of the edit list stand in the index, and no decoder shows them.
            hidden = sum(entry.is_discard for entry in self._video.index_entries) if self._of(_INDEXED) else 0
            return int(self._video.frames) - hidden
        seconds, rate = self._seconds(), self._video.average_rate
        return round(seconds * rate) if seconds and rate else None

    def see(self, packet: Any) -> None:
        """Note a packet of any stream."""
        if (packet.size or packet.pts is not None) and not packet.is_corrupt:  # such as one that was cut in two
            self._packets[packet.stream.index] += 1
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._end = max(self._end, end)
            if packet.stream is self._video:
                self._video_end = max(self._video_end, end)

    def is_short(self, stream: Any) -> bool:
        """Return whether less of a stream came than the file states. Ask when all packets were seen."""
        seen = self._packets[stream.index]
        if self._of(_INDEXED):
            return seen < len(stream.index_entries)
        rate = float(self._video.average_rate or 25)
        if self._of(("avi",)):
            reached = round(self._video_end / stream.time_base)  # frames dropped in recording count, without a packet
            return stream is self._video and max(seen, reached) < int(stream.frames)
        if not self._of(_TIMED) or not self._container.duration:
            return False
        stated = self._container.duration / _MICROSECONDS
        return bool(stated - self._end > max(_TOLERANCE_S, 2 / rate))

    def _of(self, kinds: tuple[str, ...]) -> bool:
        return bool(self._kinds.intersection(kinds))

    def _seconds(self) -> float | None:
        """How long the video is: by its own tag, as Matroska has it, or like the whole file."""
        hours, _, rest = self._video.metadata.get("DURATION", "").partition(":")
        minutes, _, seconds = rest.partition(":")
        try:
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        except ValueError:
            return self._container.duration / _MICROSECONDS if self._container.duration else None
