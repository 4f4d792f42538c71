"""Scorers by name, folder, hub name or configuration."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from models.config import ConfigError, nearest
from models.weights_files import reason_of
from pseudolabel.scorer.clip import DACLIP, ClipScorer, finished
from pseudolabel.scorer.config import ScorerConfig
from pseudolabel.scorer.daclip import load_daclip

WEIGHTS = Path(__file__).parents[1] / "weights"


PACKAGED = ("clip-compact",)


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """Keep ``open_clip``, which logs by ``logging.info``, from giving the root logger a handler where it has none: the
    program's own ``logging.basicConfig`` would do nothing then. What is said meanwhile is said as ever.
    """
    root, usual = logging.getLogger(), logging.StreamHandler()
    usual.setLevel(logging.WARNING)
    if not root.handlers:
        root.addHandler(usual)
    try:
        yield
    finally:
        root.removeHandler(usual)


@_logging_left_alone()
def create_clip(
    architecture: str, pretrained: str | None = None, *, load_weights: bool = True, resolution: int | None = None
) -> nn.Module:
    """Create an ``open_clip`` model by its ``open_clip`` name, frozen weights and all.

    Args:
        architecture: its name.
        pretrained: tag or file.
        load_weights: weights are never silently random: without this they are, with it they must be there.
        resolution: side of the images that it shall take; positions are interpolated. None takes its own.

    Raises:
        ConfigError: there is no such model, or its weights cannot be had or do not fit.
    """
    import open_clip

    try:
        model: nn.Module = open_clip.create_model(
            architecture,
            pretrained=pretrained,
            load_weights=load_weights,
            require_pretrained=load_weights,
            force_image_size=resolution,
        )
    except Exception as problem:  # open_clip, torch and safetensors raise many kinds for files and names they refuse
        reason = reason_of(problem, *_files(architecture, pretrained))
        raise ConfigError(f"cannot load scorer {architecture!r}: {reason}") from problem
    return model


def _files(architecture: str, pretrained: str | None) -> list[Path]:
    """The files on this machine that a scorer is loaded from."""
    if architecture.startswith("local-dir:"):
        folder = Path(architecture.removeprefix("local-dir:"))
        return [file for pattern in ("*.json", "*.safetensors", "*.bin", "*.pth") for file in folder.glob(pattern)]
    return [Path(pretrained)] if pretrained is not None and Path(pretrained).is_file() else []


def create_tokenizer(architecture: str) -> object:
    """Create the tokenizer of an ``open_clip`` name. Code that comes with one is never run, whatever its configuration
    says: ``open_clip`` would hand that on to ``transformers``.

    Raises:
        ConfigError: the configuration asks to run code, or the tokenizer cannot be had.
    """
    import open_clip

    try:
        text = (open_clip.get_model_config(architecture) or {}).get("text_cfg", {})
        if "trust_remote_code" not in text.get("tokenizer_kwargs", {}):
            return open_clip.get_tokenizer(architecture)
    except (RuntimeError, OSError, ValueError, TypeError) as problem:
        raise ConfigError(f"cannot load scorer {architecture!r}: {' '.join(str(problem).split())}") from problem
    raise ConfigError(
        f"scorer {architecture!r} asks to run code of its tokenizer ('trust_remote_code' in its "
        "open_clip_config.json): take that out, or choose another scorer"
    )


@_logging_left_alone()
def load_scorer(
    name: str | os.PathLike[str] | ScorerConfig = "clip-compact", device: str | torch.device = "cpu"
) -> ClipScorer:
    """Load a scorer: a packaged name, a folder in ``open_clip`` layout, a hub name, or a full configuration.

    Raises:
        ConfigError: an unknown name (with its nearest neighbor), an architecture without weights, weights that
            cannot be read or do not fit, or a metric that is not installed.
    """
    import open_clip

    config = name if isinstance(name, ScorerConfig) else ScorerConfig(architecture=os.fspath(name))
    full_name = _open_clip_name(config)
    _check_name(full_name, config.pretrained)
    if full_name == DACLIP:
        return load_daclip(str(config.pretrained), config, device)
    clip = create_clip(full_name, config.pretrained, resolution=config.resolution)
    look = open_clip.get_model_preprocess_cfg(clip)
    size = look.get("size", 224)
    resolution = int(size if isinstance(size, int) else size[0])
    tokenize = create_tokenizer(full_name)
    scorer = ClipScorer(clip, tokenize, config, mean=look["mean"], std=look["std"], resolution=resolution)
    return finished(scorer, device)


def _open_clip_name(config: ScorerConfig) -> str:
    """The name that ``open_clip`` understands, with packaged names and folders turned into ``local-dir:``."""
    name = config.architecture
    if name in PACKAGED:
        return f"local-dir:{WEIGHTS / name}"
    if ":" not in name and Path(name).is_dir():
        return f"local-dir:{Path(name).resolve()}"
    return name


def _check_name(name: str, pretrained: str | None) -> None:
    import open_clip

    if name.startswith(("local-dir:", "hf-hub:")):
        return
    known = [DACLIP, *open_clip.list_models()]
    if name not in known:
        raise ConfigError(f"unknown scorer {name!r}{nearest(name, [*PACKAGED, *known])}")
    if pretrained is None:
        raise ConfigError(f"scorer {name!r} has no weights: set 'pretrained' to a tag or to a weights file")
