"""A video made anew: its frames through whoever changes them, one after the other, the sound copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from models.options import VideoOptions
from models.video.reader import Pixels, Reader, VideoFrame
from models.video.writer import Writer


@dataclass(frozen=True)
class Told:
    """What people should know about a result: ``problems`` make it less than the source, ``notes`` do not."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def rewrite_video(
    source: Path,
    target: Path,
    options: VideoOptions,
    change: Callable[[VideoFrame], Pixels],
    begun: Callable[[int | None], object],
) -> Told:
    """Change the frames of a file, one at a time; the one before is written and the one after it read meanwhile. Memory
    is that of a few frames, however long the file is.

    Args:
        source: a video.
        target: where the result goes, complete or not at all.
        options: how it is encoded, and what is kept.
        change: a frame into pixels of the same size and kind.
        begun: called with the number of frames, as far as the file says, before the first one.

    Raises:
        ConfigError: the source cannot be read, or the target cannot hold it.
        OSError: the target cannot be written.
    """
    reader = Reader(source)
    try:
        begun(reader.frames)
        count = 0
        with (
            Writer(target, reader, options.codec, options.crf, metadata=options.keep_metadata) as writer,
            ThreadPoolExecutor(1) as reading,
            ThreadPoolExecutor(1) as writing,
        ):
            packets = reader.packets()
            coming = reading.submit(next, packets, None)
            written: Future[None] | None = None
            while (found := coming.result()) is not None:
                coming = reading.submit(next, packets, None)
                if isinstance(found, VideoFrame):
                    write = partial(writer.write, replace(found, pixels=change(found)))
                    count += 1
                else:
                    write = partial(writer.copy, found)
                if written is not None:
                    written.result()
                written = writing.submit(write)
            if written is not None:
                written.result()
            writer.finish()
        return Told(tuple(_problems(reader, count)), tuple(_notes(reader, writer.left_out)))
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


def _notes(reader: Reader, left_out: Sequence[str]) -> Iterator[str]:
    if reader.interlaced:
        yield f"{reader.path} is interlaced: whole frames were made of {reader.interlaced} frames of two fields each"
    if left_out:
        yield f"left out of the result: {', '.join(left_out)}"
