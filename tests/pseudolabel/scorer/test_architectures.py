"""Scorers of other architectures than the packaged one: local folders, weights files, hub names, and their errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.config import ConfigError
from pseudolabel.scorer.clip import ClipScorer, Prompts, ScorerConfig
from pseudolabel.scorer.loading import load_scorer

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "transformer": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "averaging transformer": {
        "image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "pool_type": "avg"
    },
    "timm transformer": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 64},
    "timm convolutional": {"timm_model_name": "regnetx_002", "timm_pool": "avg", "image_size": 64},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
}  # fmt: skip
"""Small towers of each kind that ``open_clip`` knows, or as small as that kind is made."""


def model_config(kind: str, vision: dict[str, Any] | None = None) -> dict[str, Any]:
    vision = dict(vision or TOWERS[kind])
    if "timm_model_name" in vision:
        vision |= {"timm_model_pretrained": False, "timm_proj": "linear"}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}


def save_folder(folder: Path, kind: str = "transformer", vision: dict[str, Any] | None = None) -> Path:
    """A folder in the layout of ``open_clip``, with weights that are random and always the same."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    half = [0.5, 0.5, 0.5]
    config = {"model_cfg": model_config(kind, vision), "preprocess_cfg": {"mean": half, "std": half}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def picture(side: int = 96) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def score_by_hand(scorer: ClipScorer, images: Tensor, positive: tuple[str, ...], negative: tuple[str, ...]) -> Tensor:
    side = scorer.resolution
    small = torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    features = scorer.clip.encode_image((small - 0.5) / 0.5, normalize=True)  # type: ignore[operator]
    texts = scorer.clip.encode_text(scorer.tokenize([*positive, *negative]), normalize=True)  # type: ignore[operator]
    logits = scorer.clip.logit_scale.exp() * features @ texts.T  # type: ignore[operator]
    return logits.softmax(dim=1)[:, : len(positive)].sum(dim=1)


PROMPTS = Prompts(
    hazy=("fog over a street",), clear=("bright day", "blue sky"), good=("sharp picture",), bad=("blurry", "noisy")
)


def test_a_local_folder_scores_by_its_own_texts_and_prompts(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "tiny")
    scorer = load_scorer(ScorerConfig(architecture=str(folder), prompts=PROMPTS))
    with torch.no_grad():
        clearness = score_by_hand(scorer, picture(), PROMPTS.clear, PROMPTS.hazy)
        quality = score_by_hand(scorer, picture(), PROMPTS.good, PROMPTS.bad)
    found = scorer.score(picture())
    torch.testing.assert_close(found.clearness, clearness, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.quality, quality, atol=1e-5, rtol=1e-4)
    assert found.trust.shape == (2, 3, 3)


def test_one_encoding_gives_both_scores(tmp_path: Path) -> None:
    scorer = load_scorer(str(save_folder(tmp_path / "tiny")))
    seen: list[int] = []
    scorer.clip.visual.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))  # type: ignore[union-attr,operator]
    scorer.score(picture())
    assert seen == [2, 18], "images, and the blocks of all images in one batch"


@pytest.mark.parametrize("kind", TOWERS)
def test_every_kind_of_tower_gives_a_map_by_blocks(tmp_path: Path, kind: str) -> None:
    assert load_scorer(str(save_folder(tmp_path / "tiny", kind))).score(picture()).trust.shape == (2, 3, 3)


def test_a_resolution_of_one_s_own_moves_the_positions(tmp_path: Path) -> None:
    folder = str(save_folder(tmp_path / "tiny"))
    scorer = load_scorer(ScorerConfig(architecture=folder, resolution=96))
    assert scorer.block_resolution == 96
    assert scorer.score(picture()).clearness.shape == (2,)


def test_a_size_that_a_transformer_cannot_take_is_refused(tmp_path: Path) -> None:
    folder = str(save_folder(tmp_path / "tiny"))
    with pytest.raises(ConfigError, match=r"block_resolution is 128, but '.*tiny' takes images of 64 pixels only"):
        load_scorer(ScorerConfig(architecture=folder, block_resolution=128))


def test_a_tower_of_one_size_without_positions_says_what_it_takes(tmp_path: Path) -> None:
    """Swin's windows are made for one size; it asserts that."""
    vision = {"timm_model_name": "swin_tiny_patch4_window7_224", "timm_pool": "", "image_size": 224}
    folder = str(save_folder(tmp_path / "swin", vision=vision))
    told = r"block_resolution is 64, and the image tower of '.*swin' takes no images of that size \(.+\): set it to 224"
    with pytest.raises(ConfigError, match=told):
        load_scorer(folder)
    scorer = load_scorer(ScorerConfig(architecture=folder, block_resolution=224))
    assert scorer.score(picture(64)).trust.shape == (2, 2, 2)


def test_an_architecture_name_with_a_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip.factory

    folder = save_folder(tmp_path / "tiny")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", model_config("transformer"))
    file = str(folder / "open_clip_model.safetensors")
    named = load_scorer(ScorerConfig(architecture="tiny-clip", pretrained=file))
    look = {"mean": named.mean, "std": named.std}
    assert look["mean"].flatten()[0] == pytest.approx(0.4815, abs=1e-4), "without a folder, the usual normalization"
    here = load_scorer(str(folder))
    torch.testing.assert_close(named.haze_text, here.haze_text)
    with pytest.raises(ConfigError, match=r"cannot load scorer 'tiny-clip'.*no-such-tag"):
        load_scorer(ScorerConfig(architecture="tiny-clip", pretrained="no-such-tag"))


def test_a_hub_name_loads_from_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    folder = save_folder(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    scorer = load_scorer("hf-hub:someone/tiny")
    torch.testing.assert_close(scorer.haze_text, load_scorer(str(folder)).haze_text)
    with pytest.raises(ConfigError, match=r"cannot load scorer 'hf-hub:someone/other'"):
        load_scorer("hf-hub:someone/other")


def test_weights_that_do_not_fit_or_are_missing_are_named(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "tiny")
    save_file({"visual.other": torch.zeros(1)}, folder / "open_clip_model.safetensors")
    with pytest.raises(ConfigError, match=r"cannot load scorer 'local-dir:.*tiny'.*visual\.other"):
        load_scorer(str(folder))
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"cannot load scorer 'local-dir:.*tiny'"):
        load_scorer(str(folder))
