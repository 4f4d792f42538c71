"""The mean teacher: an exponential moving average of a student's weights (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MeanTeacher:
    """``teacher = m * teacher + (1 - m) * student`` after every step.

    Args:
        student: the network that is trained; the teacher starts as its copy.
        momentum: m in [0, 1).
        warm_up: for students that start from nothing. Early on the smaller ``(1 + updates) / (10 + updates)`` is used,
            so that the teacher does not remember random weights. It takes ``9 / (1 - m)`` updates, so a teacher of
            weights that are good already would follow its student too closely for all of a short fine-tuning.
    """

    def __init__(self, student: nn.Module, momentum: float, *, warm_up: bool = True) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum is {momentum}; expected 0 <= momentum < 1")
        self.network = copy.deepcopy(student).eval().requires_grad_(False)
        self.momentum, self.warm_up = momentum, warm_up
        self.updates = 0

    @property
    def in_force(self) -> float:
        """Return the momentum of the next update."""
        return min(self.momentum, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.momentum

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move the teacher towards ``student``; buffers are copied."""
        momentum = self.in_force
        self.updates += 1
        pairs = zip(self.network.parameters(), student.parameters(), strict=True)
        mine, theirs = zip(*((own.detach(), other.detach()) for own, other in pairs), strict=True)
        torch._foreach_lerp_(mine, theirs, 1.0 - momentum)  # a kernel for many, where a GPU would wait for each
        # Buffers are counts and constants, of which there is no mean.
        for kept, buffer in zip(self.network.buffers(), student.buffers(), strict=True):
            kept.copy_(buffer)
