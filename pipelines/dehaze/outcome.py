"""What a folder's job tells: counts, a list of what failed, progress, exit codes. No Ray."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pyarrow import fs as pafs
from tqdm import tqdm

from models.config import ConfigError
from models.inference import verdict
from models.paths import child, filesystem
from pipelines.dehaze.names import FAILURES
from pipelines.dehaze.work import PhotoResult
from pipelines.disk_errors import reason_of
from pipelines.shown import progress, shown

SOME_FAILED, NO_SPACE = 1, 3  # exit codes, beside 0, 2 (arguments) and 130 (Ctrl-C)
_HEAD = b"path,reason\n"
_PRINTED = 20  # failures that are shown


class FolderReport:
    """Counts results, shows progress, and writes the failures down as they come.

    Args:
        total: photographs to come.
        folder: where :data:`FAILURES` goes, or None. A list from an earlier time is out of date and is removed.
        quiet: no progress bar.
    """

    def __init__(self, total: int, folder: str | None, *, quiet: bool = False) -> None:
        self.counts = {"written": 0, "kept": 0, "failed": 0}
        self.notes: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self._haze = 0.0  # of all together
        self._place = None if folder is None else child(folder, FAILURES)
        self._stream: Any = None
        self._bar = progress(total, "dehaze", quiet=quiet)
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

    def add(self, result: PhotoResult) -> None:
        """Count one photograph."""
        self.add_many({result.status: 1}, [result], [] if result.haze is None else [result.haze])

    def add_many(self, counts: dict[str, int], told: Sequence[PhotoResult], haze: Sequence[float] = ()) -> None:
        """Count many; those that were there already count as less to do, so that the time left is right.

        Args:
            counts: of each status.
            told: the results that failed or have notes.
            haze: of those in which it is known how much there was.
        """
        self.verdicts.update(map(verdict, haze))
        self._haze += sum(haze)
        for status, count in counts.items():
            self.counts[status] += count
        for result in told:
            for note in result.notes:
                self._remark(result.source, note)
            if result.status == "failed":
                self._note(result)
        kept = counts.get("kept", 0)
        if kept and self._bar.total is not None:
            self._bar.total -= kept
        self._bar.update(sum(counts.values()) - kept)

    def _remark(self, source: str, note: str) -> None:
        self.notes[note] += 1
        if sum(self.notes.values()) <= _PRINTED:
            tqdm.write(shown(f"note: {source}: {note}"), file=sys.stderr)

    def _note(self, failure: PhotoResult) -> None:
        if self._place is None or self.counts["failed"] <= _PRINTED:
            tqdm.write(shown(f"failed: {failure.source}: {failure.reason}"), file=sys.stderr)
        if self._place is None:
            return
        try:
            if self._stream is None:
                files, path = filesystem(self._place)
                files.create_dir(path.rpartition("/")[0], recursive=True)
                self._stream = files.open_output_stream(path)
                self._stream.write(_HEAD)
            self._stream.write(_line([failure.source, failure.reason]))
            self._stream.flush()
        except OSError as problem:  # the list must not stop the work; from now on all failures are shown
            tqdm.write(shown(f"cannot write {self._place}: {reason_of(problem)}"), file=sys.stderr)
            self._place = None

    def haze_found(self) -> str:
        """Return how much haze there was, in one line; empty where that is not known."""
        count = self.verdicts.total()
        if count < 2:
            return "".join(f"{words} ({self._haze:.2f})" for words in self.verdicts)
        words = ", ".join(f"{found} with {words}" for words, found in self.verdicts.most_common())
        return f"{words} ({self._haze / count:.2f} on average)"

    def summary(self) -> str:
        """Return one line of counts; more where not every note was shown."""
        counts = self.counts
        text = f"{counts['written']} dehazed, {counts['kept']} there already, {counts['failed']} failed"
        text = f"{text}; see {shown(self._place)}" if counts["failed"] and self._place is not None else text
        more = sum(self.notes.values()) > _PRINTED
        return "\n".join(
            [text, *(f"note on {count}: {shown(note)}" for note, count in self.notes.most_common() if more)]
        )

    @property
    def exit_code(self) -> int:
        """Return 0, or :data:`SOME_FAILED` where a photograph failed."""
        return SOME_FAILED if self.counts["failed"] else 0


def _forget(place: str) -> None:
    """Remove a list of failures; a file of the same name that is something else stays."""
    files, path = filesystem(place)
    if files.get_file_info(path).type == pafs.FileType.File:
        with files.open_input_stream(path) as stream:
            ours = _HEAD.startswith(stream.read(len(_HEAD)))  # or its beginning: a full disk took no more
        if not ours:
            raise ConfigError(f"{place} is no list of failures of this program; move it, or choose another folder")
        files.delete_file(path)


def _line(cells: Sequence[str]) -> bytes:
    buffer = io.StringIO(newline="")
    own = any("\r" in cell for cell in cells)  # which the writer does not quote by itself
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if own else csv.QUOTE_MINIMAL).writerow(cells)
    return buffer.getvalue().encode("utf-8", "surrogateescape")  # names of files may be any bytes
