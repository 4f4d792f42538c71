"""Colabator (Fang et al., NeurIPS 2024): fine-tuning on real photographs with the best pseudo label of each.

The student sees a synthetic pair, and a real photograph under strong photometric augmentation whose label and trust
map come from the label pool. The teacher is its moving average; it labels elsewhere, off the training path.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from models import losses
from models.inference import as_dehazed
from models.settings import Settings
from pipelines.methods.base import Batch
from pipelines.methods.supervised import LossWeights, OptimizerConfig, Supervised


class RealWeights(Settings):
    """Weights of the losses on real photographs."""

    label: float = Field(1.0, ge=0)
    reconstruction: float = Field(0.01, ge=0)
    haze_density: float = Field(0.05, ge=0)


class Colabator(Supervised):
    """Student of a synthetic batch and a real batch; batches without labels train on the synthetic part alone."""

    def __init__(
        self,
        network: nn.Module,
        *,
        weights: LossWeights | None = None,
        real: RealWeights | None = None,
        optimizer: OptimizerConfig | None = None,
        steps: int,
        scorer: object = None,
    ) -> None:
        super().__init__(network, weights=weights, optimizer=optimizer, steps=steps, scorer=scorer)
        self.real = real or RealWeights()

    def real_losses(self, scene: Tensor, transmission: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        """``L1(student(strong), label) * trust`` and the trust-weighted reconstruction of the photograph."""
        trust = batch["trust"]
        parts = {"real_label": self.real.label * losses.l1(scene, batch["label"], trust)}
        if transmission is not None and self.real.reconstruction:
            again = losses.reconstruction(scene, transmission, batch["strong"], trust)
            parts["real_reconstruction"] = self.real.reconstruction * again
        if self.scorer is not None and self.real.haze_density:
            density = losses.haze_density(scene, self.scorer.haze_density)
            parts["real_haze_density"] = self.real.haze_density * density
        return parts

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """``hazy``, ``clear``, and where labels are there ``strong``, ``label`` N3SS and ``trust`` N1SS -> losses."""
        found = as_dehazed(self.stepper.wrapped(batch["hazy"]))
        parts = self.synthetic_losses(found.scene, found.transmission, batch)
        if "label" in batch:
            real = as_dehazed(self.stepper.wrapped(batch["strong"]))
            parts |= self.real_losses(real.scene, real.transmission, batch)
        total = torch.stack(list(parts.values())).sum()
        self.stepper.step(total, step)
        return {"loss": float(total.detach()), **{name: float(part.detach()) for name, part in parts.items()}}

    def teacher_state(self) -> dict[str, Tensor]:
        """What the label workers need of the teacher."""
        state: dict[str, Tensor] = self.stepper.teacher.network.state_dict()
        return state
