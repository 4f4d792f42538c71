"""The re-implementation computes what the authors' released CORUN computes, from their parameter names."""

from __future__ import annotations

import json

import numpy as np
import torch

from models.networks.corun import load_released_corun
from tests.parity.fixtures import FIXTURES, random_of


def _weight(name: str, shape: list[int]) -> torch.Tensor:
    x = random_of(name, shape)
    if len(shape) >= 2 and not name.endswith("rescale"):
        x = x / np.sqrt(np.prod(shape[1:])) * (0.2 if ".mapping." in name else 1.0)
    elif name.endswith("rescale"):
        x = 1 + 0.5 * np.abs(x)
    elif name.endswith("step_lambda"):
        x = 0.5 + 0.1 * np.abs(x)
    else:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return torch.from_numpy(x).float()


def test_released_corun_parity() -> None:
    keys = json.loads((FIXTURES / "corun_official_depth4_keys.json").read_text())["keys"]
    expected = np.load(FIXTURES / "corun_official_depth4.npz")
    network = load_released_corun({name: _weight(name, shape) for name, shape in keys.items()})
    assert sum(p.numel() for p in network.parameters()) == 18_674_262
    with torch.no_grad():
        out = network(torch.from_numpy(expected["x"]))
    for stage in range(4):
        np.testing.assert_allclose(out.scenes[3 - stage].numpy(), expected[f"scene_{stage}"], atol=2e-4, rtol=0)
        np.testing.assert_allclose(
            out.transmissions[3 - stage].numpy(), expected[f"trans_hat_{stage}"], atol=2e-4, rtol=0
        )
