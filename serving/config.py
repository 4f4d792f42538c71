"""What the service is configured by: one strict schema for ``python -m serving`` and ``serve deploy``."""

from __future__ import annotations

import os
import secrets
import socket
from errno import EACCES, EADDRINUSE
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from models.config import ConfigError, Settings, nearest, parse
from models.images import ImageLimits
from models.options import InferenceConfig
from models.paths import absolute as place
from models.paths import name_of
from models.registry import SCHEME
from pseudolabel.scorer import ScorerConfig
from serving.jobs_config import JobsConfig
from serving.limits import RequestLimits

_TOP = ("proxy_location", "http_options", "logging_config", "applications")  # of the file for `serve deploy`
_APPLICATION = ("name", "route_prefix", "import_path", "runtime_env", "args")


HOOK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.http.connections:guard"}


class HealthConfig(Settings):
    """When a replica is replaced. Bad pictures, a full queue and pictures that take long never count.

    Attributes:
        failures: failures of the tiny picture in a row after which the replica is replaced.
        check_s: seconds between two questions of Serve; a replica in doubt computes the tiny picture then.
        idle_s: seconds without a picture after which the replica computes the tiny one as a test.
        stuck_s: seconds for which a replica may go on computing a picture that nobody waits for. A network stops
            within milliseconds; one that is a single module (``dcp``) stops after its picture, so the value must be
            enough for the largest picture that is accepted.
    """

    failures: int = Field(3, ge=1)
    check_s: float = Field(5.0, gt=0)
    idle_s: float = Field(60.0, gt=0)
    stuck_s: float = Field(300.0, gt=0)


class AuthConfig(Settings):
    """Who may use the service.

    Attributes:
        token_env: environment variable with tokens between spaces or commas; read once, when a process starts.
        without_token: the words that let the service listen beyond this machine without any token.
    """

    token_file: Path | None = Field(
        None,
        description="a bearer token on each line (# begins a comment); read again when it changes, so that tokens are "
        "added and withdrawn while the service runs; when it is gone or empty, nobody gets in",
    )
    token_env: str = "DEHAZE_TOKENS"  # noqa: S105 - the name of a variable
    without_token: Literal["anyone who can reach this service may use it"] | None = None


class Scaling(Settings):
    """How many processes, and what Ray sets aside for each.

    Attributes:
        min_replicas: least number of processes that hold a model.
        max_replicas: greatest number of them; Ray starts and ends them within these bounds.
        target_ongoing_requests: requests per replica that Ray aims at.
        max_ongoing_requests: requests that a replica holds; not below ``batching.max_size``.
        num_cpus: CPUs that Ray reserves for a replica.
        num_gpus: GPUs that Ray reserves for a replica; with one, the model runs there.
        ingresses: processes that speak HTTP. Limits of requests hold for each of them by itself.
        ingress_cpus: CPUs that Ray reserves for such a process.
    """

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(2.0, gt=0)
    max_ongoing_requests: int = Field(16, ge=1)
    num_cpus: float = Field(0.5, gt=0)
    num_gpus: float = Field(0.0, ge=0)
    ingresses: int = Field(1, ge=1)
    ingress_cpus: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas {self.min_replicas}")
        return self


class Batching(Settings):
    """Work of one size together; see :mod:`serving.engine.batching`.

    Attributes:
        stack: equal sizes as one batch of the network; ``auto`` where the model is on a GPU. Where nothing is
            stacked, pictures are computed one by one and each is answered when it is done.
        max_size: pictures in a batch.
        wait_ms: milliseconds that a picture waits for others. Pictures that came while the last batch ran are a batch
            anyway.
    """

    max_size: int = Field(8, ge=1)
    wait_ms: float = Field(0.0, ge=0)
    stack: Literal["auto", "always", "never"] = "auto"


class ServingConfig(Settings):
    """The dehazing service.

    Attributes:
        models: further models by the name that requests give, as in ``{candidate: "models:/dehazer@candidate"}``;
            loaded on demand.
        models_per_replica: how many of the further models a replica keeps in memory.
        allow_networks: packages of yours whose networks checkpoints may name, as in ``mypackage.nets:Net``; none by
            default, as whoever can write a checkpoint or to the registry could otherwise run any code here.
        poll_s: seconds between two questions to the registry where an alias points.
        scorer: scorer of clearness and quality; null serves without.
        limits: which images are accepted.
        requests: how many, how large, for how long.
        jobs: long work; none unless it has a folder.
        auth: tokens.
        cors_origins: origins whose pages may call this service from a browser; none by default.
        inference: precision and memory. A replica computes on one batch at a time, within this memory for each picture.
        batching: pictures that are computed together.
        scaling: processes and their resources.
        health: when a replica is replaced.
        threads: threads of torch in each replica.
        picture_threads: threads of a replica that decode and encode.
        max_pixels_held: pixels in a replica's memory at a time; 30 bytes each.
    """

    host: str = Field("127.0.0.1", description="address to listen on; others than this machine's need a token")
    port: int = Field(8000, ge=1, le=65535, description="to listen on")
    model: str = Field(
        "corun-compact",
        description="answers when a request names none: packaged name, checkpoint folder or its URI, ONNX file, "
        "models:/name@alias (followed when the alias moves) or models:/name/3",
    )
    models: dict[str, str] = Field(default_factory=dict)
    models_per_replica: int = Field(2, ge=1)
    allow_networks: tuple[str, ...] = ()
    tracking_uri: str | None = Field(None, description="MLflow registry of models:/ names")
    poll_s: float = Field(15.0, gt=0)
    scorer: ScorerConfig | None = ScorerConfig()
    limits: ImageLimits = ImageLimits()
    requests: RequestLimits = RequestLimits()
    jobs: JobsConfig = JobsConfig()
    auth: AuthConfig = AuthConfig()
    cors_origins: tuple[str, ...] = ()
    inference: InferenceConfig = InferenceConfig()
    batching: Batching = Batching()
    scaling: Scaling = Scaling()
    health: HealthConfig = HealthConfig()
    threads: int = Field(2, ge=1)
    picture_threads: int = Field(2, ge=1)
    max_pixels_held: int = Field(200_000_000, ge=1)

    @property
    def default_name(self) -> str:
        """Return the name by which ``model=`` asks for the default model."""
        return self.model if self.model.startswith(SCHEME) else name_of(self.model)

    def with_absolute_paths(self) -> ServingConfig:
        """Return the same configuration for processes with another working directory."""

        def absolute(source: str) -> str:
            return str(Path(source).absolute()) if Path(source).is_dir() else source

        file, jobs = self.auth.token_file, self.jobs.folder
        changes: dict[str, Any] = {
            "model": absolute(self.model),
            "models": {name: absolute(source) for name, source in self.models.items()},
            "auth": self.auth.model_copy(update={"token_file": file.absolute() if file else None}),
            "jobs": self.jobs.model_copy(update={"folder": jobs and place(jobs)}),
        }
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _fits(self) -> ServingConfig:
        if self.scaling.max_ongoing_requests < self.batching.max_size:
            raise ValueError("scaling.max_ongoing_requests is below batching.max_size, so no batch could be full")
        if self.jobs.folder and self.jobs.read_timeout_s > (most := self.requests.longest_s):
            raise ValueError(
                f"jobs.read_timeout_s is {self.jobs.read_timeout_s:g}, above the {most:g} s of requests.read_timeout_s "
                "and batch_timeout_s, at which the server ends any request"
            )
        if self.default_name in self.models:
            raise ValueError(f"models has '{self.default_name}', which is the name of the default model")
        return self


def read_config(path: str | os.PathLike[str]) -> ServingConfig:
    """Read the configuration in a YAML file in the form that ``serve deploy`` takes.

    Raises:
        ConfigError: no such file, not that form, or an unknown or bad key.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"there is no configuration file {file}")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as problem:
        raise ConfigError(f"{file} is not YAML: {problem}") from problem
    return parse(ServingConfig, _application_args(content, file), f"{file}: args")


def local_ray_environment() -> dict[str, str]:
    """Return the environment that a Ray of our own needs before Ray is imported, to listen on loopback, to guard the
    connections of its proxy, and to have a secret of its own, unless ``RAY_AUTH_MODE`` says whether it has one.

    Replicas of Serve listen on every address for one another, and unpickle what comes: the secret keeps others out.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if mode is None else {}
    return {
        **HOOK,
        **secret,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def require_free_port(host: str, port: int) -> None:
    """Find out that a port is taken before Ray is started, which would say so less clearly.

    Raises:
        ConfigError: something listens there, the port may not be used, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a service that just ended leaves is fine
            probe.bind((host, port))
    except OSError as problem:
        remedy = "choose another port" if problem.errno in (EADDRINUSE, EACCES) else "give an address of this machine"
        raise ConfigError(f"cannot listen on {host}:{port}: {problem.strerror}; {remedy}") from problem


def _application_args(content: Any, file: Path) -> dict[str, Any]:
    """The settings; what else the file says must be something that ``serve deploy`` alone is about, or agree."""
    try:
        (application,) = content["applications"]
        args = dict(application.get("args") or {})
        listen = dict(content.get("http_options") or {})
        keys = [*((key, _TOP) for key in content), *((key, _APPLICATION) for key in application)]
    except (TypeError, KeyError, ValueError, AttributeError) as problem:
        raise ConfigError(
            f"{file} must have one entry in 'applications' with its settings in 'args', as in applications: "
            "[{args: {model: dcp}}]"
        ) from problem
    for key, known in keys:
        if key not in known:
            raise ConfigError(f"{file}: '{key}' is not read{nearest(str(key), list(known))}")
    for key in ("host", "port"):
        default = ServingConfig.model_fields[key].default
        if key in listen and listen[key] != args.get(key, default):
            raise ConfigError(
                f"{file}: http_options.{key} is {listen[key]!r}, and args.{key} is {args.get(key, default)!r}; "
                "give both the same value"
            )
    return args
