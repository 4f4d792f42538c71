"""Strict configuration: frozen pydantic models, and errors that name the key and its nearest neighbor."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of every configuration: immutable, unknown keys are errors, defaults are validated too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


class DehazeError(Exception):
    """What the user can change: every command ends with its message, one sentence, and exit code 2."""


class ConfigError(DehazeError, ValueError):
    """A configuration, path or name that the user has to change; the message is one clear sentence."""


class PoolError(DehazeError, RuntimeError):
    """The label pool cannot do what was asked; the message says where, why and what to do."""


class LabelingError(DehazeError, RuntimeError):
    """Labels cannot be made; the message says why and what to do."""


@contextmanager
def starting_ray(what: str = "Ray cannot start on this machine", remedy: str = "") -> Iterator[None]:
    """Make whatever Ray raises when it cannot start, or be joined, an error of one line: it raises many kinds.

    Raises:
        ConfigError: ``what``, the reason, and the remedy.
    """
    try:
        yield
    except DehazeError:
        raise
    except Exception as problem:
        reason = " ".join(str(problem).split())[:300].rstrip(".") or type(problem).__name__
        remedy = remedy or (
            "give it room (memory, processors, disk space in its temporary folder) and repeat the command, or set "
            "RAY_ADDRESS to a cluster that runs"
        )
        raise ConfigError(f"{what}: {reason}; {remedy}") from problem


S = TypeVar("S", bound=Settings)


def nearest(name: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` when something known is close to ``name``, else the list of what is known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; afterwards they are what they were."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def typed(module: str, verb: str) -> str:
    """Return what somebody typed to call a command, for its usage: ``dehaze VERB``, or ``python -m MODULE``."""
    return f"dehaze {verb}" if Path(sys.argv[0]).stem == "dehaze" else f"python -m {module}"


def parse_words(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Do as ``parser.parse_args``, but a flag counts only with its whole name, an unknown one names its nearest, and
    flags may stand between names where there are neither verbs nor ``--``.

    Args:
        parser: of a command, perhaps with verbs.
        words: of the command line; None takes those of the process.

    Raises:
        SystemExit: 2, after the usage and what is wrong; 0 for ``--help``.
    """
    words = list(sys.argv[1:] if words is None else words)
    known = _flags(parser)
    for word in words[: words.index("--")] if "--" in words else words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            parser.error(f"unknown flag {flag}{nearest(flag, sorted(known))}")
    verbs = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)  # noqa: SLF001
    # Python 3.11 loses what comes after -- where it takes names from several places.
    return parser.parse_args(words) if verbs or "--" in words else parser.parse_intermixed_args(words)


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)  # noqa: SLF001 - argparse has no other list of them
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            found.update(*(_flags(verb) for verb in action.choices.values()))
    return found


def _known_keys(cls: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the (nested) settings class that ``path`` leads to."""
    current: Any = cls
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        # The settings class in an annotation such as `Haze | None` or `tuple[Haze, ...]`.
        current = next(
            (a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(a, "model_fields")),
            None,
        )
    return list(getattr(current, "model_fields", {}))


def _sentence(cls: type[BaseModel], error: Mapping[str, Any], where: str) -> str:
    path = tuple(error["loc"])
    place = ".".join([where, *map(str, path[:-1])]).strip(".")
    inside = f" in {place}" if place else ""
    message = error["msg"].removeprefix("Value error, ")  # of a validator of ours
    if not path:
        return f"{where or cls.__name__}: {message}"
    key = str(path[-1])
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{inside}{nearest(key, _known_keys(cls, path[:-1]))}"
    if error["type"] == "missing":
        return f"missing key '{key}'{inside}"
    if error["type"] == "value_error" and isinstance(error.get("input"), Mapping):  # of a section as a whole
        return f"{key}{inside}: {message}"
    return f"'{key}'{inside} is {error.get('input')!r}: {message}"


def parse(cls: type[S], data: Mapping[str, Any], where: str = "") -> S:
    """Validate ``data`` as ``cls``.

    Args:
        cls: the settings class.
        data: nested plain mapping, as read from YAML or JSON.
        where: dotted place that messages start from, such as ``"train"``.

    Raises:
        ConfigError: one sentence naming the first key that is unknown (with its nearest neighbor),
            missing, or out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or cls.__name__} is {data!r}; expected keys and values")
    try:
        return cls.model_validate(dict(data))
    except ValidationError as problem:
        errors = sorted(problem.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise ConfigError(_sentence(cls, errors[0], where)) from None
