"""What is to be made of what machines have found: pure functions, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.doctor.probe import Machine
from pipelines.shown import shown

STORES_GIB, TEMPORARY_GIB = 10, 2  # below these, a run of any size ends early
SKEW_SECONDS = 5.0  # the latest of several snapshots, logs and charts of several machines are told by their clocks
_NAMED = 3  # machines that a line names


@dataclass(frozen=True)
class Node:
    """A node of a cluster, or this machine alone.

    Attributes:
        address: that Ray knows it by.
        gpus: that Ray has there; None without Ray.
        machine: what it found; None where it does not answer.
        skew: seconds by which its clock differs at least from this program's.
        token: whether Ray there wants its token.
        seen: whether this program sees what the machine wrote to ``--out``.
    """

    address: str
    gpus: float | None = None
    machine: Machine | None = None
    skew: float = 0.0
    token: bool = False
    seen: bool = True

    @property
    def loopback(self) -> bool:
        """Return whether nobody outside of the machine reaches it."""
        return self.address.startswith("127.") or self.address in ("localhost", "::1")


@dataclass(frozen=True)
class Finding:
    """A line of the table; it is a failure where there is a remedy."""

    what: str
    found: str
    remedy: str = ""


def judge(
    nodes: Sequence[Node], here: Mapping[str, str], *, cluster: bool, out: str | None = None, tracks: bool = False
) -> list[Finding]:
    """Find out what there is and what is lacking.

    Args:
        nodes: all of the cluster, or one.
        here: versions that this program has.
        cluster: whether they are of a cluster.
        out: where results are to go.
        tracks: whether MLflow was asked.
    """
    there = [node for node in nodes if node.machine is not None]
    found = [*_answers(nodes)] if cluster else []
    found += [*_versions(there, here), _gpus(there), *_room(there)]
    if cluster:
        found += [_clocks(there), _token(there)]
    if out is not None:
        found.append(_out(there, out))
    if tracks:
        found.append(_tracking(there))
    return found


def _answers(nodes: Sequence[Node]) -> Iterator[Finding]:
    silent = [node.address for node in nodes if node.machine is None]
    if silent:
        remedy = "look at its Ray logs (/tmp/ray/session_latest/logs), or take it out of the cluster"
        yield Finding("nodes", f"{len(silent)} of {len(nodes)} do not answer: {_list(silent)}", remedy)
    else:
        yield Finding("nodes", f"{len(nodes)}, all answer")


def _versions(nodes: Sequence[Node], here: Mapping[str, str]) -> Iterator[Finding]:
    for package, mine in here.items():
        have: dict[str, list[str]] = {mine: ["this program"]}
        for node in nodes:
            version = "not installed" if node.machine is None else node.machine.versions.get(package, "not installed")
            have.setdefault(version, []).append(node.address)
        if mine == "not installed":
            yield Finding(package, mine, "install this package's requirements: pip install -r requirements.lock")
        elif len(have) == 1:
            yield Finding(package, mine)
        else:
            found = "; ".join(f"{version} on {_list(where)}" for version, where in have.items())
            yield Finding(package, found, "install the same version on all nodes, as requirements.lock has it")


def _gpus(nodes: Sequence[Node]) -> Finding:
    wrong, lines, total = [], [], 0
    for node in nodes:
        seen, problem = (0, "") if node.machine is None else (node.machine.gpus, node.machine.gpu_problem)
        total += seen
        if (node.gpus or 0) > seen:
            lines.append(
                f"Ray has {node.gpus:g} on {node.address}, and torch sees {seen} {f'({problem})' * bool(problem)}"
            )
            wrong.append(f"a driver and a build of torch that fit each other on {node.address}")
        elif node.gpus is not None and seen > node.gpus:
            lines.append(f"torch sees {seen} on {node.address}, and Ray has {node.gpus:g}")
            wrong.append(f"`ray start --num-gpus={seen}` on {node.address}")
    if wrong:
        return Finding("GPUs", "; ".join(line.strip() for line in lines[:_NAMED]), f"needs {'; '.join(wrong[:_NAMED])}")
    return Finding("GPUs", f"{total}{' that torch sees' if total else ''}")


def _room(nodes: Sequence[Node]) -> Iterator[Finding]:
    machines = [(node.address, node.machine) for node in nodes if node.machine is not None]
    kinds = (
        (
            "disk for label pools",
            STORES_GIB,
            [(name, *m.stores) for name, m in machines],
            "XDG_CACHE_HOME or labels.store",
        ),
        ("temporary files", TEMPORARY_GIB, [(name, *m.temporary) for name, m in machines], "TMPDIR"),
    )
    for what, least, places, key in kinds:
        short = [f"{free / 2**30:.1f} GiB on {name} ({path})" for name, path, free in places if free < least * 2**30]
        if short:
            remedy = f"free at least {least} GiB there, or set {key} to a folder of a local disk with more"
            yield Finding(what, _list(short), remedy)
        else:
            free = min((free for _, _, free in places), default=0)
            yield Finding(what, f"{free / 2**30:.1f} GiB free{' or more on each node' if len(places) > 1 else ''}")


def _clocks(nodes: Sequence[Node]) -> Finding:
    wrong = [f"{node.address} by {node.skew:.1f} s" for node in nodes if node.skew > SKEW_SECONDS]
    if wrong:
        return Finding(
            "clocks", f"differ: {_list(wrong)}", "let all nodes follow a time server (chrony, systemd-timesyncd)"
        )
    return Finding("clocks", f"within {SKEW_SECONDS:g} s of this program's")


def _token(nodes: Sequence[Node]) -> Finding:
    open_to_all = [node.address for node in nodes if not node.token and not node.loopback]
    if open_to_all:
        remedy = (
            "whoever reaches them runs programs there: start Ray with RAY_AUTH_MODE=token and one token on all nodes "
            "(RAY_AUTH_TOKEN_PATH), as cluster.yaml does"
        )
        return Finding("token authentication", f"off on {_list(open_to_all)}", remedy)
    return Finding("token authentication", "on" if all(node.token for node in nodes) else "off; loopback only")


def _out(nodes: Sequence[Node], out: str) -> Finding:
    machines = [(node, node.machine) for node in nodes if node.machine is not None]
    wrong = [f"{node.address}: {machine.out}" for node, machine in machines if machine.out]
    wrong += [f"{node.address}: what it writes is not seen here" for node, m in machines if not m.out and not node.seen]
    if wrong:
        remedy = (
            "give every node access: credentials in its environment or ~/.aws, the endpoint by AWS_ENDPOINT_URL or in "
            "the URI (?endpoint_override=...)"
            if "://" in out
            else "give a folder that every node mounts and may write, or a URI such as s3://bucket/run"
        )
        return Finding("--out", f"{out} cannot be written: {_list(wrong)}", remedy)
    return Finding("--out", f"{out} can be written{' by every node' if len(nodes) > 1 else ''}")


def _tracking(nodes: Sequence[Node]) -> Finding:
    wrong = [
        f"{node.address}: {node.machine.tracking}"
        for node in nodes
        if node.machine is not None and node.machine.tracking
    ]
    if wrong:
        return Finding("MLflow", _list(wrong), "start the server, or give an address that every node reaches")
    return Finding("MLflow", "answers")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def table(findings: Iterable[Finding]) -> str:
    """Return findings for a terminal: a line for each, and one more with the remedy where there is something to
    remedy.
    """
    lines = []
    for one in findings:
        lines.append(f"{'FAILED' if one.remedy else 'ok':<8}{one.what:<22}{shown(one.found)}")
        if one.remedy:
            lines.append(f"{'':<30}-> {one.remedy}")
    return "\n".join(lines)
