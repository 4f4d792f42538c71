"""What the README shows in Python works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"


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
