"""Supervised training of a dehazer on synthetic pairs: CORUN's first stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from models import losses
from models.config import ConfigError, Settings
from models.inference import Dehazed, as_dehazed, require_size
from models.losses import ContrastivePerceptual
from pipelines.train.methods.optimization import Batch, Figures, OptimizerConfig, Predict, Stepper, Wrap, identity

CONTRASTIVE = 0.2
OwnLoss = Callable[[Tensor, Tensor], Tensor]


class LossWeights(Settings):
    """Weights of the losses on synthetic pairs; 0 leaves one out. Defaults are those of CORUN's first stage.

    Attributes:
        l1: of the L1 distance to the clear image.
        reconstruction: of the distance between the hazy image and the scene hazed again with its transmission.
        contrastive: of the contrastive perceptual loss; null is the paper's 0.2 where ``perceptual.backbone`` is set
            and 0 where it is not.
        perceptual: of the perceptual loss without a negative; needs ``perceptual.backbone``.
        haze_density: of the scorer's probability of haze; needs ``scorer``.
        transmission: of the L1 to the transmission that the haze was made with.
        airlight: of how far the light that the network estimates is from the one that the haze was made in.
        own: of losses of your own, by their import path: ``{"my_package.losses:edges": 0.1}``, where
            ``edges(scene, clear)`` maps N3HW in [0, 1] to a scalar, the mean over the images.
    """

    l1: float = Field(1.0, ge=0)
    reconstruction: float = Field(0.01, ge=0)
    contrastive: float | None = Field(None, ge=0)
    perceptual: float = Field(0.0, ge=0)
    haze_density: float = Field(0.0, ge=0)
    transmission: float = Field(0.0, ge=0)
    airlight: float = Field(0.0, ge=0)
    own: dict[str, float] = Field(default_factory=dict)


def predicted(predict: Predict, images: Tensor) -> Dehazed:
    """Return what a network makes of N3HW images, in float32 whatever it computes in; not clamped.

    Raises:
        ConfigError: it gives no images of that size.
    """
    found = as_dehazed(predict(images))
    require_size(found, images)
    transmission = None if found.transmission is None else found.transmission.float()
    return Dehazed(found.scene.float(), transmission, found.light)


def coherence(found: Dehazed, hazy: Tensor, weight: float, trust: Tensor | None = None) -> Figures:
    """Return the weighted reconstruction loss, with the estimated airlight, else 1; no loss without a transmission."""
    if found.transmission is None or not weight:
        return {}
    airlight = 1.0 if found.light is None else found.light.airlight
    again = losses.reconstruction(found.scene, found.transmission, hazy, trust, airlight)
    return {"reconstruction": weight * again}


class Supervised:
    """Pretraining: ``l1 + w_r reconstruction + w_c contrastive perceptual + w_h haze density`` on synthetic pairs."""

    def __init__(
        self,
        network: nn.Module,
        *,
        weights: LossWeights | None = None,
        optimizer: OptimizerConfig | None = None,
        steps: int,
        scorer: Any = None,
        contrastive: ContrastivePerceptual | None = None,
        pretrained: bool = False,
        own: Mapping[str, OwnLoss] | None = None,
        wrap: Wrap = identity,
    ) -> None:
        """Take ``pretrained`` and ``wrap`` as for :class:`Stepper`, and ``own``, the functions of ``weights.own``;
        without ``scorer`` or ``contrastive`` their losses are left out.
        """
        self.network = network.to(memory_format=torch.channels_last)
        self.weights, self.own = weights or LossWeights(), own or {}
        self.scorer, self.contrastive = scorer, contrastive
        config = optimizer or OptimizerConfig()
        self.stepper = Stepper(
            self.network, self.objective, config=config, steps=steps, wrap=wrap, pretrained=pretrained
        )

    def _contrastive(
        self, weight: float | None, scene: Tensor, positive: Tensor, negative: Tensor, trust: Tensor | None = None
    ) -> Figures:
        """The weighted contrastive perceptual loss; nothing where it has no weight or no backbone."""
        weight = CONTRASTIVE if weight is None else weight
        if self.contrastive is None or not weight:
            return {}
        return {"contrastive": weight * self.contrastive(scene, positive, negative, trust)}

    def _haze_density(self, weight: float, scene: Tensor) -> Figures:
        """The weighted haze density; nothing where it has no weight or no scorer."""
        if self.scorer is None or not weight:
            return {}
        return {"haze_density": weight * losses.haze_density(scene, self.scorer.haze_density)}

    def synthetic_losses(self, found: Dehazed, batch: Batch) -> Figures:
        """Return weighted losses of dehazed synthetic pairs."""
        scene, weights = found.scene, self.weights
        parts = {"l1": weights.l1 * losses.l1(scene, batch["clear"])}
        parts |= coherence(found, batch["hazy"], weights.reconstruction)
        if found.transmission is not None and weights.transmission:
            parts["transmission"] = weights.transmission * losses.l1(found.transmission, batch["transmission"])
        if found.light is not None and weights.airlight:
            own, true = found.light, (batch["airlight"], batch["tint"], batch["transmission"])
            parts["airlight"] = weights.airlight * losses.light(own.airlight, own.level, own.amount, *true)
        parts |= self._contrastive(weights.contrastive, scene, batch["clear"], batch["hazy"])
        if self.contrastive is not None and weights.perceptual:
            parts["perceptual"] = weights.perceptual * self.contrastive.plain(scene, batch["clear"])
        parts |= {path.replace(":", "."): self._own(path, scene, batch["clear"]) for path in self.own}
        return parts | self._haze_density(weights.haze_density, scene)

    def _own(self, path: str, scene: Tensor, clear: Tensor) -> Tensor:
        value = self.own[path](scene, clear)
        if not isinstance(value, Tensor) or value.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"the loss {path!r} of weights.own gave {got}; expected a scalar tensor")
        return self.weights.own[path] * value.float()

    def objective(self, predict: Predict, batch: Batch) -> tuple[Figures, Figures]:
        """Return losses of a batch; no figures."""
        return self.synthetic_losses(predicted(predict, batch["hazy"]), batch), {}

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Take a step on ``hazy``, ``clear`` N3HW in [0, 1] -> losses."""
        return self.stepper.step(batch, step)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Stepper`."""
        return self.stepper.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Stepper`."""
        self.stepper.load_state_dict(state)

    def export(self) -> nn.Module:
        """Return the mean teacher."""
        return self.stepper.teacher.network
