"""What a folder's job tells: counts, a list of what failed, progress, exit codes. No Ray."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pyarrow import fs as pafs
from tqdm import tqdm

from models.settings import ConfigError
from pipelines.corpus import child, filesystem
from pipelines.folder_work import Result

FAILURES = "failures.csv"
SOME_FAILED, NO_SPACE = 1, 3  # exit codes, beside 0, 2 (arguments) and 130 (Ctrl-C)
_HEAD = b"path,reason\n"
_PRINTED = 20  # failures that are shown


class Report:
    """Counts results, shows progress, and writes the failures down as they come.

    Args:
        total: photographs to come.
        folder: where :data:`FAILURES` goes, or None. A list from an earlier time is out of date and is removed.
        quiet: no progress bar, even on a terminal.
    """

    def __init__(self, total: int, folder: str | None, *, quiet: bool = False) -> None:
        self.counts = {"written": 0, "kept": 0, "failed": 0}
        self._place = None if folder is None else child(folder, FAILURES)
        self._stream: Any = None
        self._bar = tqdm(total=total, unit="photo", disable=True if quiet else None, dynamic_ncols=True)
        if self._place is not None:
            _forget(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._stream is not None:
            with contextlib.suppress(OSError):  # a full disk has been told of already
                self._stream.close()

    def add(self, result: Result) -> None:
        """Count one photograph."""
        self.add_many({result.status: 1}, [result] if result.status == "failed" else [])

    def add_many(self, counts: dict[str, int], failures: Sequence[Result]) -> None:
        """Count many; those that were there already count as less to do, so that the time left is right."""
        for status, count in counts.items():
            self.counts[status] += count
        for failure in failures:
            self._note(failure)
        kept = counts.get("kept", 0)
        if kept and self._bar.total is not None:
            self._bar.total -= kept
            self._bar.refresh()
        self._bar.update(sum(counts.values()) - kept)

    def _note(self, failure: Result) -> None:
        if self._place is None or self.counts["failed"] <= _PRINTED:
            tqdm.write(f"failed: {failure.source}: {failure.reason}", file=sys.stderr)
        if self._place is None:
            return
        with contextlib.suppress(OSError):  # the list must not stop the work; the counts tell that it is short
            if self._stream is None:
                files, path = filesystem(self._place)
                files.create_dir(path.rpartition("/")[0], recursive=True)
                self._stream = files.open_output_stream(path)
                self._stream.write(_HEAD)
            self._stream.write(_line([failure.source, failure.reason]))
            self._stream.flush()

    def summary(self) -> str:
        """One line."""
        counts = self.counts
        text = f"{counts['written']} dehazed, {counts['kept']} there already, {counts['failed']} failed"
        return f"{text}; see {self._place}" if counts["failed"] and self._place is not None else text

    @property
    def exit_code(self) -> int:
        """0, or :data:`SOME_FAILED`."""
        return SOME_FAILED if self.counts["failed"] else 0


def _forget(place: str) -> None:
    """Remove a list of failures; a file of the same name that is something else stays."""
    files, path = filesystem(place)
    if files.get_file_info(path).type == pafs.FileType.File:
        with files.open_input_stream(path) as stream:
            ours = stream.read(len(_HEAD)) == _HEAD
        if not ours:
            raise ConfigError(f"{place} is no list of failures of this program; move it, or choose another folder")
        files.delete_file(path)


def _line(cells: Sequence[str]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode("utf-8", "surrogateescape")  # names of files may be any bytes
