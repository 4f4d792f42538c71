"""Dehaze files on this machine, without Ray: ``dehaze apply photo.jpg`` writes ``photo_dehazed.jpg`` beside it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.settings import ConfigError, parse
from pipelines.command import run, sentence

if TYPE_CHECKING:  # torch takes seconds that --help need not
    from models.inference import InferenceConfig
    from serving.predictor import DehazeOptions

SUFFIX = "_dehazed"
FORMATS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}


@dataclass(frozen=True)
class Job:
    """One file to read and the file to write."""

    source: Path
    target: Path


def plan(sources: Sequence[Path], out: Path | None, extension: str | None = None) -> list[Job]:
    """Which file becomes which.

    Args:
        sources: files and folders; a folder stands for all photographs below it.
        out: folder for the results, which keep their place below their source folder; None writes
            ``name_dehazed.ext`` beside each file.
        extension: of the results, with the dot; None keeps each file's own.

    Raises:
        ConfigError: a source is missing, there are none, two results would have one name, or one would replace an
            input.
    """
    jobs = [
        Job(file, _target(file, root, out, extension)) for source in sources for root, file in _photographs(source, out)
    ]
    if not jobs:
        raise ConfigError(f"no photographs in {', '.join(map(str, sources))}")
    _check(jobs)
    return list(dict.fromkeys(jobs))  # a file that was named twice is done once


def execute(
    jobs: Sequence[Job],
    model: str,
    options: DehazeOptions,
    execution: InferenceConfig,
    tracking_uri: str | None = None,
) -> list[str]:
    """Do the jobs one after the other; what fails is collected and the rest goes on.

    Returns:
        a line for each file that failed.
    """
    from tqdm import tqdm

    from models.images import ImageError
    from serving.predictor import Predictor

    predictor = Predictor(model, tracking_uri, execution=execution)
    failures = []
    for job in tqdm(jobs, unit="photo", disable=len(jobs) == 1, dynamic_ncols=True):
        try:
            predictor.dehaze_file(job.source, job.target, options)
        except ImageError as problem:
            failures.append(f"{job.source}: {problem}")
        except OSError as problem:
            failures.append(sentence(problem))
    return failures


def _photographs(source: Path, out: Path | None) -> Iterable[tuple[Path, Path]]:
    """(root, file) of what ``source`` stands for."""
    from models.images import IMAGE_SUFFIXES

    if source.is_file():
        return [(source.parent, source)]
    if not source.is_dir():
        raise ConfigError(f"there is no file or folder {source}")
    skip = None if out is None else out.resolve()  # results of an earlier call are no input
    return [
        (source, file)
        for file in sorted(source.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
        and file.is_file()
        and not file.name.startswith(".")
        and not (out is None and file.stem.endswith(SUFFIX))
        and (skip is None or skip == source.resolve() or skip not in file.resolve().parents)
    ]


def _target(file: Path, root: Path, out: Path | None, extension: str | None) -> Path:
    name = file.stem + (SUFFIX if out is None else "") + (extension or file.suffix)
    return (file.parent if out is None else out / file.parent.relative_to(root)) / name


def _check(jobs: Sequence[Job]) -> None:
    inputs = {Path(os.path.realpath(job.source)) for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        target = Path(os.path.realpath(job.target))
        if target in inputs:
            raise ConfigError(f"{job.target} is an input; choose another --out folder")
        if target in taken and taken[target] != job.source:
            raise ConfigError(f"{taken[target]} and {job.source} would both become {job.target}; use another --out")
        taken[target] = job.source


def add_options(parser: argparse.ArgumentParser) -> None:
    """Flags that ``apply`` and the Ray job share."""
    parser.add_argument(
        "--model",
        default="corun-compact",
        help="packaged name, checkpoint folder or models:/name@alias (default: %(default)s)",
    )
    parser.add_argument("--tracking-uri", help="MLflow registry of models:/ names, such as sqlite:////abs/mlflow.db")
    parser.add_argument("--strength", type=float, default=1.0, help="0 keeps the haze, 1 removes it (default: 1)")
    parser.add_argument("--format", choices=sorted(FORMATS), help="of the results (default: each file's own)")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto is bfloat16 where the processor has it, else float32 (default: auto)",
    )
    parser.add_argument(
        "--memory-mb", type=int, help="working memory for one photograph, in MiB (default: half of what is free)"
    )
    parser.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1 to 100 (default: %(default)s)")
    parser.add_argument(
        "--keep-metadata",
        action="store_true",
        help="write EXIF, XMP and resolution again, with the place where the photograph was taken (default: drop them)",
    )


def options_of(args: argparse.Namespace) -> DehazeOptions:
    """The options that the flags of :func:`add_options` say.

    Raises:
        ConfigError: one is out of range.
    """
    from serving.predictor import DehazeOptions

    chosen = {"strength": args.strength, "quality": args.quality, "keep_metadata": args.keep_metadata}
    return parse(DehazeOptions, chosen | ({"format": args.format.upper()} if args.format else {}), "options")


def execution_of(args: argparse.Namespace) -> InferenceConfig:
    """Precision and memory that the flags of :func:`add_options` say.

    Raises:
        ConfigError: one is out of range.
    """
    from models.inference import InferenceConfig

    return parse(InferenceConfig, {"precision": args.precision, "memory_mb": args.memory_mb}, "options")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dehaze apply", description=__doc__)
    parser.add_argument("sources", nargs="+", type=Path, metavar="SRC", help="photographs, or folders of them")
    parser.add_argument("--out", type=Path, help="folder for the results; subfolders are kept (default: beside)")
    add_options(parser)
    return parser


def _main(args: argparse.Namespace) -> int:
    options = options_of(args)
    jobs = plan(args.sources, args.out, FORMATS.get(args.format or ""))
    failures = execute(jobs, args.model, options, execution_of(args), args.tracking_uri)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if len(jobs) > 1:
        print(f"{len(jobs) - len(failures)} of {len(jobs)} photographs dehazed")
    elif not failures:
        print(jobs[0].target)
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 when some files failed; 2 when the arguments make no sense."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
