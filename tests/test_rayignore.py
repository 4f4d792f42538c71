"""What `ray job submit --working-dir .` uploads: the code with all its data, and none of the user's photographs."""

from __future__ import annotations

import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "pseudolabel", "pipelines", "serving")
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Of a copy of the tree that people have put things into."""
    tree = tmp_path_factory.mktemp("project")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name)
    for name in (".rayignore", ".gitignore", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    for name in (
        "photos/a.jpg",
        "photos/deep/er/b.jpg",
        "corpora/hazy/train-00000-00000000.parquet",
        "all.zip",
        "c.JPG",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(bytes(1 << 20))
    for name in ("results/summary.json", ".venv/lib/x.py", ".git/objects/ab", "models/__pycache__/x.pyc"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("not for the cluster")
    for name in ("my_recipe.yaml", "my_network.py", "held_out.txt"):
        (tree / name).write_text("mine")
    target = tmp_path_factory.mktemp("package") / "package.zip"
    create_package(str(tree), target, include_gitignore=True)
    return zipfile.Path(target)


def names(uploaded: zipfile.Path) -> set[str]:
    return {name for name in uploaded.root.namelist() if not name.endswith("/")}  # zipfile.Path adds folders


def test_everything_of_the_packages_and_nothing_else(uploaded: zipfile.Path) -> None:
    files = [p for name in PACKAGES for p in (ROOT / name).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    code = {path.relative_to(ROOT).as_posix() for path in files}
    assert names(uploaded) == code | {"pyproject.toml", "my_recipe.yaml", "my_network.py", "held_out.txt"}


@pytest.mark.parametrize("package", SETUP["package-data"])
def test_a_job_has_the_data_of_its_packages(package: str, uploaded: zipfile.Path) -> None:
    for pattern in SETUP["package-data"][package]:
        found = {p.relative_to(ROOT).as_posix() for p in (ROOT / package).glob(pattern) if p.is_file()}
        assert found
        assert found <= names(uploaded)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_has_every_file_of_its_packages(package: str) -> None:
    declared = {p for pattern in SETUP["package-data"][package] for p in (ROOT / package).glob(pattern)}
    files = {p for p in (ROOT / package).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {p for p in files - declared if p.suffix not in (".py", ".pyi")} == set()  # setuptools finds those itself


def test_there_is_room_below_the_limit(uploaded: zipfile.Path) -> None:
    assert sum(info.file_size for info in uploaded.root.infolist()) < DASHBOARD_CLIENT_MAX_SIZE / 2
