"""What is made of what machines have found, on made-up machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.doctor.findings import Finding, Node, judge, table
from pipelines.doctor.probe import Machine

HERE = {"python": "3.11.4", "ray-dehaze": "0.1.0", "torch": "2.8.0"}
ROOMY = ("/disk", 500 << 30)
GOOD = Machine("one", HERE, gpus=1, stores=ROOMY, temporary=ROOMY)


def node(last: int = 1, *, token: bool = True, **changes: Any) -> Node:
    about = {name: changes.pop(name) for name in ("skew", "seen", "address") if name in changes}
    about.setdefault("address", f"10.0.0.{last}")
    return Node(gpus=1.0, token=token, machine=replace(GOOD, **changes), **about)


def failures(*nodes: Node, **asked: Any) -> list[Finding]:
    return [one for one in judge(nodes, HERE, cluster=True, **asked) if one.remedy]


def test_nothing_is_lacking_on_a_good_cluster() -> None:
    asked: dict[str, Any] = {"out": "s3://bucket/run", "tracks": True}
    assert failures(node(1), node(2), **asked) == []
    lines = table(judge([node(1), node(2)], HERE, cluster=True, **asked)).splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert "2 that torch sees" in "\n".join(lines)


@pytest.mark.parametrize(
    ("bad", "what", "found", "remedy"),
    [
        (
            {"versions": HERE | {"torch": "2.9.1"}},
            "torch",
            "2.8.0 on this program, 10.0.0.1; 2.9.1 on 10.0.0.2",
            "lock",
        ),
        ({"versions": {}}, "python", "not installed on 10.0.0.2", "same version"),
        (
            {"gpus": 0, "gpu_problem": "driver too old"},
            "GPUs",
            "Ray has 1 on 10.0.0.2, and torch sees 0 (driver",
            "fit",
        ),
        ({"gpus": 4}, "GPUs", "torch sees 4 on 10.0.0.2, and Ray has 1", "--num-gpus=4"),
        ({"stores": ("/full", 1 << 30)}, "disk for label pools", "1.0 GiB on 10.0.0.2 (/full)", "labels.store"),
        ({"temporary": ("/tmp", 0)}, "temporary files", "0.0 GiB on 10.0.0.2 (/tmp)", "TMPDIR"),
        ({"skew": 60.0}, "clocks", "10.0.0.2 by 60.0 s", "chrony"),
        ({"token": False}, "token authentication", "off on 10.0.0.2", "RAY_AUTH_MODE=token"),
        ({"out": "no such bucket"}, "--out", "cannot be written: 10.0.0.2: no such bucket", "AWS_ENDPOINT_URL"),
        ({"seen": False}, "--out", "10.0.0.2: what it writes is not seen here", "every node"),
        ({"tracking": "nothing answers"}, "MLflow", "10.0.0.2: nothing answers", "start the server"),
    ],
)
def test_what_is_lacking_is_named_with_its_place_and_a_remedy(
    bad: dict[str, Any], what: str, found: str, remedy: str
) -> None:
    one = next(one for one in failures(node(1), node(2, **bad), out="s3://b/run", tracks=True) if one.what == what)
    assert found in one.found
    assert remedy in one.remedy
    text = table([one])
    assert text.startswith(f"FAILED  {what}")
    assert f"-> {one.remedy}" in text


def test_a_folder_that_is_not_shared_has_another_remedy_than_a_bucket() -> None:
    (found,) = failures(node(1), node(2, seen=False), out="/data/run")
    assert "every node mounts" in found.remedy


def test_a_node_that_is_silent_is_named() -> None:
    (found,) = failures(node(1), Node("10.0.0.9", 1.0))
    assert (found.what, found.found) == ("nodes", "1 of 2 do not answer: 10.0.0.9")


def test_many_are_counted() -> None:
    (found,) = failures(*(node(last, skew=9.0) for last in range(9)))
    assert found.found.endswith("10.0.0.2 by 9.0 s and 6 more")


def test_loopback_needs_no_token() -> None:
    assert failures(node(address="127.0.0.1", token=False)) == []


def test_a_machine_alone_is_asked_for_no_cluster() -> None:
    found = judge([Node("this machine", machine=GOOD)], HERE, cluster=False)
    assert {one.what for one in found}.isdisjoint({"nodes", "clocks", "token authentication"})
    assert not any(one.remedy for one in found)
