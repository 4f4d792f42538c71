"""The packaged scorer: shapes, gradients, and whether it really measures haze on photographs it never saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from models import images
from models.physics import HazeConfig, synthesize
from pseudolabel.clip_scorer import ClipScorer, Prompts, ScorerConfig, load_scorer

Photo = Callable[..., Any]


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return load_scorer()


def test_scores_have_their_shapes_and_ranges(scorer: ClipScorer) -> None:
    pictures = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    found = scorer.score(pictures)
    assert found.clearness.shape == found.quality.shape == (2,)
    assert found.trust.shape == (2, 3, 2)
    for part in (found.clearness, found.quality, found.trust):
        assert part.dtype == torch.float32
        assert part.min() >= 0
        assert part.max() <= 1
    torch.testing.assert_close(found.clearness, scorer.clearness(pictures))
    torch.testing.assert_close(found.clearness, 1 - scorer.haze_density(pictures))


def test_images_are_scored_one_by_one(scorer: ClipScorer, photo: Photo) -> None:
    pictures = images.to_tensor(np.stack([photo(1), photo(2, hazy=True)]))
    together = scorer.score(pictures)
    alone = scorer.score(pictures[1:])
    torch.testing.assert_close(together.clearness[1:], alone.clearness, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.trust[1:], alone.trust, rtol=1e-4, atol=1e-5)


def test_density_has_gradients_to_the_image_and_none_to_the_model(scorer: ClipScorer) -> None:
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    scorer.haze_density(picture).sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
    assert all(p.grad is None for p in scorer.parameters())


def test_prompts_are_configuration(scorer: ClipScorer) -> None:
    swapped = load_scorer(ScorerConfig(prompts=Prompts(hazy=("a clear photo",), clear=("a hazy photo",))))
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(swapped.clearness(picture), 1 - scorer.clearness(picture))


def _bundled() -> list[Any]:
    """Photographs that come with scikit-image and scikit-learn: none of them is in the training data."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *load_sample_images().images]


def test_density_ranks_haze_of_known_optical_depth(scorer: ClipScorer) -> None:
    plain = HazeConfig(
        beta=(0.1, 2.2), airlight=(0.5, 1.0), darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0
    )
    densities, depths = [], []
    for index, pixels in enumerate(_bundled()):
        height, width = pixels.shape[:2]
        small = images.resize(np.ascontiguousarray(pixels), 256, round(256 * height / width))
        clear = images.to_tensor(small)
        for seed in range(8):
            made = synthesize(clear, None, [100 * index + seed], plain)
            densities.append(float(scorer.haze_density(made.hazy)))
            depths.append(float(-made.transmission.log().mean()))
        assert float(scorer.haze_density(clear)) < np.mean(densities[-8:])
    assert spearmanr(densities, depths).statistic >= BOUND


BOUND = 0.8
"""Below the 0.89 of the model card, which stands on more photographs: these are six, of close subjects mostly."""
