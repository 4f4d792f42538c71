"""The nodes of the cluster in use: how much room they have, which GPUs, and what they see of a folder."""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.config import ConfigError
from pipelines.resources import Ask, Capacity, capacity_of, listed, refusal

PATIENCE = 10.0  # seconds without room after which people are told
AGAIN = 60.0  # and after which they are told again
LOOKS, PAUSE = 3, 1.0  # for a new file, which a network file system may show a little late
LAUNCHED = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves it on the head: what the cluster may grow to


def capacity() -> Capacity:
    """Return the capacity of the cluster in use: what it may grow to where that is known, else what it has."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no hint here
    have = Capacity(tuple(node["Resources"] for node in alive))
    if not any("ray.io/node-group" in node.get("Labels", {}) for node in alive):  # how launchers and KubeRay mark nodes
        return have
    launched = LAUNCHED.expanduser()
    may_have = capacity_of(yaml.safe_load(launched.read_text())) if launched.is_file() else None
    return may_have or Capacity(have.nodes, final=False)


def make_room(asks: Sequence[Ask]) -> None:
    """Wait until the cluster has room for all of this at a time, and say so; growing clusters learn what is wanted.

    Raises:
        ConfigError: there can never be room.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    size = capacity()
    reason = refusal(asks, size)
    if reason is not None:
        raise ConfigError(reason)
    bundles = [ask.bundle for ask in asks for _ in range(ask.count) if ask.bundle]
    if not bundles:
        return
    room = placement_group(bundles, strategy="PACK")
    try:
        until = time.monotonic() + PATIENCE
        while not room.wait(1):
            if time.monotonic() > until:
                until = time.monotonic() + AGAIN
                grows = "" if size.final else "; if it grows by itself, nodes may be on their way"
                print(
                    f"waiting for room for {listed(asks)}; free in the cluster now: {_free(ray)}{grows}",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        remove_placement_group(room)


def _free(ray: Any) -> str:
    free, have = ray.available_resources(), ray.cluster_resources()
    return ", ".join(f"{free.get(kind, 0):g} of {have.get(kind, 0):g} {kind}s" for kind in ("GPU", "CPU"))


def require_seen(folder: str) -> None:
    """Refuse a local folder for results that some nodes of the cluster do not see: what they write would be lost.

    Args:
        folder: of ``--out``; a URI is everybody's.

    Raises:
        ConfigError: there are such nodes.
    """
    if "://" in folder:
        return
    marker = Path(folder) / f".seen-{uuid.uuid4().hex[:8]}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        found = blind_nodes(marker)
    finally:
        marker.unlink(missing_ok=True)
    if found:
        raise ConfigError(
            f"{folder} is not seen by {len(found)} of the cluster's nodes ({', '.join(found[:3])}): choose a folder on "
            "storage that every node mounts"
        )


def blind_nodes(path: Path) -> list[str]:
    """Return addresses of the nodes where a file is not there; those that do not answer are not among them."""
    return [str(node["NodeManagerAddress"]) for node, sees in ask_nodes(_sees, str(path)) if sees is False]


def ask_nodes(question: Callable[..., Any], *words: Any) -> list[tuple[dict[str, Any], Any]]:
    """Call a function on each node of the cluster in use; return Ray's description of the node, and the answer.

    The answer is None of a node that gives none in time, or dies; whatever else the function raises is raised here.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(question)
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no hint here
    asked = {}
    for node in alive:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeID"]] = ask.options(scheduling_strategy=there).remote(*words)
    answers, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=AGAIN)
    found = []
    for node in alive:
        answer = None
        if asked[node["NodeID"]] in answers:
            try:
                answer = ray.get(asked[node["NodeID"]])
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as problem:  # the node has died meanwhile
                logging.getLogger(__name__).debug("%s does not answer: %s", node["NodeManagerAddress"], problem)
        found.append((node, answer))
    return found


def await_answers() -> None:
    """Wait until each node that Ray counts as alive answers, for a minute at most: it counts a dead one for half a
    minute, and would plan with it.
    """
    ask_nodes(_answer)


def _answer() -> None:
    """Do nothing: to run is the answer."""


def _sees(path: str) -> bool:
    for _ in range(LOOKS):
        if Path(path).exists():
            return True
        time.sleep(PAUSE)
    return False


def placed(device: str, gpus: float | None = None) -> tuple[str, float]:
    """Find out where each worker of a job in this session computes, and how much of a GPU it asks of Ray.

    Ray lends GPUs: one that nobody asked for may be somebody else's, or out of sight.

    Args:
        device: ``cpu``, ``cuda``, or ``auto``: a GPU where the cluster has any, else the CPU.
        gpus: share for each worker, such as 0.5 for two to a GPU; None is a whole one on ``cuda``.

    Raises:
        ConfigError: the two contradict each other, or no node has a GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        other = "; Ray chooses which GPU each worker gets" if device.startswith("cuda:") else ""
        raise ConfigError(f"device '{device}': expected auto, cpu or cuda{other}")
    there = _has_gpus()
    if device == "cuda" and not there:
        raise ConfigError("device 'cuda': no node of the Ray cluster has a GPU; expected cpu, or auto")
    chosen = "cuda" if device == "cuda" or (device == "auto" and there and gpus != 0) else "cpu"
    if chosen == "cuda" and gpus == 0:
        raise ConfigError("device 'cuda' with 0 GPUs: a worker needs some of one, such as 0.5; or leave the number out")
    if chosen == "cpu" and device == "cpu" and gpus:
        raise ConfigError(f"device 'cpu' with {gpus:g} GPUs: nothing would use them; say cuda, or leave the number out")
    return (chosen, 1.0 if gpus is None else gpus) if chosen == "cuda" else (chosen, 0.0)


def _has_gpus() -> bool:
    """Whether a node has any, or may come with some: those of launchers and KubeRay are marked."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no hint here
    return any(node["Resources"].get("GPU") or "ray.io/node-group" in node.get("Labels", {}) for node in nodes)
