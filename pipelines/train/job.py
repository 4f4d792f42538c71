"""Training job: Ray Data shards the corpora, Ray Train runs the recipe's method on all workers.

``python -m pipelines.train --recipe pretrain_corun_compact --clear CORPUS --out DIR``. An interrupted run goes on from
its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.config import ConfigError
from models.paths import child, exists, filesystem, is_local, is_uri, read_file, require_writable
from pipelines.cluster import data_context_defaults
from pipelines.command import user_error
from pipelines.lock import only_one
from pipelines.nodes import await_answers, make_room, require_seen
from pipelines.shown import note
from pipelines.train.data import (
    corpus_notes,
    datasets,
    given_corpus,
    prestart,
    require_batches,
    sampling_of,
    training_units,
)
from pipelines.train.labels import KEPT_CHECKPOINTS, label_summary, labeling
from pipelines.train.loop import Loop
from pipelines.train.record import (
    MODEL,
    RECIPE_FILE,
    RESULT_FILE,
    RUN_FILE,
    TRACKING_FILE,
    publish_model,
    read_json,
    require_same_run,
    require_same_way,
    set_aside,
    write_json,
)
from pipelines.train.run import TrainJob, TrainResult
from pipelines.train.shares import asks_of, trainers_of

if TYPE_CHECKING:
    import torch

PATIENCE_S = 15.0  # for the children of a training that was killed: they notice within five
_NO_RETRIES: Any = {"max_failures": 0, "controller_failure_limit": 0}  # _fit() counts; Ray's stubs lag
CHECKPOINTS = "checkpoint_manager_snapshot.json"  # Ray Train's own list of a run's checkpoints


@dataclass(frozen=True)
class Prepared:
    """A job that nothing speaks against so far.

    Attributes:
        done: the result, where the job came to its end before.
        vgg19: of :func:`pipelines.train.build.rehearse`.
    """

    done: TrainResult | None = None
    vgg19: Mapping[str, Any] | None = None


def prepare(job: TrainJob, *, fresh: bool = False, device: torch.device | None = None) -> Prepared:
    """Refuse all that can be refused before anything is started; needs no Ray.

    Args:
        job: what to train.
        fresh: start anew; what an earlier run left in ``out`` is put aside.
        device: to train on in this process; None for workers of Ray.

    Raises:
        ConfigError: missing, empty or wrong corpora, networks or weights that cannot be had, ``out`` of another run,
            and what else the user has to change.
    """
    if is_uri(job.out):
        require_writable(job.out)
    for domain in reversed(sampling_of(job.recipe)):
        corpus = given_corpus(job.corpora[domain], domain)
        training_units(corpus)
        require_batches(job.recipe, domain, corpus)
    if not fresh:
        require_same_run(job.out, job.digest, job.trained)
        done = _done(job)
        if done is not None:
            return Prepared(done)
        require_same_way(job.out, local=device is not None)
    from pipelines.train.build import rehearse  # after the cheap refusals: torch takes seconds

    vgg19 = rehearse(job.recipe, job.allow_networks, device)
    aside = set_aside(job.out) if fresh else None
    if aside is not None:
        print(f"what an earlier run left is in {aside} now", flush=True)
    return Prepared(vgg19=vgg19)


def _done(job: TrainJob) -> TrainResult | None:
    """Return the result of a job that came to its end before; None where more steps are asked for."""
    model, steps = child(job.out, MODEL), job.recipe.train.steps
    record = read_json(child(job.out, RESULT_FILE))
    if record.get("digest") != job.digest or not exists(model):
        return None
    if record["steps"] > steps:
        raise ConfigError(f"{job.out} was trained for {record['steps']} steps; for {steps}, choose another --out")
    return TrainResult(model, record["metrics"], record["labels"]) if record["steps"] == steps else None


def _loop(payload: dict[str, Any]) -> None:
    import ray

    from pipelines.train.worker import TrainWorker

    job, weights = payload["job"], payload["vgg19"]
    try:
        Loop(job, TrainWorker(job), None if weights is None else ray.get(weights[0])).run()
    except Exception as problem:
        if user_error(problem) is not None:
            logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # it would print a traceback
        raise


def _fit(job: TrainJob, vgg19: Any) -> Any:
    """Train until the end, however often workers are lost, as long as there are new checkpoints in between."""
    from ray.train import ControllerError, TrainingFailedError

    failures, reached = 0, _checkpoints(job)
    while True:
        try:
            return _attempt(job, vgg19)
        except TrainingFailedError as problem:
            expected = user_error(problem)
            if expected is not None:  # trying again would only take longer
                raise expected from problem
            before, reached = reached, _checkpoints(job)
            failures = 1 if reached != before else failures + 1
            allowed, reason = job.recipe.train.failures, _reason(problem)
            if failures > allowed:
                print(f"given up after {failures} failures without a new checkpoint: {reason}", flush=True)
                raise
            kind = "could not start" if isinstance(problem, ControllerError) else "failed"
            print(f"training {kind} ({reason}); it goes on, {failures} of {allowed} failures in a row", flush=True)
        await_answers()
        make_room(trainers_of(job.recipe))


def _checkpoints(job: TrainJob) -> str:
    """Return the text in which Ray Train notes its checkpoints; another text means a new one."""
    return (read_file(child(job.out, f"ray/{job.name}/{CHECKPOINTS}")) or b"").decode()


def _reason(problem: Exception) -> str:
    """Return the last line of a worker's error, or of Ray's."""
    workers = getattr(problem, "worker_failures", None) or {}
    text = str(next(iter(workers.values()), problem)).strip()
    return text.splitlines()[-1].strip() if text else type(problem).__name__


def _attempt(job: TrainJob, vgg19: Any) -> Any:
    import ray.train
    from ray.train.torch import TorchTrainer

    train = job.recipe.train
    files, path = filesystem(child(job.out, "ray"))
    workers: Any = train.workers if train.min_workers is None else (train.min_workers, train.workers)  # stubs lag
    resources = {"CPU": train.worker_cpus} | ({"GPU": train.worker_gpus} if train.worker_gpus else {})
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job, "vgg19": vgg19},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=train.worker_gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=path,
            storage_filesystem=None if is_local(files) else files,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            failure_config=ray.train.FailureConfig(**_NO_RETRIES),
        ),
        datasets=datasets(job),
    )
    try:
        return trainer.fit()
    except SystemExit as stopped:  # what Ray Train makes of Ctrl-C, once it has ended the run
        raise KeyboardInterrupt from stopped


def train(job: TrainJob, prepared: Prepared | None = None) -> TrainResult:
    """Run a training job to its end; needs a Ray session.

    The model is written to ``out/model``. A finished job that is asked for again is not repeated, and says so.

    Args:
        job: what to train.
        prepared: of :func:`prepare`, by who has ``out`` to himself; without it both is seen to here.

    Raises:
        ConfigError: as :func:`prepare`; another training is writing ``out``; no room in the cluster, or ``out`` is not
            seen by all of its nodes.
    """
    if prepared is None:
        with only_one(job.out, "training", PATIENCE_S):
            return train(job, prepare(job))
    import ray

    if prepared.done is not None:
        return already_trained(job, prepared.done)
    data_context_defaults()
    make_room(asks_of(job.recipe))
    require_seen(job.out)
    prestart(job.recipe.train.data_tasks, job.recipe.train.data_cpus)
    begin(job)
    # In a list, so that it reaches the workers as a reference: this machine's files and downloads are not theirs.
    vgg19 = None if prepared.vgg19 is None else [ray.put(prepared.vgg19)]
    with labeling(job) as service:
        result = _fit(job, vgg19)
        labels = label_summary(service)
    with result.checkpoint.as_directory() as folder:
        return finish(job, Path(folder), result.metrics, labels)


def already_trained(job: TrainJob, done: TrainResult) -> TrainResult:
    """Say so."""
    print(f"{job.recipe.method}: already trained, see {done.model}; choose another --out to train again", flush=True)
    return done


def begin(job: TrainJob) -> None:
    """Note in ``out`` whose it is from now on, and say which corpora are no longer what the run began with."""
    write_json(child(job.out, RUN_FILE), {"digest": job.digest, "trained": job.trained})
    write_json(child(job.out, RECIPE_FILE), job.recipe.model_dump(mode="json"))
    for told in corpus_notes(job):
        note(told)


def finish(job: TrainJob, checkpoint: Path, figures: Mapping[str, Any], labels: dict[str, Any]) -> TrainResult:
    """Publish the last checkpoint as the model, and note what the run came to."""
    model = child(job.out, MODEL)
    publish_model(checkpoint, model)
    metrics = {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}
    done = {"digest": job.digest, "steps": job.recipe.train.steps, "metrics": metrics, "labels": labels}
    write_json(child(job.out, RESULT_FILE), done)
    return TrainResult(model, metrics, labels)


def open_tracker(job: TrainJob, uri: str) -> Any:
    """Resume the MLflow run of the job's earlier attempt, or start a new one.

    Raises:
        ConfigError: MLflow cannot be used at that address, or no longer has that run.
    """
    from models.mlflow_client import is_away
    from pipelines.tracking import Tracker, absolute_uri

    uri, record = absolute_uri(uri), child(job.out, TRACKING_FILE)
    known = read_json(record)
    if (known.get("digest"), known.get("uri")) == (job.digest, uri):
        try:
            return Tracker.resume(uri, known["run_id"])
        except ConfigError as problem:
            if isinstance(problem.__cause__, ConfigError) or is_away(problem.__cause__ or problem):
                raise  # it may have the run still
            raise ConfigError(f"{problem}; delete {record}, and a new MLflow run is begun") from problem
    tracker = Tracker.start("ray-dehaze", job.recipe.method, uri)
    places = job.corpora | {"out": job.out}
    tracker.log_params(job.recipe.model_dump(mode="json") | {key: place for key, place in places.items() if place})
    write_json(record, {"digest": job.digest, "uri": uri, "run_id": tracker.run_id})
    return tracker
