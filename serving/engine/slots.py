"""A model that is served: warm before it answers, and replaced without a pause when its alias moves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from models.config import ConfigError
from models.predictor import Predictor
from models.registry import SCHEME, RefusedError

log = logging.getLogger(__name__)

_SIDE = 64  # pixels of the warm-up image
_LIMIT = 1e-3  # how far outside [0, 1] rounding may lead


Load = Callable[[str], Predictor]  # a pinned source -> its network
Resolve = Callable[[str], str]  # a source -> the pinned source that it stands for now


class WarmUpError(RefusedError):
    """A model that was loaded but does not dehaze its warm-up image."""


Refused = dict[str, tuple[type[RefusedError], str]]  # a version of a registry -> why it is not tried again


@dataclass(frozen=True)
class ModelState:
    """A model as ``/v1/models`` shows it.

    Attributes:
        name: what ``model=`` takes.
        source: what the configuration says; of a folder only its name.
        version: what is served now, likewise; None when it is loaded on demand and was not yet.
        status: ``ready``, or ``on demand``.
        problem: why the newest version is not served, or None.
        default: it answers when ``model=`` is not given.
    """

    name: str
    source: str
    version: str | None
    status: Literal["ready", "on demand"]
    problem: str | None = None
    default: bool = False


def public(source: str) -> str:
    """Return a source without the folders above it, which concern nobody outside."""
    return source if source.startswith(SCHEME) else Path(source).name


def warm_up(network: Predictor) -> None:
    """Dehaze a made-up image.

    Raises:
        WarmUpError: it fails, or what comes is no image of that size.
        ConfigError: there is no memory at the moment.
    """
    ramp = torch.linspace(0.2, 0.9, _SIDE)
    image = torch.stack([ramp.expand(_SIDE, _SIDE), ramp.expand(_SIDE, _SIDE).T, 0.5 * torch.ones(_SIDE, _SIDE)])[None]
    try:
        scene = network.run(image).scene
    except (MemoryError, torch.OutOfMemoryError) as problem:  # another time there may be enough
        raise ConfigError("there is not enough memory for the warm-up image") from problem
    except Exception as problem:  # whatever a network of somebody's own raises
        raise WarmUpError(f"the model fails on its warm-up image: {type(problem).__name__}: {problem}") from problem
    if scene.shape != image.shape:
        raise WarmUpError(f"the model makes {tuple(scene.shape)} of a warm-up image of {tuple(image.shape)}")
    if not torch.isfinite(scene).all() or scene.min() < -_LIMIT or scene.max() > 1 + _LIMIT:
        raise WarmUpError("the model makes no image of its warm-up image: values are not finite, or outside [0, 1]")


class ModelSlot:
    """One model by its name. Requests take :attr:`current` once and keep it to their end, so a change fails none.

    Args:
        name: what ``model=`` takes.
        source: packaged name, checkpoint folder, or ``models:/name@alias``; an alias is followed.
        load: makes a network of what ``resolve`` gives.
        resolve: asks what the source stands for now.
        refused: versions that are known to be of no use; others are added. Slots may share it.

    Raises:
        ConfigError: the model cannot be loaded, or fails its warm-up.
    """

    def __init__(self, name: str, source: str, load: Load, resolve: Resolve, refused: Refused | None = None) -> None:
        self.name = name
        self.source = source
        self._load, self._resolve = load, resolve
        self._refreshing = threading.Lock()
        self._refused: Refused = {} if refused is None else refused
        self.problem: str | None = None
        version = resolve(source)
        self.current: tuple[str, Predictor] = version, self._warm(version)

    def refresh(self) -> bool:
        """Ask what the source stands for, and take that when it is warm; the old one answers until then, and stays
        when the new one fails. Blocks while it loads.

        Returns:
            whether the model changed.
        """
        with self._refreshing:
            try:
                version = self._resolve(self.source)
                if version == self.current[0]:
                    self.problem = None
                    return False
                network = self._warm(version)
            except WarmUpError as problem:
                self._keep(f"{public(version)} is not taken: {problem}", problem)
                return False
            except RefusedError as problem:  # whose text names folders, which concern nobody outside
                self._keep(f"{public(version)} is not taken: it cannot be loaded; the log says why", problem)
                return False
            except (ConfigError, OSError) as problem:  # tried again the next time
                self._keep("the newest version cannot be had at the moment; the log says why", problem)
                return False
            log.warning("%s: %s replaces %s", self.name, version, self.current[0])
            self.current, self.problem = (version, network), None
            return True

    def state(self, *, default: bool = False) -> ModelState:
        """Return how a slot is."""
        return ModelState(self.name, public(self.source), public(self.current[0]), "ready", self.problem, default)

    def _keep(self, told: str, problem: Exception) -> None:
        if told != self.problem:
            log.error("%s stays at %s: %s", self.name, self.current[0], problem)
        self.problem = told

    def _warm(self, version: str) -> Predictor:
        if version in self._refused:
            kind, reason = self._refused[version]
            raise kind(reason)
        try:
            network = self._load(version)
            warm_up(network)
        except RefusedError as problem:
            if self.source.startswith(SCHEME):  # a version never changes; a folder may
                self._refused[version] = type(problem), str(problem)
            raise
        return network
