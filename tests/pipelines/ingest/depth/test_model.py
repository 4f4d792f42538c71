"""Depth models: tiny random networks, saved with their image processors and loaded like real ones. No hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config import ConfigError, parse
from pipelines.ingest.depth.model import DepthModel, DepthModelConfig, is_depth_model

SIDE = 56
BACKBONE = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
    "out_indices": [1, 2, 3, 4],
    "apply_layernorm": True,
    "reshape_hidden_states": False,
    "initializer_range": 0.15,  # at the usual 0.02 a random network says the same about every photograph
}


def processor(multiple: int) -> object:
    from transformers import DPTImageProcessor

    return DPTImageProcessor(
        size={"height": SIDE, "width": SIDE}, keep_aspect_ratio=True, ensure_multiple_of=multiple, do_pad=False
    )


def depth_anything(folder: Path, kind: str = "relative") -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(1)
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(**BACKBONE),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        initializer_range=0.15,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    network = DepthAnythingForDepthEstimation(config)
    network.head.conv3.bias.data.fill_(1.0)  # the head ends in a ReLU, which a random network may leave at 0
    network.save_pretrained(folder)
    processor(14).save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def dpt(folder: Path) -> Path:
    from transformers import DPTConfig, DPTForDepthEstimation

    torch.manual_seed(2)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    DPTForDepthEstimation(config).save_pretrained(folder)
    from transformers import DPTImageProcessor

    DPTImageProcessor(size={"height": SIDE, "width": SIDE}, do_pad=False).save_pretrained(folder)
    return folder


def zoedepth(folder: Path) -> Path:
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    torch.manual_seed(3)
    backbone = BeitConfig(  # type: ignore[call-arg]
        image_size=64,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        use_relative_position_bias=True,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_patch_transformer_layers=1,
        patch_transformer_hidden_size=8,
        patch_transformer_intermediate_size=8,
        patch_transformer_num_attention_heads=2,
    )
    ZoeDepthForDepthEstimation(config).save_pretrained(folder)
    ZoeDepthImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return depth_anything(tmp_path_factory.mktemp("relative"))


@pytest.fixture(scope="module")
def model(relative: Path) -> DepthModel:
    return DepthModel.load(DepthModelConfig(model=str(relative)))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(40, 60), (61, 37), (33, 33), (5, 300), (300, 5), (1, 1)])
def test_every_size_gives_a_map_of_that_size(model: DepthModel, size: tuple[int, int]) -> None:
    depth = model.estimate(photo(*size))
    assert depth.shape == size
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()


def test_the_photograph_matters_and_the_run_does_not(model: DepthModel) -> None:
    first, again, other = (model.estimate(photo(40, 60, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.ptp(first) > 0
    assert not np.allclose(first, other, atol=1e-4)


def test_metric_models_are_turned_round(model: DepthModel, tmp_path: Path) -> None:
    metric = DepthModel.load(DepthModelConfig(model=str(depth_anything(tmp_path, "metric"))))
    assert (model.metric, metric.metric) == (False, True)
    pixels = photo(40, 60)
    assert model.estimate(pixels).mean() > 0
    distances = metric.estimate(pixels)
    assert distances.mean() < 0
    # Same weights, a ReLU in one and a sigmoid in the other: what was nearest is now farthest.
    assert np.corrcoef(model.estimate(pixels).ravel(), distances.ravel())[0, 1] < -0.9


@pytest.mark.parametrize(("make", "metric"), [(dpt, False), (zoedepth, True)])
def test_other_families(make: object, metric: bool, tmp_path: Path) -> None:
    model = DepthModel.load(DepthModelConfig(model=str(make(tmp_path)), max_side=64))  # type: ignore[operator]
    assert model.metric is metric
    maps = [model.estimate(photo(*size)) for size in ((70, 90), (45, 50))]
    assert [depth.shape for depth in maps] == [(70, 90), (45, 50)]
    assert all(np.isfinite(depth).all() for depth in maps)


def test_weights_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="hf download nobody/no-such-depth-model"):
        DepthModel.load(DepthModelConfig(model="nobody/no-such-depth-model"))


def test_pickled_weights_are_not_read(relative: Path, tmp_path: Path) -> None:
    folder = depth_anything(tmp_path)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        DepthModel.load(DepthModelConfig(model=str(folder)))


def test_a_backbone_is_no_depth_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = depth_anything(tmp_path)
    weights = {name: t for name, t in load_file(folder / "model.safetensors").items() if "head" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="lacks 6 weights"):
        DepthModel.load(DepthModelConfig(model=str(folder)))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"model_type": "bert"}', '{"model_type": "no-such-model"}', '{"auto_map": {"a": "b.C"}}']
)
def test_folders_of_other_things(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot load a depth model"):
        DepthModel.load(DepthModelConfig(model=str(tmp_path)))


def test_without_transformers(relative: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"ray-dehaze\[depth\]"):
        DepthModel.load(DepthModelConfig(model=str(relative)))


def test_unknown_device(relative: Path) -> None:
    with pytest.raises(ConfigError, match="device 'abacus'"):
        DepthModel.load(DepthModelConfig(model=str(relative), device="abacus"))


def test_unknown_setting() -> None:
    with pytest.raises(ConfigError, match="did you mean 'device'"):
        parse(DepthModelConfig, {"model": "a/b", "devise": "cpu"}, "depth")


def test_a_model_or_a_folder_of_maps(relative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "depth").mkdir(parents=True)
    for text in (
        "photos", "photos/depth", "/nowhere/at/all", "s3://bucket/depth", "depth", "./a/b", "a/b/c", "../b", "",
    ):  # fmt: skip
        assert not is_depth_model(text)
    assert is_depth_model("depth-anything/Depth-Anything-V2-Small-hf")
    assert is_depth_model(str(relative))
    config = tmp_path / "photos" / "depth" / "config.json"
    for content, expected in (('{"model_type": "dpt"}', True), ("{}", False), ("[1]", False), ("\xff{", False)):
        config.write_text(content, encoding="latin-1")
        assert is_depth_model("photos/depth") is expected
    assert json.loads((relative / "config.json").read_text())["model_type"] == "depth_anything"
