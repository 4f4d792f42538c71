"""Listing what the driver leaves: folders in tasks, each of which writes its part of the listing into files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from models.paths import child
from pipelines.ingest.decide import ROWS, Work, store
from pipelines.ingest.discover import LISTED, Found, Prefix, Sorter, SourceFile, entries, nothing_at, place_all
from pipelines.ingest.survey import Listing, SourceSurvey, digest_of

_ENOUGH, _LEVELS = 16, 3  # folders to list side by side, and how deep they are looked for
_TASKS = 256
_MANY = 10_000  # folders that a task does not hand back: it lists them


def complete(work: Work, plan: SourceSurvey) -> SourceSurvey:
    """List what waits, in tasks.

    Raises:
        ConfigError: there is nothing at a source.
    """
    if plan.is_complete:
        return plan
    held = {
        root: _complete(work, f"tree-held{number}", listing, "held-out photographs")
        for number, (root, listing) in enumerate(plan.holdout.items())
    }
    depth = None if plan.depth is None else _complete(work, "tree-depth", plan.depth, "depth maps")
    photographs = _complete(work, "tree", plan.photographs, "photographs")
    return replace(plan, photographs=photographs, depth=depth, holdout=held)


def _complete(work: Work, stage: str, listing: Listing, what: str) -> Listing:
    waiting, seen = list(listing.waiting), Counter(listing.seen)
    containers = {file.uri: (file, kind) for file, kind in listing.containers}
    left, roles = Counter(listing.left), Counter(listing.roles)
    parts, digest, example = list(listing.parts), listing.digest, listing.example
    level = 0
    while waiting:
        shallow = len(waiting) < _ENOUGH and level < _LEVELS
        jobs: list[dict[str, Any]] = [
            {"out": child(work.root, f"{stage}{level}-{n}"), "prefixes": waiting[n::_TASKS], "shallow": shallow}
            for n in range(min(len(waiting), _TASKS))
        ]
        results = work.run(partial(list_part, sorter=listing.sorter), jobs, here=0)
        waiting = [Prefix(*prefix) for prefix in itertools.chain.from_iterable(r["waiting"] for r in results)]
        for result in results:
            parts += result["parts"]
            containers |= {one["file"]["uri"]: (SourceFile(**one["file"]), one["kind"]) for one in result["containers"]}
            left.update(result["left"])
            roles.update(result["roles"])
            seen.update(result["seen"])
            digest += int(result["digest"], 16)
            example = example or result["example"]
        level += 1
    for source in {prefix.source for prefix in listing.waiting}:
        if not seen[source]:
            raise nothing_at(source, what, listing.sorter, left)
    return replace(
        listing, containers=list(containers.values()), left=left, roles=roles, parts=tuple(parts), waiting=(),
        digest=digest, example=example, seen=seen,
    )  # fmt: skip


def list_part(out: str, prefixes: Sequence[Sequence[str]], shallow: bool, sorter: Sorter) -> dict[str, Any]:
    """List folders into files of at most :data:`ROWS` rows, and count what is in them. Runs in a task.

    Args:
        out: folder for these files.
        prefixes: fields of :class:`Prefix`.
        shallow: hand folders in them back, for other tasks.
        sorter: decides what counts.
    """
    part = _Part(out, sorter)
    waiting = [Prefix(*fields) for fields in prefixes]
    back = part.take(waiting, recursive=not shallow)
    while back and (not shallow or len(back) > _MANY):
        back = part.take(back, recursive=True)
    return part.said() | {"waiting": back}


class _Part:
    """A task's part of a listing; a file's worth of it is in memory."""

    def __init__(self, out: str, sorter: Sorter) -> None:
        self.out, self.found = out, Found(sorter)
        self.files: list[str] = []
        self.digest = 0
        self.example = ""
        self.roles: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def take(self, prefixes: Sequence[Prefix], recursive: bool) -> list[Prefix]:
        """List folders; the folders in them."""
        back: list[Prefix] = []
        for prefix in prefixes:
            for file in entries(prefix, recursive):
                before = len(self.found.rows) + len(self.found.containers)
                back += place_all(prefix, [file], self.found)
                self.seen[prefix.source] += len(self.found.rows) + len(self.found.containers) - before
                if len(self.found.rows) >= ROWS:
                    self.put()
        return back

    def put(self) -> None:
        """Write the rows so far."""
        table = self.found.table()
        self.files.append(child(self.out, f"{len(self.files):05d}.arrow"))
        store(self.files[-1], LISTED, [table])
        self.digest += digest_of(table)
        self.roles.update(table["role"].to_pylist())
        if not self.example and "photograph" in self.roles:
            rows = zip(table["key"].to_pylist(), table["role"].to_pylist(), strict=True)
            self.example = next((key for key, role in rows if role == "photograph"), "")

    def said(self) -> dict[str, Any]:
        """Return what there is to know of the files, for JSON."""
        if self.found.rows:
            self.put()
        return {
            "parts": self.files,
            "containers": [{"file": asdict(file), "kind": kind} for file, kind in self.found.containers],
            "left": self.found.left,
            "roles": self.roles,
            "seen": self.seen,
            "digest": f"{self.digest:x}",
            "example": self.example,
        }
