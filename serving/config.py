"""What the service is configured by: one strict schema for ``python -m serving`` and ``serve deploy``."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from models.images import ImageLimits
from models.inference import InferenceConfig
from models.settings import ConfigError, Settings, parse


class ServingConfig(Settings):
    """The dehazing service.

    Attributes:
        host, port: where a local service listens; only loopback addresses.
        model: packaged name, checkpoint folder, or ``models:/name@alias``.
        tracking_uri: of the MLflow registry for ``models:/`` names.
        limits: which images are accepted.
        inference: precision and memory. A replica works on two photographs at a time, each within this memory.
        replicas: processes with the model in them.
        num_cpus: logical CPUs that Ray sets aside for each replica.
        max_ongoing_requests: requests one replica works on or holds in its own queue.
        max_queued_requests: requests that wait for a replica before further ones get 503.
        threads: of torch in each replica.
        request_timeout_s: after which a request gets 504.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    model: str = "corun-compact"
    tracking_uri: str | None = None
    limits: ImageLimits = ImageLimits()
    inference: InferenceConfig = InferenceConfig()
    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(0.5, gt=0)
    max_ongoing_requests: int = Field(8, ge=1)
    max_queued_requests: int = Field(64, ge=0)
    threads: int = Field(2, ge=1)
    request_timeout_s: float = Field(60.0, gt=0)


def read_config(path: str | os.PathLike[str]) -> ServingConfig:
    """The configuration in a YAML file in the form that ``serve deploy`` takes.

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


def require_loopback(host: str) -> None:
    """Refuse to listen where others could reach the service: it has no authentication.

    Raises:
        ConfigError: the host is not a loopback address.
    """
    if host == "localhost":
        return
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigError(f"host '{host}' is not a loopback address: the service has no authentication; use 127.0.0.1")


def local_ray_environment() -> dict[str, str]:
    """What a Ray of our own needs in the environment before Ray is imported: it listens on loopback only."""
    return {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def require_free_port(host: str, port: int) -> None:
    """Find out that a port is taken before Ray is started, which would say so less clearly.

    Raises:
        ConfigError: something listens there, or the port may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a service that just ended leaves is fine
            probe.bind((host, port))
    except OSError as problem:
        raise ConfigError(f"cannot listen on {host}:{port}: {problem.strerror}; choose another port") from problem


def _application_args(content: Any, file: Path) -> dict[str, Any]:
    try:
        (application,) = content["applications"]
        args = application.get("args") or {}
        return dict(args)
    except (TypeError, KeyError, ValueError, AttributeError) as problem:
        raise ConfigError(f"{file} must have one entry in 'applications' with its settings in 'args'") from problem
