"""The recipes that ship with the project, by name, and those of others by path or URI."""

from __future__ import annotations

import os
from pathlib import Path

from models.config import ConfigError, nearest
from models.paths import is_uri, read_file

RECIPES = Path(__file__).parent


def recipe_names() -> list[str]:
    """List the names of the recipes that ship with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_text(name: str | os.PathLike[str]) -> bytes:
    """Return what a recipe holds.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    if not is_uri(name):
        return _find(name).read_bytes()
    try:
        text = read_file(os.fspath(name))
    except OSError as problem:
        raise ConfigError(f"cannot read the recipe {name}: {problem}") from problem
    if text is None:
        raise ConfigError(f"there is no recipe {name}")
    return text


def _find(name: str | os.PathLike[str]) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    packaged = RECIPES / f"{path.stem}.yaml"
    if packaged.is_file() and path.parent == Path():
        return packaged
    raise ConfigError(f"there is no recipe {os.fspath(name)!r}{nearest(path.stem, recipe_names())}")
