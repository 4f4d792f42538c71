"""Globs over paths and URIs."""

from __future__ import annotations

import re


def split_glob(source: str) -> tuple[str, re.Pattern[str] | None]:
    """Return the folder before the first wildcard, and a pattern that paths below it must match (None: no wildcard)."""
    scheme, separator, rest = source.rpartition("://")
    parts = rest.split("/")
    first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), None)
    if first is None:
        return source, None
    steps = [r"(?:[^/]+/)*" if part == "**" else _translate(part) + "/" for part in parts[first:]]
    pattern = re.compile("".join(steps).removesuffix("/") + (r"[^/]+" if parts[-1] == "**" else ""))
    return f"{scheme}{separator}{'/'.join(parts[:first]) or '/'}", pattern


def _translate(part: str) -> str:
    """Translate a glob for one path component to a regular expression that does not cross slashes."""
    classes = re.split(r"(\*|\?|\[[^\]]+\])", part)
    known = {"*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(piece) or (piece.replace("[!", "[^") if piece.startswith("[") else re.escape(piece))
        for piece in classes
    )
