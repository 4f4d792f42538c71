"""The mean teacher: an exponential moving average of a student's weights (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MeanTeacher:
    """``teacher = m * teacher + (1 - m) * student`` after every step.

    Args:
        student: the network that is trained; the teacher starts as its copy.
        momentum: m in [0, 1). Early on the smaller ``(1 + step) / (10 + step)`` is used, so that a teacher of an
            untrained student does not remember its first weights.
    """

    def __init__(self, student: nn.Module, momentum: float) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum is {momentum}; expected 0 <= momentum < 1")
        self.network = copy.deepcopy(student).eval().requires_grad_(False)
        self.momentum = momentum
        self.updates = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move the teacher towards ``student``; buffers are copied."""
        momentum = min(self.momentum, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for mine, theirs in zip(self.network.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1.0 - momentum)
        for kept, buffer in zip(self.network.buffers(), student.buffers(), strict=True):
            kept.copy_(buffer)
