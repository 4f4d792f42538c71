"""Globs over paths and URIs."""

from __future__ import annotations

import warnings

import pytest

from pipelines.corpus import split_glob


@pytest.mark.parametrize(
    ("source", "folder", "matching", "others"),
    [
        ("/in/*.jpg", "/in", ["a.jpg"], ["b/a.jpg", "a.png"]),
        ("/in/**/[!a]?.jpg", "/in", ["bc.jpg", "d/e/fg.jpg"], ["ab.jpg", "b.jpg"]),
        ("/in/[[]1].jpg", "/in", ["[1].jpg"], ["1.jpg"]),
        ("/in/a[[!].jpg", "/in", ["a[.jpg", "a!.jpg"], ["ab.jpg"]),
        ("/in/a[!]*", "/in", [], ["ab"]),
        ("/in/a[z-a].jpg", "/in", [], ["az.jpg", "a[z-a].jpg"]),
        ("s3://b/in/*.jpg?endpoint_override=http%3A%2F%2Fh%3A1", "s3://b/in?endpoint_override=http%3A%2F%2Fh%3A1",
         ["a.jpg"], []),
        ("s3://b/in/b%20c*/*", "s3://b/in", ["b cd/e"], ["b%20c/e"]),
    ],
)  # fmt: skip
def test_a_folder_and_a_pattern(source: str, folder: str, matching: list[str], others: list[str]) -> None:
    with warnings.catch_warnings(action="error"):
        found, pattern = split_glob(source)
    assert found == folder
    assert pattern is not None
    assert [name for name in matching + others if pattern.fullmatch(name)] == matching


@pytest.mark.parametrize("source", ["/in", "s3://b/in", "s3://b/in?endpoint_override=h"])
def test_no_wildcard(source: str) -> None:
    assert split_glob(source) == (source, None)
