"""Quality from a no-reference metric: MUSIQ (Ke et al., ICCV 2021), as the Colabator paper has it, through pyiqa.

pyiqa is no dependency, because its licenses forbid commercial use: PolyForm Noncommercial 1.0.0 (CC BY-NC-SA 4.0
until April 2026) and, for parts of it, NTU S-Lab License 1.0. Only its network is used: its own loader would
fetch the weights from the network and unpickle them.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from models.checkpoints import read_released
from models.config import ConfigError
from pseudolabel.scorer.config import IqaConfig

LICENSES = "PolyForm Noncommercial 1.0.0 and NTU S-Lab 1.0"


class Iqa(nn.Module):
    """Quality of images by a metric; differentiable no further than the metric is, frozen.

    Args:
        metric: N3HW in [0, 1] -> N or (N, 1), higher is better.
        scale: the scores that become 0 and 1; what lies beyond is clamped.
    """

    def __init__(self, metric: nn.Module, scale: tuple[float, float]) -> None:
        super().__init__()
        self.metric = metric.eval().requires_grad_(False)
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """Score N3HW in [0, 1] -> N in [0, 1], float32, higher is better."""
        low, high = self.scale
        scores: Tensor = self.metric(images.float().clamp(0, 1))
        return ((scores.float().reshape(len(images)) - low) / (high - low)).clamp(0, 1)


def load_iqa(config: IqaConfig, device: str | torch.device = "cpu") -> Iqa:
    """Load MUSIQ with the weights of `config`, on `device`.

    Raises:
        ConfigError: pyiqa is not installed, or the weights are not there or do not fit.
    """
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ImportError as problem:
        raise ConfigError(
            f"scorer.iqa needs pyiqa ({problem}): pip install 'ray-dehaze[iqa]'. Its licenses ({LICENSES}) forbid "
            "commercial use; without it, set scorer.iqa to null and quality comes from the prompts"
        ) from problem
    try:
        weights = read_released(config.weights)
    except ConfigError as problem:
        raise ConfigError(
            f"scorer.iqa.weights: {problem}; get MUSIQ's musiq_koniq_ckpt-e95806b9.pth from pyiqa's own page and name "
            "the file here, as nothing is downloaded"
        ) from problem
    metric: nn.Module = pyiqa.create_metric("musiq", device=torch.device(device), pretrained=False)
    try:
        metric.net.load_state_dict(weights)  # type: ignore[union-attr]
    except RuntimeError as problem:
        reason = " ".join(str(problem).split())
        raise ConfigError(f"scorer.iqa.weights: {config.weights} does not fit MUSIQ: {reason}") from problem
    return Iqa(metric, config.scale)
