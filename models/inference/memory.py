"""Devices: which there are, how much memory they have, and how much a computation takes at its peak."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.config import ConfigError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNKNOWN = 4 << 30  # where the system does not say what is free


def device_of(name: str | torch.device | None = None) -> torch.device:
    """Return a device by its name; without one, or by ``auto``, the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: no such device here.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(("cuda" if there else "cpu") if name in (None, "auto") else str(name))
    except RuntimeError:
        # Of a kind that is refused below, with the same words.
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device is '{name}'; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= there:
        raise ConfigError(f"--device {name}: there is no such GPU here; expected cpu, or auto")
    return device


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be used on a device: of the GPU, or of the machine and its container, whichever
    is less.
    """
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        # What torch keeps in reserve counts as taken there, and is not.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_machine(_MEMINFO), _container(_CGROUP))


def _machine(meminfo: Path) -> int:
    if not meminfo.is_file():
        return _UNKNOWN
    kilobytes = [line.split()[1] for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) << 10 if kilobytes else _UNKNOWN


def _container(cgroup: Path) -> int:
    """Return the bytes that the control group has left; page cache counts as used there, so this errs on the small
    side.
    """
    limit, current = cgroup / "memory.max", cgroup / "memory.current"
    if not limit.is_file() or not current.is_file() or limit.read_text().strip() == "max":
        return 1 << 62
    return max(0, int(limit.read_text()) - int(current.read_text()))


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its subclass hook untyped
    """Adds up the storages that operations make, and subtracts them when they are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        # It goes with the last of its tensors.
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.live -= size


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most memory that the tensors made by ``work`` take at any moment, in bytes, on all devices
    together.
    """
    meter = _Meter()
    with meter:
        work()
    return meter.peak
