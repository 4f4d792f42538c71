"""Put a checkpoint into the MLflow model registry.

python -m pipelines.register runs/today/checkpoint --tracking-uri sqlite:////abs/mlflow.db
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.config import typed
from models.mlflow_client import default_uri
from models.paths import absolute, name_of
from models.registry import ALIAS, NAME, register_model
from pipelines.command import run
from pipelines.tracking import Tracker, running


def register(
    checkpoint: str | os.PathLike[str],
    tracking_uri: str,
    *,
    run_id: str | None = None,
    name: str = NAME,
    alias: str = ALIAS,
) -> str:
    """Register a checkpoint and return its version; without ``run_id`` in a run of its own with its configuration.

    Raises:
        ConfigError: no checkpoint, or the registry refuses it.
    """
    from models.checkpoints import read_config

    config: Mapping[str, Any] = read_config(checkpoint)
    if run_id is not None:
        return register_model(checkpoint, tracking_uri=tracking_uri, run_id=run_id, name=name, alias=alias)
    tracker = Tracker.start("register", name_of(absolute(checkpoint)), tracking_uri)
    with running(tracker):
        tracker.log_params(config)
        return register_model(checkpoint, tracking_uri=tracking_uri, run_id=tracker.run_id, name=name, alias=alias)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("pipelines.register", "register"), description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("checkpoint", help="folder or URI with model.safetensors and config.json")
    parser.add_argument(
        "--tracking-uri", help="MLflow server or database (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)"
    )
    parser.add_argument("--run-id", help="MLflow run that made the checkpoint (default: a new run)")
    parser.add_argument("--name", default=NAME, help="of the registered model (default: %(default)s)")
    parser.add_argument("--alias", default=ALIAS, help="to move to the new version (default: %(default)s)")
    return parser


def _main(args: argparse.Namespace) -> None:
    uri = args.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(Path.cwd())
    version = register(args.checkpoint, uri, run_id=args.run_id, name=args.name, alias=args.alias)
    print(f"{args.name} version {version} is now '{args.alias}' (models:/{args.name}@{args.alias}) at {uri}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what is wrong."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
