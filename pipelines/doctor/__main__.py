"""One table of what this machine or a Ray cluster has and lacks.

``dehaze doctor --address auto --out s3://bucket/run --tracking-uri http://mlflow:5000``; exit code 1, with remedies,
where something is lacking. Without --address (or RAY_ADDRESS) it looks at this machine alone and starts nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from models.config import ConfigError, typed
from models.paths import absolute, is_uri
from pipelines.command import run
from pipelines.doctor.findings import Node, judge, table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=typed("pipelines.doctor", "doctor"), description=__doc__, allow_abbrev=False)
    parser.add_argument("--address", help="Ray cluster to look at; default: the current job's, else this machine alone")
    parser.add_argument("--out", metavar="DIR", help="folder or URI that every node is to write to")
    parser.add_argument("--tracking-uri", help="of the MLflow server that every node is to reach")
    return parser


def _main(args: argparse.Namespace) -> int:
    from pipelines.doctor.probe import PACKAGES, examine
    from pipelines.tracking import versions

    if "" in (args.out, args.tracking_uri):  # a variable of the shell that is not set
        raise ConfigError("--out expects a folder or URI, --tracking-uri an address, not no text")
    out = None if args.out is None else absolute(args.out)
    address = args.address or os.environ.get("RAY_ADDRESS")
    cluster = address not in (None, "local")
    made = [] if out is None or is_uri(out) else [path for path in (Path(out), *Path(out).parents) if not path.exists()]
    for folder in reversed(made):
        folder.mkdir()
    try:
        if cluster:
            nodes = _nodes(str(address), out, args.tracking_uri)
        else:
            nodes = _seen([Node("this machine", machine=examine(out, args.tracking_uri))], out)
    finally:
        with suppress(OSError):  # somebody else has put something there meanwhile
            for folder in made:
                folder.rmdir()
    findings = judge(nodes, versions(PACKAGES), cluster=cluster, out=out, tracks=args.tracking_uri is not None)
    print(table(findings))
    failed = sum(bool(finding.remedy) for finding in findings)
    print(f"\n{failed} of {len(findings)} failed" if failed else "\nnothing is lacking")
    return int(failed > 0)


def _nodes(address: str, out: str | None, tracking_uri: str | None) -> list[Node]:
    """All nodes of a cluster, with what they say."""
    from pipelines.cluster import ray_session, token_needed
    from pipelines.doctor.probe import clean, examine, now
    from pipelines.nodes import ask_nodes

    with ray_session(address):
        found = ask_nodes(examine, out, tracking_uri)
        began = now()
        clocks = [answer for _, answer in ask_nodes(now)]
        ended = now()
        tokens = [bool(answer) for _, answer in ask_nodes(token_needed)]
        nodes = [
            Node(
                str(node["NodeManagerAddress"]),
                float(node["Resources"].get("GPU", 0)),
                machine,
                0.0 if clock is None else max(0.0, clock - ended, began - clock),
                token,
            )
            for (node, machine), clock, token in zip(found, clocks, tokens, strict=True)
        ]
        nodes = _seen(nodes, out)
        if out is not None and not is_uri(out):  # what is not seen here is removed where it was written
            ask_nodes(clean, out, [node.machine.wrote for node in nodes if node.machine is not None and not node.seen])
    return nodes


def _seen(nodes: Sequence[Node], out: str | None) -> list[Node]:
    """Return the nodes, with whether their files in ``out`` are seen here; these files are removed."""
    from pipelines.doctor.probe import clean

    found = []
    for node in nodes:
        wrote = node.machine.wrote if node.machine is not None else ""
        found.append(replace(node, seen=clean(out, [wrote])) if out is not None and wrote else node)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 where nothing is lacking, 1 where something is, 2 with one line where it could not look."""
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
