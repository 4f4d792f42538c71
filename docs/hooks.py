"""Pages of the site that are made from the code: the command line's flags and the keys of the configurations."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import re
import runpy
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from models.networks import CddganConfig, CorunConfig, DgunConfig
from pipelines.cli import VERBS
from pipelines.evaluate.config import EvaluateConfig
from pipelines.ingest.config import IngestConfig
from pipelines.train import Recipe
from pseudolabel.scorer import ScorerConfig
from serving.config import ServingConfig

COMMAND_LINE = """\
`dehaze VERB` runs a verb; `dehaze photo.jpg` is `dehaze apply photo.jpg`. Each verb is also a module that `python -m`
and `ray job submit` run. Write flags out in full: a shortened flag is an error. This page is made from the parsers of
the commands."""
STRICT = """\
Every configuration is strict: an unknown key is an error that names the nearest known one. This page is made from the
classes that read them."""
NEGATED = "A key that is `true` by default has the flag `--no-...`."
RECIPES = """\
A recipe is a YAML file (`pipelines/train/recipes`) that `--recipe` names. `--set train.steps=500` changes one key.
`network` has the `name` of a network and the keys of that network; `scorer` is a name or has [these keys](#scorer)."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages before links are checked."""
    for path, page in {"reference/cli.md": cli_page, "reference/configuration.md": configuration_page}.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Take the words that tests read (``sh run``) off blocks of code, which Markdown would not take for blocks."""
    return re.sub(r"^(```\w+) \w+$", r"\1", markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Take the roles of docstrings (``:func:`` and the like) out of what mkdocstrings made of them."""
    return re.sub(r":\w+:(?=<code>)", "", html)


def parser_of(module: str) -> argparse.ArgumentParser:
    """Return the parser of a command, caught when its ``main`` is asked for help."""
    caught: list[argparse.ArgumentParser] = []

    def catch(parser: argparse.ArgumentParser, _: Any = None) -> None:
        caught.append(parser)

    main = getattr(importlib.import_module(module), "main", None)
    words = (["--help"],) if main is not None and inspect.signature(main).parameters else ()
    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", catch),
        mock.patch.object(sys, "argv", [module, "--help"]),
        contextlib.suppress(SystemExit),
    ):
        main(*words) if main is not None else runpy.run_module(module, run_name="__main__")
    return caught[0]


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the verbs of a command that has any."""
    found = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: verb for choices in found for name, verb in choices.items()}


def table(header: str, rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    head = [cell.strip() for cell in header.split("|")]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells))


def prose(text: str | None) -> str:
    """Return a docstring as Markdown: its code has one backquote on either side."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(text or "")).replace("``", "`")
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(part)}\n```" if part.startswith("    ") else part for part in plain.split("\n\n")
    )


# ------------------------------------------------------------------------------------------------ the command line


def flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Return a table for each group of flags."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
                continue
            words = formatter._format_action_invocation(action)
            required = " (required)" if action.required and action.option_strings else ""
            rows.append([f"`{words}`", formatter._expand_help(action) + required if action.help else required])
        if rows:
            yield f"**{group.title}**\n\n{table('flag | what it does', rows)}"


def command(title: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Return the section of a command and of its verbs."""
    yield f"{'#' * level} {title}"
    yield prose(parser.description)
    yield f"```text\n{parser.format_usage().strip()}\n```"
    yield from flags(parser)
    if parser.epilog:
        yield prose(parser.epilog)
    for name, verb in verbs_of(parser).items():
        yield from command(f"{title} {name}", verb, level + 1)


def cli_page() -> str:
    """Return reference/cli.md."""
    verbs = [[f"[`{verb}`](#dehaze-{verb})", f"`{module_of(verb)}`", what] for verb, (_, what) in VERBS.items()]
    parts = [
        "# Command line",
        COMMAND_LINE,
        table("verb | module | what it does", verbs),
    ]
    for verb, (module, _) in VERBS.items():
        parts += command(f"dehaze {verb}", parser_of(module), 2)
    return "\n\n".join(parts) + "\n"


def module_of(verb: str) -> str:
    """Return what ``python -m`` takes in place of a verb."""
    return VERBS[verb][0].removesuffix(".__main__")


# ------------------------------------------------------------------------------------------------ configurations

CONFIGURATIONS: dict[str, tuple[str, list[tuple[str, type[BaseModel]]]]] = {
    "Training recipes": (
        RECIPES,
        [
            ("", Recipe),
            ("network (name: corun)", CorunConfig),
            ("network (name: dgun)", DgunConfig),
            ("network (name: cddgan)", CddganConfig),
        ],
    ),
    "Scorer": ("`scorer` of a recipe and of the service.", [("scorer", ScorerConfig)]),
    "Service": (
        "`args` of `serving/config.yaml`, which `python -m serving --config` and `serve deploy` read.",
        [("", ServingConfig)],
    ),
    "Ingest": (
        f"The settings behind the flags of [`dehaze ingest`](cli.md#dehaze-ingest). {NEGATED}",
        [("", IngestConfig)],
    ),
    "Evaluation": (
        f"The settings behind the flags of [`dehaze evaluate`](cli.md#dehaze-evaluate). {NEGATED}",
        [("", EvaluateConfig)],
    ),
}


def explained(config: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings of a configuration and its bases say of each key, under ``Attributes:``."""
    found: dict[str, str] = {}
    for kind in reversed([one for one in config.__mro__ if issubclass(one, BaseModel) and one is not BaseModel]):
        _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n(?:        .*)?)*)", section, re.MULTILINE)
        found |= {name: prose(" ".join(text.split())) for names, text in entries for name in names.split(", ")}
    return found


def inner(annotation: Any) -> type[BaseModel] | None:
    """Return the configuration that a field holds, or None."""
    kinds = (annotation, *typing.get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def kind_of(annotation: Any) -> str:
    """Return a type as a reader of YAML knows it."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind_of(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_of(part) for part in parts)
    if origin is tuple:
        return f"list of {kind_of(parts[0])}" if parts[-1] is ... else ", ".join(kind_of(part) for part in parts)
    if origin is dict:
        return "mapping"
    names = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", types.NoneType: "`null`"}
    return names.get(annotation, "path" if getattr(annotation, "__name__", "") == "Path" else "mapping")


def keys(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Return each key of a configuration itself: its name, kind, default and explanation."""
    texts = explained(config)
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else json.dumps(default, default=str)
        text = field.description or texts.get(name, "")
        if field.description and default is True:  # which describes the flag --no-...
            text = f"`false`: {text}"
        if inner(field.annotation) is None:
            yield prefix + name, kind_of(field.annotation), shown, text
        elif text:
            yield prefix + name, "mapping, see below", "its defaults", text


def tables(title: str, config: type[BaseModel], level: int) -> Iterator[str]:
    """Return the table of a configuration, and those of what it holds."""
    prefix = f"{title.split()[0]}." if title else ""
    if title:
        yield f"{'#' * level} {title}"
        yield prose(inspect.cleandoc(config.__doc__ or "").partition("Attributes:")[0].strip())
    rows = [[f"`{key}`", kind, f"`{default}`", text] for key, kind, default, text in keys(config, prefix)]
    if rows:
        yield table("key | kind | default | what it does", rows)
    for name, field in config.model_fields.items():
        held = inner(field.annotation)
        if held is not None and not (held is ScorerConfig and level):
            yield from tables(prefix + name, held, level)


def configuration_page() -> str:
    """Return reference/configuration.md."""
    parts = [
        "# Configuration",
        STRICT,
    ]
    for heading, (text, roots) in CONFIGURATIONS.items():
        parts += [f"## {heading}", text]
        for title, config in roots:
            parts += tables(title, config, 3)
    return "\n\n".join(parts) + "\n"
