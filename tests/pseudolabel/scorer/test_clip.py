"""The packaged scorer: shapes, gradients, and whether it really measures haze on photographs it never saw."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from models import images
from models.config import ConfigError
from models.haze import HazeConfig, synthesize
from pipelines.train.build import make_method
from pipelines.train.recipe import load_recipe
from pseudolabel.scorer.clip import ClipScorer, Prompts, ScorerConfig
from pseudolabel.scorer.loading import WEIGHTS, load_scorer

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


def test_scores_are_of_floats_alone_and_of_any(scorer: ClipScorer) -> None:
    pictures = torch.rand(2, 3, 64, 64).half()
    torch.testing.assert_close(scorer.score(pictures).clearness, scorer.score(pictures.double()).clearness)
    with pytest.raises(images.ImageError, match=r"uint8 \(2, 3, 64, 64\)"):
        scorer.score((pictures * 255).byte())
    with pytest.raises(images.ImageError, match=r"\(2, 64, 64, 3\)"):
        scorer.rate(pictures.permute(0, 2, 3, 1))


def test_loading_leaves_logging_to_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    load_scorer(WEIGHTS / "clip-compact")
    assert root.handlers == []


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
    assert scorer.prompts == Prompts(), "none configured: the words that it was trained with"
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(swapped.clearness(picture), 1 - scorer.clearness(picture))


def test_quality_has_prompts_of_its_own(scorer: ClipScorer) -> None:
    swapped = load_scorer(ScorerConfig(prompts=Prompts(good=("a bad photo",), bad=("a good photo",))))
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one, other = scorer.score(picture), swapped.score(picture)
    torch.testing.assert_close(other.quality, 1 - one.quality)
    torch.testing.assert_close(other.clearness, one.clearness)


def test_prompts_of_a_group_are_summed(scorer: ClipScorer) -> None:
    prompts = Prompts(clear=("a clear photo", "a photo without haze"), hazy=("a photo in dense fog",))
    several = load_scorer(ScorerConfig(prompts=prompts, resolution=64))
    picture = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    similarity = several.encode(picture, 64) @ several.encode_text([*prompts.clear, *prompts.hazy]).T
    expected = (similarity * several.clip.logit_scale.exp()).softmax(dim=1)[:, :2].sum(dim=1)  # type: ignore[operator]
    torch.testing.assert_close(several.clearness(picture), expected)


def _bundled() -> list[Any]:
    """Photographs that come with scikit-image and scikit-learn: none of them is in the training data."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    camera = np.stack([data.camera()] * 3, axis=-1)
    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), camera, *load_sample_images().images]


def test_density_ranks_haze_of_known_optical_depth(scorer: ClipScorer) -> None:
    plain = HazeConfig(
        beta=(0.1, 2.2), airlight=(0.5, 1.0), darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0
    )
    densities, depths = [], []
    for index, pixels in enumerate(_bundled()):
        height, width = pixels.shape[:2]
        small = images.resize(np.ascontiguousarray(pixels), 256, round(256 * height / width))
        clear = images.to_tensor(small)
        made = synthesize(clear.expand(DRAWS, -1, -1, -1), None, range(100 * index, 100 * index + DRAWS), plain)
        densities += scorer.haze_density(made.hazy).tolist()
        depths += (-made.transmission.log().mean(dim=(1, 2, 3))).tolist()
        assert float(scorer.haze_density(clear)) < np.mean(densities[-DRAWS:])
        assert spearmanr(densities[-DRAWS:], depths[-DRAWS:]).statistic >= BOUND_OF_ONE
    assert spearmanr(densities, depths).statistic >= BOUND


BOUND = 0.8
"""Measured: 0.81, below the 0.87 of the model card, which stands on more photographs and fewer close subjects."""

DRAWS = 16
BOUND_OF_ONE = 0.65
"""Measured within one photograph, at sixteen densities under airlights of 0.5 to 1: 0.70 for the cup of coffee, 0.76 to
0.94 for the others."""


GAIN = 0.05
"""What freedom of haze earns in trust, on average. Measured: 0.14 and 0.09."""


def test_trust_is_high_where_the_label_is_free_of_haze(scorer: ClipScorer) -> None:
    """Two labels of each photograph, hazed on one side each: they differ in nothing else, so the sign is the haze's."""
    gained = []
    for pixels in _bundled():
        label = images.to_tensor(images.resize(np.ascontiguousarray(pixels), 288, 288))
        veiled = 0.4 * label + 0.6 * 0.8
        left = scorer.score(torch.cat([veiled[..., :144], label[..., 144:]], dim=-1)).trust
        right = scorer.score(torch.cat([label[..., :144], veiled[..., 144:]], dim=-1)).trust
        assert left.shape == (1, 9, 9)
        gained.append((right - left)[0].mean(0))
    each = torch.stack(gained)
    gains = torch.stack([each[:, :4].mean(1), -each[:, 5:].mean(1)])
    assert gains.min() > 0.0  # 0.01 measured
    assert (gains.mean(1) > GAIN).all()
    assert (gains > 0).float().mean() > 0.9


def test_trust_may_be_the_product_of_clearness_and_quality(scorer: ClipScorer, photo: Photo) -> None:
    """(c + q) / 2 and c q, both in [0, 1], so ``c + q - 1 <= c q <= (c + q) / 2``, also where places are averaged."""
    image = torch.from_numpy(photo(1, height=64, width=96)).permute(2, 0, 1)[None] / 255
    mean = scorer.score(image).trust
    product = load_scorer(ScorerConfig(trust_rule="product")).score(image).trust
    assert product.shape == mean.shape
    assert (product < mean - 1e-3).all()
    assert (product >= 2 * mean - 1 - 1e-5).all()


def test_bfloat16_scores_are_near_those_of_float32(scorer: ClipScorer, photo: Photo) -> None:
    half = load_scorer(ScorerConfig(precision="bfloat16"))
    pictures = images.to_tensor(np.stack([photo(1), photo(2, hazy=True), photo(3)]))
    exact, near = scorer.score(pictures), half.score(pictures)
    for part in ("clearness", "quality", "trust"):
        assert getattr(near, part).dtype == torch.float32
        torch.testing.assert_close(getattr(near, part), getattr(exact, part), atol=0.03, rtol=0)
    assert {p.dtype for p in half.clip.visual.parameters()} == {torch.bfloat16}  # type: ignore[union-attr]
    torch.testing.assert_close(half.haze_text, scorer.haze_text)
    picture = pictures[:1].requires_grad_()
    half.haze_density(picture).sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0


def test_a_scorer_runs_no_code_of_its_own(tmp_path: Path) -> None:
    """``open_clip`` gives ``tokenizer_kwargs`` to ``transformers``, which would run the file beside them."""
    folder = tmp_path / "scorer"
    shutil.copytree(WEIGHTS / "clip-compact", folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "own", "tokenizer_kwargs": {"trust_remote_code": True}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    code = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    recipe = load_recipe("scorer_clip_compact", [f"network.folder={folder}"])
    for door in (lambda: load_scorer(str(folder)), lambda: make_method(recipe, torch.device("cpu"))):
        with pytest.raises(ConfigError, match=r"asks to run code of its tokenizer.*take that out"):
            door()
    assert not (tmp_path / "ran").exists()
