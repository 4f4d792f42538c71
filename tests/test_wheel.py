"""The wheel in an environment of its own: the command, the façades, types, recipes and weights.

``DEHAZE_WHEEL_PYTHON=3.13`` installs it for another Python than the one that runs the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
PYTHON = os.environ.get("DEHAZE_WHEEL_PYTHON", sys.executable)

pytestmark = pytest.mark.slow

INSIDE = """
import importlib.util, pathlib, sys
from models import Predictor, load, read_image, write_image
import models, pipelines, pseudolabel, serving
assert "site-packages" in models.__file__, models.__file__
for package in (models, pipelines, pseudolabel, serving):
    folder = pathlib.Path(package.__file__).parent
    assert (folder / "py.typed").is_file(), folder
    assert (folder / "__init__.pyi").is_file() or package in (pipelines, serving), folder
from pipelines.train import load_recipe
assert load_recipe("colabator_corun_compact", []).train.steps > 0
assert (pathlib.Path(serving.__file__).parent / "web").is_dir()
write_image(Predictor("corun-compact").dehaze_photo(read_image("photo.jpg")), "clear.png")
from pseudolabel import load_scorer
load_scorer()
assert importlib.util.find_spec("pyfade") is None  # nothing that an extra brings
"""


def call(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, without this checkout on its path."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked(*folders: str) -> list[str]:
    """Files of the repository, of these folders or of all."""
    command = ["git", "ls-files", "-z", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist of the tracked files, and the wheel that was made of the sdist."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    call(UV, "build", "--python", sys.executable, "--no-build-isolation", "--out-dir", out, cwd=tree)
    return out


@pytest.fixture(scope="module")
def bin_(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and, where the lock fits it, the versions of the lock."""
    place = tmp_path_factory.mktemp("wheel")
    (wheel,) = dist.glob("*.whl")
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.rstrip(" \\") for line in lines if line and not line.startswith((" ", "#"))]
    (place / "constraints.txt").write_text("\n".join(pins))
    call(UV, "venv", "--python", PYTHON, place / "env", cwd=place)
    python = place / "env" / "bin" / "python"
    call(UV, "pip", "install", "--python", python, "--constraint", place / "constraints.txt", wheel, cwd=place)
    return python.parent


def test_the_wheel_has_everything_that_is_no_python(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(tracked("models", "pseudolabel", "pipelines", "serving")) - names == set()
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]


def test_an_empty_environment_dehazes_a_photograph(bin_: Path, tmp_path: Path) -> None:
    Image.effect_noise((96, 64), 40).convert("RGB").save(tmp_path / "photo.jpg")
    assert "dehaze VERB" in call(bin_ / "dehaze", "--help", cwd=tmp_path)
    call(bin_ / "python", "-c", INSIDE, cwd=tmp_path)
    call(bin_ / "dehaze", "photo.jpg", cwd=tmp_path)
    for name in ("clear.png", "photo_dehazed.jpg"):
        with Image.open(tmp_path / name) as clear:
            assert clear.size == (96, 64)
