"""The released DGUNet, on the reference that its authors' program made: values of all seven stages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from models.networks.bands import banded
from models.networks.dgun import load_released_dgunet
from tests.parity.fixtures import FIXTURES, random_of


def _weight(name: str, shape: list[int]) -> Tensor:
    """The weight of a parameter, as the fixtures' README defines it."""
    x = random_of(name, shape)
    if name.rpartition(".")[2] in ("r0", "r1", "r6"):
        x = np.full(shape, 0.5)
    elif name.endswith("weight") and shape == [1]:
        x = np.full(shape, 0.25)
    elif len(shape) >= 2:
        x = x / np.sqrt(np.prod(shape[1:])) * (0.5 if len(shape) == 4 else 1.0)
    else:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return torch.from_numpy(x).float()


@pytest.mark.parametrize("band", [None, 4000])
def test_released_dgunet_parity(band: int | None) -> None:
    keys = json.loads((FIXTURES / "dgunet_official_keys.json").read_text())["keys"]
    expected = np.load(FIXTURES / "dgunet_official.npz")
    network = load_released_dgunet({name: _weight(name, shape) for name, shape in keys.items()})
    hazy = torch.from_numpy(expected["x"])
    with torch.inference_mode():
        if band is None:
            out = network(hazy)
        else:
            with banded(band):
                out = network(hazy)
    assert len(out.scenes) == 7
    for stage in range(7):
        np.testing.assert_allclose(out.scenes[6 - stage].numpy(), expected[f"stage_{stage}"], atol=2e-4, rtol=0)
