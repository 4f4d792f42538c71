"""Names to networks: what a configuration builds, and the weights that ship with the project."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from models.cddgan import Cddgan, CddganConfig
from models.checkpoint import load_network, read_config
from models.corun import Corun, CorunConfig
from models.dgun import Dgun, DgunConfig
from models.physics import DarkChannelPrior
from models.settings import ConfigError, Settings, nearest, parse

WEIGHTS = Path(__file__).parent / "weights"
DEFAULT = "corun-compact"
PACKAGED = (DEFAULT,)
NAMES = (*PACKAGED, "dcp")
_CONFIGURED: dict[str, tuple[Callable[[Any], nn.Module], type[Settings]]] = {
    "cddgan": (Cddgan, CddganConfig),
    "corun": (Corun, CorunConfig),
    "dgun": (Dgun, DgunConfig),
}
NETWORKS = (*_CONFIGURED, "dcp")


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode on the CPU, what it was asked for by, and its resolved configuration."""

    network: nn.Module
    name: str
    config: dict[str, Any]


def build(config: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights from its configuration.

    Args:
        config: ``{"name": "corun", "stages": 4, "dim": 30}``, likewise ``dgun`` and ``cddgan``; ``{"name": "dcp"}``; or
            an import path of one's own ``torch.nn.Module``, ``{"name": "package.module:Class", ...keyword arguments}``.

    Raises:
        ConfigError: unknown name or key, each with its nearest neighbour.
    """
    options = dict(config)
    name = str(options.pop("name", ""))
    if name in _CONFIGURED:
        make, config_of = _CONFIGURED[name]
        return make(parse(config_of, options, "network"))
    if name == "dcp":
        return _made("dcp", DarkChannelPrior, options)
    if ":" in name:
        return _imported(name, options)
    raise ConfigError(f"unknown network {name!r}{nearest(name, list(NETWORKS))}")


def _imported(path: str, options: dict[str, Any]) -> nn.Module:
    module, _, attribute = path.partition(":")
    try:
        return _made(path, getattr(importlib.import_module(module), attribute), options)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ConfigError(f"cannot build network {path!r}: {problem}") from problem


def _made(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> nn.Module:
    try:
        network = make(**options)
    except (TypeError, ValueError, RuntimeError) as problem:  # what constructors raise for arguments they refuse
        raise ConfigError(f"cannot build network {name!r}: {problem}") from problem
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name!r} gives a {type(network).__name__}; expected a torch.nn.Module")
    return network


def load(name_or_path: str) -> Loaded:
    """A network with trained weights: a packaged name, ``dcp`` or a checkpoint folder.

    Raises:
        ConfigError: neither a known name (the nearest is named) nor a checkpoint folder.
    """
    if name_or_path == "dcp":
        return Loaded(DarkChannelPrior().eval(), "dcp", {"network": {"name": "dcp"}})
    folder = WEIGHTS / name_or_path if name_or_path in PACKAGED else Path(name_or_path)
    if not name_or_path or not folder.is_dir():
        raise ConfigError(f"no model {name_or_path!r}: not a checkpoint folder{nearest(name_or_path, list(NAMES))}")
    return Loaded(load_network(folder), name_or_path, read_config(folder))
