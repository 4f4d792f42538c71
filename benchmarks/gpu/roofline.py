"""What a device can do at most, measured, and what a network asks of it, counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_REPEATS, _PATIENCE = 10, 3.0  # at most so many calls, or seconds after the third


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call after it has warmed up; by CUDA's own clock on a GPU."""
    for _ in range(2):
        work()
    times: list[float] = []
    until = time.monotonic() + _PATIENCE
    while len(times) < _REPEATS and (len(times) < 3 or time.monotonic() < until):
        times.append(_one(work, device))
    return statistics.median(times)


def _one(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()  # type: ignore[no-untyped-call]
    work()
    last.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    return float(first.elapsed_time(last)) / 1e3  # type: ignore[no-untyped-call]


def limits(device: torch.device, *, small: bool = False) -> dict[str, float]:
    """Measure the operations per second of matrix products, by precision, and the bytes per second of a copy, read and
    written.
    """
    side = 512 if small else 8192
    found = {}
    for name, dtype in DTYPES.items():
        if device.type == "cuda" or name == "float32":
            one = torch.randn(side, side, device=device).to(dtype)
            found[name] = 2 * side**3 / seconds_of(lambda one=one: one @ one, device)  # type: ignore[misc]
    source = torch.empty(side * side * (1 if small else 8), device=device)
    target = torch.empty_like(source)
    found["bytes"] = 2 * source.numel() * 4 / seconds_of(lambda: target.copy_(source), device)
    return found


class _Traffic(TorchDispatchMode):
    """Bytes that operators read and write, each operator for itself; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            tensors = [leaf for leaf in tree_iter((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


@torch.no_grad()
def demand(network: nn.Module, image: Tensor) -> dict[str, float]:
    """Count the floating point operations of a forward pass, and the bytes that its operators move in eager float32."""
    with FlopCounterMode(display=False) as flops:
        network(image)
    with _Traffic() as traffic:
        network(image)
    return {"flops": float(flops.get_total_flops()), "bytes": float(traffic.bytes)}
