"""What a run asks of a cluster, and whether the cluster can ever have it. No Ray, no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TINY = 1e-6  # what adding fractions may be off by
_KINDS = ("GPU", "CPU")


@dataclass(frozen=True)
class Ask:
    """``count`` processes with so many CPUs and GPUs each; ``keys`` say how many and how much."""

    what: str
    count: int
    cpus: float
    gpus: float
    keys: str

    @property
    def bundle(self) -> dict[str, float]:
        """Return what each asks of one node, as Ray has it."""
        return {kind: amount for kind, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def __str__(self) -> str:
        each = " and ".join(_amount(kind, self.bundle[kind]) for kind in _KINDS if kind in self.bundle) or "nothing"
        return f"{self.count} {self.what}{'s with' if self.count > 1 else ' with'} {each}{' each' * (self.count > 1)}"


@dataclass(frozen=True)
class Capacity:
    """The nodes that a cluster has, or may come to have.

    Attributes:
        nodes: resources of each.
        final: whether there can be no others.
    """

    nodes: tuple[Mapping[str, float], ...]
    final: bool = True


def total(bundles: Iterable[Mapping[str, float]]) -> Counter[str]:
    """Add up bundles, by kind."""
    sums: Counter[str] = Counter()
    for bundle in bundles:
        sums.update(bundle)
    return sums


def refusal(asks: Sequence[Ask], capacity: Capacity) -> str | None:
    """Return why a cluster can never have room for all of this at a time; None where it may."""
    if not capacity.final:
        return None
    have = total(capacity.nodes)
    wanted = total(ask.bundle for ask in asks for _ in range(ask.count))
    for kind in _KINDS:
        if wanted[kind] > have[kind] + _TINY:
            parts = [ask for ask in asks if ask.bundle.get(kind)]
            return (
                f"this needs {_amount(kind, wanted[kind])}, and the cluster has {_amount(kind, have[kind])} at most: "
                f"{', '.join(f'{ask} ({ask.keys})' for ask in parts)}; ask for less, or for more nodes"
            )
    for ask in asks:
        if not any(all(node.get(k, 0) + _TINY >= v for k, v in ask.bundle.items()) for node in capacity.nodes):
            wants = " and ".join(_amount(kind, amount) for kind, amount in ask.bundle.items())
            return f"a {ask.what} needs a node with {wants}, and there is none ({ask.keys})"
    return None


def capacity_of(launcher: Mapping[str, Any]) -> Capacity | None:
    """Return what a file of Ray's launcher (``cluster.yaml``) lets a cluster grow to; None where it does not say."""
    nodes: list[Mapping[str, float]] = []
    everything = int(launcher.get("max_workers", 0))
    for name, kind in launcher["available_node_types"].items():
        head = name == launcher["head_node_type"]
        count = min(int(kind.get("max_workers", everything)), everything) + head
        if count and not kind.get("resources"):
            return None
        nodes += [kind.get("resources", {})] * count
    return Capacity(tuple(nodes))


def listed(asks: Sequence[Ask]) -> str:
    """Return the asks as text for a message."""
    return ", ".join(map(str, asks))


def _amount(kind: str, amount: float) -> str:
    return f"{round(amount, 4):g} {kind}{'' if 0 < amount <= 1 else 's'}"
