"""Serve a model on this machine until Ctrl-C.

python -m serving --model corun-compact --port 8000
curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/dehaze -o clear.jpg
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from models.config import ConfigError, parse, parse_words, typed
from models.flags import add_flags, given
from models.imports import add_allow_networks
from models.mlflow_client import default_uri
from serving.config import AuthConfig, ServingConfig, local_ray_environment, read_config

CHAMPION = "models:/dehazer@champion"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("serving", "serve"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="YAML file as serving/config.yaml")
    add_flags(parser, ServingConfig)
    add_flags(parser, AuthConfig)
    parser.add_argument(
        "--jobs",
        dest="jobs_folder",
        metavar="FOLDER",
        help="take videos and other long work, and keep it here while it lasts: jobs.folder",
    )
    add_allow_networks(parser)
    parser.add_argument("--out", help=f"folder of a demo: serves {CHAMPION} of the mlflow.db in it")
    return parser


def _serve(args: argparse.Namespace) -> None:
    from serving.http import require_protection

    base = read_config(args.config) if args.config else ServingConfig()
    changes = given(args, ServingConfig) | {"allow_networks": [*base.allow_networks, *args.allow_networks]}
    if args.out is not None:
        if "://" in args.out:
            raise ConfigError(f"--out is '{args.out}'; expected a local folder of a demo")
        uri = default_uri(args.out)
        changes = {"model": CHAMPION, "tracking_uri": uri} | changes
    values = base.model_dump(mode="json")
    values["auth"] |= given(args, AuthConfig)
    if args.jobs_folder is not None:
        values["jobs"]["folder"] = args.jobs_folder
    config = parse(ServingConfig, values | changes, "serving")
    require_protection(config.host, config.auth)
    for key, value in local_ray_environment().items():  # before Ray is imported, which reads some of it then
        os.environ.setdefault(key, value)
    from serving.app import run_until_interrupted

    run_until_interrupted(config, lambda url: _announce(url, config))


def _announce(url: str, config: ServingConfig) -> None:
    from serving.http import Tokens

    token = '--header "Authorization: Bearer $TOKEN" ' if Tokens(config.auth).required else ""
    print(f"{config.model} at {url}  (API: {url}/docs; Ctrl-C stops)")
    print(f"curl {token}--data-binary @photo.jpg {url}/v1/dehaze -o clear.jpg", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after Ctrl-C, 2 with one line on a bad configuration."""
    args = parse_words(_parser(), argv)
    try:
        _serve(args)
    except KeyboardInterrupt:
        return 0
    except ConfigError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
