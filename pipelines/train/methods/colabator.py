"""Colabator (Fang et al., NeurIPS 2024): fine-tuning on real photographs with the best pseudo label of each.

The student sees a synthetic pair, and a real photograph under strong photometric augmentation whose label and trust
map come from the label pool. The teacher is its moving average; it labels elsewhere, off the training path.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from models import losses
from models.config import Settings
from models.inference import Dehazed
from pipelines.train.methods.optimization import Batch, Figures, Predict
from pipelines.train.methods.supervised import Supervised, coherence, predicted


class RealWeights(Settings):
    """Weights of the losses on real photographs; 0 leaves one out.

    Attributes:
        label: of the L1 distance to the pseudo label, weighed by trust.
        reconstruction: of the distance between the photograph and the scene hazed again, weighed by trust.
        contrastive: of the contrastive perceptual loss; null is the paper's 0.2 where ``perceptual.backbone`` is set
            and 0 where it is not.
        contrastive_trust: weigh the contrastive loss by trust too.
        haze_density: of the scorer's probability of haze; needs ``scorer``.
    """

    label: float = Field(1.0, ge=0)
    reconstruction: float = Field(0.01, ge=0)
    contrastive: float | None = Field(None, ge=0)
    contrastive_trust: bool = True
    haze_density: float = Field(0.0, ge=0)


class Colabator(Supervised):
    """Student of a synthetic batch and a real batch; batches without labels train on the synthetic part alone."""

    def __init__(self, network: nn.Module, *, real: RealWeights | None = None, **options: Any) -> None:
        """Take the arguments of :class:`Supervised`, and ``real``, the weights of the losses on photographs."""
        super().__init__(network, **options)
        self.real = real or RealWeights()

    def real_losses(self, found: Dehazed, batch: Batch) -> Figures:
        """Return weighted losses of dehazed photographs: label, reconstruction and contrast by trust, and haze density.

        The positive of the contrast is the label, the negative the photograph as the student saw it; a photograph
        without a label (``labeled`` N111 is 0) has no contrast, with trust or without.
        """
        scene, label, photo, trust = found.scene, batch["label"], batch["strong"], batch["trust"]
        parts = {"label": self.real.label * losses.l1(scene, label, trust)}
        parts |= coherence(found, photo, self.real.reconstruction, trust)
        weighed = trust if self.real.contrastive_trust else batch.get("labeled")
        parts |= self._contrastive(self.real.contrastive, scene, label, photo, weighed)
        parts |= self._haze_density(self.real.haze_density, scene)
        return {f"real_{name}": value for name, value in parts.items()}

    def objective(self, predict: Predict, batch: Batch) -> tuple[Figures, Figures]:
        """Return losses of ``hazy``, ``clear``, and where labels are there ``strong``, ``label`` N3SS, ``trust`` N1SS
        and perhaps ``labeled``.
        """
        parts = self.synthetic_losses(predicted(predict, batch["hazy"]), batch)
        if "label" in batch:
            parts |= self.real_losses(predicted(predict, batch["strong"]), batch)
        return parts, {}

    @property
    def teacher(self) -> nn.Module:
        """Return the mean teacher, in evaluation mode; it moves with every step."""
        return self.stepper.teacher.network

    def teacher_state(self) -> dict[str, Tensor]:
        """Return what the label workers need of the teacher."""
        state: dict[str, Tensor] = self.teacher.state_dict()
        return state
