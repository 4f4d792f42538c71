"""Train a network from a recipe.

``python -m pipelines.train --recipe pretrain_corun_compact --clear CORPUS --out DIR``

With ``--local`` it trains in this one process, on one GPU or CPU, otherwise on Ray.
Run the same command again to resume an interrupted run from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from models.config import ConfigError, typed
from models.imports import add_allow_networks
from pipelines.command import run
from pipelines.train.recipes import recipe_names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=typed("pipelines.train", "train"), description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--recipe", required=True, help=f"a YAML file or its URI, or one of: {', '.join(recipe_names())}"
    )
    parser.add_argument("--clear", help="corpus of clear photographs")
    parser.add_argument("--hazy", help="corpus of hazy photographs (Colabator, CDD-GAN)")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder or URI (s3://bucket/run) for checkpoints and the model"
    )
    parser.add_argument("--fresh", action="store_true", help="start anew; what is in --out goes to DIR/earlier")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in train.steps=50")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI; nothing is tracked without it")
    parser.add_argument("--address", help="Ray cluster to join; default: the current job's, else a local one")
    parser.add_argument("--local", action="store_true", help="train in this one process, without Ray")
    parser.add_argument("--device", help="with --local: cpu, cuda, cuda:1; default: a GPU where there is one")
    add_allow_networks(parser)
    return parser


def _main(args: argparse.Namespace) -> int:
    from pipelines.cluster import ray_session, require_absolute
    from pipelines.lock import only_one
    from pipelines.shown import note
    from pipelines.tracking import running
    from pipelines.train.data import sampling_of
    from pipelines.train.job import PATIENCE_S, open_tracker, prepare, train
    from pipelines.train.recipe import key_of, load_recipe, unread
    from pipelines.train.run import TrainJob

    _require_one_way(args)
    require_absolute(args.out)
    recipe = load_recipe(args.recipe, args.set)
    left_out = unread(recipe, args.set)
    for key in left_out:
        note(f"method {recipe.method} does not read {key}: what --set says of it is left out")
    if left_out:
        recipe = load_recipe(args.recipe, [setting for setting in args.set if key_of(setting) not in left_out])
    places = {key: value for key in ("clear", "hazy") if (value := getattr(args, key)) is not None}
    for domain in sorted(set(places) - set(sampling_of(recipe))):
        note(f"method {recipe.method} reads no {domain} photographs: --{domain} is left out")
        del places[domain]
    job = TrainJob(recipe, args.out, allow_networks=tuple(args.allow_networks), **places)
    device = None
    if args.local:
        from models.inference import device_of
        from pipelines.train.local import alone, train_local

        job, device = alone(job), device_of(args.device)
    with only_one(job.out, "training", PATIENCE_S):
        prepared = prepare(job, fresh=args.fresh, device=device)
        tracker = open_tracker(job, args.tracking_uri) if args.tracking_uri else None
        if tracker is not None:
            job = replace(job, tracking=(tracker.tracking_uri, tracker.run_id))
        with running(tracker), nullcontext() if args.local else ray_session(args.address):
            result = train_local(job, args.device, prepared) if args.local else train(job, prepared)
    print(f"model: {result.model}")
    return 0


def _require_one_way(args: argparse.Namespace) -> None:
    if args.local and args.address is not None:
        raise ConfigError(f"--address {args.address} is a Ray cluster, and --local trains without one: leave one out")
    if args.device is not None and not args.local:
        raise ConfigError(f"--device {args.device} is for --local; on Ray train.worker_gpus says where workers train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the job and return its exit code."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
