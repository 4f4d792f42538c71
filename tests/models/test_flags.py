"""Flags of a configuration: what each kind of field takes, and that nothing given is lost."""

from __future__ import annotations

import argparse
from typing import Any, Literal

import pytest
from pydantic import Field

from models.config import Settings, parse
from models.flags import add_flags, given
from models.options import DehazeOptions


class Plain(Settings):
    names: tuple[str, ...] = Field((), description="several")
    count: int = Field(3, ge=1, description="how many")
    weights: dict[str, str] = Field(default_factory=dict, description="files")
    kind: Literal["a", "b"] | None = Field(None, description="which")
    loud: bool = Field(False, description="say more")
    card: bool = Field(True, description="write no card")
    hidden: int = 7


class WithWords(Plain):
    sources: tuple[str, ...] = Field(min_length=1, description="what", json_schema_extra={"positional": True})
    out: str = Field(description="where", json_schema_extra={"metavar": "DIR", "group": "places"})


def read(config: type[Settings], *words: str) -> Any:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, config)
    return parse(config, given(parser.parse_args(words), config))


def test_nothing_given_is_the_default() -> None:
    assert read(Plain) == Plain()


def test_every_kind_of_field() -> None:
    words = [
        "--names",
        "x",
        "y",
        "--names",
        "z",
        "--count",
        "5",
        "--weights",
        "m=a=b",
        "n=c",
        "--kind",
        "b",
        "--loud",
        "--no-card",
    ]
    assert read(Plain, *words) == Plain(
        names=("x", "y", "z"), count=5, weights={"m": "a=b", "n": "c"}, kind="b", loud=True, card=False
    )


def test_flags_before_positional_words_do_not_swallow_them() -> None:
    found = read(WithWords, "--names", "x", "--out", "o", "--names", "y", "one", "two")
    assert (found.names, found.sources, found.out) == (("x", "y"), ("one", "two"), "o")


@pytest.mark.parametrize(
    "words", [["--hidden", "1"], ["--count", "many"], ["--weights", "m"], ["--kind", "c"], ["--card"]]
)
def test_what_is_no_flag_or_value_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        read(Plain, *words)
    assert left.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_help_says_defaults_and_groups() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, WithWords)
    text = " ".join(parser.format_help().split())
    assert "how many (default: 3)" in text
    assert "places: --out DIR where" in text
    assert "--hidden" not in text


@pytest.mark.parametrize(("word", "meant"), [("jpg", "JPEG"), ("TIF", "TIFF"), ("Png", "PNG")])
def test_choices_have_the_names_that_people_use(word: str, meant: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, DehazeOptions)
    assert parser.parse_args(["--format", word]).format == meant
