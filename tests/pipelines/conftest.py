"""What the tests of reports share."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest


class Page(HTMLParser):
    """Elements of a page by tag, and its text. Every element is closed in order, and nothing comes from elsewhere."""

    VOID = ("meta", "img", "wbr", "br", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict[str, str | None]]] = {}
        self.text, self.open = "", [""]
        self.feed(page)
        self.close()
        assert self.open == [""]
        assert not re.search(r"(src|href)=\"(?!data:|#)|url\((?!#)|@import", page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.setdefault(tag, []).append(dict(attrs))
        self.open += [tag] if tag not in self.VOID else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def parse_page() -> type[Page]:
    """Takes the text of a page."""
    return Page
