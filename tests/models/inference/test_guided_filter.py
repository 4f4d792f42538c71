"""Guided filters: their equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from models.inference import guided as filters


def test_guided_filter_is_its_equations() -> None:
    guide, target = torch.rand(2, 1, 1, 20, 17, dtype=torch.float64)

    def mean(x: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.uniform_filter(x, 7, mode="nearest"))

    g, t = guide[0, 0].numpy(), target[0, 0].numpy()
    slope = (mean(g * t) - mean(g) * mean(t)) / (mean(g * g) - mean(g) ** 2 + 1e-3)
    expected = mean(slope) * g + mean(mean(t) - slope * mean(g))
    np.testing.assert_allclose(filters.guided_filter(guide, target, 3, 1e-3)[0, 0], expected, atol=1e-10)


def pooled(field: Tensor, radius: int) -> Tensor:
    """Box means as they were computed before, with time that grows with the square of the radius."""
    padded = functional.pad(field.view(-1, 1, *field.shape[-2:]), (radius,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * radius + 1, stride=1).view(field.shape)


@pytest.mark.parametrize(("radius", "size"), [(0, (9, 9)), (3, (20, 17)), (40, (120, 90)), (40, (60, 300))])
def test_box_means_are_those_of_the_pooling_that_they_replace(radius: int, size: tuple[int, int]) -> None:
    field = torch.rand(2, 1, *size)
    expected = pooled(field.double(), radius).float()
    torch.testing.assert_close(filters.box_mean(field, radius), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(filters.box_mean(field[0, 0], radius), expected[0, 0], atol=1e-6, rtol=0)


def test_color_coefficients_are_a_regression_in_every_window() -> None:
    torch.manual_seed(0)
    guide, target = torch.rand(1, 3, 11, 9, dtype=torch.float64), torch.rand(1, 2, 11, 9, dtype=torch.float64)
    radius, epsilon = 1, 1e-3
    edge = [np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge") for x in (guide, target)]
    fitted = np.zeros((2, 4, 11, 9))
    for y in range(11):
        for x in range(9):
            window, wanted = (part[:, y : y + 3, x : x + 3].reshape(len(part), -1) for part in edge)
            centered = window - window.mean(axis=1, keepdims=True)
            variance = centered @ centered.T / 9 + epsilon * np.eye(3)
            slopes = (wanted - wanted.mean(axis=1, keepdims=True)) @ centered.T / 9 @ np.linalg.inv(variance)
            fitted[:, :3, y, x] = slopes
            fitted[:, 3, y, x] = wanted.mean(axis=1) - slopes @ window.mean(axis=1)
    expected = np.stack([[ndimage.uniform_filter(f, 3, mode="nearest") for f in channel] for channel in fitted])
    found = filters.color_coefficients(guide, target, radius, epsilon)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-9)
