"""Checkpoints: a folder with ``model.safetensors``, ``config.json`` and, where they belong, training state and metrics.

Nothing is ever unpickled: weights are safetensors, training state is read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import nn

from models.config import ConfigError
from models.paths import child, is_uri, local_copy
from models.weights_files import no_weights, read_safetensors, read_torch, read_weights_file

MODEL = "model.safetensors"
CONFIG = "config.json"
STATE = "training_state.pt"
METRICS = "metrics.json"


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def save(
    folder: str | os.PathLike[str],
    network: nn.Module,
    config: Mapping[str, Any],
    *,
    metrics: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder.

    Args:
        folder: made when missing.
        network: its weights.
        config: the resolved configuration; ``config["network"]`` is what :func:`models.zoo.build` takes.
        metrics: numbers that belong to these weights.
        state: tensors, numbers and strings that training resumes from.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    # Cloned, as safetensors refuses tensors that share memory.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(weights, target / MODEL)
    _write_json(target / CONFIG, config)
    if metrics is not None:
        _write_json(target / METRICS, metrics)
    if state is not None:
        torch.save(dict(state), target / STATE)
    return target


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the resolved configuration of a checkpoint, in a local folder or at a URI.

    Raises:
        ConfigError: no checkpoint there, or an unreadable one.
    """
    if is_uri(folder):
        with _fetched(folder, CONFIG) as copy:
            return _parsed(copy, child(os.fspath(folder), CONFIG))
    path = Path(folder) / CONFIG
    if not path.is_file() or not (Path(folder) / MODEL).is_file():
        raise _no_checkpoint(folder)
    return _parsed(path, path)


def _no_checkpoint(folder: str | os.PathLike[str]) -> ConfigError:
    return ConfigError(f"{os.fspath(folder)} is no checkpoint: expected {MODEL} and {CONFIG} in it")


@contextmanager
def _fetched(folder: str | os.PathLike[str], name: str) -> Iterator[Path]:
    """A file of a checkpoint at a URI on this machine, for a while."""
    try:
        with local_copy(os.fspath(folder), (name,)) as copy:
            if not (copy / name).is_file():
                raise _no_checkpoint(folder)
            yield copy / name
    except OSError as problem:
        raise ConfigError(f"cannot read {os.fspath(folder)}: {problem}") from problem


def _parsed(file: Path, path: str | Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except ValueError as problem:
        raise ConfigError(f"{path} is not JSON: {no_weights(file) or problem}") from problem
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise ConfigError(f"{path} has no 'network': it does not say which network the weights are of")
    return config


def read_weights(folder: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, in a local folder or at a URI, to the CPU.

    Raises:
        ConfigError: not a safetensors file.
    """
    if is_uri(folder):
        with _fetched(folder, MODEL) as copy:
            return read_safetensors(copy)
    return read_safetensors(Path(folder) / MODEL)


def weights_hash(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_state(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read what training resumes from; None in a checkpoint without it."""
    path = Path(folder) / STATE
    if not path.is_file():
        return None
    return read_torch(path)


def _released(state_dict: dict[str, torch.Tensor]) -> tuple[str, nn.Module]:
    """Name and network of a released layout, told by a name that only it has."""
    from models.networks import load_released_corun, load_released_dgunet

    if "shallow_feat1.0.weight" in state_dict:
        return "dgun", load_released_dgunet(state_dict)
    return "corun", load_released_corun(state_dict)


def read_released(source: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read weights by name, to the CPU, from a file that somebody else's program wrote; nothing in it is run.

    Args:
        source: safetensors, or what ``torch.save`` wrote: a state dict, or one under ``params_ema``, ``params`` or
            ``state_dict``. The ``module.`` that distributed training puts before names is taken away.

    Raises:
        ConfigError: the file is missing, unreadable, or holds no state dict.
    """
    content = read_weights_file(source)
    released = next((content[key] for key in ("params_ema", "params", "state_dict") if key in content), content)
    if not isinstance(released, dict) or not all(isinstance(value, torch.Tensor) for value in released.values()):
        raise ConfigError(f"{source} holds no state dict: expected tensors by name, or these under 'params_ema'")
    return {str(key).removeprefix("module."): value for key, value in released.items()}


def convert(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Turn the authors' released CORUN or DGUNet weights (``.pth``) into a checkpoint folder.

    Raises:
        ConfigError: the file is missing, is not a plain state dict, or names do not match (each is listed).
    """
    released = read_released(source)
    try:
        name, network = _released(released)
    except (ValueError, RuntimeError) as problem:
        raise ConfigError(f"{source}: {problem}") from problem
    config: BaseModel = network.config  # type: ignore[assignment]  # both networks have one
    return save(folder, network, {"network": {"name": name, **config.model_dump()}})
