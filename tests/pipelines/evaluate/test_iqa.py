"""Metrics whose weights are not the project's."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.config import ConfigError
from pipelines.evaluate import iqa as evaluate_iqa
from pipelines.evaluate.iqa import Lpips, Pyiqa

Pixels = NDArray[np.uint8]


class FakeMetric(nn.Module):
    """The mean of red, times a weight, in pyiqa's shape."""

    lower_better = False

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.net.weight, weight)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.net(images[:, 0].mean((1, 2))[:, None])
        return found


def install(monkeypatch: pytest.MonkeyPatch, create: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create))  # type: ignore[arg-type]


def red(level: int) -> Pixels:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[..., 0] = level
    return picture


def test_a_metric_of_pyiqa_scores_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    install(monkeypatch, lambda name, **options: asked.append((name, options)) or FakeMetric(10.0))
    (tmp_path / "own.pth").write_bytes(b"weights")
    metric = Pyiqa("musiq", str(tmp_path / "own.pth"))
    assert metric(red(255)) == pytest.approx(10.0)
    assert metric(red(0)) == 0.0
    path = str(tmp_path / "own.pth")
    assert asked == [("musiq", {"device": torch.device("cpu"), "pretrained_model_path": path})]
    assert metric.about["metric"] == "musiq"
    assert metric.about["weights"] == "own.pth"
    assert "Noncommercial" in metric.about["license"]
    install(monkeypatch, lambda name, **options: FakeMetric(2.0))
    assert Pyiqa("musiq").about["weights_sha256"] != metric.about["weights_sha256"]


def test_a_name_that_this_project_has_too_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    metric = FakeMetric(1.0)
    metric.lower_better = True
    install(monkeypatch, lambda name, **options: asked.append(name) or metric)
    assert Pyiqa("pyiqa-niqe").about["metric"] == "niqe"
    assert asked == ["niqe"]


def test_without_pyiqa_the_extra_and_its_licenses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"pip install 'ray-dehaze\[iqa\]'.*not for commercial use"):
        Pyiqa("nima")


def test_nothing_is_downloaded_and_nothing_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def downloads(name: str, **options: Any) -> nn.Module:
        socket.create_connection(("example.org", 80), timeout=1)
        raise AssertionError("it could")

    install(monkeypatch, downloads)
    with pytest.raises(ConfigError, match="--metric-weights pyiqa-brisque=FILE, as nothing is downloaded"):
        Pyiqa("pyiqa-brisque")

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save(Evil(), tmp_path / "evil.pth")
    install(monkeypatch, lambda name, **options: torch.load(tmp_path / "evil.pth", weights_only=False))
    with pytest.raises(ConfigError, match="metric 'nima' cannot run"):
        Pyiqa("nima")
    assert not (tmp_path / "ran").exists()


def test_a_metric_that_turned_round_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda name, **options: FakeMetric(1.0))
    with pytest.raises(ConfigError, match="lower_better is False"):
        Pyiqa("pyiqa-brisque")


def test_what_cannot_run_has_a_reason_and_the_rest_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **options: Any) -> nn.Module:
        if name == "nima":
            raise OSError("not at hand")
        return FakeMetric(1.0)

    install(monkeypatch, create)
    reasons, about = evaluate_iqa.problems(["musiq", "nima"], {})
    assert list(reasons) == ["nima"]
    assert "not at hand" in reasons["nima"]
    assert list(about) == ["musiq"]


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, which are enough to see that they are taken."""
    from torchvision.models import alexnet as make

    torch.manual_seed(0)
    state = {key: value for key, value in make(weights=None).state_dict().items() if key.startswith("features.")}
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(state, path)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchvision's, for the way in which lpips asks for its AlexNet
def test_lpips_takes_the_weights_that_it_is_given(alexnet: Path, photo: Any) -> None:
    metric = Lpips(str(alexnet))
    state = torch.load(alexnet, weights_only=True)
    torch.testing.assert_close(metric._network.net.slice3[1].weight, state["features.6.weight"])
    first, second = photo(1), photo(2)
    assert metric(first, first) == pytest.approx(0, abs=1e-6)
    assert metric(first, second) > 0
    assert metric(first, second) == metric(first, second)
    assert np.isnan(metric(first[:20, :20], second[:20, :20]))
    assert metric.about["backbone"] == "AlexNet"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_never_runs_on_random_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match="metric 'lpips' has no AlexNet"):
        Lpips()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="no state dict of torchvision's alexnet"):
        Lpips(str(tmp_path / "other.pth"))
