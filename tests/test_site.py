"""The documentation builds without a warning, and the pages that are made from the code have all of it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipelines.cli import VERBS
from tests.documents import ROOT

hooks = pytest.importorskip("docs.hooks", reason="mkdocs is not installed")


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_pages_ask_no_other_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"(?:\ssrc=|<link[^>]*\shref=|@import )\W?(?:https?:)?//[^\s>]+", text), page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(\W?(?:https?:)?//[^)]+", sheet.read_text()), sheet


def test_nothing_of_the_hooks_is_published(site: Path) -> None:
    assert not [path for path in site.rglob("*") if path.suffix in (".py", ".pyc")]


def test_every_section_is_there_and_no_block_of_code_is_left_open(site: Path) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        text, page = source.read_text(), site / source.relative_to(ROOT / "docs").with_suffix(".html")
        shown = page.read_text()
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        assert len(re.findall(r"<h2[ >]", shown)) >= len(re.findall(r"^## ", prose, re.MULTILINE)), source
        assert "```" not in re.sub(r"<[^>]*>", "", shown), source


def test_python_objects_are_found_with_their_docstrings(site: Path) -> None:
    page = (site / "reference" / "python-api.html").read_text()
    for name in re.findall(r"^::: (\S+)", (ROOT / "docs" / "reference" / "python-api.md").read_text(), re.MULTILINE):
        assert f'id="{name}"' in page, name
    assert "P = J*T + A*(1 - T)" in page
    assert ":func:" not in page


@pytest.mark.parametrize("package", ["models", "pseudolabel"])
def test_the_reference_has_what_a_package_exports(package: str) -> None:
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text())
    exported = [name.name for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names]
    page = (ROOT / "docs" / "reference" / "python-api.md").read_text()
    assert [name for name in exported if f"::: {package}.{name}\n" not in page] == []


def test_the_page_of_the_command_line_has_every_flag() -> None:
    page = hooks.cli_page()
    for verb, (module, _) in VERBS.items():
        section = page.split(f"\n## dehaze {verb}\n")[1].split("\n## ")[0]
        parser = hooks.parser_of(module)
        flags = [flag for one in (parser, *hooks.verbs_of(parser).values()) for flag in one._option_string_actions]
        assert [flag for flag in flags if flag not in ("-h", "--help") and flag not in section] == []


def configurations() -> Iterator[tuple[str, type[BaseModel]]]:
    for _, roots in hooks.CONFIGURATIONS.values():
        for _, root in roots:
            waiting = [root]
            while waiting:
                config = waiting.pop()
                yield config.__name__, config
                waiting += [held for field in config.model_fields.values() if (held := hooks.inner(field.annotation))]


@pytest.mark.parametrize(("name", "config"), dict(configurations()).items())
def test_every_key_is_explained(name: str, config: type[BaseModel]) -> None:
    texts = hooks.explained(config)
    assert [key for key in texts if key not in config.model_fields] == []
    assert [key for key, _, _, text in hooks.keys(config) if not text] == []
    page = hooks.configuration_page()
    assert "```" not in page
    assert "| `card` | `true`, `false` | `true` | `false`: do not write card.html |" in page
    for key in config.model_fields:
        assert re.search(rf"[`.]{key}[`.]", page), f"{name}.{key}"


@pytest.mark.parametrize("link", ["nowhere.md", "second.md#nowhere", "/second.md"])
def test_a_bad_link_fails_the_build(tmp_path: Path, link: str) -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    validation = settings[settings.index("validation:") : settings.index("nav:\n")]
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text(f"site_name: test\n{validation}")
    (tmp_path / "docs" / "second.md").write_text("# Second\n")
    (tmp_path / "docs" / "index.md").write_text("[one](second.md#second)\n")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    (tmp_path / "docs" / "index.md").write_text(f"[one]({link})\n")
    assert build(tmp_path, tmp_path / "site").returncode == 1
