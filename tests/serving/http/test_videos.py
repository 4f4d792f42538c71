"""Videos as jobs: the same frames as of ``dehaze apply``, and what is refused, cancelled or begun anew."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from models.config import parse
from pipelines.dehaze.apply import main
from serving.config import ServingConfig
from serving.engine import Frame, FrameTask
from serving.engine.replica import Replica
from serving.errors import Problem
from tests.serving.conftest import BASE, COUNT, ended, film, submitted
from tests.serving.hostile import archive
from tests.waiting import wait_for

Service = Callable[..., TestClient]
Jpeg = Callable[..., bytes]


class Slow:
    """A replica of which one frame may wait."""

    def __init__(self) -> None:
        self.replica = Replica(parse(ServingConfig, BASE))
        self.frames = 0
        self.open = threading.Event()
        self.open.set()
        self.answers: list[Problem] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.replica, name)

    async def frame(self, task: FrameTask) -> Frame | Problem:
        self.frames += 1
        while not self.open.is_set():  # noqa: ASYNC110 - an event of threads
            await asyncio.sleep(0.01)
        return self.answers.pop(0) if self.answers else await self.replica.frame(task)


def pixels_of(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_video_is_dehazed_as_dehaze_apply_does(
    service: Service, photo: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    # Of narrow frames libx264 with AVX-512 encodes the same ones now this way, now that way.
    clip = film(tmp_path / "clip.mp4", photo(0, 64, 384 + COUNT, hazy=True))
    client = service(jobs={"folder": str(tmp_path / "jobs")})
    jobs = [submitted(client, clip.read_bytes(), "?strength=0.8")["id"]]
    jobs.append(client.post("/v1/jobs?strength=0.8", files={"file": ("a.mp4", clip.read_bytes())}).json()["id"])
    assert main([str(clip), str(tmp_path / "want.mp4"), "--model", "dcp", "--strength", "0.8"]) == 0
    for job in jobs:
        state = ended(client, job)
        assert (state["status"], state["total"], state["done"], state["failed"]) == ("done", COUNT, COUNT, 0), state
        assert state["detail"] is None
        answer = client.get(f"/v1/jobs/{job}/result")
        assert answer.headers["content-type"] == "video/mp4"
        assert "dehazed.mp4" in answer.headers["content-disposition"]
        (tmp_path / "got.mp4").write_bytes(answer.content)
        got, want = pixels_of(tmp_path / "got.mp4"), pixels_of(tmp_path / "want.mp4")
        assert len(got) == COUNT
        assert all((one == two).all() for one, two in zip(got, want, strict=True))
    wait_for(lambda: not (tmp_path / "jobs" / jobs[0] / "results").exists())


def test_smoothing(service: Service, clip: Path, tmp_path: Path) -> None:
    client = service(jobs={"folder": str(tmp_path / "jobs")})
    made = {}
    for name, query in {"usual": "", "none": "?smoothing=0"}.items():
        job = submitted(client, clip.read_bytes(), query)["id"]
        assert ended(client, job)["status"] == "done"
        (tmp_path / "got.mp4").write_bytes(client.get(f"/v1/jobs/{job}/result").content)
        made[name] = pixels_of(tmp_path / "got.mp4")
    assert main([str(clip), str(tmp_path / "want.mp4"), "--model", "dcp", "--smoothing", "0"]) == 0
    want = pixels_of(tmp_path / "want.mp4")
    assert all((one == two).all() for one, two in zip(made["none"], want, strict=True))
    assert not all((one == two).all() for one, two in zip(made["usual"], want, strict=True))


def test_smoothing_is_refused_by_its_value(service: Service, clip: Path, jpeg: Jpeg, tmp_path: Path) -> None:
    client = service(jobs={"folder": str(tmp_path / "jobs"), "prefixes": [str(tmp_path)]})
    photographs = archive([("a.jpg", jpeg())])
    (tmp_path / "in").mkdir()
    folders = {"source": str(tmp_path / "in"), "target": str(tmp_path / "out")}
    files = [("file", (name, jpeg())) for name in ("a.jpg", "b.jpg")]
    sent: list[tuple[float, dict[str, Any]]] = [
        (-0.5, {"content": clip.read_bytes()}),
        (10.5, {"content": clip.read_bytes()}),
        (0.25, {"content": photographs}),
        (0.25, {"files": files[:1]}),
        (0.25, {"files": files}),
        (0.25, {"json": folders}),
    ]
    for value, body in sent:
        answer = client.post("/v1/jobs", params={"smoothing": value}, **body)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"].startswith(f"smoothing={value}: ")
    assert not list((tmp_path / "jobs").iterdir())


def test_what_is_refused_at_once(service: Service, clip: Path, tmp_path: Path) -> None:
    client = service(jobs={"folder": str(tmp_path / "jobs")})
    for query in ("?format=png", "?quality=50", "?output=transmission"):
        answer = client.post(f"/v1/jobs{query}", content=clip.read_bytes())
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert not list((tmp_path / "jobs").iterdir())


@pytest.mark.parametrize(
    ("limits", "body", "code"),
    [
        ({"max_frames": COUNT - 1}, None, "too_large"),
        ({"max_frame_pixels": 96 * 64 - 1}, None, "too_large"),
        ({"store_bytes": 0}, None, "answer_full"),
        ({}, b"\0\0\0\x18ftypmp42 no video at all" + bytes(99), "bad_video"),
    ],
)
def test_what_fails_says_why_without_naming_folders(
    service: Service, clip: Path, tmp_path: Path, limits: dict[str, int], body: bytes | None, code: str
) -> None:
    data = body or clip.read_bytes()
    limits = {name: value or len(data) + 1 for name, value in limits.items()}
    client = service(jobs={"folder": str(tmp_path / "jobs"), **limits})
    job = submitted(client, data)["id"]
    state = ended(client, job)
    assert (state["status"], state["code"]) == ("failed", code), state
    assert str(tmp_path) not in state["detail"]
    assert client.get(f"/v1/jobs/{job}/result").status_code == 409
    wait_for(
        lambda: (
            {path.name for path in (tmp_path / "jobs" / job).iterdir()}
            <= {"job.json", "runner", "ended.json", "state.json"}
        )
    )


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that were begun."""
    found: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            found.append(self)

    monkeypatch.setattr("models.video.process.subprocess.Popen", Noted)
    return found


def test_a_cancelled_video_ends_its_process(
    service: Service, clip: Path, tmp_path: Path, begun: list[subprocess.Popen[bytes]]
) -> None:
    slow = Slow()
    client = service(slow, jobs={"folder": str(tmp_path / "jobs")})
    slow.open.clear()
    job = submitted(client, clip.read_bytes())["id"]
    wait_for(lambda: slow.frames)
    assert client.get(f"/v1/jobs/{job}").json()["total"] == COUNT
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert begun[0].poll() is not None
    assert client.get(f"/v1/jobs/{job}").json()["status"] == "cancelled"
    assert {path.name for path in (tmp_path / "jobs" / job).rglob("*")} <= {
        "job.json",
        "runner",
        "state.json",
        "cancelled",
    }


def test_a_file_that_crashes_its_reader_fails_alone(
    service: Service, clip: Path, tmp_path: Path, begun: list[subprocess.Popen[bytes]]
) -> None:
    slow = Slow()
    client = service(slow, jobs={"folder": str(tmp_path / "jobs")})
    slow.open.clear()
    job = submitted(client, clip.read_bytes())["id"]
    wait_for(lambda: slow.frames)
    begun[0].send_signal(signal.SIGSEGV)
    begun[0].wait()
    slow.open.set()
    state = ended(client, job)
    assert (state["status"], state["code"], len(begun)) == ("failed", "bad_video", 1)
    assert "signal 11" in state["detail"]


def test_a_video_begins_anew_where_the_service_stopped(service: Service, clip: Path, tmp_path: Path) -> None:
    slow, settings = Slow(), {"folder": str(tmp_path / "jobs")}
    first = service(slow, jobs=settings)
    slow.open.clear()
    job = submitted(first, clip.read_bytes())["id"]
    wait_for(lambda: slow.frames)
    first.__exit__(None, None, None)
    assert not list((tmp_path / "jobs" / job).rglob("*.tried")), "it would count against the video"
    slow.open.set()
    second = service(slow, jobs=settings)
    assert ended(second, job)["status"] == "done"
    assert slow.frames == 1 + COUNT


def test_a_frame_is_tried_again_and_a_lost_replica_ends_the_job(service: Service, clip: Path, tmp_path: Path) -> None:
    slow = Slow()
    client = service(slow, jobs={"folder": str(tmp_path / "jobs")})
    slow.answers = [Problem(503, "out_of_memory", "not now", 0.01)]
    assert ended(client, submitted(client, clip.read_bytes())["id"])["status"] == "done"
    slow.answers = [Problem(503, "replica_lost", "twice", 0.01)]
    state = ended(client, submitted(client, clip.read_bytes())["id"])
    assert (state["status"], state["code"]) == ("failed", "replica_lost")
