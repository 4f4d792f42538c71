"""Networks as ONNX files: any size, equal to torch, and back as networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import Predictor, inference, load, zoo
from models.config import ConfigError
from models.images import Photo, to_tensor
from models.inference import Dehazed, enlarged
from models.networks import Dgun, DgunConfig
from models.portable import LEAST, OPSET, SIZES, OnnxNetwork, check_onnx, export_fit, export_onnx


class Veil(nn.Module):
    """What makes exports hard, in small: global statistics, half the size and back, a thumbnail of a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PixelUnshuffle(2), nn.GELU())
        self.up = nn.Sequential(nn.Conv2d(16, 16, 1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Dehazed:
        small = F.interpolate(image, size=(64, 64), mode="bilinear", antialias=True, align_corners=False)
        airlight = small.amax((2, 3), keepdim=True).clamp(min=0.2)
        features = self.up(self.down(image / airlight))
        found = self.last(features / features.std((2, 3), keepdim=True))
        return Dehazed(image + 0.1 * found[:, :3] * airlight, torch.sigmoid(found[:, 3:]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "veil.onnx"
    return export_onnx(Veil().eval(), file, {"network": {"name": "veil"}})


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_fit(tmp_path_factory.mktemp("fit") / "fit.onnx")


def test_it_equals_torch_at_every_size(exported: Path) -> None:
    decibels = check_onnx(exported, Veil().eval(), (*SIZES, (201, 48)))
    assert min(decibels.values()) > 100
    assert list(decibels)[: len(SIZES)] == list(SIZES)


def test_a_network_that_solves_equations_does_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Dgun(DgunConfig(stages=2, dim=8, growth=4, subspace=4, tail=4)).eval()
    decibels = check_onnx(export_onnx(network, tmp_path / "dgun.onnx"), network, [(200, 264), (33, 250)])
    assert min(decibels.values()) > 100


class Mixed(nn.Module):
    """A mix of two pictures, one of which a convolution may lay out channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.lerp(image, self.convolution(image), image.mean((1, 2, 3), keepdim=True))


def test_a_network_that_is_laid_out_channels_last_as_loaded_ones_are_does_too(tmp_path: Path) -> None:
    network = Mixed().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decibels = check_onnx(export_onnx(network, tmp_path / "mixed.onnx"), network, [(200, 264), (33, 250)])
    assert min(decibels.values()) > 100


def test_the_comparison_sees_another_network(exported: Path) -> None:
    other = Veil().eval()
    with torch.no_grad():
        other.last.bias.add_(0.5)
    assert max(check_onnx(exported, other).values()) < LEAST


def test_what_is_no_number_is_never_like_anything(exported: Path) -> None:
    other = Veil().eval()
    with torch.no_grad():
        other.last.bias[-1] = torch.nan
    assert max(check_onnx(exported, other).values()) < LEAST


def test_the_file_says_its_sizes_opset_and_configuration(exported: Path) -> None:
    model = onnx.load(exported)
    shapes = {
        part.name: [side.dim_param or side.dim_value for side in part.type.tensor_type.shape.dim]
        for part in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "image": [1, 3, "height", "width"],
        "scene": [1, 3, "height", "width"],
        "transmission": [1, 1, "height", "width"],
    }
    assert {part.version for part in model.opset_import if part.domain == ""} == {OPSET}
    assert OnnxNetwork(exported).config == {"network": {"name": "veil"}}


def test_the_file_tells_nothing_of_the_machine(exported: Path) -> None:
    content = exported.read_bytes()
    assert [name for name in (str(Path.cwd()), "site-packages", ".py", "stack_trace") if name.encode() in content] == []


@pytest.mark.parametrize("sizes", [((200, 304), (96, 146)), ((601, 333), (384, 213)), ((31, 9), (9, 9))])
def test_the_color_fit_equals_torch(
    fit: Path, photo: Callable[..., NDArray[np.uint8]], sizes: tuple[tuple[int, int], ...]
) -> None:
    image = to_tensor(photo(1, *sizes[0], hazy=True))
    small = F.interpolate(image, sizes[1], mode="bilinear", antialias=True)
    scene = small**1.3
    session = onnxruntime.InferenceSession(fit, providers=["CPUExecutionProvider"])
    given = {"image": image.numpy(), "small": small.numpy(), "small_scene": scene.numpy()}
    (found,) = session.run(["scene"], given)
    difference = torch.from_numpy(found) - enlarged(image, small, scene)
    assert found.shape[-2:] == sizes[0]
    assert float(-10 * torch.log10(difference.square().mean() + 1e-12)) >= 60


def test_it_is_a_model_like_any_other(exported: Path) -> None:
    hazy = torch.rand(2, 3, 40, 56)
    loaded = load(str(exported))
    assert loaded.config["network"]["name"] == "veil"
    assert zoo.config_of(str(exported)) == loaded.config
    ours, theirs = inference.dehaze(Veil().eval(), hazy), inference.dehaze(loaded.network, hazy)
    torch.testing.assert_close(theirs.scene, ours.scene, atol=1e-5, rtol=0)
    assert theirs.transmission is not None
    photo = Photo(np.full((30, 20, 3), 140, np.uint8))
    predictor = Predictor(str(exported))
    assert predictor.name == "veil.onnx"
    assert predictor.dehaze_photo(photo).pixels.shape == (30, 20, 3)


def test_another_file_has_other_weights(exported: Path, tmp_path: Path) -> None:
    """What resumes a folder compares them."""
    model = onnx.load(exported)
    model.doc_string = "another"
    onnx.save(model, tmp_path / "other.onnx")
    first, second = (OnnxNetwork(file).state_dict()["file"] for file in (exported, tmp_path / "other.onnx"))
    assert not torch.equal(first[: len(second)], second[: len(first)])


def test_a_network_of_scenes_only(tmp_path: Path) -> None:
    file = export_onnx(nn.Conv2d(3, 3, 1).eval(), tmp_path / "scene.onnx")
    assert OnnxNetwork(file).config == {"network": {"name": "onnx"}}
    assert inference.dehaze(OnnxNetwork(file), torch.rand(1, 3, 9, 11)).transmission is None


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_no_model_is_an_error_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "bad.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.onnx"):
        load(str(file))


def test_a_model_of_another_task_is_refused(tmp_path: Path, exported: Path) -> None:
    model = onnx.load(exported)
    model.graph.output[0].name = "other"
    next(node for node in model.graph.node if "scene" in node.output).output[0] = "other"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ConfigError, match=r"maps image to other, transmission; expected .* output 'scene'"):
        load(str(tmp_path / "other.onnx"))


def test_without_the_packages_the_extra_is_named(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'ray-dehaze\[onnx\]'"):
        load(str(exported))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'ray-dehaze\[onnx\]'"):
        export_onnx(Veil().eval(), tmp_path / "x.onnx")


class Sized(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image if image.shape[-1] == 136 else image * 0.5


def test_a_network_that_depends_on_one_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Sized cannot be exported for every size"):
        export_onnx(Sized(), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
def test_the_packaged_model_at_five_sizes(tmp_path: Path) -> None:
    loaded = load("corun-compact")
    file = export_onnx(loaded.network, tmp_path / "corun-compact.onnx", loaded.config)
    decibels = check_onnx(file, loaded.network)
    assert len(decibels) == 5
    assert min(decibels.values()) > LEAST
    assert json.dumps(OnnxNetwork(file).config["network"]) == json.dumps(loaded.config["network"])
