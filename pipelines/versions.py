"""Versions of the packages that made a result, for the files that report it."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, this project and ``packages``, which are distribution names."""
    found = {"python": platform.python_version()}
    for name in ("ray-dehaze", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "from source" if name == "ray-dehaze" else "not installed"
    return found
