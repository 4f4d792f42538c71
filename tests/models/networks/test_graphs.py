"""A forward pass never waits for its device and takes nothing from another: CUDA graphs record it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from models import zoo

WAITING = {"aten::_local_scalar_dense", "aten::_linalg_check_errors"}


class Watch(TorchDispatchMode):
    """Operators that wait, or have tensors outside of the device ``meta``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_iter((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if func.name() in WAITING or any(tensor.device.type != "meta" for tensor in tensors):
            self.found.add(func.name())
        return out


@pytest.mark.parametrize(
    "config",
    [
        {"name": "corun", "stages": 2, "dim": 8},
        {"name": "dgun"},
        {"name": "cddgan", "width": 16, "blocks": 1, "normalization": "group", "skip": "scattering"},
        {"name": "cddgan", "width": 16, "blocks": 1, "normalization": "none"},
    ],
    ids=lambda config: f"{config['name']} {config.get('normalization', '')}".strip(),
)
def test_all_of_a_forward_pass_is_on_the_device(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_kwargs: contextlib.nullcontext())  # `meta` has none
    network = zoo.build(config).eval().to("meta")
    with torch.no_grad(), Watch() as watch:
        network(torch.rand(1, 3, 32, 32, device="meta"))
    assert watch.found == set()
