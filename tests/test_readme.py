"""The README: short, its Python works, its figures are those of the documentation, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    pixels = np.random.default_rng(0).integers(90, 160, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own
    with Image.open("clear.png") as clear:
        assert clear.size == (96, 64)
    clearness, transmission = map(float, re.findall(r"[0-9.]+", capsys.readouterr().out.replace("tensor", "")))
    assert 0 <= clearness <= 1
    assert 0 <= transmission <= 1


def test_it_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 110


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text()):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in headings}


def cells(page: Path, first: str) -> list[str]:
    """The cells of the first row that begins with a text."""
    line = next(line for line in page.read_text().splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_its_figures_are_those_of_the_documentation() -> None:
    models = ROOT / "docs" / "results" / "models.md"
    fade_input, prior, _, _, now = cells(models, "all, ")[0].split(", ")
    assert cells(README, "FADE of ") == [fade_input, prior, now]
    for kind, row in {"plain": "PSNR of plain", "dense": "PSNR of dense", "not hazed": "PSNR of clear"}.items():
        hazy, dark_channel, _, _, found, *_ = cells(models, kind)
        assert cells(README, row) == [hazy, dark_channel, found]
