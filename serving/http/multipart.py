"""Multipart forms, read in memory: the framework's own reader would put uploads of more than 1 MB on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from models.images import ImageTooLarge
from serving.errors import refused


@dataclass(frozen=True)
class Upload:
    """A file of a form: the field's name, the file's name as the client wrote it, and its bytes."""

    field: str
    name: str
    data: bytes


@dataclass
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    file: str | None = None
    data: bytearray = field(default_factory=bytearray)


class FormReader:
    """Takes the body of a form piece by piece.

    Args:
        content_type: the request's header, with the boundary.
        max_files: files that are accepted.
        max_bytes: bytes of each file.

    Raises:
        ProblemError: 400 without a boundary.
    """

    def __init__(self, content_type: str, *, max_files: int, max_bytes: int) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise refused(400, "the Content-Type of the form has no boundary")
        self._max_files, self._max_bytes = max_files, max_bytes
        self._files: list[Upload] = []
        self._ended = False
        self._part = _Part()
        self._header: tuple[bytearray, bytearray] = bytearray(), bytearray()
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        callbacks = {f"on_{name}": getattr(self, f"_{name}") for name in (*names, "headers_finished", "end")}
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # made by name above
        except FormParserError as problem:
            raise refused(400, f"the form's boundary is not valid: {problem}") from problem

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            ProblemError: 400 for what is no form, 413 for too many files.
            ImageTooLarge: a file is longer than accepted.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as problem:
            raise refused(400, f"the form cannot be read: {problem}") from problem

    def finish(self) -> list[Upload]:
        """The files, in order.

        Raises:
            ProblemError: 400 when the body ended before the form did.
        """
        if not self._ended:
            raise refused(400, "the form ends before its last boundary")
        return self._files

    def _part_begin(self) -> None:
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        name, value = (part.decode("latin-1") for part in self._header)
        self._part.headers[name.lower()] = value
        self._header = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get("content-disposition", ""))
        self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options and self._part.name != "file":  # RFC 7578: a file may come without a name
            detail = f"the form's field '{self._part.name[:100]}' is no file; options go into the query (?strength=0.5)"
            raise refused(400, detail)
        self._part.file = options.get(b"filename", b"file").decode("utf-8", "replace")
        if len(self._files) >= self._max_files:
            raise refused(413, f"the form has more than {self._max_files} file(s)", "too_many_files")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.file is None:
            return
        self._part.data += data[start:end]
        if len(self._part.data) > self._max_bytes:
            raise ImageTooLarge(f"a file of the form has more than the {self._max_bytes:,} bytes that are accepted")

    def _part_end(self) -> None:
        if self._part.file is not None:
            self._files.append(Upload(self._part.name, self._part.file, bytes(self._part.data)))
            self._part = _Part()

    def _end(self) -> None:
        self._ended = True
