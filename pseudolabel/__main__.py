"""Look into label pools, and after those that run: `python -m pseudolabel inspect POOL`, `export`, `list`, `stop`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.config import ConfigError, PoolError, parse_words, typed
from pseudolabel.inspect import Contents, Survey, open_contents, survey, told
from pseudolabel.pool import to_entry

REFUSED = 2

POOL = "folder of a run's label pool (it may be running), or a snapshot: a folder or any URI that pyarrow.fs reads"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(
        prog=typed("pseudolabel", "pool"), description="Look into label pools, end them.", allow_abbrev=False
    )
    verbs = command.add_subparsers(dest="verb", required=True)
    look, out, runs, stop = (
        verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", allow_abbrev=False)
        for name, what in (
            ("inspect", "print size, acceptance over time and score histograms"),
            ("export", "write labels and transmissions as PNG, and index.parquet with paths, scores and trust maps"),
            ("list", "print the runs on a cluster"),
            ("stop", "end label workers and pool of a run; stores stay"),
        )
    )
    for verb in (look, out):
        verb.add_argument("pool", metavar="POOL", help=POOL)
    look.add_argument("--sheet", type=Path, metavar="PNG", help="also draw labels and trust maps of some photographs")
    look.add_argument("--corpus", metavar="CORPUS", help="with --sheet: the corpus, to draw the input photographs too")
    look.add_argument("--count", type=_positive, default=4, help="with --sheet: photographs of each kind (default 4)")
    look.add_argument("--seed", type=int, default=0, help="with --sheet: of the random choice")
    out.add_argument("out", metavar="OUT", help="folder to write, a path or a URI")
    stop.add_argument("run", metavar="RUN", help="as 'list' prints it")
    stop.add_argument("--force", action="store_true", help="also when its program is at work, which will then fail")
    for verb in (runs, stop):
        verb.add_argument("--address", help="of the cluster; default: RAY_ADDRESS, else the one on this machine")
    return command


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return int(text)


def inspect(args: argparse.Namespace) -> None:
    """Print the survey, and draw the sheet that was asked for."""
    if args.corpus is not None and args.sheet is None:
        raise ConfigError("--corpus is for the sheet: give --sheet PNG too")
    contents = open_contents(args.pool)
    found = survey(contents, args.count if args.sheet else 0, args.seed)
    print(told(found, args.pool, block=_block()))
    if args.sheet:
        _draw(contents, found, args)


def _block() -> str:
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"


def _draw(contents: Contents, found: Survey, args: argparse.Namespace) -> None:
    from pseudolabel.inspect import find_originals
    from pseudolabel.pool import draw_sheet, write_sheet

    chosen = {"best": found.best, "worst": found.worst, "random": found.others}
    ids = [image_id for some in chosen.values() for image_id in some]
    if not ids:
        raise PoolError(f"{args.pool} is empty: there is nothing to draw on {args.sheet}")
    entries = {record.image_id: to_entry(record) for record in contents.records(ids)}
    originals = find_originals(args.corpus, ids) if args.corpus is not None else {}
    sections = {title: [entries[i] for i in some if i in entries] for title, some in chosen.items()}
    write_sheet(draw_sheet(sections, originals, inputs=args.corpus is not None), args.sheet)
    print(f"\n{args.sheet}: {len(entries)} labels, {len(originals)} of their photographs")


def export_labels(args: argparse.Namespace) -> None:
    """Write images and index, and say how many."""
    from pseudolabel.inspect import INDEX, export

    count = export(open_contents(args.pool), args.out)
    print(f"{count:,} labels exported to {args.out}; {INDEX} lists them")


def list_runs(args: argparse.Namespace) -> None:
    """Print a line for each run."""
    from pseudolabel.inspect import joined, running

    with joined(args.address):
        print("\n".join(one.told() for one in running()) or "no run is on this cluster")


def stop_run(args: argparse.Namespace) -> None:
    """End a run, and say what it was."""
    from pseudolabel.inspect import joined, stop

    with joined(args.address):
        print(f"stopped {stop(args.run, force=args.force).told()}")


VERBS = {"inspect": inspect, "export": export_labels, "list": list_runs, "stop": stop_run}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; 2 after an error that the user can mend, with one line that says so."""
    args = parse_words(parser(), argv)
    try:
        VERBS[args.verb](args)
    except BrokenPipeError:
        return 0
    except (PoolError, ConfigError, OSError) as problem:
        print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
