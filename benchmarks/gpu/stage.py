"""A stage of the run: its time, its device, and its part of ``results.json``, written whenever there is news."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

RESULTS = "results.json"


class OutOfTime(BaseException):
    """The stage's seconds are over. No Exception: compilers wrap those into their own, and the stage would go on."""


class Stage:
    """What a stage knows and has found out; ``found`` is its part of the results."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.out, self.seconds = name, Path(args.out), float(args.seconds)
        self.device = torch.device(args.device)
        self.began = time.monotonic() - (time.time() - args.began if args.began else 0)
        self.found: dict[str, Any] = {"finished": False, "ran_on": describe(self.device)}
        self.out.mkdir(parents=True, exist_ok=True)
        self.say(f"on {self.found['ran_on']['name']}, {self.seconds:.0f} s at most")
        self.write()

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.began)

    def write(self) -> None:
        """Put what was found into the results, beside those of other stages."""
        path = self.out / RESULTS
        known = json.loads(path.read_text()) if path.is_file() else {}
        known[self.name] = self.found | {"seconds": round(time.monotonic() - self.began, 1)}
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(known, indent=1) + "\n")
        partial.replace(path)

    def say(self, text: str) -> None:
        """Print a line of the log, with the stage and the seconds since it began."""
        print(f"[{self.name} {time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """End what is in the block when the seconds are over, wherever it is; ``out_of_time`` then says so."""
        signal.signal(signal.SIGALRM, _over)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.left))
        try:
            yield
        except OutOfTime:
            self.found["out_of_time"] = True
            self.say("out of time: what is missing was not measured")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def finish(self) -> None:
        """Note that the stage came to its end, and write the results."""
        self.found["finished"] = True
        self.write()


def reason(problem: Exception) -> str:
    """Return why something failed, in a line."""
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:300]


def _over(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def describe(device: torch.device) -> dict[str, Any]:
    """Return what figures were made on."""
    made: dict[str, Any] = {"device": device.type, "torch": torch.__version__, "cores": os.cpu_count()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        made |= {"name": properties.name, "gib": round(properties.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    else:
        made["name"] = f"CPU ({platform.machine()}), no GPU"
    return made


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that all stages have."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{name}", description=doc, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder with photographs.zip")
    parser.add_argument("--out", type=Path, required=True, help="folder for what comes back")
    parser.add_argument("--work", type=Path, required=True, help="folder for what stays here, to go on from")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, required=True, help="that the stage may take")
    parser.add_argument("--began", type=float, help="when they began, in seconds since 1970 (default: now)")
    parser.add_argument("--steps", type=int, default=0, help="of training, and tiny sizes: only to see that it runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipes, train.seed=1")
    return parser


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
