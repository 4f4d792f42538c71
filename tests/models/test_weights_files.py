"""A file that holds no weights is one line that says what it is, at every door, and never advice to run it."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from models.losses.perceptual import load_vgg
from models.weights_files import read_weights_file
from pipelines.evaluate.detection import Detector
from pipelines.evaluate.iqa import Lpips
from pipelines.train.build import make_network
from pipelines.train.recipe import load_recipe
from pseudolabel.scorer import loading
from pseudolabel.scorer.clip import ScorerConfig
from pseudolabel.scorer.loading import load_scorer

NETWORK = {"name": "corun", "stages": 1, "dim": 2}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 52\n"


def zipped(content: bytes = b"text", name: str = "readme.txt") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def saved(value: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.ReLU()), buffer)
    return buffer.getvalue()


NONE = {
    "nothing": (lambda: b"", "it is empty"),
    "a page": (lambda: b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page"),
    "another page": (lambda: b"<!-- saved --><HTML></HTML>", "a web page"),
    "an answer": (lambda: b'{"error": "Repository not found"}', "what a server answered"),
    "a pointer": (lambda: POINTER, "a Git LFS pointer.*run 'git lfs pull'"),
    "a zip": (zipped, "a zip archive with readme.txt in it"),
    "an empty zip": (lambda: b"PK\x05\x06" + b"\0" * 18, "a zip archive with nothing in it"),
    "half of torch's": (lambda: saved({"a": torch.ones(99)})[:-50], "it is cut off"),
    "half of torch's old": (lambda: saved({"a": torch.ones(99)}, legacy=True)[:-50], "damaged, or cut off"),
    "a gzip": (lambda: gzip.compress(b"weights"), "a gzip archive: unpack it"),
    "a tar": (tarred, "a tar archive: unpack it"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 9, "a PNG picture"),
    "Keras": (lambda: b"\x89HDF\r\n\x1a\n" + b"\0" * 9, "an HDF5 file"),
    "text": (lambda: b"weights follow", "begins with b'weig'"),
    "a program": (scripted, "a TorchScript program"),
    "objects": (lambda: saved({"a": nn.ReLU()}), r"more than plain weights \(torch.nn.modules.activation.ReLU\)"),
    "old objects": (lambda: saved({"a": nn.ReLU()}, legacy=True), "more than plain weights"),
}
DAMAGED = {
    "a pointer": (lambda file: file.write_bytes(POINTER), "a Git LFS pointer"),
    "nothing": (lambda file: file.write_bytes(b""), "it is empty"),
    "half": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "it is cut off: [0-9]+ bytes of [0-9]+"),
    "less": (lambda file: file.write_bytes(file.read_bytes()[:20]), "it is cut off: 20 bytes of at least"),
    "a page": (lambda file: file.write_text("<html>"), "a web page"),
}


@pytest.fixture(params=list(NONE))
def none(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file that is no weights file, and what it is."""
    make, what = NONE[request.param]
    (tmp_path / "weights.pth").write_bytes(make())
    return tmp_path / "weights.pth", what


DOORS: dict[str, Callable[[Path], object]] = {
    "convert": lambda file: checkpoint.convert(file, file.with_name("out")),
    "perceptual": lambda file: load_vgg(str(file)),
    "clip": lambda file: load_scorer(ScorerConfig(architecture="ViT-S-32-alt", pretrained=str(file))),
    "daclip": lambda file: load_scorer(ScorerConfig(architecture="daclip", pretrained=str(file))),
    "lpips": lambda file: Lpips(str(file)),
    "detector": lambda file: Detector(f"fasterrcnn_mobilenet_v3_large_fpn={file}"),
}


def one_line(caught: pytest.ExceptionInfo[ConfigError], file: Path) -> None:
    text = str(caught.value)
    assert str(file) in text
    assert "\n" not in text
    assert "weights_only" not in text
    assert len(text) < 500


@pytest.mark.parametrize("door", ["convert", "perceptual"])
def test_what_is_no_weights_file_is_said_in_one_line(door: str, none: tuple[Path, str]) -> None:
    with pytest.raises(ConfigError, match=none[1]) as caught:
        DOORS[door](none[0])
    one_line(caught, none[0])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["a page", "objects"])
def test_at_every_door(door: str, kind: str, tmp_path: Path) -> None:
    make, what = NONE[kind]
    file = tmp_path / "weights.pth"
    file.write_bytes(make())
    with pytest.raises(ConfigError, match=what) as caught:
        DOORS[door](file)
    one_line(caught, file)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_checkpoint_with_other_weights(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, what = DAMAGED[kind]
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    checkpoint.save(tmp_path / zoo.DEFAULT, zoo.build(NETWORK), {"network": NETWORK})
    file = tmp_path / zoo.DEFAULT / checkpoint.MODEL
    damage(file)
    recipe = load_recipe("demo_pretrain", ["network={}"])
    for door in (lambda: zoo.load(zoo.DEFAULT), lambda: make_network(recipe)):
        with pytest.raises(ConfigError, match=what) as caught:
            door()
        one_line(caught, file)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_scorer_with_other_weights(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, what = DAMAGED[kind]
    shutil.copytree(loading.WEIGHTS / "clip-compact", tmp_path / "clip-compact")
    monkeypatch.setattr(loading, "WEIGHTS", tmp_path)
    file = tmp_path / "clip-compact" / "open_clip_model.safetensors"
    damage(file)
    with pytest.raises(ConfigError, match=what) as caught:
        load_scorer()
    one_line(caught, file)


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json"])
def test_a_configuration_that_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / checkpoint.MODEL).touch()
    (tmp_path / name).write_bytes(POINTER)
    load: Any = zoo.load if name == checkpoint.CONFIG else load_scorer
    with pytest.raises(ConfigError, match=f"{name}.*a Git LFS pointer"):
        load(str(tmp_path))


def test_a_broken_download_in_the_cache_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth"
    file.parent.mkdir()
    file.write_text("<html>blocked by the proxy</html>")
    with pytest.raises(ConfigError, match="a web page") as caught:
        load_vgg()
    one_line(caught, file)


def test_a_depth_model_with_other_weights(tmp_path: Path) -> None:
    from pipelines.ingest.depth.model import DepthModel, DepthModelConfig
    from tests.pipelines.ingest.depth.test_model import depth_anything

    file = depth_anything(tmp_path / "depth") / "model.safetensors"
    file.write_bytes(POINTER)
    with pytest.raises(ConfigError, match="a Git LFS pointer") as caught:
        DepthModel.load(DepthModelConfig(model=str(file.parent)))
    one_line(caught, file)


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2)}
    save_file(weights, tmp_path / "weights.pth")
    assert torch.equal(read_weights_file(tmp_path / "weights.pth")["a"], weights["a"])
    for legacy in (False, True):
        (tmp_path / "old.bin").write_bytes(saved(weights, legacy=legacy))
        assert torch.equal(read_weights_file(tmp_path / "old.bin")["a"], weights["a"])
    with pytest.raises(ConfigError, match="there is no file"):
        read_weights_file(tmp_path / "nothing.pth")
    with pytest.raises(ConfigError, match="it is a folder; name the file in it"):
        read_weights_file(tmp_path)
