"""Texts with names in them, fit for a terminal: a name may hold line ends, control characters that move the cursor or
hide text, and bytes that are no text at all.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, surrogates, ends of lines and paragraphs
_JOINERS = "\u200c\u200d"  # of format, and part of words and emoji
_FIRST_BYTE = 0xDC00  # Python spells byte 0xNN of a name that is not UTF-8 as this plus 0xNN


def shown(text: str) -> str:
    """Return ``text`` on one line, with invisible characters spelled as in Python: ``\\n``, ``\\x1b``, ``\\xff``."""
    return text if text.isprintable() else "".join(map(_plain, text))


def say(text: str, file: TextIO | None = None) -> None:
    """Print one line of a name or with names in it, whatever the terminal's encoding."""
    stream = sys.stdout if file is None else file
    if stream is None:  # whoever called has closed it
        return
    encoding = stream.encoding or "utf-8"
    print(shown(text).encode(encoding, "backslashreplace").decode(encoding), file=stream)


def note(text: str) -> None:
    """Tell people on standard error what they may not expect."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def progress(total: int | None, what: str, unit: str = "photos", *, quiet: bool = False) -> tqdm[Any]:
    """Return a bar on standard error, never drawn if ``quiet``.

    Where that is no terminal it is drawn every ten seconds, the first time after as many: short work leaves no trace.
    """
    from tqdm import tqdm

    seconds, delay = (0.5, 0) if sys.stderr.isatty() else (10, 10)
    return tqdm(
        total=total, desc=what, unit=f" {unit}", mininterval=seconds, delay=delay, dynamic_ncols=True, disable=quiet
    )


def _plain(char: str) -> str:
    if unicodedata.category(char) not in _ESCAPED or char in _JOINERS:
        return char
    code = ord(char)
    return (
        f"\\x{code - _FIRST_BYTE:02x}" if 0x80 <= code - _FIRST_BYTE <= 0xFF else char.encode("unicode_escape").decode()
    )
