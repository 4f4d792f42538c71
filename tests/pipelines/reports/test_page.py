"""Pages: whatever a name holds, it is shown, and cannot break the page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from pipelines.reports import draw_chart, render
from pipelines.reports.page import _TEMPLATES, amount, last_part, percent

WRITTEN = _TEMPLATES.from_string("<p title='{{ it | short(longest) }}'>{{ it | short(longest) }}</p>{{ it | name }}")


@given(st.text(), st.integers(2, 40))
def test_what_a_template_writes_is_safe_and_visible(value: str, longest: int) -> None:
    written = WRITTEN.render(it=value, longest=longest)
    inner = re.sub(r"^<p title='(.*)'>(.*)</p><bdi>(.*)</bdi>$", r"\1\2\3", written).replace("/<wbr>", "/")
    assert not re.search(r"[<>\"']|&(?!lt;|gt;|#34;|#39;|amp;)", inner)
    assert written.encode().decode() == written
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", inner)
    assert "\n" not in written


def test_keys_in_a_uri_are_not_shown() -> None:
    keys = "s3://AKIA:se+cret@bucket/a@b.jpg"
    assert "s3://…@bucket/a@b.jpg" in WRITTEN.render(it=keys, longest=99)
    assert "AKIA" not in WRITTEN.render(it=keys * 30, longest=20) + WRITTEN.render(
        it=keys[:9] + "x" * 99 + "@y", longest=20
    )
    assert last_part("s3://k:s@bucket/hazy/?region=x/y") == "hazy"
    assert last_part("/photos/what?.jpg") == "what?.jpg"


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("reports/base.html.j2", kind="x")


def test_numbers_for_people() -> None:
    shown = [amount(n).replace("\u00a0", " ") for n in (0, 1, 999, 1000, 1500, 12_345, 5e6, 2e15)]
    assert shown == ["0", "1 B", "999 B", "1 kB", "1.5 kB", "12 kB", "5 MB", "2,000 TB"]
    parts = [percent(n, 1000).replace("\u00a0", " ") for n in (0, 1, 140, 999, 1000)]
    assert parts == ["0 %", "under 1 %", "14 %", "over 99 %", "100 %"]
    assert percent(0, 0) == "0\u00a0%"


def test_charts_stand_in_the_page_with_its_colors_and_any_text(parse_page: Any) -> None:
    hostile = "</text><script>$x_2$ שלום 雾"

    def once() -> str:
        return draw_chart(lambda axes: axes.barh([hostile, "b"], [1, 2]), hostile)

    svg = once()
    assert svg == once()
    assert svg.startswith('<svg role="img" aria-label="&lt;/text&gt;')
    assert "var(--faint)" in svg
    assert "#" not in re.sub(r"(url\(|href=\")#\w+|#1f77b4", "", svg)  # no color of its own but what was drawn
    tags = parse_page(svg).tags
    assert {"path", "text"} <= tags.keys()
    assert not {"script", "style", "metadata"} & tags.keys()
