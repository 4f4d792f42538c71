"""Supervised training of a dehazer on synthetic pairs: CORUN's first stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from models import losses
from models.ema import MeanTeacher
from models.inference import as_dehazed
from models.settings import Settings
from pipelines.methods.base import Batch, Wrap, identity


class LossWeights(Settings):
    """Weights of the losses; 0 leaves one out. Defaults of the paper, except haze density, which needs a scorer."""

    l1: float = Field(1.0, ge=0)
    reconstruction: float = Field(0.01, ge=0)
    haze_density: float = Field(0.0, ge=0)


class OptimizerConfig(Settings):
    """AdamW with a linear warm-up and a cosine to ``final_share`` of the rate over ``steps``."""

    learning_rate: float = Field(4e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(20, ge=0)
    final_share: float = Field(0.01, ge=0, le=1)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)


class Stepper:
    """An optimizer with its schedule, gradient clipping and the mean teacher of one network."""

    def __init__(self, network: nn.Module, config: OptimizerConfig, steps: int, wrap: Wrap) -> None:
        self.config, self.steps = config, steps
        self.wrapped = wrap(network)
        self.network = network
        self.teacher = MeanTeacher(network, config.ema)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def rate(self, step: int) -> float:
        """Learning rate at ``step``."""
        if step < self.config.warmup:
            return self.config.learning_rate * (step + 1) / self.config.warmup
        share = min(1.0, (step - self.config.warmup) / max(1, self.steps - self.config.warmup))
        cosine = 0.5 * (1.0 + float(torch.cos(torch.tensor(share * torch.pi))))
        return self.config.learning_rate * (self.config.final_share + (1 - self.config.final_share) * cosine)

    def step(self, loss: Tensor, step: int) -> None:
        """Descend along ``loss``; a loss that is not finite is an error, not a step.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {step}; lower optimizer.learning_rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.teacher.update(self.network)

    def state_dict(self) -> dict[str, Any]:
        """Student, teacher and optimizer."""
        return {
            "student": self.network.state_dict(),
            "teacher": self.teacher.network.state_dict(),
            "updates": self.teacher.updates,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["student"])
        self.teacher.network.load_state_dict(state["teacher"])
        self.teacher.updates = int(state["updates"])
        self.optimizer.load_state_dict(state["optimizer"])


class Supervised:
    """Pretraining: ``l1 + w_r reconstruction + w_h haze density`` on synthetic pairs."""

    def __init__(
        self,
        network: nn.Module,
        *,
        weights: LossWeights | None = None,
        optimizer: OptimizerConfig | None = None,
        steps: int,
        scorer: Any = None,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)
        self.weights = weights or LossWeights()
        self.optimizer = optimizer or OptimizerConfig()
        self.steps, self.scorer = steps, scorer
        self.stepper: Stepper

    def configure(self, wrap: Wrap = identity) -> None:
        """Make the optimizer and the mean teacher."""
        self.stepper = Stepper(self.network, self.optimizer, self.steps, wrap)

    def synthetic_losses(self, scene: Tensor, transmission: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses of dehazed synthetic pairs."""
        weights = self.weights
        parts = {"l1": weights.l1 * losses.l1(scene, batch["clear"])}
        if transmission is not None and weights.reconstruction:
            parts["reconstruction"] = weights.reconstruction * losses.reconstruction(scene, transmission, batch["hazy"])
        if self.scorer is not None and weights.haze_density:
            density = losses.haze_density(scene, self.scorer.haze_density)
            parts["haze_density"] = weights.haze_density * density
        return parts

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """``hazy``, ``clear`` N3HW in [0, 1] -> losses."""
        found = as_dehazed(self.stepper.wrapped(batch["hazy"]))
        parts = self.synthetic_losses(found.scene, found.transmission, batch)
        total = torch.stack(list(parts.values())).sum()
        self.stepper.step(total, step)
        return {"loss": float(total.detach()), **{name: float(part.detach()) for name, part in parts.items()}}

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Stepper`."""
        return self.stepper.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Stepper`."""
        self.stepper.load_state_dict(state)

    def export(self) -> nn.Module:
        """The mean teacher."""
        return self.stepper.teacher.network
