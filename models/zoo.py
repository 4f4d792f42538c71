"""Names to networks: what a configuration builds, and the weights that ship with the project."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoints import read_config, read_weights
from models.config import ConfigError, Settings, nearest, parse
from models.haze import DarkChannelPrior
from models.imports import network_class
from models.networks import Cddgan, CddganConfig, Corun, CorunConfig, Dgun, DgunConfig
from models.paths import is_uri
from models.portable import SUFFIX, OnnxNetwork

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


def build(config: Mapping[str, Any], allow: Collection[str] = ()) -> nn.Module:
    """Build a network with fresh weights from its configuration.

    Args:
        config: ``{"name": "corun", "stages": 4, "dim": 30}``, likewise ``dgun`` and ``cddgan``; ``{"name": "dcp"}``; or
            an import path of one's own ``torch.nn.Module``, ``{"name": "package.module:Class", ...keyword arguments}``.
        allow: top-level packages that an import path may name.

    Raises:
        ConfigError: unknown name or key, each with its nearest neighbor; a package that is not allowed.
    """
    options = dict(config)
    name = str(options.pop("name", ""))
    if name in _CONFIGURED:
        make, config_of = _CONFIGURED[name]
        return make(parse(config_of, options, "network"))
    if name == "dcp":
        return _made("dcp", DarkChannelPrior, options)
    if ":" in name:
        return _made(name, network_class(name, allow), options)
    raise ConfigError(f"unknown network {name!r}{nearest(name, list(NETWORKS))}")


def _made(name: str, make: Callable[..., nn.Module], options: Mapping[str, Any]) -> nn.Module:
    try:
        return make(**options)
    except (TypeError, ValueError, RuntimeError) as problem:  # what constructors raise for arguments they refuse
        raise ConfigError(f"cannot build network {name!r}: {problem}") from problem


def config_of(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the resolved configuration of a model that :func:`load` takes, without building anything.

    Raises:
        ConfigError: neither a known name (the nearest is named), nor a checkpoint folder, nor an ONNX file.
    """
    name = os.fspath(name_or_path)
    if name.endswith(SUFFIX):
        return OnnxNetwork(name).config
    return {"network": {"name": "dcp"}} if name == "dcp" else read_config(folder_of(name))


def load(name_or_path: str | os.PathLike[str], allow: Collection[str] = ()) -> Loaded:
    """Load a network with trained weights: a packaged name, ``dcp``, a checkpoint folder or its URI
    (``s3://bucket/model``), or an ONNX file.

    Args:
        name_or_path: see there.
        allow: packages whose networks a checkpoint may name; see :func:`build`.

    Raises:
        ConfigError: none of these (the nearest name is given), or one that cannot be loaded.
    """
    name = os.fspath(name_or_path)
    if name.endswith(SUFFIX):
        exported = OnnxNetwork(name)
        return Loaded(exported.eval(), name, exported.config)
    config = config_of(name)
    if name == "dcp":
        return Loaded(DarkChannelPrior().eval(), name, config)
    return Loaded(load_network(folder_of(name), allow), name, config)


def folder_of(name_or_path: str) -> str | Path:
    """Return where the checkpoint of a packaged name or folder is; a URI as it is.

    Raises:
        ConfigError: neither; the nearest name is given.
    """
    if is_uri(name_or_path):
        return name_or_path
    folder = WEIGHTS / name_or_path if name_or_path in PACKAGED else Path(name_or_path)
    if not name_or_path or not folder.is_dir():
        raise ConfigError(f"no model {name_or_path!r}: not a checkpoint folder{nearest(name_or_path, list(NAMES))}")
    return folder


def load_network(folder: str | os.PathLike[str], allow: Collection[str] = ()) -> nn.Module:
    """Load the network of a checkpoint, in evaluation mode on the CPU, laid out channels-last (faster convolutions
    there).

    Args:
        folder: of the checkpoint.
        allow: packages whose networks it may name, as in ``mypackage.nets:Net``: building one runs code of theirs.

    Raises:
        ConfigError: no checkpoint, an unknown network or one that is not allowed, or weights that do not fit it.
    """
    network = build(read_config(folder)["network"], allow)
    try:
        network.load_state_dict(read_weights(folder))
    except RuntimeError as problem:
        reason = " ".join(str(problem).split())
        raise ConfigError(f"the weights in {folder} do not fit its network: {reason}") from problem
    return network.eval().to(memory_format=torch.channels_last)
