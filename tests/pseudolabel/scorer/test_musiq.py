"""Quality by MUSIQ, with a made-up pyiqa in its place."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.config import ConfigError, parse
from pseudolabel.scorer.clip import ScorerConfig
from pseudolabel.scorer.loading import load_scorer
from pseudolabel.scorer.musiq import IqaConfig, load_iqa


class FakeMetric(nn.Module):
    """A hundred times the mean of red, in pyiqa's shape, times a weight that must be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return 100 * self.net(images[:, 0].mean((1, 2))[:, None])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """pyiqa is there; what was asked of it."""
    calls: list[Any] = []

    def create_metric(name: str, **options: Any) -> FakeMetric:
        calls.append((name, options))
        return FakeMetric()

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))  # type: ignore[arg-type]
    return calls


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.save({"module.weight": torch.ones(1, 1)}, tmp_path / "musiq.pth")
    return str(tmp_path / "musiq.pth")


def red(*levels: float) -> Tensor:
    """A picture of blocks side by side, so much red in each."""
    picture = torch.zeros(1, 3, 32, 32 * len(levels))
    for place, level in enumerate(levels):
        picture[:, 0, :, 32 * place : 32 * place + 32] = level
    return picture


def test_the_metric_gives_quality_and_its_part_of_trust(asked: list[Any], weights: str) -> None:
    plain, rated = load_scorer(), load_scorer(ScorerConfig(iqa=IqaConfig(weights=weights)))
    picture = red(0.2, 0.8)
    one, other = plain.score(picture), rated.score(picture)
    torch.testing.assert_close(other.clearness, one.clearness)
    torch.testing.assert_close(other.quality, torch.tensor([0.5]))
    clearness, _ = plain.rate(torch.cat(picture.split(32, dim=3)), plain.block_resolution)
    torch.testing.assert_close(other.trust[0, 0], (clearness + torch.tensor([0.2, 0.8])) / 2)


def test_nothing_is_downloaded(asked: list[Any], weights: str) -> None:
    load_iqa(IqaConfig(weights=weights))
    assert asked == [("musiq", {"device": torch.device("cpu"), "pretrained": False})]


def test_scores_are_scaled_and_clamped(asked: list[Any], weights: str) -> None:
    rate = load_iqa(IqaConfig(weights=weights, scale=(20.0, 60.0)))
    found = rate(torch.cat([red(0.1), red(0.3), red(0.6), red(0.9)]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 1.0, 1.0]))


def test_without_pyiqa_the_extra_and_the_licenses_are_named(monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"pip install 'ray-dehaze\[iqa\]'.*PolyForm Noncommercial.*forbid commercial"
    ):
        load_scorer(ScorerConfig(iqa=IqaConfig(weights=weights)))


def test_weights_that_are_not_there_are_named(asked: list[Any], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no file .*gone\.pth; get MUSIQ's musiq_koniq.*nothing is downloaded"
    ):
        load_iqa(IqaConfig(weights=str(tmp_path / "gone.pth")))


def test_weights_of_something_else_are_refused(asked: list[Any], tmp_path: Path) -> None:
    torch.save({"other": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"other\.pth does not fit MUSIQ.*Unexpected key.*other"):
        load_iqa(IqaConfig(weights=str(tmp_path / "other.pth")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"iqa": {"weights": "w", "scale": [1, 1]}}, "expected a lower and a higher score"),
        ({"iqa": {}}, "missing key 'weights' in scorer.iqa"),
    ],
)
def test_configurations_that_cannot_be_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(ScorerConfig, data, "scorer")
