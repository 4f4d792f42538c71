"""The scorer's image tower as a backbone: convolutional, transformer, and towers that cannot serve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.config import ConfigError
from models.losses.perceptual import ContrastivePerceptual, PerceptualConfig
from pseudolabel.scorer.backbone import ScorerFeatures
from pseudolabel.scorer.clip import ClipScorer, Prompts, ScorerConfig
from pseudolabel.scorer.loading import load_scorer


def photo(seed: int = 0, side: int = 64) -> Tensor:
    return torch.rand(1, 3, side, side + 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def packaged() -> ScorerFeatures:
    return ScorerFeatures(load_scorer("clip-compact"))


def transformer(layers: int, side: int = 32) -> ClipScorer:
    """A scorer with a vision transformer of random weights."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    vision = {"image_size": side, "layers": layers, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1}
    clip = CLIP(16, vision, text)

    def tokenize(texts: list[str]) -> Tensor:
        return torch.ones(len(texts), 8, dtype=torch.long)

    half = (0.5, 0.5, 0.5)
    return ClipScorer(clip, tokenize, ScorerConfig(prompts=Prompts()), mean=half, std=half, resolution=side)


def test_the_packaged_tower_gives_its_stem_and_stages_at_the_image_s_size(packaged: ScorerFeatures) -> None:
    found = packaged(photo())
    assert [tuple(layer.shape[1:]) for layer in found] == [
        (32, 32, 48),
        (24, 16, 24),
        (56, 8, 12),
        (152, 4, 6),
        (368, 2, 3),
    ]


def test_they_are_the_features_that_the_scorer_sees(packaged: ScorerFeatures) -> None:
    scorer, image = packaged.scorer, photo(side=160)[..., :160]
    with torch.no_grad():
        pooled = scorer.clip.visual.trunk.forward_head(packaged(image)[-1])  # type: ignore[union-attr,operator]
        whole = nn.functional.normalize(scorer.clip.visual.head(pooled), dim=-1)  # type: ignore[union-attr,operator]
        torch.testing.assert_close(whole, scorer.encode(image), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_image_and_no_weight(packaged: ScorerFeatures) -> None:
    image = photo().requires_grad_()
    contrast = ContrastivePerceptual(packaged, PerceptualConfig().weights)
    contrast(image, photo(1), photo(2), torch.rand(1, 1, 64, 96)).backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in packaged.parameters())


def test_a_transformer_sees_its_own_size_and_gives_five_blocks_spread_evenly() -> None:
    features = ScorerFeatures(transformer(layers=12))
    assert features.indices == [0, 3, 6, 8, 11]
    image = photo().requires_grad_()
    found = features(image)
    assert [tuple(layer.shape) for layer in found] == [(1, 32, 4, 4)] * 5
    sum(layer.square().mean() for layer in found).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_a_tower_with_too_few_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 3 feature maps and 5 are needed; use vgg19"):
        ScorerFeatures(transformer(layers=3))


def test_a_tower_without_intermediate_features_is_refused() -> None:
    scorer = transformer(layers=1)
    scorer.clip.visual = nn.Conv2d(3, 8, 3)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="gives no intermediate features"):
        ScorerFeatures(scorer)
