"""Names of files that are not whole yet."""

from __future__ import annotations

import uuid

_KEPT = 32  # characters of the name: with any of them, a file system takes it wherever it takes the whole name


def temporary_name(name: str) -> str:
    """A name beside ``name`` to write under, hidden and never taken; ``.photo.jpg.0123abcd.tmp``. A long name comes
    shortened, as file systems bound names by their bytes.
    """
    return f".{name[:_KEPT]}.{uuid.uuid4().hex[:8]}.tmp"
