"""A replica that is killed under load, or whose device breaks, costs no request: the ingress sends its work to the
other one. Nor does an update, however long a picture takes, or the end of the service.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.serving_service import free_port, replicas
from tests.serving.breaking import Breakable, barrier
from tests.waiting import repeated, wait_for

pytestmark = pytest.mark.faults
Jpeg = Callable[..., bytes]

CLIENTS = 4
KILLS = 3
FULL_CAPACITY_S = 60.0  # beside other work, too
SERVE_WAITS_S = 20  # for the work of a replica that it replaces, unless told
SETTINGS: dict[str, Any] = {
    "model": "corun-compact",
    "models": {"dark-channel": "dcp"},
    "scorer": None,
    "threads": 1,
    "scaling": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.2},
    "requests": {"timeout_s": 240},
    "health": {"idle_s": 5},
    "inference": {"working_side": None},  # a large picture takes long
}


@pytest.fixture(scope="module")
def service(ray_cluster: None) -> Iterator[httpx.Client]:
    from serving import app
    from serving.config import ServingConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "Dehazer", Breakable)
        url = app.start(ServingConfig.model_validate(SETTINGS | {"port": free_port()}))
    with httpx.Client(base_url=url, timeout=300) as client:
        yield client
    app.stop()


def dehazers() -> set[int]:
    """Process ids of the replicas with a model in them, below the Ray that this process started."""
    return set(replicas(os.getpid(), "Dehazer"))


def both_run() -> bool:
    """Serve knows two replicas that have their model."""
    from ray import serve

    states = serve.status().applications["dehaze"].deployments["Dehazer"].replica_states
    return states == {"RUNNING": 2}


def load(service: httpx.Client, data: bytes) -> AbstractContextManager[list[Any]]:
    """Requests all the time: 200 for each that was answered as the first was, else what it said."""
    expected = service.post("/v1/dehaze", content=data).content

    def sent() -> int | str:
        answer = service.post("/v1/dehaze", content=data)
        return answer.status_code if answer.content == expected else answer.text

    return repeated(sent, CLIENTS)


def test_kill_9_under_load(service: httpx.Client, jpeg: Jpeg) -> None:
    back = []
    with load(service, jpeg(1, 240, 320)) as outcomes:
        for _ in range(KILLS):
            count = len(outcomes)
            wait_for(lambda count=count: len(outcomes) > count + 2 * CLIENTS)  # type: ignore[misc]
            before = dehazers()
            assert len(before) == 2
            os.kill(min(before), signal.SIGKILL)
            anew = wait_for(lambda before=before: len(dehazers() - {min(before)}) == 2)  # type: ignore[misc]
            back.append(anew + wait_for(both_run))
    seconds = ", ".join(f"{value:.0f}" for value in back)
    print(f"{len(outcomes)} requests, {KILLS} kills: {Counter(map(str, outcomes))}; full capacity after {seconds} s")
    assert set(outcomes) == {200}
    assert max(back) < FULL_CAPACITY_S


def test_a_device_that_breaks_under_load(service: httpx.Client, jpeg: Jpeg) -> None:
    from ray import serve

    handle = serve.get_deployment_handle("Dehazer", "dehaze")
    with load(service, jpeg(1, 240, 320)) as outcomes:
        wait_for(lambda: len(outcomes) > 2 * CLIENTS)
        broken = handle.break_device.remote().result()
        seconds = wait_for(lambda: broken not in dehazers())
        back = seconds + wait_for(lambda: len(dehazers()) == 2) + wait_for(both_run)
    print(
        f"{len(outcomes)} requests: {Counter(map(str, outcomes))}; gone after {seconds:.1f} s, back after {back:.0f} s"
    )
    assert set(outcomes) == {200}


def test_without_a_replica_that_computes_the_service_is_not_ready(service: httpx.Client, jpeg: Jpeg) -> None:
    from ray import serve

    wait_for(both_run)
    assert service.get("/readyz").status_code == 200
    others = barrier(service.base_url.port or 0)
    others.touch()  # else one may be there before the second of the broken ones is noticed
    try:
        broken = set(serve.get_deployment_handle("Dehazer", "dehaze").broadcast("break_device").results())
        assert broken == dehazers()
        noticed = wait_for(lambda: service.get("/readyz").status_code == 503)  # without any picture
    finally:
        others.unlink()
    print(f"not ready after {noticed:.0f} s, ready again after {wait_for(lambda: ready(service)):.0f} s")
    assert service.post("/v1/dehaze", content=jpeg(1, 240, 320)).status_code == 200
    assert not broken & dehazers()


def ready(service: httpx.Client) -> bool:
    return service.get("/readyz").status_code == 200


def test_an_update_waits_for_a_long_picture(service: httpx.Client, jpeg: Jpeg) -> None:
    from ray import serve

    from serving import app

    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1, 480, 640))).resize((6000, 4000)).save(buffer, "JPEG")
    wait_for(both_run)
    before = dehazers()
    with ThreadPoolExecutor(1) as pool, load(service, jpeg(1, 240, 320)) as outcomes:
        start = time.monotonic()
        long = pool.submit(service.post, "/v1/dehaze", params={"model": "dark-channel"}, content=buffer.getvalue())
        time.sleep(2)  # it is being computed
        config = {**SETTINGS, "port": service.base_url.port, "picture_threads": 1}
        serve.run(app.build(config), name=app.APPLICATION, route_prefix="/")
        answer = long.result()
        seconds = time.monotonic() - start
    print(f"a picture of {seconds:.0f} s, and {len(outcomes)} others: {Counter(map(str, outcomes))}")
    assert (answer.status_code, answer.headers.get("x-model")) == (200, "dcp"), answer.text
    assert seconds > SERVE_WAITS_S + 5, "the picture was too quick to tell anything"
    assert set(outcomes) == {200}
    wait_for(lambda: not before & dehazers())
