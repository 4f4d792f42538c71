"""Pages from Jinja2 templates, each one file that asks for nothing else.

Templates stand beside their users as ``*.html.j2``. Names of files are whatever somebody called them, so everything
that a template writes is escaped, with what is not to be seen spelled out and keys in URIs left out.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from models.paths import split_options
from pipelines.shown import shown

Row = Mapping[str, Any]

_KEYS = re.compile(r"://[^/\s@]*@")
_ROOT = Path(__file__).parents[1]
_NBSP = "\u00a0"


@dataclass(frozen=True)
class Picture:
    """A photograph or depth map on a page.

    Attributes:
        uri: its name.
        row: of the catalogue; empty when it has none there.
        jpeg: the thumbnail, or None.
        problem: why there is no thumbnail, as a sentence.
    """

    uri: str
    row: Row
    jpeg: bytes | None = None
    problem: str = ""


def render(template: str, *, script: str = "", **values: Any) -> str:
    """Render a page. Pure: the same values give the same text.

    Args:
        template: path below ``pipelines``; one for HTML extends ``reports/base.html.j2``, others end in ``.md.j2``.
        script: path of a JavaScript file, the only script that the page may run.
        values: what the template names; one that is missing is an error.
    """
    own = Markup((_ROOT / script).read_text(encoding="utf-8")) if script else ""  # noqa: S704 - a file of ours
    digest = base64_of(hashlib.sha256(own.encode()).digest())
    return _TEMPLATES.get_template(template).render(values, script=own, digest=digest, nav=[])


def short(text: object, longest: int = 160) -> str:
    """Return at most ``longest`` characters of a text, without the middle, as both ends of a name tell it apart, and
    without keys.
    """
    plain = _KEYS.sub("://…@", str(text))
    return plain if len(plain) <= longest else f"{plain[: longest // 2]}…{plain[-(longest // 2) :]}"


def name(uri: object, longest: int = 160) -> Markup:
    """Return a file's name or uri: isolated, as its letters may run from right to left, and broken after slashes
    first.
    """
    broken = escape(visible(short(uri, longest))).replace("/", Markup("/<wbr>"))
    return Markup("<bdi>{}</bdi>").format(broken)


def lines(text: str) -> Markup:
    """Return text of several lines, for ``<pre>``, at most 20,000 characters, each line at most 400."""
    cut = text if len(text) <= 20_000 else f"{text[:20_000]}…"
    return Markup("\n").join(visible(short(line, 400)) for line in cut.split("\n"))


def visible(value: Any) -> Any:
    """Return texts without keys in their URIs (``s3://key:secret@…``) and on one line; others as is."""
    return shown(_KEYS.sub("://…@", value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def last_part(uri: str) -> str:
    """Return the name at the end of a path or uri, without a query such as S3's ``?region=…``."""
    path, _ = split_options(uri)
    return path.rstrip("/").rpartition("/")[2]


def percent(part: float, whole: float) -> str:
    """Return a share such as ``14 %``, unbreakable. A part above 0 is never shown as 0, and less than the whole never
    as 100.
    """
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 1:
        return f"under{_NBSP}1{_NBSP}%"
    return f"over{_NBSP}99{_NBSP}%" if 99 < share < 100 else f"{share:.0f}{_NBSP}%"


def amount(count: float) -> str:
    """Return bytes in decimal units: ``0``, ``999 B``, ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    digits = f"{count:.1f}" if count < 10 and unit != "B" else f"{count:,.0f}"
    return f"{digits.removesuffix('.0')}{_NBSP}{unit}" if count else "0"


def plural(count: int, one: str) -> str:
    """Return ``1 photograph``, ``2,000 photographs``."""
    return f"{count:,} {one if count == 1 else one + 's'}"


def in_cell(text: object) -> str:
    """Return a text that ends no cell of a Markdown table."""
    return str(text).replace("|", "\\|")


def base64_of(data: bytes) -> str:
    """Encode bytes for a ``data:`` URI."""
    return base64.b64encode(data).decode()


_TEMPLATES = Environment(
    loader=FileSystemLoader(_ROOT),
    autoescape=select_autoescape((), ("md.j2",), default_for_string=True, default=True),
    undefined=StrictUndefined,
    finalize=visible,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
for _filter in (short, name, lines, last_part, percent, amount, plural, in_cell, base64_of):
    _TEMPLATES.filters[_filter.__name__] = _filter
