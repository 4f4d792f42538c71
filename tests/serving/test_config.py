"""The configuration: one schema, one file that Serve takes too, and what is counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from models.config import ConfigError, parse
from models.options import DehazeOptions
from serving.__main__ import main
from serving.config import AuthConfig, ServingConfig, local_ray_environment, read_config, require_free_port
from serving.errors import ProblemError
from serving.metrics import Metrics

FILE = Path(__file__).parents[2] / "serving" / "config.yaml"


def test_the_packaged_configuration_is_the_default() -> None:
    assert read_config(FILE) == ServingConfig()


def test_serve_takes_the_packaged_configuration() -> None:
    from ray.serve.schema import ServeDeploySchema

    from serving import app

    content = yaml.safe_load(FILE.read_text())
    schema = ServeDeploySchema.model_validate(content)
    (application,) = schema.applications
    module, _, function = application.import_path.partition(":")
    assert (module, getattr(app, function)) == ("serving.app", app.build)
    assert content["http_options"]["request_timeout_s"] > ServingConfig().requests.longest_s
    assert content["http_options"]["host"] == content["applications"][0]["args"]["host"]


def test_a_ray_of_our_own_has_a_secret_unless_somebody_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    first, second = local_ray_environment(), local_ray_environment()
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(local_ray_environment())


def test_the_command_that_is_told_at_the_start_has_a_token_where_one_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from serving.__main__ import _announce

    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-some-length")
    for settings, header in (({}, ""), ({"token_file": tokens}, '--header "Authorization: Bearer $TOKEN" ')):
        _announce("http://127.0.0.1:8000", ServingConfig.model_validate({"auth": settings}))
        command = capsys.readouterr().out.splitlines()[1]
        assert command == f"curl {header}--data-binary @photo.jpg http://127.0.0.1:8000/v1/dehaze -o clear.jpg"


def test_what_is_built_has_the_resources_of_the_configuration() -> None:
    from serving import app

    scaling = {"min_replicas": 1, "max_replicas": 3, "num_cpus": 0.25, "max_ongoing_requests": 9}
    ingress = app.build({"scaling": scaling})._bound_deployment
    dehazer = ingress.init_args[1]._bound_deployment
    assert dehazer.ray_actor_options["num_cpus"] == 0.25
    assert dehazer.max_ongoing_requests == 9
    bounds = dehazer._deployment_config.autoscaling_config
    assert (bounds.min_replicas, bounds.max_replicas, bounds.target_ongoing_requests) == (1, 3, 2.0)
    assert ingress.max_ongoing_requests > ServingConfig().requests.max_pending
    with pytest.raises(ConfigError, match="no token"):
        app.build({"host": "0.0.0.0"})


def test_unknown_keys_in_the_configuration_are_named(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("applications:\n  - args: {scaling: {max_replica: 2}}\n")
    with pytest.raises(ConfigError, match=r"'max_replica'.*did you mean 'max_replicas'"):
        read_config(path)
    path.write_text("model: dcp\n")
    with pytest.raises(ConfigError, match="applications"):
        read_config(path)
    path.write_text("http_option: {port: 9000}\napplications:\n  - args: {}\n")
    with pytest.raises(ConfigError, match=r"'http_option' is not read; did you mean 'http_options'"):
        read_config(path)
    path.write_text("applications:\n  - {args: {}, deployments: [{name: Dehazer, num_replicas: 4}]}\n")
    with pytest.raises(ConfigError, match="'deployments' is not read"):
        read_config(path)


def test_where_the_service_listens_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("http_options: {port: 9000}\napplications:\n  - args: {model: dcp}\n")
    with pytest.raises(ConfigError, match=r"http_options.port is 9000, and args.port is 8000"):
        read_config(path)
    path.write_text("http_options: {port: 9000}\napplications:\n  - args: {model: dcp, port: 9000}\n")
    assert read_config(path).port == 9000


def test_every_process_has_the_time_that_its_work_may_take() -> None:
    from serving import app

    for requests in ({}, {"timeout_s": 900.0}, {"batch_timeout_s": 30.0, "read_timeout_s": 7.0}):
        config = ServingConfig.model_validate({"requests": requests, "health": {"check_s": 2.5}})
        ingress = app.build(config.model_dump(mode="json"))._bound_deployment
        dehazer = ingress.init_args[1]._bound_deployment
        limits = config.requests
        work = max(limits.timeout_s, limits.batch_timeout_s)
        assert dehazer._deployment_config.graceful_shutdown_timeout_s > work
        assert ingress._deployment_config.graceful_shutdown_timeout_s > work + limits.read_timeout_s
        assert dehazer._deployment_config.graceful_shutdown_wait_loop_s <= 2
        assert dehazer._deployment_config.health_check_period_s == 2.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scaling": {"min_replicas": 3, "max_replicas": 2}}, "below min_replicas"),
        ({"batching": {"max_size": 99}}, "no batch could be full"),
        ({"models": {"corun-compact": "dcp"}}, "name of the default"),
    ],
)
def test_values_that_do_not_fit_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServingConfig.model_validate(settings)


def test_a_taken_port_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: .*; choose another port"):
            require_free_port("127.0.0.1", port)
    require_free_port("127.0.0.1", port)
    for host in ("198.51.100.7", "no.such.host.invalid"):
        with pytest.raises(ConfigError, match=f"cannot listen on {host}:{port}: .*; give an address of this machine"):
            require_free_port(host, port)


def test_the_command_helps_and_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--token-file" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--mod", "dcp"])
    assert ended.value.code == 2
    assert "unknown flag --mod; did you mean '--model'?" in capsys.readouterr().err
    assert main(["--port", "0"]) == 2  # not the default instead
    assert "'port' in serving is 0" in capsys.readouterr().err
    assert main(["--host", "0.0.0.0"]) == 2
    assert "no token" in capsys.readouterr().err
    assert main(["--token-file", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_options_out_of_range_are_refused() -> None:
    for wrong in (2.5, -1.1, float("nan"), "much"):
        with pytest.raises(ConfigError, match=r"'strength' is .*expected a number from -1 to 2, or auto"):
            parse(DehazeOptions, {"strength": wrong})
    with pytest.raises(ConfigError, match=r"'distance' is 1\.1: .* less than or equal to 1"):
        parse(DehazeOptions, {"distance": 1.1})


class Recorder:
    """Stands for ``ray.util.metrics``: remembers every value."""

    def __init__(self) -> None:
        self.values: list[tuple[str, float, dict[str, str]]] = []
        values = self.values

        class Metric:
            def __init__(self, name: str, description: str, *more: Any) -> None:
                self.name = name
                assert description.endswith(".")

            def inc(self, value: float, tags: dict[str, str]) -> None:
                values.append((self.name, value, tags))

            set = observe = inc

        self.Counter = self.Gauge = self.Histogram = Metric

    def of(self, name: str) -> list[tuple[float, dict[str, str]]]:
        return [(value, tags) for found, value, tags in self.values if found == name]


def test_requests_are_counted(service: Callable[..., TestClient], jpeg: Callable[..., bytes]) -> None:
    recorder = Recorder()
    client = service(metrics=Metrics(recorder), scorer={})
    client.post("/v1/dehaze", content=jpeg())
    client.post("/v1/dehaze", content=b"nothing")
    client.get("/anything")
    requests = [tags for _, tags in recorder.of("dehaze_requests")]
    assert requests == [
        {"route": "/v1/dehaze", "status": "200"},
        {"route": "/v1/dehaze", "status": "415"},
        {"route": "other", "status": "404"},
    ]
    assert [tags["code"] for _, tags in recorder.of("dehaze_rejected")] == ["unsupported_format", "not_found"]
    stages = {tags["stage"] for _, tags in recorder.of("dehaze_stage_seconds")}
    assert stages == {"decode", "queue", "model", "score", "encode"}
    assert recorder.of("dehaze_batch_size") == [(1, {})]
    ((haze, _),) = recorder.of("dehaze_input_haze")
    assert 0 < haze < 1
    assert recorder.of("dehaze_pending")[-1] == (0, {})


def test_requests_of_jobs_are_among_those_held(service: Callable[..., TestClient], tmp_path: Path) -> None:
    recorder = Recorder()
    client = service(metrics=Metrics(recorder), jobs={"folder": str(tmp_path)})
    assert client.post("/v1/jobs", content=b"nothing").status_code == 415
    assert recorder.of("dehaze_pending") == [(1, {}), (0, {})]


def test_lost_work_is_sent_once_more() -> None:
    from ray.exceptions import RayActorError

    from serving.app import Replicas

    recorder = Recorder()
    left: list[int]

    async def score(data: bytes) -> bytes:
        if left:
            left.pop()
            raise RayActorError
        return data

    handle: Any = SimpleNamespace(score=SimpleNamespace(remote=score))
    replicas: Any = Replicas(handle, Metrics(recorder))
    left = [1]
    assert asyncio.run(replicas.score(b"photograph")) == b"photograph"
    left = [1, 1]
    with pytest.raises(ProblemError) as caught:
        asyncio.run(replicas.score(b"photograph"))
    assert (caught.value.problem.status, caught.value.problem.code) == (503, "replica_lost")
    assert len(recorder.of("dehaze_retries")) == 2


def test_the_folder_of_a_demo_is_a_local_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", "s3://bucket/demo"]) == 2
    assert capsys.readouterr().err == "error: --out is 's3://bucket/demo'; expected a local folder of a demo\n"


def test_flags_are_what_the_configuration_describes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: list[ServingConfig] = []
    monkeypatch.setattr("serving.app.run_until_interrupted", lambda config, _: served.append(config))
    (tmp_path / "tokens").write_text("a-token-of-some-length\n")
    file = tmp_path / "config.yaml"
    args: dict[str, Any] = {"host": "::1", "port": 8001, "allow_networks": ["theirs"], "auth": {"token_env": "T"}}
    args["jobs"] = {"keep_s": 60}
    file.write_text(yaml.safe_dump({"applications": [{"args": args}]}))
    words = {"--model": "dcp", "--port": "9000", "--tracking-uri": "sqlite:////m.db", "--allow-networks": "mine"}
    words |= {"--config": str(file), "--token-file": str(tmp_path / "tokens"), "--jobs": "jobs"}
    assert main([word for pair in words.items() for word in pair]) == 0
    (config,) = served
    assert (config.host, config.port, config.model, config.tracking_uri) == ("::1", 9000, "dcp", "sqlite:////m.db")
    assert config.allow_networks == ("theirs", "mine")
    assert (config.jobs.folder, config.jobs.keep_s) == ("jobs", 60)
    assert config.auth == AuthConfig(token_file=tmp_path / "tokens", token_env="T")
    described = [name for name, field in ServingConfig.model_fields.items() if field.description]
    assert described == ["host", "port", "model", "tracking_uri"]
