"""What every training method is: no Ray, no devices of its own, no loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

Wrap = Callable[[nn.Module], nn.Module]
Batch = Mapping[str, Tensor]


def identity(network: nn.Module) -> nn.Module:
    """The wrap of a single process."""
    return network


class Method(Protocol):
    """A training method. The job owns devices, data shards, checkpoints and logging."""

    def configure(self, wrap: Wrap = identity) -> None:
        """Make optimizers; ``wrap`` turns a network into its distributed form."""
        ...

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimizer step on a batch; the losses, by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs, as tensors, numbers and strings."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        ...

    def export(self) -> nn.Module:
        """The network that people deploy."""
        ...
