"""Write models for other programs.

dehaze models export corun-compact corun-compact.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.config import ConfigError
from models.imports import add_allow_networks
from pipelines.command import run
from pipelines.shown import say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dehaze models", description=__doc__.splitlines()[0], allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    export = verbs.add_parser(
        "export",
        help="write a model as ONNX, for any height and width, and compare it with torch",
        description="Write a model as ONNX, for any height and width, and compare it with torch at five sizes; takes a "
        "minute or two. `dehaze --model FILE.onnx` runs it.",
        allow_abbrev=False,
    )
    export.add_argument("model", help="packaged name, checkpoint folder or its URI")
    export.add_argument("file", type=Path, help="to write, such as model.onnx")
    export.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    add_allow_networks(export)
    return parser


def _main(args: argparse.Namespace) -> None:
    if args.file.suffix != ".onnx":
        raise ConfigError(f"cannot write {args.file}: expected a name that ends in .onnx")
    if args.file.exists() and not args.overwrite:
        raise ConfigError(f"{args.file} is there already; choose another name, or --overwrite")
    from models import zoo
    from models.portable import LEAST, OPSET, check_onnx, export_onnx

    loaded = zoo.load(args.model, args.allow_networks)
    partial = args.file.with_name(f".{args.file.name}.partial")
    try:
        export_onnx(loaded.network, partial, loaded.config)
        found = check_onnx(partial, loaded.network)
        least = min(found.values())
        if not least >= LEAST:
            raise ConfigError(
                f"{args.model} was not written: the exported network differs from torch, {least:.1f} dB at "
                f"{min(found, key=found.__getitem__)}, and {LEAST:.0f} dB are expected"
            )
        partial.replace(args.file)
    finally:
        partial.unlink(missing_ok=True)
    sizes = ", ".join(f"{height}x{width} {decibels:.0f} dB" for (height, width), decibels in found.items())
    say(f"{args.file}: opset {OPSET}, any height and width; against torch: {sizes}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what is wrong."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
