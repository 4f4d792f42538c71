"""What lies in a folder beside photographs: its kinds, for the line that says what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

VIDEOS = frozenset(
    {
        ".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".m2t", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg",
        ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
    }
)  # fmt: skip
HIDDEN, EARLIER, LINKS = "hidden", "earlier results", "broken links"
OTHER, BARE = "pipes or devices", "without suffix"
_LONGEST = 5  # letters of a suffix that says a kind


def is_video(name: str) -> bool:
    """By its suffix."""
    return PurePosixPath(name).suffix.lower() in VIDEOS


def kind_of(name: str) -> str:
    """What a file that is no photograph is called in the list: its suffix in capitals."""
    suffix = PurePosixPath(name).suffix[1:]
    return suffix.upper() if suffix.isascii() and suffix.isalnum() and len(suffix) <= _LONGEST else BARE


def listed(kinds: Mapping[str, int]) -> str:
    """``12 HEIC, 3 MOV``: what there is most of comes first."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered)


def advice(kinds: Mapping[str, int]) -> str:
    """What to do about videos that were left out, or nothing."""
    there = any(is_video(f"a.{kind}") for kind in kinds)
    return "; videos are dehazed one at a time: dehaze apply CLIP RESULT" if there else ""
