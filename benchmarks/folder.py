"""A job over many files on Ray: is its memory flat, and what does a file cost?

``python -m benchmarks.folder [--counts 10000 100000] [--out folder.json]`` dehazes a folder of that many photographs
(small ones, 1,000 names each by hard links, a folder for each 1,000) with `python -m pipelines.dehaze`, in a session of
its own, and prints for each count

- the most that the driver, a worker and the lister (the process that lists the photographs) took at any time, and all
  processes of the job together, Ray's own too: PSS, which counts shared pages once, without the pages of program files,
  whose share depends on what else runs on the machine;
- the same for the middle tenth of the run and for its last tenth, which differ when something grows with what is done;
- files per second, start-up included, and ``again`` those of the same command when everything is there already.

The model is the identity, a checkpoint like any other, so that what is measured is the job and not a network. The link
limit of file systems is why there is more than one photograph.
Memory is sampled every ``--every`` seconds from ``/proc/PID/smaps_rollup``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from models.checkpoints import save

PER_FOLDER = 1000
SIZE = (32, 24)
KINDS = {"driver": "pipelines.dehaze", "worker": "ray::Dehazer", "lister": "ray::list_batches", "survey": "ray::survey"}


def make_folder(root: Path, count: int) -> Path:
    """Make a folder of ``count`` files, which are hard links to a few photographs."""
    folder = root / f"photos-{count}"
    random = np.random.default_rng(0)
    for start in range(0, count, PER_FOLDER):
        place = folder / f"{start // PER_FOLDER:04d}"
        place.mkdir(parents=True)
        first = place / "0000.jpg"
        noise = random.integers(90, 220, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(first, quality=90)
        for index in range(1, min(PER_FOLDER, count - start)):
            os.link(first, place / f"{index:04d}.jpg")
    return folder


def make_model(root: Path) -> Path:
    """Save a checkpoint of the identity and return its folder."""
    folder = root / "identity"
    save(folder, nn.Identity(), {"network": {"name": "torch.nn:Identity"}})
    return folder


def sample(session: int) -> dict[str, float]:
    """Return the present memory (PSS) in MiB: of the largest process of each kind, and of the whole session."""
    found = dict.fromkeys((*KINDS, "all"), 0.0)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            rollup = (process / "smaps_rollup").read_text()
            own = (line.split() for line in rollup.splitlines() if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
            pss = sum(int(words[1]) for words in own) / 1024
            found["all"] += pss
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for kind, mark in KINDS.items():
                if mark in command:
                    found[kind] = max(found[kind], pss)
    return found


def measure(source: Path, target: Path, model: Path, every: float) -> dict[str, Any]:
    """Run the job once."""
    command = [sys.executable, "-m", "pipelines.dehaze", str(source), str(target), "--model", str(model)]
    began, samples = time.perf_counter(), []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None:
        samples.append(sample(process.pid))
        time.sleep(every)
    seconds = time.perf_counter() - began
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}")
    busy = [one for one in samples if one["worker"]] or samples
    tenth = max(1, len(busy) // 10)
    middle = busy[len(busy) // 2 :][:tenth]
    return {
        "seconds": seconds,
        "said": process.stdout.read().strip(),
        "peak": {kind: max(one[kind] for one in samples) for kind in samples[0]},
        "middle": {kind: max(one[kind] for one in middle) for kind in samples[0]},
        "last": {kind: max(one[kind] for one in busy[-tenth:]) for kind in samples[0]},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--every", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    print(f"{'files':>8} {'':>8} " + " ".join(f"{kind:>8}" for kind in (*KINDS, "all")) + f" {'files/s':>8}")
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        for count in args.counts:
            source, target = make_folder(Path(folder), count), Path(folder) / f"out-{count}"
            first = measure(source, target, model, args.every)
            again = measure(source, target, model, args.every)
            assert f"{count} dehazed" in first["said"], first["said"]
            assert f"0 dehazed, {count} there already" in again["said"], again["said"]
            results[count] = {"first": first, "again": again}
            for part in ("peak", "middle", "last"):
                row = " ".join(f"{first[part][kind]:8.0f}" for kind in (*KINDS, "all"))
                rate = f"{count / first['seconds']:8.0f}" if part == "peak" else ""
                print(f"{count:8} {part:>8} {row} {rate}", flush=True)
            row = " ".join(f"{again['peak'][kind]:8.0f}" for kind in (*KINDS, "all"))
            print(f"{count:8} {'again':>8} {row} {count / again['seconds']:8.0f}", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
