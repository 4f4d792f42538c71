"""Nobody else reaches the replicas of ``python -m serving``, which listen on every address for one another."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import grpc
import psutil
import pytest
from ray.serve.generated import serve_pb2_grpc
from ray.serve.generated.serve_pb2 import ASGIRequest  # type: ignore[attr-defined]  # made when it is imported

from benchmarks.serving_service import replicas
from tests.faults.conftest import serving

pytestmark = pytest.mark.faults


class Program:
    """What an attacker sends: it makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.file),)


def test_a_replica_runs_nothing_for_those_without_rays_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    monkeypatch.delenv("RAY_AUTH_MODE")
    with serving(tmp_path) as (service, _):
        places = [place.laddr for child in replicas(service.pid) for place in psutil.Process(child).net_connections()]
        ports = [port for ip, port in places if ip == "::"]
        assert len(ports) == 2, "one of the ingress, one of the replica with the model"
        for port in ports:
            asked = ASGIRequest(pickled_request_metadata=pickle.dumps(Program(made)))
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
                serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(asked, timeout=20)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert not made.exists()
