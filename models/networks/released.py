"""Loading weights that the authors of a network released under names of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn


def renamed(name: str, table: Mapping[str, str]) -> str:
    """Return ``name`` with the first prefix that ``table`` knows, up to a dot, replaced.

    Raises:
        ValueError: the table knows none.
    """
    for ours, theirs in table.items():
        if name == ours or name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    raise ValueError(f"no released name for parameter {name!r}")


def load_renamed(
    network: nn.Module, state_dict: Mapping[str, Tensor], names: Mapping[str, str], unused: Collection[str] = ()
) -> None:
    """Load released weights and put the network into evaluation mode.

    Args:
        network: takes the weights.
        state_dict: the released weights.
        names: of each of the network's parameters, the released one.
        unused: released names that may be there and are not needed.

    Raises:
        ValueError: names that do not match, each listed.
        RuntimeError: shapes that do not match, each listed.
    """
    missing = sorted(set(names.values()) - set(state_dict))
    unknown = sorted(set(state_dict) - set(names.values()) - set(unused))
    if missing or unknown:
        raise ValueError(f"unmatched names: missing {missing}, unknown {unknown}")
    network.load_state_dict({name: state_dict[theirs] for name, theirs in names.items()})
    network.eval()
