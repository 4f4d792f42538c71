"""The pages of the documentation and their fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language and the word after it (``run``, ``answer``, none), its text, its line."""

    page: Path
    language: str
    word: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    text = page.read_text()
    found = re.finditer(r"^ *```(\w*) *(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, match[1], match[2], match[3], text.count("\n", 0, match.start()) + 1) for match in found]
