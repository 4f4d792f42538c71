"""An installation without extras brings nothing whose license is narrower than the project's own."""

from __future__ import annotations

import email.message
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import licenses

ROOT = Path(__file__).parents[1]


def test_base_dependencies_are_permissive_or_explained() -> None:
    packages = licenses.base_packages(licenses.base_requirements())
    assert {"torch", "ray", "starlette", "numpy"} <= packages  # also what only a dependency asks for
    assert "fade-python" not in packages
    assert licenses.unexplained(packages) == {}


def test_every_explanation_is_needed_and_in_the_documentation() -> None:
    page = (ROOT / "docs" / "reference" / "licenses.md").read_text()
    for name, why in licenses.ACCEPTED.items():
        assert f"| `{name}` | {why} |" in page


@pytest.mark.parametrize(
    ("field", "text", "bad"),
    [
        ("License-Expression", "MIT AND (Apache-2.0 OR BSD-3-Clause)", False),
        ("License-Expression", "LicenseRef-research-only", True),
        ("License-Expression", "MIT AND GPL-3.0-only", True),
        ("Classifier", "License :: OSI Approved :: GNU Affero General Public License v3", True),
        ("Classifier", "License :: OSI Approved :: MIT License", False),
        ("License", "PolyForm Noncommercial", True),
        ("Summary", "says nothing of its license", True),
    ],
)
def test_what_is_not_permissive_is_found(monkeypatch: pytest.MonkeyPatch, field: str, text: str, bad: bool) -> None:
    about = email.message.Message()
    about[field] = text
    monkeypatch.setattr(metadata, "metadata", lambda _: about)
    assert bool(licenses.unexplained(["something"])) is bad


def test_fade_with_its_narrower_license_is_found() -> None:
    assert list(licenses.unexplained(["fade-python", "numpy"])) == ["fade-python"]
