"""What the local command and the Ray job do before the first photograph and after the last. No Ray."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from pyarrow import fs as pafs

from models import zoo
from models.config import ConfigError
from models.options import DehazeOptions, InferenceConfig
from models.paths import child, filesystem, is_uri
from models.registry import SCHEME, download_model
from pipelines.dehaze.names import SHEETS
from pipelines.dehaze.outcome import NO_SPACE, FolderReport
from pipelines.dehaze.plan import FolderSurvey, batches, tasks
from pipelines.dehaze.record import FolderRecord, close_record, compare, made_with, open_record, read_record
from pipelines.dehaze.walk import FolderPlan
from pipelines.dehaze.work import BATCH, ExistingResults, WorkerSetup, states
from pipelines.shown import say

_LISTED = 20  # photographs that a dry run names


def begin(
    plan: FolderPlan, args: argparse.Namespace, options: DehazeOptions, execution: InferenceConfig
) -> WorkerSetup:
    """Find out what workers need to know. Unless it is a dry run, the folder of results has its record afterwards.

    Raises:
        ConfigError: no such model or device, results of other settings at the target, or a named result that is there.
        NoSpaceError: there is no room for the record.
    """
    if args.preview and plan.folder is None:
        raise ConfigError("--preview needs a folder for the results: give DST")
    options = options.model_copy(update={"format": plan.format})  # which the name of one result may say
    allow = tuple(args.allow_networks)
    model, source = _found(args.model, args.tracking_uri)
    record = None
    if plan.folder is not None and not plan.single:
        made = made_with(args.model, zoo.load(source, allow).network, options, execution)
        if args.dry_run:
            record = compare(read_record(plan.folder), made, plan.folder, overwrite=args.overwrite)
            record = record or FolderRecord(made=made, replacing=args.overwrite, since_ns=1 << 62)
        else:
            record = open_record(plan.folder, made, overwrite=args.overwrite)
    elif plan.single and not args.overwrite:
        _refuse_existing(next(tasks(plan)).target, chosen=plan.file is not None)
    if args.dry_run and record is None:
        zoo.load(source, allow)  # as whoever does the work would
    rules = ExistingResults(
        since_ns=None if record is None else record.since_ns,
        replace=args.overwrite or (record is not None and record.replacing),
        previews=child(plan.folder, SHEETS) if args.preview and plan.folder is not None else None,
        dates=args.keep_dates,
    )
    device = _device(args.device)
    return WorkerSetup(model, args.tracking_uri, options, execution, device, rules, allow_networks=allow)


def finish(plan: FolderPlan, setup: WorkerSetup) -> None:
    """Note that the job came to its end."""
    if plan.folder is not None and setup.rules.since_ns is not None:
        record = read_record(plan.folder)
        if record is not None:
            close_record(plan.folder, record)


def tell(report: FolderReport, found: FolderSurvey) -> None:
    """Print what became of a job."""
    for line in (*report.summary().split("\n"), report.haze_found(), found.passed_over):
        if line:
            say(line)


def no_room(advice: str, report: FolderReport | None) -> int:
    """Say why a job stopped, and what is done; the exit code."""
    say(f"error: {advice}", sys.stderr)
    if report is not None:
        for line in report.summary().split("\n"):
            say(line, sys.stderr)
    return NO_SPACE


def dry_run(plan: FolderPlan, setup: WorkerSetup, found: FolderSurvey) -> int:
    """Print what would be done; exit code 0, or 1 when some could not be."""
    counts = {"to dehaze": 0, "there already": 0, "cannot be done": 0}
    for batch in batches(plan, BATCH * BATCH):
        for task, state in zip(batch, states(batch, setup.rules), strict=True):
            kind = {"todo": "to dehaze", "done": "there already"}.get(state, "cannot be done")
            counts[kind] += 1
            if kind != "there already" and counts[kind] <= _LISTED:
                say(f"{task.source} -> {task.target}" if kind == "to dehaze" else f"cannot: {task.source}: {state}")
    for kind in ("to dehaze", "cannot be done"):
        if counts[kind] > _LISTED:
            print(f"... and {counts[kind] - _LISTED} more {kind}")
    print(f"{', '.join(f'{count} {kind}' for kind, count in counts.items())}; {found.size / 1e6:.1f} MB of photographs")
    if found.passed_over:
        say(found.passed_over)
    return 1 if counts["cannot be done"] else 0


def _refuse_existing(target: str, *, chosen: bool) -> None:
    files, path = filesystem(target)
    if files.get_file_info(path).type != pafs.FileType.NotFound:
        # A shell makes two names of *.jpg: the second may be a photograph.
        both = "; to dehaze it too, give a folder for the results: --out DST" if chosen else ""
        raise ConfigError(f"{target} is there already; --overwrite replaces it{both}")


def _found(model: str, tracking_uri: str | None) -> tuple[str, str]:
    """Return ``model`` as workers elsewhere find it, and as :func:`models.zoo.load` does here; it is not loaded.

    Raises:
        ConfigError: no such model.
    """
    if model.startswith(SCHEME):
        return model, str(download_model(model, tracking_uri))
    zoo.config_of(model)
    return (model if model in zoo.NAMES or is_uri(model) else str(Path(model).resolve())), model


def _device(name: str) -> str:
    try:
        kind = "cuda" if name == "auto" else torch.device(name).type
    except RuntimeError as problem:
        raise ConfigError(f"--device is '{name}'; expected auto, cpu, cuda or cuda:N") from problem
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"--device is '{name}'; expected auto, cpu, cuda or cuda:N")
    return name
