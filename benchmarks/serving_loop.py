"""What the service is measured against: the predictor, called in a loop in a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.images import decode
from models.predictor import Predictor
from pseudolabel.scorer import ScorerConfig, load_scorer

_made: dict[str, Any] = {}


@dataclass(frozen=True)
class Loop:
    """Photographs done, and seconds: of dehazing (decode, model, encode), and of scoring input and result."""

    count: int
    dehazing_s: float
    scoring_s: float

    @property
    def alone(self) -> float:
        """Return the photographs per second of dehazing alone."""
        return self.count / self.dehazing_s

    @property
    def rate(self) -> float:
        """Return the photographs per second of the work that the service does: with the scores in its headers."""
        return self.count / (self.dehazing_s + self.scoring_s)


def prepare(model: str, threads: int) -> None:
    """Load what a replica has, once per process."""
    _made["predictor"] = Predictor(model, threads=threads)
    _made["scorer"] = load_scorer(ScorerConfig())


@torch.inference_mode()
def loop(data: bytes, seconds: float) -> Loop:
    """Dehaze and score a file again and again, for so many seconds."""
    predictor, scorer = _made["predictor"], _made["scorer"]
    hazy: Tensor = decode(data).tensor()
    scene: Tensor = predictor.run(hazy).scene
    count, dehazing, scoring = 0, 0.0, 0.0
    while dehazing + scoring < seconds:
        begun = time.perf_counter()
        predictor.dehaze_bytes(data)
        dehazed = time.perf_counter()
        scorer.rate(hazy)
        scorer.rate(scene)
        count, dehazing, scoring = count + 1, dehazing + dehazed - begun, scoring + time.perf_counter() - dehazed
    return Loop(count, dehazing, scoring)
