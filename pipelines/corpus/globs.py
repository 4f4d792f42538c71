"""Globs over paths and URIs."""

from __future__ import annotations

import re
from urllib.parse import unquote

from models.paths import split_options


def split_glob(source: str) -> tuple[str, re.Pattern[str] | None]:
    """Return the folder before the first wildcard, and a pattern that paths below it must match (None: no wildcard).
    The ? of a URI begins its options, which the folder has too; the pattern is of names that are not quoted.
    """
    base, options = split_options(source)
    scheme, separator, rest = base.rpartition("://")
    parts = rest.split("/")
    first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), None)
    if first is None:
        return source, None
    names = [unquote(part) if separator else part for part in parts[first:]]
    steps = [r"(?:[^/]+/)*" if name == "**" else _translate(name) + "/" for name in names]
    pattern = re.compile("".join(steps).removesuffix("/") + (r"[^/]+" if parts[-1] == "**" else ""))
    return f"{scheme}{separator}{'/'.join(parts[:first]) or '/'}{options}", pattern


def _translate(part: str) -> str:
    """Translate a glob for one path component to a regular expression that does not cross slashes."""
    classes = re.split(r"(\*|\?|\[[^\]]+\])", part)
    known = {"*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(piece) or (_class(piece) if piece.startswith("[") else re.escape(piece)) for piece in classes
    )


def _class(piece: str) -> str:
    """A class of characters; nothing is in one without sense, such as ``[z-a]``."""
    inner = piece[1:].replace("[", r"\[")
    found = f"[^{inner[1:]}" if inner.startswith("!") else f"[{inner}"
    try:
        re.compile(found)
    except re.error:
        return "(?!)"
    return found
