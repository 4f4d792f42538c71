"""Recipes: one YAML file says everything about a training run; unknown keys are errors, the rest has defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from models.config import ConfigError, Settings, parse
from models.haze import HazeConfig
from models.losses import PerceptualConfig
from pipelines.train.methods import CddganTraining, LossWeights, OptimizerConfig, RealWeights, ScoringConfig
from pipelines.train.recipes import recipe_text
from pipelines.train.transforms import Augmentation, CropConfig, RealConfig
from pseudolabel.labeling import LabelWorkers


class LabelConfig(LabelWorkers):
    """Colabator's label pool and label workers; of these see also :class:`pseudolabel.labeling.LabelWorkers`.

    Attributes:
        mode: ``async`` has label workers seed the pool before training and refresh it in the background; ``inline``
            labels each real batch within its training step, as the paper's program does, and has no label workers.
        augmentation: what the student sees of a real photograph: ``published`` is Colabator's strong augmentation,
            which mostly takes contrast and light away; ``symmetric`` a milder one that adds as often.
        jpeg_probability: of a pass of that photograph through a JPEG encoder before it, at one of
            ``haze.jpeg_quality``. Labels are made of the photograph itself.
        batch_size: real photographs per training worker and step.
        max_lost: share of the photographs that may have no label when training begins, because they could not be read
            or label workers failed; where more are lost the run is refused, with the reasons.
        shards: actors of the pool.
        store: folder for the pool's stores on the machines where its shards run, on a local disk: SQLite is not made
            for network file systems. Null puts them below ``--out``, or where that lies on a network or is a URI below
            a folder that each machine chooses. They are removed when the run is done; snapshots stay in ``--out``.
        publish_every: steps between two publications of the teacher.
        max_teacher_lag: how many steps older than the student the weights may be that label workers use. Beyond it
            training waits for them.
        lag_patience: seconds that it waits at most; then it says so and goes on, until they have caught up once.
        picture_every: steps between two pictures of some photographs, their labels and trust maps; 0 for none.
    """

    mode: Literal["async", "inline"] = "async"
    size: int = Field(288, ge=32)  # less would leave nothing to augment
    augmentation: Augmentation = "published"
    jpeg_probability: float = Field(0.5, ge=0, le=1)
    batch_size: int = Field(2, ge=1)
    max_lost: float = Field(0.01, ge=0, le=1)
    shards: int = Field(1, ge=1)
    store: str | None = None
    publish_every: int = Field(50, ge=1)
    max_teacher_lag: int = Field(200, ge=1)
    lag_patience: float = Field(60.0, ge=0)
    picture_every: int = Field(500, ge=0)

    @model_validator(mode="after")
    def _published_in_time(self) -> LabelConfig:
        if self.publish_every > self.max_teacher_lag:
            raise ValueError(
                f"publish_every is {self.publish_every}, and max_teacher_lag is {self.max_teacher_lag}: publish at "
                "least as often as weights may be old"
            )
        return self


class TrainConfig(Settings):
    """The loop and what it asks of the cluster.

    Attributes:
        steps: optimizer steps. A run that is asked for more of them goes on, with the schedule of the new length.
        batch_size: synthetic samples per training worker and step; of CDD-GAN, crops of either domain.
        workers: training workers; gradients are averaged over them, so that fewer make a smaller batch of all.
        min_workers: so few go on when hosts are missing, until hosts that join make them ``workers`` again. The batch
            of all stays what it is: each takes more of it, in more parts. Null: always all of ``workers``.
        worker_cpus: what each asks of Ray (logical CPUs; ``threads`` is what it really computes with).
        worker_gpus: 1 to train on GPUs; whole ones, which two workers cannot share.
        threads: of torch in each worker; 0 shares the cores of the machine between the workers.
        data_cpus: what each data task asks of Ray.
        data_tasks: data tasks at a time, per corpus.
        checkpoint_every: steps between checkpoints, from which an interrupted run goes on.
        log_every: steps between two rows in the log and in MLflow.
        validate_every: steps between two looks at what the mean teacher (of CDD-GAN the averaged generator) makes of
            some held-out clear photographs under synthetic haze: their PSNR and a picture; 0 for none.
        failures: how often in a row a run that lost a worker is resumed by itself; a new checkpoint resets the count.
        seed: of crops, haze and weights.
        find_unused_parameters: for networks of which no loss reaches some parameters; with several workers only, and
            a little slower.
    """

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(8, ge=1)
    workers: int = Field(2, ge=1)
    min_workers: int | None = Field(None, ge=1)
    worker_cpus: float = Field(0.5, gt=0)
    worker_gpus: float = Field(0.0, ge=0)
    threads: int = Field(0, ge=0)
    data_cpus: float = Field(0.2, gt=0)
    data_tasks: int = Field(2, ge=1)
    checkpoint_every: int = Field(200, ge=1)
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(500, ge=0)
    failures: int = Field(2, ge=0)
    seed: int = 0
    find_unused_parameters: bool = False

    @property
    def fewest(self) -> int:
        """Return the number of workers that a run needs to go on."""
        return self.workers if self.min_workers is None else self.min_workers

    @model_validator(mode="after")
    def _a_range(self) -> TrainConfig:
        if self.fewest > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, above workers, which is {self.workers}")
        return self

    @field_validator("worker_gpus")
    @classmethod
    def _whole_ones(cls, value: float) -> float:
        if value % 1:
            raise ValueError(f"a training worker needs whole GPUs, not {value:g}: 1, or 0 to train on CPUs")
        return value


HOW_IT_RUNS = (
    "train.steps",  # how far, not what: the same run goes on further
    "train.workers", "train.min_workers",  # a machine more or less
    "train.worker_cpus", "train.worker_gpus", "train.threads",
    "train.data_cpus", "train.data_tasks", "train.find_unused_parameters", "train.failures",
    "train.checkpoint_every", "train.log_every", "train.validate_every",
    "cddgan.diagnose_every",  # what is looked at
    "optimizer.accumulate",  # memory: the same gradients up to rounding
    "labels.workers", "labels.worker_cpus", "labels.worker_gpus", "labels.worker_batch", "labels.threads",
    "labels.shards", "labels.store",  # where labels are kept: every resumption restores them from a snapshot
    "labels.max_teacher_lag", "labels.lag_patience",  # how long training waits for slow label workers
    "labels.picture_every",
    "labels.max_lost",  # whether the first labels will do
)  # fmt: skip
"""Keys that may change while a run goes on. All others say what is trained; another value is another run."""


AS_EVER: dict[str, Any] = {
    "labels.augmentation": "symmetric",
    "labels.jpeg_probability": 0.0,
    "weights.perceptual": 0.0,
    "weights.transmission": 0.0,
    "weights.airlight": 0.0,
    "weights.own": {},
    "haze.unevenness": [0.0, 0.0],
    "haze.tint_probability": 0.0,
    "haze.kinds": {},
    "real.contrastive_trust": True,
    "perceptual.normalize": True,
}
"""Younger keys, with the value that stands for what was trained before there were any: runs of then go on."""


_ON_PAIRS = ("supervised", "colabator")
READ_BY = {"weights": _ON_PAIRS, "perceptual": _ON_PAIRS, "real": ("colabator",), "labels": ("colabator",)}
"""Methods that read a part of a recipe, where not all do: younger keys of it are nothing to the others."""
_ALSO_READ_BY = {"haze": (*_ON_PAIRS, "scorer"), "scorer": _ON_PAIRS, "cddgan": ("cddgan",), "scoring": ("scorer",)}


class Recipe(Settings):
    """A training run.

    Attributes:
        method: ``supervised``, ``colabator``, ``cddgan`` or ``scorer``.
        network: what :func:`models.zoo.build` takes; for ``scorer`` ``{"folder": ...}`` with an ``open_clip`` config.
        init: packaged name, checkpoint folder or its URI that the weights start from; null starts at random.
        scorer: name, folder or configuration of the CLIP scorer; null where none is needed.
    """

    method: Literal["supervised", "colabator", "cddgan", "scorer"]
    network: dict[str, Any] = Field(default_factory=dict)
    init: str | None = None
    scorer: str | dict[str, Any] | None = None
    crop: CropConfig = CropConfig()
    haze: HazeConfig = HazeConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    weights: LossWeights = LossWeights()
    real: RealWeights = RealWeights()
    optimizer: OptimizerConfig = OptimizerConfig()
    cddgan: CddganTraining = CddganTraining()
    scoring: ScoringConfig = ScoringConfig()
    labels: LabelConfig = LabelConfig()
    train: TrainConfig = TrainConfig()

    def trained(self) -> dict[str, Any]:
        """Return what is trained: the recipe as plain values, without the keys that only say how it runs."""
        values = self.model_dump(mode="json")
        for key in HOW_IT_RUNS:
            part, _, name = key.partition(".")
            del values[part][name]
        for key, before in AS_EVER.items():
            part, _, name = key.partition(".")
            if values[part][name] == before or self.method not in READ_BY.get(part, (self.method,)):
                del values[part][name]
        return values

    @model_validator(mode="after")
    def _contrast_has_a_backbone(self) -> Recipe:
        asked = {
            "weights.contrastive": self.weights.contrastive,
            "weights.perceptual": self.weights.perceptual,
            "real.contrastive": self.real.contrastive,
        }
        for name, weight in asked.items():
            if weight and self.perceptual.backbone == "none":
                raise ValueError(
                    f"{name} is {weight}, and perceptual.backbone is 'none': set the backbone to vgg19, vgg16, scorer "
                    "or a path, or the weight to 0"
                )
        return self

    @model_validator(mode="after")
    def _haze_density_has_a_scorer(self) -> Recipe:
        for name, weights in (("weights", self.weights), ("real", self.real)):
            if weights.haze_density and self.scorer is None:
                raise ValueError(
                    f"{name}.haze_density is {weights.haze_density}, and scorer is null: set the scorer, such as "
                    "clip-compact, or the weight to 0"
                )
        return self

    @model_validator(mode="after")
    def _optimizer_is_used(self) -> Recipe:
        if self.method == "cddgan" and self.optimizer != OptimizerConfig():
            raise ValueError("'optimizer' is set, and method cddgan has several of its own: set them in 'cddgan'")
        return self

    @model_validator(mode="after")
    def _init_is_used(self) -> Recipe:
        if self.method == "scorer" and self.init is not None:
            raise ValueError(f"'init' is {self.init!r}, and method scorer starts from nothing: leave it out")
        return self

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Return what each training worker takes with a step, by its key."""
        real = {"labels.batch_size": self.labels.batch_size} if self.method == "colabator" else {}
        return {"train.batch_size": self.train.batch_size} | real

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> Recipe:
        count = self.optimizer.accumulate
        for name, size in self.batch_sizes.items():
            if size % count:
                raise ValueError(f"{name} is {size}, and optimizer.accumulate is {count}: make it a multiple")
        return self

    @model_validator(mode="after")
    def _fewer_workers_share_the_batch(self) -> Recipe:
        train = self.train
        for count in range(train.fewest, train.workers):
            for name, size in self.batch_sizes.items():
                if size * train.workers % count:
                    raise ValueError(
                        f"train.min_workers is {train.min_workers}, and {count} workers cannot share the batch of all "
                        f"evenly: {name} is {size}, times {train.workers}; make it a multiple of {count}"
                    )
        return self


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {dotted}: '{key}' has no keys inside")
    tree[leaf] = value


def key_of(override: str) -> str:
    """Return the key of an override ``key.inner=value``."""
    return override.partition("=")[0].strip()


def unread(recipe: Recipe, overrides: Sequence[str]) -> list[str]:
    """Return keys of ``overrides``, as :func:`load_recipe` takes them, that the recipe's method does not read."""
    keys = map(key_of, overrides)
    readers = READ_BY | _ALSO_READ_BY
    return [key for key in keys if recipe.method not in readers.get(key.partition(".")[0], (recipe.method,))]


def real_config(recipe: Recipe) -> RealConfig:
    """Return how real photographs look to the student of a recipe."""
    labels = recipe.labels
    return RealConfig(
        size=labels.size,
        augmentation=labels.augmentation,
        jpeg_probability=labels.jpeg_probability,
        jpeg_quality=recipe.haze.jpeg_quality,
    )


def load_recipe(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by its packaged name, path or URI, with ``key.inner=value`` overrides (values are YAML).

    Raises:
        ConfigError: no such recipe, not YAML, or an unknown or invalid key.
    """
    text = recipe_text(name)
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ConfigError(f"{os.fspath(name)} is not YAML: {problem}") from problem
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{os.fspath(name)} holds a {type(tree).__name__}; expected keys and values")
    tree = dict(tree)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r}: expected key=value, such as train.steps=100")
        try:
            _assign(tree, key.strip(), yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"--set {override!r}: {value!r} is not YAML; quote it, or close its brackets") from None
    return parse(Recipe, tree)
