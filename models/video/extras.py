"""What a video file holds beside pictures: what goes into the result, and the names of what does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

from models.video.pyav import av

_COPIED = ("audio", "subtitle")
_TAGS = ("language", "title", "handler_name")  # of a stream; the others tell of the old file


def copied_streams(container: Any) -> list[Any]:
    """The streams whose packets go over as they are."""
    return [stream for stream in container.streams if stream.type in _COPIED]


def tags_of(source: Any, target: Any) -> None:
    """Give a stream the language, title and role (forced, commentary, ...) of another."""
    target.metadata.update({name: source.metadata[name] for name in _TAGS if name in source.metadata})
    target.disposition = source.disposition


def copy_extras(source: Any, target: Any, video: Any) -> list[str]:
    """Chapters, timecode and attached files, as far as the other container takes them.

    Returns:
        what was left out, in words.
    """
    chapters, matroska = source.chapters(), target.format.name == "matroska"
    target.set_chapters(chapters)
    lost: Counter[str] = Counter()
    for stream in source.streams:
        if stream.type == "attachment" and matroska:
            target.add_stream_from_template(stream)
        elif stream is not video and stream.type not in _COPIED and not _is_known(stream, len(chapters)):
            lost[_name(stream)] += 1
    found = [f"{count} {name}s" if count > 1 else name for name, count in lost.items()]
    code = _timecode(source)
    if code is not None and matroska:
        target.metadata["timecode"] = code
    elif code is not None:  # FFmpeg makes a track of it only where all frames are equally long
        found.append(f"timecode ({code})")
    described = video.codec_context.format
    if described is not None and any(component.is_alpha for component in described.components):
        found.append("transparency")
    return found


def _is_known(stream: Any, chapters: int) -> bool:
    """A track of MOV and MP4 for the chapters or the timecode, which are seen to as such."""
    return stream.type == "data" and ("timecode" in stream.metadata or stream.frames == chapters > 0)


def _name(stream: Any) -> str:
    if stream.type == "video":
        return "cover picture" if stream.disposition & av.stream.Disposition.attached_pic else "further video stream"
    if stream.type == "attachment":
        return "attached file"
    handler = _text(stream.metadata.get("handler_name", "").strip())
    return f"{stream.type} stream ({handler})" if handler else f"{stream.type} stream"


def _timecode(container: Any) -> str | None:
    for place in (container, *container.streams):
        for name, value in place.metadata.items():
            if name.lower() == "timecode":
                return _text(value)
    return None


def _text(tag: str) -> str:
    """A tag for people: of its bytes those that are no UTF-8 become question marks."""
    return tag.encode("utf-8", "replace").decode()
