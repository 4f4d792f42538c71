"""``python -m pipelines.evaluate``: measure dehazing models on photographs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from models.config import parse, typed
from models.flags import add_flags, given
from models.imports import add_allow_networks
from models.paths import child, is_uri
from pipelines.command import run
from pipelines.evaluate.config import EvaluateConfig
from pipelines.shown import say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("pipelines.evaluate", "evaluate"),
        description="Measure dehazing models on photographs and write a report.",
        allow_abbrev=False,
    )
    add_flags(parser, EvaluateConfig)
    add_allow_networks(parser)
    return parser


def config_of(args: argparse.Namespace) -> EvaluateConfig:
    """Return the configuration that the arguments ask for.

    Raises:
        ConfigError: a value out of its range, or of another form.
    """
    from models.mlflow_client import default_uri
    from pipelines.cluster import require_absolute

    require_absolute(args.out)
    uri = args.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or ("none" if is_uri(args.out) else default_uri(args.out))
    return parse(
        EvaluateConfig, given(args, EvaluateConfig) | {"tracking_uri": None if uri == "none" else uri}, "evaluate"
    )


def _main(args: argparse.Namespace) -> int:
    config = config_of(args)
    from pipelines.evaluate.job import evaluate
    from pipelines.evaluate.report import headline_lines

    found = evaluate(config)
    for warning in found.summary["warnings"]:
        say(f"warning: {warning}", sys.stderr)
    print("\n".join(headline_lines(found.summary)))
    print("\n".join(["", *(f"  {child(config.out, file.name)}" for file in found.files())]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the job and return its exit code."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
