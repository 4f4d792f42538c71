"""Flags that ``dehaze apply`` and the Ray job share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.config import ConfigError, parse
from models.imports import add_allow_networks
from models.options import Controls
from pipelines.flags import add_flags, given

if TYPE_CHECKING:  # torch takes seconds that --help need not
    from models.inference import InferenceConfig
    from models.options import DehazeOptions
    from pipelines.dehaze.plan import FolderPlan

_FORMATS = ("avif", "bmp", "jpeg", "png", "tiff", "webp")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What decides how a result looks, and where it is computed."""
    group = parser.add_argument_group("how")
    group.add_argument(
        "--model",
        default="corun-compact",
        help="packaged name, checkpoint folder, ONNX file or models:/name@alias (default: %(default)s)",
    )
    group.add_argument("--tracking-uri", help="MLflow registry of models:/ names, such as sqlite:////abs/mlflow.db")
    add_allow_networks(group)
    add_flags(group, Controls)
    group.add_argument("--format", choices=_FORMATS, help="of the results (default: each file's own; jpeg for HEIC)")
    group.add_argument(
        "--quality", type=int, default=95, help="of JPEG, WebP and AVIF, 1 to 100 (default: %(default)s)"
    )
    group.add_argument(
        "--keep-metadata",
        action="store_true",
        help="write EXIF, XMP, IPTC, texts and resolution again, with the place of the photograph (default: drop them)",
    )
    group.add_argument(
        "--wrap",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the picture is a panorama of 360 degrees whose ends meet (default: where its XMP says so)",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto takes a GPU where there is one")
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto is float16 on a GPU, bfloat16 where the processor has it, else float32 (default: auto)",
    )
    group.add_argument(
        "--exact",
        action="store_true",
        help="show the network all pixels of large photographs, as for a paper's figures: slow (default: a smaller "
        "version, above a quarter megapixel)",
    )
    group.add_argument(
        "--memory-mb", type=int, help="working memory for one photograph, in MiB (default: half of what is free)"
    )
    group.add_argument(
        "--tile",
        type=int,
        help="dehaze in tiles of this many pixels a side; packaged networks need none",
    )


def place_options(parser: argparse.ArgumentParser) -> None:
    """What is done, and what about results that are there."""
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
    """The options that the flags say.

    Raises:
        ConfigError: one is out of range.
    """
    from models.options import DehazeOptions

    chosen = given(args, Controls) | {"quality": args.quality, "keep_metadata": args.keep_metadata, "wrap": args.wrap}
    return parse(DehazeOptions, chosen | ({"format": args.format.upper()} if args.format else {}), "options")


def execution_of(args: argparse.Namespace) -> InferenceConfig:
    """Precision and memory that the flags say.

    Raises:
        ConfigError: one is out of range.
    """
    from models.inference import InferenceConfig

    chosen = {"precision": args.precision, "memory_mb": args.memory_mb, "tile": args.tile}
    chosen |= {"working_side": None} if args.exact else {}
    return parse(InferenceConfig, chosen, "options")


def plan_of(sources: Sequence[str], target: str | None, args: argparse.Namespace) -> FolderPlan:
    """The plan that the flags say.

    Raises:
        ConfigError: a source is missing, dates cannot be kept there, or the target is a file where a folder is needed.
    """
    from pipelines.dehaze.names import is_remote
    from pipelines.dehaze.plan import make_plan

    if args.keep_dates and is_remote(target if target is not None else sources[0]):
        raise ConfigError("--keep-dates needs a local folder for the results")
    return make_plan(sources, target, args.format.upper() if args.format else None, recursive=args.recursive)
