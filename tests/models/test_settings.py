"""Strict configuration and its messages."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from models.settings import ConfigError, Settings, nearest, parse


class Inner(Settings):
    size: int = Field(4, ge=1)


class Outer(Settings):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None


def test_defaults_and_nesting() -> None:
    assert parse(Outer, {"name": "a", "inner": {"size": 2}}) == Outer(name="a", inner=Inner(size=2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nam": "a"}, "unknown key 'nam' in top; did you mean 'name'?"),
        ({"name": "a", "inner": {"sise": 3}}, "unknown key 'sise' in top.inner; did you mean 'size'?"),
        ({"name": "a", "maybe": {"sise": 3}}, "unknown key 'sise' in top.maybe; did you mean 'size'?"),
        ({"name": "a", "zzz": 1}, "unknown key 'zzz' in top; known: inner, maybe, name"),
        ({}, "missing key 'name' in top"),
        ({"name": "a", "inner": {"size": 0}}, "'size' in top.inner is 0: Input should be greater than or equal to 1"),
        ({"name": "a", "inner": {"size": "big"}}, "'size' in top.inner is 'big'"),
    ],
)
def test_messages_name_place_value_and_neighbour(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, data, "top")
    assert str(caught.value).startswith(message)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Inner().size = 3  # type: ignore[misc]


def test_nearest() -> None:
    assert nearest("stpes", ["steps", "batch"]) == "; did you mean 'steps'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("zzz", []) == ""
