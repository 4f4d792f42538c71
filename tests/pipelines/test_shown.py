"""Names on a terminal."""

from __future__ import annotations

import io

import pytest

from pipelines.shown import say, shown


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain é 漢 \U0001f600", "plain é 漢 \U0001f600"),
        ("family \U0001f468\u200d\U0001f469", "family \U0001f468\u200d\U0001f469"),
        ("screen\u202fshot", "screen\u202fshot"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x1b[2Jclear\x07\x9b", "\\x1b[2Jclear\\x07\\x9b"),
        ("caf\udce9.jpg", "caf\\xe9.jpg"),
        ("gpj.\u202ecod", "gpj.\\u202ecod"),
        ("\ud800\u2028", "\\ud800\\u2028"),
    ],
)
def test_what_is_not_to_be_seen_is_spelled(text: str, printed: str) -> None:
    assert shown(text) == printed


def test_a_terminal_of_another_encoding_is_no_problem() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say("caf\xe9 caf\udce9", stream)
    stream.flush()
    assert raw.getvalue() == b"caf\\xe9 caf\\xe9\n"
