"""The mechanics of an optimizer step: schedule, micro-batches, mixed precision, clipping, mean teacher, exact resuming.

A method gives an *objective*: a function of the network and a batch that returns losses. Network and objective are
wrapped as one module, so that a distributed wrapper sees one forward pass per backward pass, with scalars out: several
forward passes, and networks that return objects of their own, are then nothing special to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import ConfigError, Settings
from models.ema import MeanTeacher

Wrap = Callable[[nn.Module], nn.Module]  # turns a module into its distributed form
Batch = Mapping[str, Tensor]


def identity(network: nn.Module) -> nn.Module:
    """Return the network as it is: the wrap of a single process."""
    return network


class Method(Protocol):
    """A training method. The job owns devices, data shards, checkpoints and logging."""

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Take one optimizer step on a batch and return the losses, by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that resuming needs, as tensors, numbers and strings."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        ...

    def export(self) -> nn.Module:
        """Return the network that people deploy."""
        ...


Predict = Callable[[Tensor], Any]
Figures = dict[str, Tensor]
Objective = Callable[[Predict, Batch], tuple[Figures, Figures]]
"""``(network, batch) -> (losses, figures)``: scalars, means over the batch; the sum of the losses is minimized."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class OptimizerConfig(Settings):
    """AdamW with a linear warm-up and a cosine to ``final_share`` of the rate over ``train.steps``.

    Attributes:
        learning_rate: the highest rate, reached after the warm-up.
        weight_decay: AdamW's.
        warmup: steps in which the rate rises from 0.
        final_share: 1 keeps the rate where the warm-up has brought it.
        clip_norm: gradients are scaled down to this norm; null leaves them as they are.
        ema: momentum of the mean teacher; of a network that starts from nothing after a warm-up of ``9 / (1 - ema)``
            steps.
        accumulate: micro-batches per step; the batches are cut into as many equal parts, whose gradients add up to
            those of the whole batch with less memory.
        precision: of the network's forward pass, through autocast; weights and losses stay float32. ``float16`` needs
            CUDA and scales the loss; ``bfloat16`` does neither.
    """

    learning_rate: float = Field(4e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(20, ge=0)
    final_share: float = Field(0.01, ge=0, le=1)
    clip_norm: float | None = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    accumulate: int = Field(1, ge=1)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


class _Objective(nn.Module):
    """A network and what is minimized of it."""

    def __init__(self, network: nn.Module, objective: Objective, precision: str) -> None:
        super().__init__()
        self.network = network
        self._objective, self._dtype = objective, DTYPES[precision]

    def _predict(self, images: Tensor) -> Any:
        enabled = self._dtype != torch.float32
        with torch.autocast(images.device.type, dtype=self._dtype if enabled else None, enabled=enabled):
            return self.network(images)

    def forward(self, batch: Batch) -> tuple[Figures, Figures]:
        """A batch -> losses and figures."""
        return self._objective(self._predict, batch)


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into ``count`` equal parts; its length is a multiple of that."""
    if count == 1:
        return [batch]
    cut = {name: value.chunk(count) for name, value in batch.items()}
    return [{name: parts[index] for name, parts in cut.items()} for index in range(count)]


class Stepper:
    """Trains one network.

    Args:
        network: on its device.
        objective: what is minimized.
        config: schedule, micro-batches, precision.
        steps: of the whole run; the end of the schedule.
        wrap: makes a module distributed.
        pretrained: the network has good weights already, so the mean teacher needs no warm-up.

    Raises:
        ConfigError: nothing to train, or a precision that the device does not have.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        *,
        config: OptimizerConfig,
        steps: int,
        wrap: Wrap = identity,
        pretrained: bool = False,
    ) -> None:
        device = _device(network)
        if config.precision == "float16" and device.type != "cuda":
            raise ConfigError(f"optimizer.precision is float16 on {device.type}, it needs CUDA; choose bfloat16")
        self.network, self.config, self.steps, self.device = network, config, steps, device
        self._plain = _Objective(network, objective, config.precision)
        self._wrapped = wrap(self._plain)
        self.teacher = MeanTeacher(network, config.ema, warm_up=not pretrained)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )  # fmt: skip
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")

    def rate(self, step: int) -> float:
        """Return the learning rate at ``step``."""
        if step < self.config.warmup:
            return self.config.learning_rate * (step + 1) / self.config.warmup
        share = min(1.0, (step - self.config.warmup) / max(1, self.steps - self.config.warmup))
        cosine = 0.5 * (1.0 + math.cos(share * math.pi))
        return self.config.learning_rate * (self.config.final_share + (1 - self.config.final_share) * cosine)

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Descend along the losses of a batch; losses or gradients that are not finite are an error, not a step.

        Returns:
            the sum of the losses as ``loss``, each of them, the objective's figures, the ``learning_rate`` of the step
            and the ``gradient_norm`` before clipping (left out where a loss scale was too high for it).

        Raises:
            FloatingPointError: a loss or a gradient is NaN or infinite.
            ConfigError: parameters without a gradient in distributed training.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        found = self._backward(micro_batches(batch, self.config.accumulate))
        self._check_used()
        self._scaler.unscale_(self.optimizer)
        longest = math.inf if self.config.clip_norm is None else self.config.clip_norm
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), longest)
        *values, size = torch.stack([*found.values(), norm.float()]).tolist()
        shown = dict(zip(found, values, strict=True))
        checked = {"loss": shown["loss"]} if self._scaler.is_enabled() else {"loss": shown["loss"], "gradient": size}
        for name, value in checked.items():  # a scaler looks after its gradients itself
            if not math.isfinite(value):
                raise FloatingPointError(f"the {name} is {value} at step {step}; lower optimizer.learning_rate")
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.teacher.update(self.network)
        norms = {"gradient_norm": size} if math.isfinite(size) else {}
        return shown | {"learning_rate": self.rate(step)} | norms

    def _backward(self, parts: list[Batch]) -> Figures:
        """Gradients of the mean over the micro-batches; workers exchange theirs once, with the last one."""
        sums: Figures = {}
        for index, part in enumerate(parts):
            with self._exchange(index == len(parts) - 1):
                losses, figures = self._wrapped(part)
                total = torch.stack(list(losses.values())).sum()
                self._scaler.scale(total / len(parts)).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": total, **losses, **figures}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / len(parts)
        return sums

    def _exchange(self, now: bool) -> AbstractContextManager[Any]:
        later: Any = getattr(self._wrapped, "no_sync", None)
        return nullcontext() if now or later is None else later()

    def _check_used(self) -> None:
        """A distributed wrapper waits for the gradient of every parameter; say which one never comes."""
        if self._wrapped is self._plain or getattr(self._wrapped, "find_unused_parameters", False):
            return
        unused = [name for name, p in self.network.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise ConfigError(
                f"no loss depends on {len(unused)} parameters of the network, such as {unused[0]!r}, which training "
                "on several workers waits for: set train.find_unused_parameters=true"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return student, teacher, optimizer, loss scale and torch's random state; the place in the schedule is the
        step.
        """
        return {
            "student": self.network.state_dict(),
            "teacher": self.teacher.network.state_dict(),
            "updates": self.teacher.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; torch's global random state too."""
        self.network.load_state_dict(state["student"])
        self.teacher.network.load_state_dict(state["teacher"])
        self.teacher.updates = int(state["updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)


def _device(network: nn.Module) -> torch.device:
    """Where a network is.

    Raises:
        ConfigError: it has no parameter to train.
    """
    trained = next((p for p in network.parameters() if p.requires_grad), None)
    if trained is None:
        raise ConfigError(f"{type(network).__name__} has no parameters to train: choose another network")
    return trained.device
