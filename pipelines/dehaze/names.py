"""Names: those of this program's own files, and whether two mean one place, through links, other spellings and file
systems that ignore case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

from models.images import RAW, SUFFIXES
from models.paths import name_of, split_options

VIDEOS = frozenset(
    {
        ".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".m2t", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg",
        ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
    }
)  # fmt: skip
HIDDEN, EARLIER, LINKS = "hidden", "earlier results", "broken links"
OTHER = "pipes or devices"


def is_video(name: str) -> bool:
    """Say whether a name is a video's, by its suffix."""
    return PurePosixPath(name_of(name)).suffix.lower() in VIDEOS


def advice(kinds: Mapping[str, int]) -> str:
    """Return what to do about videos and raw files that were left out, or nothing."""
    videos = any(is_video(f"a.{kind}") for kind in kinds)
    raw = any(SUFFIXES.get(f".{kind.lower()}") == RAW for kind in kinds)
    return ("; videos are dehazed one at a time: dehaze apply CLIP RESULT" if videos else "") + (
        "; raw files need rawpy: pip install 'ray-dehaze[raw]'" if raw else ""
    )


RECORD = ".dehaze.json"  # beside results: what they were made with
FAILURES = "failures.csv"  # beside results: what could not be done
SHEETS = "dehaze-previews"  # beside results: the folder of before/after sheets


def is_own(name: str) -> bool:
    """Say whether this program keeps a name for itself, in any case of its letters: below the results no photograph's
    result has it.
    """
    return name.casefold() in (RECORD, FAILURES, SHEETS)


def is_remote(place: str) -> bool:
    """Return whether a name leads away from this machine; no server is asked."""
    return "://" in place and not place.startswith("file://")


def identity(place: str) -> object:
    """Return what is equal for two names of one file or folder, through links and mounts; None for nothing."""
    if "://" in place:
        parts = urlsplit(place)
        return parts.scheme, parts.netloc, unquote(parts.path).rstrip("/"), frozenset(parse_qsl(parts.query))
    try:
        found = os.stat(place)  # noqa: PTH116 - Path.stat is slow, and this is called for every photograph
    except OSError:
        return None
    return found.st_dev, found.st_ino


def same_place(first: str, second: str) -> bool:
    """Say whether two paths or URIs name one file or folder that is there."""
    known = identity(first)
    return known is not None and known == identity(second)


def inside(place: str, folders: Sequence[str], below: str) -> bool:
    """Say whether ``place`` is one of ``folders`` or below one, unless ``below``, which is looked for first, lies
    between: a folder of results within its source is left out of the inputs.
    """
    end = below if "://" in below else os.path.realpath(below)  # which need not be there yet
    for step in _upwards(place):
        if any(same_place(step, folder) for folder in folders):
            return True
        if step == end or same_place(step, below):
            return False
    return False


def names_folder(place: str) -> bool:
    """Say whether a path or URI ends with a slash: it then is a folder's, also where nothing is there."""
    return split_options(place)[0].endswith("/")


def folder_of(place: str) -> str:
    """Return the folder that a path or URI lies in; a URI's has its options."""
    base, options = split_options(place)
    return base.rpartition("/")[0] + options


def _upwards(place: str) -> Iterator[str]:
    if "://" not in place:
        real = Path(os.path.realpath(place))
        yield from (str(step) for step in (real, *real.parents))
        return
    while not split_options(place)[0].endswith(":/"):
        yield place
        place = folder_of(place)


def ignores_case(place: str) -> bool:
    """Return whether the file system holding ``place`` takes ``A`` and ``a`` for one name. Nothing is written for it:
    the nearest folder that is there is looked up by its name in the other case.
    """
    if "://" in place:
        return False
    path = Path(place)
    while not path.exists() or path.name.swapcase() == path.name:
        if path == path.parent:
            return False
        path = path.parent
    try:
        return path.samefile(path.with_name(path.name.swapcase()))
    except OSError:
        return False
