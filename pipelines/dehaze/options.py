"""Flags that ``dehaze apply`` and the Ray job share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.config import ConfigError, parse
from models.flags import add_flags, given
from models.imports import add_allow_networks
from models.options import DehazeOptions, InferenceConfig

if TYPE_CHECKING:  # torch takes seconds that --help need not
    from pipelines.dehaze.walk import FolderPlan


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that decide how a result looks, and where it is computed."""
    group = parser.add_argument_group("how")
    group.add_argument(
        "--model",
        default="corun-compact",
        help="packaged name, checkpoint folder or its URI, ONNX file or models:/name@alias (default: %(default)s)",
    )
    group.add_argument("--tracking-uri", help="MLflow registry of models:/ names, such as sqlite:////abs/mlflow.db")
    add_allow_networks(group)
    add_flags(group, DehazeOptions)
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto takes a GPU where there is one")
    add_flags(group, InferenceConfig)
    group.add_argument(
        "--exact",
        action="store_true",
        help="show the network all pixels of large photographs, as for a paper's figures: slow (default: a smaller "
        "version, above a quarter megapixel)",
    )


def place_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is done, and what about results that are there."""
    group = parser.add_argument_group("what")
    group.add_argument("--out", metavar="DST", help="where the results go, as a flag; all names are then sources")
    group.add_argument(
        "--recursive", action=argparse.BooleanOptionalAction, default=True, help="folders below a folder too (default)"
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="make results anew that are there (default: skip those of the same call)",
    )
    group.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    group.add_argument("--preview", action="store_true", help="write before/after sheets to DST/dehaze-previews")
    group.add_argument(
        "--keep-dates", action="store_true", help="give results the time of modification of their photographs"
    )


def options_of(args: argparse.Namespace) -> DehazeOptions:
    """Return the options that the flags ask for.

    Raises:
        ConfigError: one is out of range.
    """
    return parse(DehazeOptions, given(args, DehazeOptions), "options")


def execution_of(args: argparse.Namespace) -> InferenceConfig:
    """Return the precision and memory that the flags ask for.

    Raises:
        ConfigError: one is out of range.
    """
    chosen = {"working_side": None} if args.exact else {}
    return parse(InferenceConfig, chosen | given(args, InferenceConfig), "options")


def plan_of(sources: Sequence[str], target: str | None, args: argparse.Namespace) -> FolderPlan:
    """Return the plan that the flags ask for.

    Raises:
        ConfigError: a source is missing, dates cannot be kept there, or the target is a file where a folder is needed.
    """
    from pipelines.dehaze.names import is_remote
    from pipelines.dehaze.plan import make_plan

    if args.keep_dates and is_remote(target if target is not None else sources[0]):
        raise ConfigError("--keep-dates needs a local folder for the results")
    return make_plan(sources, target, args.format, recursive=args.recursive)
