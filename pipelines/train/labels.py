"""The driver's part of Colabator: pool and label workers of a run, its first labels, and the snapshots of its pool."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.paths import absolute, child, names_in, read_file, replacing
from pipelines.shown import note, progress
from pipelines.train.data import corpus_of

if TYPE_CHECKING:
    from pipelines.train.recipe import Recipe
    from pipelines.train.run import TrainJob

KEPT_CHECKPOINTS = 2
POOL_FIGURES = ("size", "acceptance_rate", "mean_clearness", "mean_quality", "mean_teacher_step")
LABEL_BYTES = 2.2  # of an entry of the pool, per pixel of the label
RUN_ID = "run-id"
STEP = "step-"


def snapshots_of(job: TrainJob) -> str:
    """Return the folder of the snapshots of a run's pool."""
    return child(job.out, f"pool-snapshots/{job.digest}")


def snapshot_of(job: TrainJob, step: int) -> str:
    """Return the snapshot that belongs to the checkpoint of ``step``; 0 is the pool that training began with."""
    return child(snapshots_of(job), f"{STEP}{step:07d}")


def _snapshots(job: TrainJob) -> list[str]:
    """Return the names of the snapshots that are there, in the order of their steps."""
    return [name for name in names_in(snapshots_of(job), folders=True) if name.startswith(STEP)]


def drop_old_snapshots(job: TrainJob, step: int) -> None:
    """Remove the snapshots of checkpoints that are no longer kept, and one checkpoint fewer than that."""
    from pseudolabel.pool import drop_snapshots

    drop_snapshots(snapshots_of(job), KEPT_CHECKPOINTS + 1, f"{STEP}{step:07d}")


def run_id_of(job: TrainJob) -> str:
    """Return what tells this run from others into the same ``out``, before and after; it is made where there is none.

    It lies among the run's snapshots and goes with them. Stores of the pool that have another one are of a dead run.
    """
    place = child(snapshots_of(job), RUN_ID)
    known = read_file(place)
    if known is None:
        known = f"{uuid.uuid4().hex[:16]}\n".encode()
        with replacing(place, durable=True) as stream:
            stream.write(known)
    return known.decode().strip()


def has_begun(job: TrainJob) -> bool:
    """Return whether an earlier attempt came as far as training: then its pool need not be seeded again."""
    from pseudolabel.pool import SnapshotError, read_manifest

    run_id = run_id_of(job)
    for name in _snapshots(job):
        with suppress(SnapshotError):
            if read_manifest(child(snapshots_of(job), name)).may_be_of(run_id):
                return True
    return False


@contextmanager
def labeling(job: TrainJob) -> Iterator[Any]:
    """Run the label pool of a Colabator run, and its label workers where there are any; yield None for other methods.

    Yields:
        the pool's client and that of the labeling, or None with labels ``inline``.

    Raises:
        LabelingError: the run is going on already, in another program on this cluster.
    """
    if job.recipe.method != "colabator":
        yield None
        return
    from pseudolabel.pool import owned

    with owned(job.cluster_name), _pool(job) as pool, _labelers(job, pool) as labeling:
        yield (pool, labeling)


def store_of(job: TrainJob) -> str:
    """Return the folder of the pool's stores, on the machines where its shards run. It cannot lie below a URI."""
    given = job.recipe.labels.store
    return child(job.out, f"pool/{job.digest}") if given is None else child(absolute(given), job.cluster_name)


def _room(job: TrainJob) -> int:
    """Return the bytes that the pool's stores want; a pool that is restored is written beside the old one."""
    return round(2 * LABEL_BYTES * corpus_of(job, "hazy").count("train") * job.recipe.labels.size**2)


@contextmanager
def pool_of_one(job: TrainJob) -> Iterator[Any]:
    """Open the label pool of a Colabator run in one process, as a ``LabelPool``; yield None for other methods.

    Raises:
        PoolError: another process has it; or its store cannot be used.
    """
    if job.recipe.method != "colabator":
        yield None
        return
    from pseudolabel.pool import Shard, open_shard, remove_store

    shard = Shard(
        store_of(job),
        fixed=job.recipe.labels.store is not None,
        name=job.cluster_name,
        run=run_id_of(job),
        sync=False,  # what an interrupted run goes on with is a snapshot
        snapshots=snapshots_of(job),
        room=_room(job),
    )
    with closing(open_shard(shard)) as pool:
        if not has_begun(job):
            _tell_untrained(job)
            pool.snapshot(snapshot_of(job, 0), 0)
        yield pool
    _tell_removed(job, remove_store(pool.path))


def _tell_untrained(job: TrainJob) -> None:
    if job.recipe.init is None:
        note("'init' is null, so the first labels are those of an untrained network")


def _tell_removed(job: TrainJob, size: int) -> None:
    print(
        f"the labels are in {snapshots_of(job)}; the stores of the pool are removed ({size / 1e6:.1f} MB)", flush=True
    )


@contextmanager
def _pool(job: TrainJob) -> Iterator[Any]:
    """Start the pool; its stores stay when the run breaks off, and are removed when it is done."""
    from pseudolabel.pool import start_pool

    labels = job.recipe.labels
    pool = start_pool(
        job.cluster_name,
        store_of(job),
        labels.shards,
        snapshots=snapshots_of(job),
        run_id=run_id_of(job),
        fixed=labels.store is not None,
        room=_room(job) // labels.shards,
    )
    try:
        _tell_where(pool)
        yield pool
    except BaseException:
        pool.shutdown()
        raise
    _tell_removed(job, pool.shutdown(remove=True))


def _tell_where(pool: Any) -> None:
    """Print where the stores are, unless below ``out`` or where the user said, and how many share a machine."""
    found = pool.describe()
    for shard, store, host in found:
        if not Path(store).is_relative_to(shard.folder):
            print(f"{shard.folder} is on no local disk: the label pool's store is {store} on {host}", flush=True)
    hosts = {host for _, _, host in found}
    if len(hosts) < len(found):
        note(
            f"the {len(found)} shards of the label pool are on {', '.join(sorted(hosts))}; nodes that join the "
            "cluster later get none of them before the command is given again"
        )


@contextmanager
def _labelers(job: TrainJob, pool: Any) -> Iterator[Any]:
    """Label workers at work, with a pool that is seeded; None with labels ``inline``."""
    begun = has_begun(job)
    if not begun:
        _tell_untrained(job)
    labeling = _start_labeling(job, pool) if job.recipe.labels.mode == "async" else None
    try:
        if labeling is not None and begun:
            labeling.hold()  # training sets it back to its checkpoint
        elif labeling is not None:
            _seed(job, pool, labeling)
        if not begun:
            pool.snapshot(snapshot_of(job, 0), 0)
        if labeling is not None:
            labeling.start()
        yield labeling
    finally:
        if labeling is not None:
            labeling.stop()


def labeling_config(recipe: Recipe, allow_networks: Sequence[str] = ()) -> Any:
    """Return what label workers are told, as a ``LabelingConfig``; ``allow_networks`` as in ``TrainJob``."""
    from pipelines.train.build import allowed, network_config
    from pseudolabel.labeling import LabelingConfig, LabelWorkers

    labels = recipe.labels
    return LabelingConfig(
        **labels.model_dump(include=set(LabelWorkers.model_fields)),
        network=network_config(recipe),
        allow_networks=allowed(recipe, allow_networks),
        scorer=recipe.scorer or "clip-compact",
        device="cuda" if labels.worker_gpus else "cpu",
    )


def _start_labeling(job: TrainJob, pool: Any) -> Any:
    import torch

    from pipelines.train.build import make_network
    from pseudolabel.labeling import WorkUnit, start_labeling

    recipe = job.recipe
    units = [WorkUnit(uri, group) for uri, group in corpus_of(job, "hazy").row_groups("train")]
    if recipe.init is None:
        torch.manual_seed(recipe.train.seed)  # the very network that training begins with
    teacher = make_network(recipe, job.allow_networks).state_dict()
    return start_labeling(labeling_config(recipe, job.allow_networks), pool, units, (teacher, 0))


def _seed(job: TrainJob, pool: Any, labeling: Any) -> None:
    count = corpus_of(job, "hazy").count("train")
    with progress(count, "first labels") as bar:

        def seen(status: dict[str, Any]) -> None:
            now = status["current"] or (status["history"] or [None])[-1]
            bar.update(0 if now is None else now["photographs"] - bar.n)

        report = labeling.run_round(progress=seen)
    print(
        f"labeled {report['photographs']} photographs in {report['seconds']:.1f} s with {job.recipe.labels.workers} "
        f"workers: {report['per_worker']}",
        flush=True,
    )
    check_seeded(count, pool.stats().size, report, job.recipe.labels.max_lost)


def check_seeded(photographs: int, labels: int, report: Mapping[str, Any], allowed: float) -> None:
    """Check that nearly all photographs have a label; count those that have none, with the reasons.

    Raises:
        LabelingError: more than the share that is ``allowed`` have none.
    """
    from models.config import LabelingError

    lost = photographs - labels
    if lost <= 0:
        return
    reasons = [f"{len(report['failed'])} row groups were given up ({report['reasons']})"] if report["failed"] else []
    reasons += [f"{report['unreadable']} photographs cannot be read"] if report["unreadable"] else []
    said = f"{lost} of {photographs} photographs have no label: " + (
        "; ".join(reasons) or "what the teacher made of them is not finite"
    )
    if lost > allowed * photographs:
        raise LabelingError(f"{said}. labels.max_lost={allowed:g} allows fewer: mend that, and repeat the command")
    note(said)


def label_summary(service: Any) -> dict[str, Any]:
    """Return what :func:`labeling` came to: statistics of the pool, reports of the rounds."""
    if service is None:
        return {}
    pool, labeling = service
    stats = pool.stats()
    figures = {name: getattr(stats, name) for name in ("offered", "accepted", "replaced", *POOL_FIGURES)}
    return {"pool": figures, "rounds": [] if labeling is None else labeling.status()["history"]}
