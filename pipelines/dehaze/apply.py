"""Dehaze photographs or a video on this machine, without Ray.

    dehaze apply photo.jpg                     writes photo_dehazed.jpg beside it
    dehaze apply photo.jpg clear.png           one photograph, another format
    dehaze apply hazy/ clear/                  a folder with its tree; run it again to resume
    dehaze apply 'hazy/**/*.jpg' clear/ --dry-run
    dehaze apply - - < photo.jpg > clear.jpg   standard input and output
    dehaze apply clip.mp4 clear.mp4            a video, without flicker (needs the extra 'video')

Exit codes: 0 all done; 1 some photographs failed (DST/failures.csv lists them), or parts of a video are missing; 2 the
arguments make no sense; 3 no room for the results; 130 Ctrl-C. After 1, 3 and 130 finished results stay; run it
again to resume.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.config import ConfigError, parse
from models.flags import add_flags, given
from models.options import Controls, VideoOptions
from pipelines.command import run
from pipelines.dehaze.names import is_video
from pipelines.dehaze.options import add_options, execution_of, options_of, place_options, plan_of
from pipelines.disk_errors import as_config_error
from pipelines.shown import say

STREAM = "-"  # standard input or output
_OF_PHOTOGRAPHS, _OF_VIDEOS = ("format", "quality"), ("codec", "crf", "smoothing")

if TYPE_CHECKING:  # torch takes seconds that --help need not
    from pipelines.dehaze.walk import FolderPlan, PhotoTask


def apply(plan: FolderPlan, args: argparse.Namespace) -> int:
    """Dehaze the photographs of a plan, one after the other; what fails is noted and the rest goes on.

    Returns:
        the exit code.

    Raises:
        ConfigError: the plan, or what is at its target, makes no sense.
    """
    from pipelines.dehaze.local_job import begin, dry_run, finish, no_room, tell
    from pipelines.dehaze.outcome import FolderReport
    from pipelines.dehaze.plan import batches, survey
    from pipelines.dehaze.work import BATCH
    from pipelines.disk_errors import NoSpaceError

    found = survey(plan)
    report: FolderReport | None = None
    try:
        setup = begin(plan, args, options_of(args), execution_of(args))
        if args.dry_run:
            return dry_run(plan, setup, found)
        worker = setup.worker()
        with FolderReport(found.count, None if plan.single else plan.folder, quiet=plan.single) as report:
            for number, batch in enumerate(batches(plan, BATCH)):
                for result in worker.work(number, batch):
                    report.add(result)
        finish(plan, setup)
    except NoSpaceError as problem:
        return no_room(problem.advice, report)
    if plan.single and not report.exit_code:
        only = task_of(plan)
        say(only.target)
        if report.haze_found():
            say(f"{only.source}: {report.haze_found()}", sys.stderr)
    else:
        tell(report, found)
    return report.exit_code


def task_of(plan: FolderPlan) -> PhotoTask:
    """Return what a plan for one photograph is to do."""
    from pipelines.dehaze.plan import tasks

    return next(tasks(plan))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dehaze apply",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="SRC [SRC ...] [DST]",
        help="folders, quoted globs, files; of several names the last is where the results go; - is standard input or "
        "output",
    )
    place_options(parser)
    add_options(parser)
    add_flags(parser.add_argument_group("for a video"), VideoOptions, without=Controls.model_fields)
    return parser


def _main(args: argparse.Namespace) -> int:
    with as_config_error():
        return _chosen(args)


def _chosen(args: argparse.Namespace) -> int:
    sources, target = args.paths, args.out
    if target is None and len(sources) > 1:
        *sources, target = sources
    videos = [source for source in sources if is_video(source) and not Path(source).is_dir()]
    streams = STREAM in sources or target == STREAM
    if (videos or streams) and len(sources) > 1:
        what = f"{videos[0]} is a video" if videos else "- is standard input or output"
        raise ConfigError(f"{what}; give one {'video' if videos else 'photograph'} at a time: SRC DST")
    if videos and streams:
        raise ConfigError(f"{videos[0]} is a video; give the name of a file to write")
    for flag in _OF_PHOTOGRAPHS if videos else _OF_VIDEOS:
        if getattr(args, flag) is not None:
            raise ConfigError(f"--{flag} is for {'photographs' if videos else 'videos'}: leave it out")
    if videos:
        return _video(videos[0], target, args)
    if streams:
        from pipelines.dehaze.stream import run_stream

        return run_stream(sources[0], target or STREAM, args)
    return apply(plan_of(sources, target, args), args)


def _video(source: str, target: str | None, args: argparse.Namespace) -> int:
    from pipelines.dehaze.clip import run_video

    if args.preview:
        raise ConfigError("--preview is for photographs")
    return run_video(
        source,
        target,
        parse(VideoOptions, given(args, VideoOptions), "options"),
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
