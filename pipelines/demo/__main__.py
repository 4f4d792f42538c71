"""``python -m pipelines.demo``: run the whole path once on small data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.config import ConfigError, typed
from models.imports import add_allow_networks
from pipelines.command import run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=typed("pipelines.demo", "demo"), description=__doc__, allow_abbrev=False)
    parser.add_argument("--hazy", type=Path, help="folder of hazy photographs (default: samples)")
    parser.add_argument("--clear", type=Path, help="folder of clear photographs (default: samples)")
    parser.add_argument("--out", default="runs/demo", help="for everything (default: %(default)s)")
    parser.add_argument("--from-scratch", action="store_true", help="start at random, not from the packaged weights")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in train.steps=200")
    parser.add_argument("--limit", type=int, default=12, help="held-out photographs to evaluate (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="of the service (default: %(default)s)")
    add_allow_networks(parser)
    return parser


def _main(args: argparse.Namespace) -> int:
    from pipelines.demo.job import Demo
    from serving.config import require_free_port

    # All of it now, not after minutes of training.
    if args.limit < 1:
        raise ConfigError(f"--limit is {args.limit}; expected 1 or more")
    if not 1 <= args.port <= 65535:
        raise ConfigError(f"--port is {args.port}; expected 1 to 65535")
    require_free_port("127.0.0.1", args.port)
    for flag in ("hazy", "clear"):
        folder = getattr(args, flag)
        if folder is not None:
            if not folder.is_dir():
                raise ConfigError(f"--{flag}: there is no folder {folder}")
            setattr(args, flag, folder.absolute())
    return Demo(args).main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the job and return its exit code."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
