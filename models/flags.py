"""Command-line flags from a configuration: its fields are declared once, with what ``--help`` says of them."""

from __future__ import annotations

import argparse
import types
from collections.abc import Collection
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def add_flags(parser: argparse._ActionsContainer, config: type[BaseModel], without: Collection[str] = ()) -> None:
    """Add a flag for each field of ``config`` that has a description.

    A tuple takes several words and may be repeated, or one word each time where the command has positional words, which
    it would swallow; a mapping takes ``NAME=VALUE``; a field that is true by default gets ``--no-...``; choices come
    from a ``Literal``, in upper or lower case. ``Field(json_schema_extra=...)`` may give ``metavar`` (default of a
    whole number: N, of another: X), ``group`` (a heading of the help), ``positional``, and ``other_names`` of choices,
    in lower case. Flags that are not given are None: see :func:`given`.

    Args:
        parser: to add them to, or a group of one.
        config: a settings class.
        without: fields that the command declares itself.
    """
    groups: dict[str, Any] = {}
    positional = any(_extra(field).get("positional") for field in config.model_fields.values())
    for name, field in config.model_fields.items():
        if name in without or field.description is None:
            continue
        extra = _extra(field)
        heading = str(extra.get("group", ""))
        if heading and heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        target = groups[heading] if heading else parser
        options = _options(field, one=positional) | ({"metavar": extra["metavar"]} if "metavar" in extra else {})
        options["help"] = _help(field)
        if extra.get("positional"):
            target.add_argument(name, **options)
        else:
            off = options.get("action") == "store_false"
            flag = f"--{'no-' if off else ''}{name.replace('_', '-')}"
            target.add_argument(flag, dest=name, default=None, required=field.is_required(), **options)


def given(args: argparse.Namespace, config: type[BaseModel]) -> dict[str, Any]:
    """Return what the command line says of the fields of ``config``, as :func:`models.config.parse` takes it.

    Raises:
        SystemExit: 2, a mapping's word without ``=``.
    """
    found = {name: value for name in config.model_fields if (value := getattr(args, name, None)) is not None}
    for name, value in found.items():
        if get_origin(_plain(config.model_fields[name].annotation)) is dict:
            found[name] = dict(pair.split("=", 1) for pair in value)
    return found


def _plain(annotation: Any) -> Any:
    """Return the type without ``| None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        some = [one for one in get_args(annotation) if one is not type(None)]
        return some[0] if len(some) == 1 else annotation  # of several, the word itself will tell
    return annotation


def _extra(field: FieldInfo) -> dict[str, Any]:
    return dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}


def _options(field: FieldInfo, *, one: bool) -> dict[str, Any]:
    kind = _plain(field.annotation)
    origin = get_origin(kind)
    if kind is bool:
        if field.default is None:
            return {"action": argparse.BooleanOptionalAction}
        return {"action": "store_false" if field.default else "store_true"}
    if origin is tuple:
        if _extra(field).get("positional"):
            return {"nargs": "+"}
        return {"action": "append"} if one else {"nargs": "+", "action": "extend"}
    if origin is dict:
        return {"nargs": "+", "action": "extend", "type": _pair, "metavar": "NAME=VALUE"}
    if origin is Literal:
        known = {str(choice).lower(): choice for choice in get_args(kind)} | _extra(field).get("other_names", {})
        return {"choices": list(get_args(kind)), "type": lambda word: known.get(word.lower(), word)}
    return {"type": kind, "metavar": "N" if kind is int else "X"} if kind in (int, float) else {}


def _pair(word: str) -> str:
    if "=" not in word:
        raise argparse.ArgumentTypeError(f"{word!r}: expected NAME=VALUE")
    return word


def _help(field: FieldInfo) -> str:
    """Return the description, with the default where it tells something and the description does not."""
    text = str(field.description).replace("%", "%%")
    silent = field.default in (None, PydanticUndefined, (), "") or isinstance(field.default, bool)
    if silent or field.default_factory is not None or "default" in text:
        return text
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{text} (default: {default})"
