"""``python -m pipelines.ingest``: make a corpus from photographs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from models.config import parse, typed
from models.flags import add_flags, given
from pipelines.command import run
from pipelines.ingest.config import IngestConfig


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("pipelines.ingest", "ingest"),
        description="Photographs to a corpus. docs/how-to/build-a-corpus.md shows it for RESIDE, RIDCP500 and others.",
        allow_abbrev=False,
    )
    add_flags(parser, IngestConfig)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: say what is there, what would be done, and what it costs by a sample of the photographs",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run(_main, _parser(), argv)


def _main(args: argparse.Namespace) -> None:
    from pipelines.cluster import require_absolute
    from pipelines.ingest.dry_run import dry_run, told
    from pipelines.ingest.job import ingest
    from pipelines.ingest.publish import summary

    require_absolute(args.out)
    config = parse(IngestConfig, given(args, IngestConfig), "ingest")
    if args.dry_run:
        print(told(dry_run(config), config))
        return
    print(summary(ingest(config), config.out))


if __name__ == "__main__":
    sys.exit(main())
