"""The mean teacher: its average, its warm-up and its independence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.ema import MeanTeacher


def scalar(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def value(network: nn.Module) -> float:
    (weight,) = network.parameters()
    return float(weight.detach())


def test_teacher_starts_as_a_frozen_copy() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    teacher = MeanTeacher(student, 0.9)
    for mine, theirs in zip(teacher.network.state_dict().values(), student.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    assert not teacher.network.training
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert student.training
    assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.999])
def test_every_update_is_the_moving_average_with_its_warm_up(momentum: float) -> None:
    teacher, student, expected = MeanTeacher(scalar(5.0), momentum), scalar(5.0), 5.0
    for step in range(12):
        nn.init.constant_(student.weight, float(step**2))
        teacher.update(student)
        m = min(momentum, (1 + step) / (10 + step))
        expected = m * expected + (1 - m) * step**2
        assert value(teacher.network) == pytest.approx(expected, rel=1e-5)
    assert teacher.updates == 12
    assert value(student) == 121.0


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.999])
def test_without_a_warm_up_every_update_has_the_momentum_itself(momentum: float) -> None:
    teacher, student, expected = MeanTeacher(scalar(5.0), momentum, warm_up=False), scalar(5.0), 5.0
    for step in range(12):
        assert teacher.in_force == momentum
        nn.init.constant_(student.weight, float(step**2))
        teacher.update(student)
        expected = momentum * expected + (1 - momentum) * step**2
        assert value(teacher.network) == pytest.approx(expected, rel=1e-5)


def test_buffers_are_copied_not_averaged() -> None:
    student = nn.BatchNorm1d(2)
    teacher = MeanTeacher(student, 0.999)
    student(10 + torch.randn(8, 2))
    teacher.update(student)
    copied, buffers = dict(teacher.network.named_buffers()), dict(student.named_buffers())
    assert torch.equal(copied["running_mean"], buffers["running_mean"])
    assert copied["num_batches_tracked"].item() == 1


def test_updating_keeps_no_graph() -> None:
    teacher = MeanTeacher(scalar(0.0), 0.5)
    teacher.update(scalar(-1.0).requires_grad_())
    assert value(teacher.network) == pytest.approx(-0.9)  # the first momentum is 1/10
    assert all(p.grad_fn is None and not p.requires_grad for p in teacher.network.parameters())


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan")])
def test_impossible_momentum_is_named(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum is {momentum}"):
        MeanTeacher(scalar(0.0), momentum)


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        MeanTeacher(nn.Linear(1, 1), 0.9).update(scalar(0.0))


finite = st.floats(-100, 100, allow_nan=False)
momenta = st.floats(0, 1, exclude_max=True)


@settings(max_examples=50, deadline=None)
@given(start=finite, values=st.lists(finite, max_size=12), momentum=momenta)
def test_the_teacher_stays_among_the_students_it_has_seen(start: float, values: list[float], momentum: float) -> None:
    teacher = MeanTeacher(scalar(start), momentum)
    for seen in values:
        teacher.update(scalar(seen))
    assert min([start, *values]) - 1e-3 <= value(teacher.network) <= max([start, *values]) + 1e-3
