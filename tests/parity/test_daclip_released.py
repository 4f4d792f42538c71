"""The released DA-CLIP, on the reference that its authors' program made: texts, degradation features, probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.config import ConfigError
from pseudolabel.scorer.clip import ScorerConfig
from pseudolabel.scorer.daclip import DEGRADATIONS, DaclipScorer, load_daclip
from pseudolabel.scorer.loading import load_scorer
from tests.parity.fixtures import FIXTURES, random_of


def _weight(name: str, shape: list[int]) -> Tensor:
    """The weight of a parameter, as the fixtures' README defines it."""
    x = random_of(name.removeprefix("clip."), shape)
    if len(shape) >= 2:
        x = x / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("logit_scale"):
        x = np.full(shape, 4.6052)
    else:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return torch.from_numpy(x).float()


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """The plain tower is there under two names, as in the released file; both are the same tensors."""
    keys: dict[str, list[int]] = json.loads((FIXTURES / "daclip_vitb32_keys.json").read_text())["keys"]
    state = {name: _weight(name, shape) for name, shape in keys.items() if not name.startswith("visual.")}
    return state | {name: state[f"clip.{name}"] for name in keys if name.startswith("visual.")}


@pytest.fixture(scope="module")
def scorer(released: dict[str, Tensor]) -> DaclipScorer:
    return load_daclip(released)


@torch.no_grad()
def probabilities(scorer: DaclipScorer, normalized: Tensor) -> Tensor:
    """Of the degradations: (N, 3, 224, 224) -> (N, 10)."""
    texts = scorer.encode_text(list(DEGRADATIONS))
    logits = scorer.clip.logit_scale.exp() * scorer.degradation_features(normalized) @ texts.T  # type: ignore[operator]
    return logits.softmax(dim=-1)


def test_released_daclip_parity(scorer: DaclipScorer) -> None:
    expected = np.load(FIXTURES / "daclip_vitb32_expected.npz")
    images = np.random.RandomState(int(expected["image_seed"])).standard_normal((2, 3, 224, 224))
    normalized = torch.from_numpy(images).float()
    assert tuple(expected["degradations"]) == DEGRADATIONS

    def unit(name: str) -> Tensor:
        return torch.nn.functional.normalize(torch.from_numpy(expected[name]), dim=-1)

    torch.testing.assert_close(scorer.encode_text(list(DEGRADATIONS)), unit("text_features"), atol=1e-5, rtol=0)
    with torch.no_grad():
        found = scorer.degradation_features(normalized)
    torch.testing.assert_close(found, unit("degradation_features"), atol=1e-5, rtol=0)
    np.testing.assert_allclose(probabilities(scorer, normalized).numpy(), expected["probs"], atol=1e-3, rtol=0)


def test_it_scores_like_any_scorer(scorer: DaclipScorer) -> None:
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = scorer.score(images)
    hazy = probabilities(scorer, scorer.normalized(images))[:, DEGRADATIONS.index("hazy")]
    torch.testing.assert_close(found.clearness, 1 - hazy, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(1 - scorer.haze_density(images), found.clearness, atol=1e-5, rtol=1e-4)
    assert found.quality.shape == (1,)
    assert found.trust.shape == (1, 2, 3)


def test_names_that_do_not_match_are_listed(released: dict[str, Tensor]) -> None:
    state = dict(released)
    state["visual_control.ln_last.weight"] = state.pop("visual_control.ln_post.weight")
    with pytest.raises(ConfigError, match=r"missing \['visual_control.ln_post.weight'\], unknown \[.*ln_last"):
        load_daclip(state)


def test_shapes_that_do_not_match_are_named(released: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"size mismatch for clip.ln_final.bias"):
        load_daclip(released | {"clip.ln_final.bias": torch.zeros(3)})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_it_loads_from_a_file_by_configuration(released: dict[str, Tensor], tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"daclip_ViT-B-32.{kind}"
    if kind == "pt":
        torch.save({"epoch": 1, "state_dict": {f"module.{name}": value for name, value in released.items()}}, path)
    else:
        save_file({name: value.clone() for name, value in released.items()}, path)
    loaded = load_scorer(ScorerConfig(architecture="daclip", pretrained=str(path), precision="bfloat16"))
    assert isinstance(loaded, DaclipScorer)
    assert loaded.control.conv1.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


def test_a_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("code")}, tmp_path / "daclip.pt")
    with pytest.raises(ConfigError, match="more than plain weights"):
        load_daclip(tmp_path / "daclip.pt")


def test_daclip_without_a_file_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="set 'pretrained'"):
        load_scorer("daclip")
