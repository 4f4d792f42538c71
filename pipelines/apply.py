"""Dehaze photographs or a video on this machine, without Ray.

    dehaze apply photo.jpg                     writes photo_dehazed.jpg beside it
    dehaze apply photo.jpg clear.png           one photograph, another format
    dehaze apply hazy/ clear/                  a folder with its tree; the same command again goes on where it stopped
    dehaze apply 'hazy/**/*.jpg' clear/ --dry-run
    dehaze apply clip.mp4 clear.mp4            a video, without flicker (needs the extra 'video')

Exit codes: 0 all done; 1 some photographs failed (DST/failures.csv lists them); 2 the arguments make no sense; 3 no
room for the results; 130 Ctrl-C. After 1, 3 and 130 what is done stays, and the same command does the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.settings import ConfigError, parse
from pipelines.command import run
from pipelines.folder_kinds import is_video
from pipelines.folder_options import add_options, execution_of, options_of, place_options, plan_of

if TYPE_CHECKING:  # torch takes seconds that --help need not
    from pipelines.folder_plan import Plan


def apply(plan: Plan, args: argparse.Namespace) -> int:
    """Dehaze the photographs of a plan, one after the other; what fails is noted and the rest goes on.

    Returns:
        the exit code.

    Raises:
        ConfigError: the plan, or what is at its target, makes no sense.
    """
    from pipelines.folder_job import begin, dry_run, finish
    from pipelines.folder_plan import batches, survey
    from pipelines.folder_report import NO_SPACE, Report
    from pipelines.folder_work import BATCH, NoSpaceError

    found = survey(plan)
    setup = begin(plan, args, options_of(args), execution_of(args))
    if args.dry_run:
        return dry_run(plan, setup, found)
    worker = setup.worker()
    with Report(found.count, None if plan.single else plan.folder, quiet=plan.single) as report:
        try:
            for number, batch in enumerate(batches(plan, BATCH)):
                for result in worker.work(number, batch):
                    report.add(result)
        except NoSpaceError as problem:
            print(f"error: {problem.strerror}; free some space and repeat the command", file=sys.stderr)
            print(report.summary(), file=sys.stderr)
            return NO_SPACE
    finish(plan, setup)
    print(report.summary() if not plan.single or report.exit_code else result_of(plan))
    return report.exit_code


def result_of(plan: Plan) -> str:
    """The file that a plan for one photograph writes."""
    from pipelines.folder_plan import tasks

    return next(tasks(plan)).target


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dehaze apply", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="SRC [SRC ...] [DST]",
        help="folders, quoted globs, files; of several names the last is where the results go",
    )
    place_options(parser)
    add_options(parser)
    video = parser.add_argument_group("for a video")
    video.add_argument("--codec", help="encoder, such as libx265 (default: libx264; in WebM libvpx-vp9)")
    video.add_argument("--crf", type=int, help="of the encoder, lower is better (default: the encoder's own)")
    video.add_argument(
        "--smoothing", type=float, default=0.5, help="seconds of the average over time; 0: none (default: 0.5)"
    )
    return parser


def _main(args: argparse.Namespace) -> int:
    sources, target = args.paths, args.out
    if target is None and len(sources) > 1:
        *sources, target = sources
    videos = [source for source in sources if is_video(source) and not Path(source).is_dir()]
    if videos:
        if len(sources) > 1:
            raise ConfigError(f"{videos[0]} is a video; give one video at a time: SRC DST")
        return _video(videos[0], target, args)
    return apply(plan_of(sources, target, args), args)


def _video(source: str, target: str | None, args: argparse.Namespace) -> int:
    from pipelines.video import VideoOptions, run_video

    chosen = {"strength": args.strength, "codec": args.codec, "crf": args.crf, "smoothing": args.smoothing}
    return run_video(
        Path(source),
        None if target is None else Path(target),
        parse(VideoOptions, chosen | {"keep_metadata": args.keep_metadata}, "options"),
        execution_of(args),
        model=args.model,
        tracking_uri=args.tracking_uri,
        device=args.device,
        allow_networks=args.allow_networks,
        overwrite=args.overwrite,
        dry_run=args.dry_run,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: see the module."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
