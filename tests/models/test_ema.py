"""The mean teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.ema import MeanTeacher


def test_it_starts_as_a_frozen_copy() -> None:
    student = nn.Linear(2, 2)
    teacher = MeanTeacher(student, 0.9)
    assert torch.equal(teacher.network.weight, student.weight)
    assert teacher.network.weight is not student.weight
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert not teacher.network.training


def test_it_is_the_moving_average_after_a_quicker_start() -> None:
    student = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        student.weight.zero_()
    teacher = MeanTeacher(student, 0.5)
    expected = 0.0
    for step in range(20):
        with torch.no_grad():
            student.weight.fill_(float(step))
        momentum = min(0.5, (1 + step) / (10 + step))
        expected = momentum * expected + (1 - momentum) * step
        teacher.update(student)
        assert teacher.network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert teacher.updates == 20


def test_buffers_are_copied() -> None:
    student = nn.BatchNorm2d(2)
    teacher = MeanTeacher(student, 0.9)
    student(torch.rand(4, 2, 3, 3))
    teacher.update(student)
    assert torch.equal(teacher.network.running_mean, student.running_mean)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_an_impossible_momentum_is_named(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum is {momentum}"):
        MeanTeacher(nn.Linear(1, 1), momentum)
