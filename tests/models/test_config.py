"""Strict configuration: one clear sentence that names the key, where it stands and what was meant."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from pydantic import Field, ValidationError, model_validator

from models.config import ConfigError, Settings, nearest, parse, parse_words


class Optimizer(Settings):
    rate: float = Field(1e-3, gt=0)
    steps: int = 10


class Ends(Settings):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _rise(self) -> Ends:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high, which is {self.high}")
        return self


class Training(Settings):
    name: str
    ends: Ends = Ends()
    optimizer: Optimizer = Optimizer()
    warmup: Optimizer | None = None
    crop: tuple[int, int] = (64, 64)


def message(data: dict[str, Any], where: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Training, data, where)
    return str(caught.value)


def test_values_and_defaults() -> None:
    parsed = parse(Training, {"name": "x", "optimizer": {"steps": 3}, "crop": [8, 9]})
    assert parsed == Training(name="x", optimizer=Optimizer(rate=1e-3, steps=3), warmup=None, crop=(8, 9))
    assert parse(Training, parsed.model_dump()) == parsed


@pytest.mark.parametrize(
    ("data", "where", "expected"),
    [
        ({"nmae": "x"}, "", "unknown key 'nmae'; did you mean 'name'?"),
        ({"nmae": "x"}, "train", "unknown key 'nmae' in train; did you mean 'name'?"),
        (
            {"name": "x", "optimizer": {"setps": 1}},
            "",
            "unknown key 'setps' in optimizer; did you mean 'steps'?",
        ),
        (
            {"name": "x", "warmup": {"raet": 1}},
            "train",
            "unknown key 'raet' in train.warmup; did you mean 'rate'?",
        ),
        ({"name": "x", "optimizer": {"zzz": 1}}, "", "unknown key 'zzz' in optimizer; known: rate, steps"),
        ({}, "train", "missing key 'name' in train"),
        ({"name": "x", "ends": {"low": 3}}, "train", "ends in train: low is 3, above high, which is 1"),
        ({"optimizer": {"steps": "many", "setps": 1}}, "", "unknown key 'setps' in optimizer; did you mean 'steps'?"),
    ],
)
def test_the_message_names_the_key_its_place_and_its_neighbor(data: dict[str, Any], where: str, expected: str) -> None:
    assert message(data, where) == expected


@pytest.mark.parametrize(
    ("data", "start", "reason"),
    [
        ({"name": 3}, "'name' in train is 3:", "string"),
        ({"name": "x", "optimizer": {"steps": "many"}}, "'steps' in train.optimizer is 'many':", "integer"),
        ({"name": "x", "optimizer": {"rate": 0}}, "'rate' in train.optimizer is 0:", "greater than 0"),
        ({"name": "x", "optimizer": None}, "'optimizer' in train is None:", "Optimizer"),
        ({"name": "x", "crop": [1, "a"]}, "'1' in train.crop is 'a':", "integer"),
        ({"name": "x", 1: "y"}, "'1' in train is 1:", "string"),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(data: dict[Any, Any], start: str, reason: str) -> None:
    text = message(data, "train")
    assert text.startswith(start)
    assert reason in text
    assert "\n" not in text


def test_defaults_are_validated_too() -> None:
    class Wrong(Settings):
        rate: float = Field(-1.0, gt=0)

    with pytest.raises(ConfigError, match=r"'rate' is -1\.0: .*greater than 0"):
        parse(Wrong, {})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse(Training, {"name": "x"}).name = "y"  # type: ignore[misc]  # that it is read-only is the point


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("corn", ["corun", "dcp"], "; did you mean 'corun'?"),
        ("xyz", ["dcp", "corun"], "; known: corun, dcp"),
        ("xyz", [], ""),
    ],
)
def test_nearest(name: str, known: list[str], expected: str) -> None:
    assert nearest(name, known) == expected


@pytest.mark.parametrize("data", [None, [1], "text"])
def test_what_is_no_mapping_is_said(data: object) -> None:
    with pytest.raises(ConfigError, match=r"network is .*; expected keys and values"):
        parse(Settings, data, "network")  # type: ignore[arg-type]


def command() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="it")
    parser.add_argument("--strength", type=float)
    verbs = parser.add_subparsers(dest="verb")
    verbs.add_parser("inspect").add_argument("--sheet")
    return parser


def test_flags_that_are_known() -> None:
    assert parse_words(command(), ["--strength=0.1", "inspect", "--sheet", "x"]).strength == 0.1
    assert parse_words(command(), ["--strength", "-1"]).strength == -1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strenght", "0.1"], "unknown flag --strenght; did you mean '--strength'?"),
        (["--stren=0.1"], "unknown flag --stren; did you mean '--strength'?"),
        (["inspect", "--sheets", "x"], "unknown flag --sheets; did you mean '--sheet'?"),
    ],
)
def test_misspelt_and_shortened_flags_name_the_nearest(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        parse_words(command(), words)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a.jpg", "--strength", "0.5", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["--strength", "0.5", "a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["--strength", "0.5", "--", "-a.jpg", "b.jpg"], ["-a.jpg", "b.jpg"]),
    ],
)
def test_flags_may_stand_between_names(words: list[str], names: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--strength", type=float)
    args = parse_words(parser, words)
    assert (args.names, args.strength) == (names, 0.5)
