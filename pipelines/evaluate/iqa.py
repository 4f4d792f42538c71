"""Learned metrics whose weights are not the project's: LPIPS, and those of pyiqa. No Ray.

Weights are files that are at hand: given by the user, or in the cache that torchvision or pyiqa filled before. Nothing
is downloaded, nothing is unpickled, and a metric without its weights does not run: random ones would give numbers too.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from models import images
from models.checkpoints import read_released, weights_hash
from models.config import ConfigError, environment
from models.weights_files import reason_of
from pipelines.evaluate.metrics import METRICS, PYIQA, PYIQA_LICENSE, Pixels

ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's name of the weights that LPIPS was calibrated on
_WHOLE = ("nima", "nima-vgg16-ava")  # pyiqa requires their file to hold every weight, the backbone's too
LPIPS_SMALLEST = 32  # pixels: AlexNet's strides leave nothing of less


def torchvision_cache() -> Path:
    """Return where torchvision keeps what it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Lpips:
    """Learned perceptual distance of two images, by the authors' package.

    Args:
        weights: file with torchvision's AlexNet; None for the one in torchvision's cache.
        device: to compute on.

    Raises:
        ConfigError: the package or the weights are not there, or do not fit.
    """

    def __init__(self, weights: str | None = None, device: str = "cpu") -> None:
        path = Path(weights) if weights else torchvision_cache() / ALEXNET
        try:
            package = importlib.import_module("lpips")
        except ImportError as problem:
            raise ConfigError(
                f"metric 'lpips' needs the package lpips ({problem}): pip install 'ray-dehaze[metrics]'"
            ) from problem
        if not path.is_file():
            raise ConfigError(
                f"metric 'lpips' has no AlexNet: there is no file {path}; put torchvision's {ALEXNET} there or give "
                "its path by --metric-weights lpips=FILE"
            )
        state = read_released(path)
        network = package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        trunk = network.net
        slices = [getattr(trunk, f"slice{number}") for number in range(1, trunk.N_slices + 1)]
        try:
            for place, layer in ((place, layer) for part in slices for place, layer in part.named_children()):
                if layer.state_dict():
                    layer.load_state_dict({key: state[f"features.{place}.{key}"] for key in layer.state_dict()})
        except (KeyError, RuntimeError) as problem:
            raise ConfigError(f"{path} is no state dict of torchvision's alexnet: {problem}") from problem
        self._network: nn.Module = network.eval().to(device)
        self._device = device
        self.about = {"backbone": "AlexNet", "weights": path.name, "weights_sha256": file_hash(path)}

    def __call__(self, image: Pixels, reference: Pixels) -> float:
        """Return the distance of two uint8 RGB (H, W, 3) of one size; NaN where they are too small for AlexNet."""
        if min(image.shape[:2]) < LPIPS_SMALLEST:
            return float("nan")
        pair = images.to_tensor(np.stack([image, reference])).to(self._device) * 2 - 1
        with torch.inference_mode():
            return float(self._network(pair[:1], pair[1:]))


class Pyiqa:
    """A no-reference metric of pyiqa.

    Args:
        name: of the column.
        weights: a file for its network; None for what its cache holds.
        device: to compute on.

    Raises:
        ConfigError: pyiqa is not installed, or the weights are not at hand or do not fit.
    """

    def __init__(self, name: str, weights: str | None = None, device: str = "cpu") -> None:
        with self._refusing(name, weights):
            pyiqa = importlib.import_module("pyiqa")
            options: dict[str, Any] = {"device": torch.device(device)}
            if weights:
                options["pretrained_model_path"] = str(Path(weights).resolve(strict=True))
            with _backbone_from_file() if weights and name in _WHOLE else contextlib.nullcontext():
                metric: nn.Module = pyiqa.create_metric(name.removeprefix(PYIQA), **options)
            probe = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
            with torch.inference_mode():  # some load their weights only now
                metric(probe)
        self._metric = metric.eval()
        self._device = device
        self.lower_better = bool(getattr(metric, "lower_better", METRICS[name].better == "lower"))
        if self.lower_better != (METRICS[name].better == "lower"):
            raise ConfigError(f"pyiqa's '{name}' says that lower_better is {self.lower_better}; this project disagrees")
        self.about = {
            "metric": name.removeprefix(PYIQA),
            "network": type(getattr(metric, "net", metric)).__name__,
            "license": PYIQA_LICENSE,
        }
        self.about |= {"weights_sha256": weights_hash(metric)}
        if weights:
            self.about |= {"weights": Path(weights).name, "file_sha256": file_hash(Path(weights))}

    @staticmethod
    @contextlib.contextmanager
    def _refusing(name: str, weights: str | None) -> Iterator[None]:
        """Every reason why pyiqa cannot run, as a sentence with the remedy."""
        try:
            with (
                without_network(),
                contextlib.redirect_stderr(io.StringIO()),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                yield  # quietly: loaders announce downloads that do not happen
        except ImportError as problem:
            raise ConfigError(
                f"metric '{name}' needs pyiqa ({problem}): pip install 'ray-dehaze[iqa]'; {PYIQA_LICENSE}"
            ) from problem
        except Exception as problem:  # pyiqa, timm, hub and torch raise many kinds
            reason = reason_of(problem, *filter(None, [weights]))[:300]
            raise ConfigError(
                f"metric '{name}' cannot run: {reason}; its weights must be in pyiqa's cache or be given by "
                f"--metric-weights {name}=FILE, as nothing is downloaded"
            ) from problem

    def __call__(self, image: Pixels) -> float:
        """Score of uint8 RGB (H, W, 3)."""
        with torch.inference_mode():
            picture = images.to_tensor(np.ascontiguousarray(image)[None]).to(self._device)
            return float(self._metric(picture).reshape(-1)[0])


@contextlib.contextmanager
def _backbone_from_file() -> Iterator[None]:
    """Make timm build networks without weights inside: for metrics that fetch a backbone's only to replace all of
    them.
    """
    import timm

    make = timm.create_model

    def bare(*args: Any, **options: Any) -> Any:
        return make(*args, **options | {"pretrained": False})

    timm.create_model = bare
    try:
        yield
    finally:
        timm.create_model = make


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Resolve no name and unpickle nothing inside: a file that a library would download is missing instead.

    Its own loaders would fetch weights and read them with ``weights_only=False``.
    """

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError("the weights are not at hand, and nothing is downloaded")

    resolve = socket.getaddrinfo
    socket.getaddrinfo = refuse
    try:
        with environment({"HF_HUB_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}):
            yield
    finally:
        socket.getaddrinfo = resolve


def problems(names: Sequence[str], weights: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Find out which of these metrics cannot run and why, and what is to be recorded of the others."""
    reasons: dict[str, str] = {}
    about: dict[str, Any] = {}
    for name in names:
        try:
            about[name] = load(name, weights.get(name)).about
        except ConfigError as problem:
            reasons[name] = str(problem)
    return reasons, about


def load(name: str, weights: str | None, device: str = "cpu") -> Lpips | Pyiqa:
    """Load the metric, ready to run.

    Raises:
        ConfigError: it cannot.
    """
    return Lpips(weights, device) if METRICS[name].provider == "lpips" else Pyiqa(name, weights, device)
