"""The data path of training: shards of a corpus to batches of samples, on Ray Data.

One task reads some row groups, makes their samples and hands them on as blocks of a few megabytes: nothing is read
that is not needed to plan (the manifest lists the row groups), no rows of Python objects lie between reading and
sampling, and the first block is there soon. Row groups are dealt anew for every epoch, rows are shuffled within their
row group and samples within their block, so that no buffer has to shuffle them again. Memory does not grow with the
corpus: a task holds one row group, and Ray's object store some blocks of each task.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.config import ConfigError
from models.paths import child
from pipelines.corpus import Corpus, parquet_file, pinned, require_corpus
from pipelines.train.transforms import on_device

if TYPE_CHECKING:  # the tasks import this file, and recipes import every method
    from pipelines.train.recipe import Recipe
    from pipelines.train.run import TrainJob

Samples = dict[str, NDArray[Any]]
Unit = tuple[str, int]  # file and row group

BLOCK_BYTES = 4 << 20
VALIDATION_PHOTOS = 12  # a sheet that fits a screen
MAX_TASKS = 512  # of an epoch, each with as many row groups as it takes: planning one costs the driver about 1 ms


@dataclass(frozen=True)
class Sampling:
    """How rows become samples.

    Attributes:
        function: of :mod:`pipelines.train.transforms`; takes rows and ``seed``.
        columns: of the corpus, that are read.
        row_bytes: of the samples that one row gives.
        per_row: how many samples that are.
    """

    function: Callable[..., Samples]
    columns: tuple[str, ...]
    row_bytes: int
    per_row: int = 1


def blocks(units: Sequence[Unit], sampling: Sampling, seed: int | None = None) -> Iterator[Samples]:
    """Yield samples of these row groups, shuffled, about ``BLOCK_BYTES`` at a time. With a ``seed`` always the same."""
    random = np.random.default_rng(seed)
    rows_per_block = math.ceil(BLOCK_BYTES / sampling.row_bytes)
    waiting: list[dict[str, Any]] = []
    for uri, group in units:
        with parquet_file(uri) as file:
            table = file.read_row_group(group, columns=list(sampling.columns))
        for index in random.permutation(table.num_rows):
            waiting += table.slice(index, 1).to_pylist()
            if len(waiting) == rows_per_block:
                yield _shuffled(sampling.function(waiting, seed=seed), random)
                waiting = []
    if waiting:
        yield _shuffled(sampling.function(waiting, seed=seed), random)


def _shuffled(samples: Samples, random: np.random.Generator) -> Samples:
    order = random.permutation(len(next(iter(samples.values()))))
    return {name: values[order] for name, values in samples.items()}


def prestart(tasks: int, cpus: float) -> list[Any]:
    """Let the workers of data tasks start and import what they need, while the caller does something else.

    Returns:
        What to hand to ``ray.get`` to wait for them. A task that comes before they are done gets one more worker.
    """
    import ray

    warm = ray.remote(num_cpus=cpus)(_warm)
    return [warm.remote(index) for index in range(tasks)]


def _warm(index: int) -> None:
    import ray.data

    from pipelines.cluster import data_context_defaults
    from pipelines.train import transforms  # noqa: F401

    data_context_defaults()
    if index == 0:  # the actors that Ray Data starts for itself, with the first dataset of a cluster
        ray.data.from_items([0]).map(lambda row: row, num_cpus=0.01).take_all()


def _source(units: Sequence[Unit], sampling: Sampling) -> Any:
    """A Ray data source whose tasks make samples. A function, because its base class is Ray's."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockAccessor, BlockMetadata

    def read(some: list[Unit]) -> Iterator[Any]:
        import torch

        torch.set_num_threads(1)  # tasks run beside each other, and beside the training
        for samples in blocks(some, sampling):
            yield BlockAccessor.batch_to_block(samples)

    class CorpusSamples(Datasource):
        def get_name(self) -> str:
            return "Samples"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_limits: Any, **_options: Any) -> list[Any]:
            """Called for every epoch: row groups are dealt anew."""
            order = np.random.default_rng().permutation(len(units))
            shares = np.array_split(order, min(parallelism, len(units)))
            unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [ReadTask(functools.partial(read, [units[i] for i in share]), unknown) for share in shares]

    return CorpusSamples()  # type: ignore[no-untyped-call]  # Ray has no hint here


def dataset(corpus: Corpus, sampling: Sampling, *, tasks: int, cpus: float) -> Any:
    """Return the samples of a corpus's training split as a Ray dataset; executed anew, with new crops, in every epoch.

    Args:
        corpus: what to read.
        sampling: how rows become samples.
        tasks: at a time.
        cpus: logical CPUs that each asks of Ray.

    Raises:
        ConfigError: there is nothing to train on.
    """
    import ray.data

    units = training_units(corpus)
    shares = min(len(units), MAX_TASKS)
    made = ray.data.read_datasource(
        _source(units, sampling), num_cpus=cpus, concurrency=tasks, override_num_blocks=shares
    )
    made.context.target_max_block_size = BLOCK_BYTES
    return made


def training_units(corpus: Corpus) -> list[Unit]:
    """Return the row groups of a corpus's training split.

    Raises:
        ConfigError: there is nothing to train on.
    """
    units = corpus.row_groups("train")
    if not units:
        raise ConfigError(f"{corpus.uri} has no photographs to train on: all {corpus.count()} are held out")
    return units


def sampling_of(recipe: Recipe) -> dict[str, Sampling]:
    """Return what a recipe makes of each corpus that it reads, by domain."""
    from pipelines.train import transforms
    from pipelines.train.recipe import real_config

    crop, each = recipe.crop, recipe.crop.per_photo
    square = 3 * crop.size**2 * each
    crops = functools.partial(transforms.unpaired_crops, crop=crop)
    pairs = functools.partial(transforms.synthetic_pairs, crop=crop, haze=recipe.haze)
    scored = functools.partial(transforms.scorer_samples, crop=crop, haze=recipe.haze)
    real = functools.partial(transforms.real_photographs, config=real_config(recipe))
    photographs, with_depth = ("image_id", "image"), ("image_id", "image", "depth")
    if recipe.method == "cddgan":  # no column that could tell of a pair is read
        return dict.fromkeys(("clear", "hazy"), Sampling(crops, photographs, square, each))
    if recipe.method == "scorer":
        return {"clear": Sampling(scored, photographs, square, each)}
    transmission = crop.size**2 * each
    found = {"clear": Sampling(pairs, with_depth, 2 * square + transmission, each)}
    if recipe.method == "colabator":
        found["hazy"] = Sampling(real, photographs, 6 * recipe.labels.size**2)
    return found


def datasets(job: TrainJob) -> dict[str, Any]:
    """Return the corpora that a job reads, as Ray datasets of samples by domain.

    Raises:
        ConfigError: as :func:`corpus_of`; a corpus is empty.
    """
    train = job.recipe.train
    return {
        domain: dataset(corpus_of(job, domain), sampling, tasks=train.data_tasks, cpus=train.data_cpus)
        for domain, sampling in sampling_of(job.recipe).items()
    }


def given_corpus(uri: str | None, domain: str, pins: str | None = None) -> Corpus:
    """Open the corpus of a command-line flag.

    Args:
        uri: of the corpus.
        domain: of its photographs.
        pins: folder in which a run keeps the manifests that it began with; it goes on with these.

    Raises:
        ConfigError: the flag is missing, or what it names is not a corpus with photographs of that domain, or no longer
            what the run began with.
    """
    if uri is None:
        raise ConfigError(f"this recipe needs --{domain} CORPUS; make one with `python -m pipelines.ingest`")
    corpus = require_corpus(uri, domain)
    return corpus if pins is None else pinned(child(pins, f"{domain}.json"), corpus)


def corpus_of(job: TrainJob, domain: str) -> Corpus:
    """Open a corpus of a job as it was when the run began; raises as :func:`given_corpus`."""
    return given_corpus(job.corpora[domain], domain, job.pins)


def corpus_notes(job: TrainJob) -> list[str]:
    """Return what to tell of corpora that were made anew since the run began."""
    notes = []
    for domain in sampling_of(job.recipe):
        now, then = given_corpus(job.corpora[domain], domain), corpus_of(job, domain)
        if now.manifest.digest != then.manifest.digest:
            notes.append(
                f"{now.uri} was made anew since this run began: it stays with the {then.count():,} photographs of "
                f"then; train from the start, or into another --out, for the {now.count():,} of today"
            )
    return notes


def validation_pairs(recipe: Recipe, corpus: Corpus) -> dict[str, Any] | None:
    """Make synthetic pairs of the first held-out clear photographs of a corpus, as the recipe's crops and haze are;
    always the same. None where no photograph is held out.
    """
    from pipelines.train import transforms

    rows: list[dict[str, Any]] = []
    for uri, group in corpus.row_groups("test"):
        with parquet_file(uri) as file:
            table = file.read_row_group(group, columns=["image_id", "image", "depth"])
        rows += table.slice(0, VALIDATION_PHOTOS - len(rows)).to_pylist()
        if len(rows) == VALIDATION_PHOTOS:
            break
    crop = recipe.crop.model_copy(update={"per_photo": 1})
    made = transforms.synthetic_pairs(rows, crop, recipe.haze, recipe.train.seed % 2**64) if rows else None
    return None if made is None else {name: made[name] for name in ("hazy", "clear")}


def batches(name: str, batch_size: int, device: Any) -> Iterator[dict[str, Any]]:
    """Yield batches of this worker's shard without end: images as N3HW or N1HW floats in [0, 1] on ``device``.

    Shards have equal numbers of rows and short batches are dropped, so that all workers take equally many steps.
    """
    import ray.train

    shard = ray.train.get_dataset_shard(name)
    while True:
        empty = True
        for batch in shard.iter_batches(
            batch_size=batch_size, drop_last=True, batch_format="numpy", prefetch_batches=2
        ):
            empty = False
            yield {key: on_device(device, value) for key, value in batch.items()}
        if empty:  # fewer could be decoded than require_batches() counts
            raise _too_few(name, batch_size)


def batch_size_of(recipe: Recipe, domain: str) -> int:
    """Return the number of samples of a corpus that a worker takes with every step."""
    real = recipe.method == "colabator" and domain == "hazy"
    return recipe.labels.batch_size if real else recipe.train.batch_size


def require_batches(recipe: Recipe, domain: str, corpus: Corpus) -> None:
    """Check that a corpus gives every worker a batch.

    Raises:
        ConfigError: it has too few photographs to train on.
    """
    each, batch_size = sampling_of(recipe)[domain].per_row, batch_size_of(recipe, domain)
    if corpus.count("train") * each // recipe.train.workers < batch_size:
        raise _too_few(domain, batch_size)


def _too_few(domain: str, batch_size: int) -> ConfigError:
    return ConfigError(
        f"the {domain} corpus has fewer samples than one batch of {batch_size} per worker: add photographs, or lower "
        "train.batch_size, labels.batch_size or train.workers"
    )
