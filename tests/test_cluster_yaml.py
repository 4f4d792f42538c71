"""cluster.yaml is one that Ray's cluster launcher takes; nothing is started and no cloud is asked."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
SCHEMA = Path(ray.autoscaler.__file__).with_name("ray-schema.json")


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_it_follows_the_launcher_s_schema(cluster: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_worker": 4}, schema)


def test_the_launcher_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "gpu"}
    prepared["head_node_type"] = "heads"
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepared)


def test_every_node_wants_the_token(cluster: dict[str, Any]) -> None:
    for role in ("head", "worker"):
        start = cluster[f"{role}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
        assert "ray start" in start
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_mounted_files_of_the_project_exist(cluster: dict[str, Any]) -> None:
    ours = [source for source in cluster["file_mounts"].values() if not source.startswith("~")]
    assert ours == ["requirements.lock"]
    assert all((ROOT / source).is_file() for source in ours)
