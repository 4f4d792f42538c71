"""One process with models in it: everything a replica is, without Ray."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from models import registry
from models.predictor import Predictor
from serving.config import ServingConfig
from serving.engine import batching
from serving.engine.batching import Outcome, Rater, Work, make_interruptible
from serving.engine.engine import Compute, Engine
from serving.engine.health import Health
from serving.engine.slots import ModelSlot, ModelState, Refused, public, warm_up
from serving.errors import Problem, refused
from serving.metrics import Metrics

log = logging.getLogger(__name__)

Together = Callable[[list[Work]], Awaitable[list[Outcome]]]
Open = Callable[[str], Awaitable[ModelSlot]]


def alone(together: Together) -> Compute:
    """Make a function that computes a batch of one, at once."""

    async def compute(work: Work) -> Outcome:
        return (await together([work]))[0]

    return compute


def kept(load: Open) -> Open:
    """Make a function that loads each model once and keeps it."""
    slots: dict[str, ModelSlot] = {}

    async def find(name: str) -> ModelSlot:
        if name not in slots:
            slots[name] = await load(name)
        return slots[name]

    return find


class Replica(Engine):
    """An engine with the default model, always warm, and others on demand. A :class:`serving.http.routes.Backend` by
    itself.

    Args:
        config: of the service.
        metrics: counts.
        batched: turns a function of many works into one of a single work; Ray Serve's collects them. Used where
            they are stacked: elsewhere a picture would wait for those that were computed after it.
        cached: turns a loader of models into one that keeps some; Ray Serve's also knows where they are.
        on_sick: called when this replica cannot compute any more; see :mod:`serving.engine.health`.

    Raises:
        ConfigError: the default model cannot be loaded or fails its warm-up, or there is no such scorer.
    """

    def __init__(
        self,
        config: ServingConfig,
        metrics: Metrics | None = None,
        *,
        batched: Callable[[Together], Compute] = alone,
        cached: Callable[[Open], Open] = kept,
        on_sick: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._device = "cuda" if config.scaling.num_gpus and torch.cuda.is_available() else "cpu"
        stack = config.batching.stack
        self._stacked = stack == "always" or (stack == "auto" and self._device != "cpu")
        torch.set_num_threads(config.threads)
        self._refused: Refused = {}
        self._default = self._open(config.default_name, config.model)
        self._others: weakref.WeakValueDictionary[str, ModelSlot] = weakref.WeakValueDictionary()
        self._other = cached(self._load_other)
        self._scorer = self._load_scorer()
        # Torch counts threads for each of ours: those of the network here, none beside the picture threads.
        self._computing = ThreadPoolExecutor(1, "compute", torch.set_num_threads, (config.threads,))
        self._health = Health(config.health, self._compute_tiny, self._computing, on_sick)
        super().__init__(
            config.limits,
            (batched if self._stacked else alone)(self._together),
            self._slot,
            threads=config.picture_threads,
            max_pixels=config.max_pixels_held,
            metrics=metrics or Metrics(),
        )

    def check_health(self) -> None:
        """See :meth:`Health.check`."""
        self._health.check()

    async def models(self) -> list[ModelState] | Problem:
        """Return the default model, and the others as far as this replica knows them; a problem when it cannot
        compute.
        """
        if self._health.sick is not None:
            return Problem(503, "unavailable", "the replica cannot compute any more", 1.0)
        states = [self._default.state(default=True)]
        for name, source in self._config.models.items():
            slot = self._others.get(name)
            states.append(ModelState(name, public(source), None, "on demand") if slot is None else slot.state())
        return states

    def refresh(self) -> None:
        """Follow the aliases. Blocks while a new model is loaded."""
        for slot in [self._default, *self._others.values()]:
            slot.refresh()

    async def follow(self) -> None:
        """Call :meth:`refresh` every ``poll_s``, for ever."""
        while True:
            await asyncio.sleep(self._config.poll_s)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:
                log.exception("asking for new models failed; tried again in %g s", self._config.poll_s)

    async def there(self) -> bool:
        """Say whether the replica can compute."""
        return self._health.sick is None

    async def _slot(self, name: str | None) -> ModelSlot:
        if name is None:
            return self._default
        if name not in self._config.models:
            raise refused(400, f"model: there is no '{name}'", "unknown_model")
        return await self._other(name)

    async def _load_other(self, name: str) -> ModelSlot:
        slot = await asyncio.to_thread(self._open, name, self._config.models[name])
        self._others[name] = slot
        return slot

    def _open(self, name: str, source: str) -> ModelSlot:
        uri = self._config.tracking_uri
        return ModelSlot(name, source, self._load, lambda asked: registry.resolve(asked, uri), self._refused)

    def _load(self, version: str) -> Predictor:
        config = self._config
        predictor = Predictor(
            version,
            config.tracking_uri,
            limits=config.limits,
            execution=config.inference,
            device=self._device,
            allow_networks=config.allow_networks,
        )
        if not config.inference.compile:
            make_interruptible(predictor.network)
        return predictor

    def _load_scorer(self) -> Rater | None:
        if self._config.scorer is None:
            return None
        from pseudolabel.scorer import load_scorer

        return load_scorer(self._config.scorer, self._device)

    async def _together(self, works: list[Work]) -> list[Outcome]:
        self._metrics.batch(len(works))

        def compute() -> list[Outcome]:
            return batching.run(works, self._scorer, stack=self._stacked)

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._computing, lambda: self._health.watched(works, compute))

    def _compute_tiny(self) -> None:
        warm_up(self._default.current[1])
        if self._scorer is not None:
            self._scorer.rate_each([torch.full((1, 3, 64, 64), 0.5)])


def require_model(config: ServingConfig) -> None:
    """Find out that the default model is missing or makes no pictures where the message is one line, and not in
    replicas that keep dying.

    Raises:
        ConfigError: so it is.
    """
    version = registry.resolve(config.model, config.tracking_uri)
    warm_up(Predictor(version, config.tracking_uri, allow_networks=config.allow_networks))
