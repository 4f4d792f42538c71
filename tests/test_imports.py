"""Imports point one way, and Ray stays at the edges."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "pseudolabel", "pipelines", "serving")
MAY_IMPORT_RAY = {
    "pseudolabel/crew/actors.py",
    "pseudolabel/labeling/workers.py",
    "pseudolabel/labeling/client.py",
    "pseudolabel/pool/actors.py",
    "pseudolabel/pool/client.py",
    "pseudolabel/inspect/runs.py",
    "pipelines/cluster.py",
    "pipelines/mapping.py",
    "pipelines/nodes.py",
    "pipelines/ingest/job.py",
    "pipelines/train/job.py",
    "pipelines/train/worker.py",
    "pipelines/train/data.py",
    "pipelines/evaluate/job.py",
    "pipelines/dehaze/cluster_job.py",
    "pipelines/demo/job.py",
    "serving/app.py",
}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def files() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_ray_is_imported_at_the_edges_only() -> None:
    users = {name for name in files() if "ray" in imported(ROOT / name)}
    assert users <= MAY_IMPORT_RAY
    assert "pipelines/train/job.py" in users  # the search finds something


def test_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of import-linter; the same as `lint-imports` in `make check`."""
    from importlinter.cli import lint_imports

    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # it would silence all loggers of this process
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


WITHOUT_RAY = """
import sys
for name in ("ray", "pyarrow", "mlflow", "imagecodecs"):
    sys.modules[name] = None  # as if it were not installed
import numpy as np
from models.images import decode
from pipelines.train import load_recipe, make_method, synthetic_pairs
from pseudolabel.labeling import label_batch
from pseudolabel.pool import LabelEntry, LabelPool
recipe = load_recipe(
    "colabator_corun_compact", ["crop.size=32", "crop.per_photo=1", "haze.jpeg_probability=1", "scorer=null"]
)
photo = open(sys.argv[1], "rb").read()
samples = synthetic_pairs([{"image_id": "a", "image": photo}], recipe.crop, recipe.haze, seed=1)
pool = LabelPool("pool")
entry = LabelEntry("a", samples["clear"][0], samples["clear"][0, ..., 0], np.ones((2, 2), np.float32), 0.5, 0.5, 0)
print(pool.offer([entry]), pool.fetch(["a"])[0].clearness, pool.stats().size)
"""


def test_methods_data_and_label_pool_need_neither_ray_nor_pyarrow(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photo = next(photo_folder(count=1).glob("*.jpg"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, str(photo)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[True]", "0.5", "1"]


ONE_PHOTOGRAPH = """
import sys
from models import Predictor, dehaze, load, read_image, write_image
photo = read_image("photo.png")
dehaze(load("corun-compact").network, photo.tensor())
write_image(Predictor("corun-compact").dehaze_photo(photo), "clear.png")
from pipelines.cli import main
assert main(["photo.png"]) == 0
heavy = {"ray", "mlflow", "fastapi", "transformers", "open_clip", "torchvision", "scipy", "skimage", "sklearn"}
heavy |= {"matplotlib", "pandas", "onnx", "onnxruntime", "av", "PIL.ImageFont", "torch._dynamo"}
print("heavy:", sorted(heavy & sys.modules.keys()), "torch" in sys.modules)
"""


def test_one_photograph_needs_torch_and_nothing_else_that_is_heavy(tmp_path: Path) -> None:
    Image.new("RGB", (48, 32), (140, 150, 160)).save(tmp_path / "photo.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ONE_PHOTOGRAPH],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: [] True"


@pytest.mark.parametrize("module", ["models.zoo", "pipelines.train", "pipelines.demo", "pipelines.cli", "serving.app"])
def test_importing_starts_nothing(module: str, tmp_path: Path) -> None:
    code = f"import {module}, sys; ray = sys.modules.get('ray'); sys.exit(bool(ray and ray.is_initialized()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}, check=False
    )
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != ".cache"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another OpenMP")
@pytest.mark.parametrize(
    "module", ["models.zoo", "pipelines.train", "pseudolabel.labeling.labeler", "serving.engine.replica"]
)
def test_waiting_threads_leave_the_cores_to_others(module: str) -> None:
    """OpenMP says what it read when torch was loaded: the setting came first, whatever is imported first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose"}
    environment.pop("OMP_WAIT_POLICY", None)
    command = [sys.executable, "-c", f"import {module}, torch"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "GOMP_SPINCOUNT = '0'" in done.stderr
