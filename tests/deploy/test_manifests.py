"""The manifests of ``deploy/``, without a cluster: Kubernetes' schemas, KubeRay's fields and Ray's own schema."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from serving.config import ServingConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.31"
SERVING = (ROOT / "docs" / "how-to" / "serve.md").read_text()
RAY_ENDS_S = 30.0
FILES = ("rayservice.yaml", "rayjob.yaml")


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


# KubeRay's v1 fields, as many as are used here; pods are left to Kubernetes' own schema.
TEXT, COUNT, FLAG = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}  # a number would be refused
GROUP: dict[str, Any] = {"rayStartParams": PARAMETERS, "template": {"type": "object"}}
WORKERS: dict[str, Any] = {"groupName": TEXT, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT}
CLUSTER = _object(
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": _object({"mode": {"enum": ["token"]}}, "mode"),
        "enableInTreeAutoscaling": FLAG,
        "autoscalerOptions": _object({"idleTimeoutSeconds": COUNT, "securityContext": {"type": "object"}}),
        "headGroupSpec": _object(GROUP, *GROUP),
        "workerGroupSpecs": {"type": "array", "minItems": 1, "items": _object(GROUP | WORKERS, *GROUP, *WORKERS)},
    },
    "rayVersion",
    "authOptions",
    "headGroupSpec",
    "workerGroupSpecs",
)
SPECS = {
    "RayService": _object(
        {"serveConfigV2": TEXT, "rayClusterConfig": CLUSTER, "rayClusterDeletionDelaySeconds": COUNT},
        "serveConfigV2",
        "rayClusterConfig",
    ),
    "RayJob": _object(
        {
            "entrypoint": TEXT,
            "shutdownAfterJobFinishes": FLAG,
            "ttlSecondsAfterFinished": COUNT,
            "backoffLimit": COUNT,
            "rayClusterSpec": CLUSTER,
        },
        "entrypoint",
        "rayClusterSpec",
    ),
}


def ray_schema(kind: str) -> dict[str, Any]:
    metadata = _object({"name": TEXT, "labels": PARAMETERS}, "name")
    top = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": metadata, "spec": SPECS[kind]}
    return _object(top, *top)


def documents(file: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((DEPLOY / file).read_text()) if document]


def ray_document(file: str) -> dict[str, Any]:
    (found,) = (document for document in documents(file) if document["apiVersion"].startswith("ray.io"))
    return found


def cluster(file: str) -> dict[str, Any]:
    spec = ray_document(file)["spec"]
    found: dict[str, Any] = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
    return found


def groups(file: str) -> Iterator[dict[str, Any]]:
    yield cluster(file)["headGroupSpec"]
    yield from cluster(file)["workerGroupSpecs"]


def check(document: dict[str, Any]) -> None:
    """
    Raises:
        jsonschema.ValidationError: an unknown, missing or ill-typed field.
    """
    if not document["apiVersion"].startswith("ray.io"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, ray_schema(document["kind"]))
    spec = document["spec"].get("rayClusterConfig") or document["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("file", FILES)
def test_manifests_follow_their_schemas(file: str) -> None:
    for document in documents(file):
        check(document)


def _misspelt_field(document: dict[str, Any]) -> None:
    document["spec"]["rayClusterConfig"]["headGroupSpecs"] = {}


def _number_as_parameter(document: dict[str, Any]) -> None:
    document["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _misspelt_in_a_pod(document: dict[str, Any]) -> None:
    worker = document["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    worker["containers"][0]["livenessprobe"] = {}


def _port_as_text(document: dict[str, Any]) -> None:
    head = document["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["ports"][0]["containerPort"] = "6379"


@pytest.mark.parametrize("damage", [_misspelt_field, _number_as_parameter, _misspelt_in_a_pod, _port_as_text])
def test_the_schemas_notice_mistakes(damage: Callable[[dict[str, Any]], None]) -> None:
    document = copy.deepcopy(ray_document("rayservice.yaml"))
    damage(document)
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_the_service_is_the_packaged_one_behind_tokens() -> None:
    from ray.serve.schema import ServeDeploySchema

    served = yaml.safe_load(ray_document("rayservice.yaml")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(served)
    packaged = yaml.safe_load((ROOT / "serving" / "config.yaml").read_text())
    packaged["http_options"]["host"] = "0.0.0.0"
    (application,) = packaged["applications"]
    application["args"] |= {"host": "0.0.0.0", "auth": {"token_file": "/etc/dehaze/tokens"}}
    assert served == packaged
    ServingConfig.model_validate(served["applications"][0]["args"])


@pytest.mark.parametrize("file", FILES)
def test_the_cluster_runs_what_the_lock_says_and_asks_for_a_token(file: str) -> None:
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert cluster(file)["rayVersion"] == locked[1]
    assert cluster(file)["authOptions"]["mode"] == "token"


@pytest.mark.parametrize("file", FILES)
def test_pods_are_bounded_probed_and_not_root(file: str) -> None:
    for group in groups(file):
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        assert {"livenessProbe", "readinessProbe"} <= set(container)
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


def test_tokens_come_from_a_secret_that_the_file_says_how_to_make() -> None:
    text = (DEPLOY / "rayservice.yaml").read_text()
    args = yaml.safe_load(ray_document("rayservice.yaml")["spec"]["serveConfigV2"])["applications"][0]["args"]
    folder, _, name = args["auth"]["token_file"].rpartition("/")
    for group in groups("rayservice.yaml"):  # the application is built on one node and runs on others
        spec = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
        secret = mounted[folder]["secret"]["secretName"]
        assert f"kubectl create secret generic {secret} --from-file={name}" in text


def test_replicas_fit_the_workers() -> None:
    args = yaml.safe_load(ray_document("rayservice.yaml")["spec"]["serveConfigV2"])["applications"][0]["args"]
    config = ServingConfig.model_validate(args)
    (workers,) = cluster("rayservice.yaml")["workerGroupSpecs"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    scaling = config.scaling
    assert (
        scaling.max_replicas * scaling.num_cpus + scaling.ingresses * scaling.ingress_cpus
        <= float(limits["cpu"]) * (workers["maxReplicas"])
    )
    assert config.threads <= float(limits["cpu"])


def test_whoever_ends_the_service_waits_for_what_is_under_way() -> None:
    """An update's old cluster, each pod, and Docker; above the time that Serve gives its replicas."""
    from serving import app

    service = yaml.safe_load(ray_document("rayservice.yaml")["spec"]["serveConfigV2"])
    ingress = app.build(service["applications"][0]["args"] | {"host": "127.0.0.1", "auth": {}})._bound_deployment
    dehazer = ingress.init_args[1]._bound_deployment
    serve = max(each._deployment_config.graceful_shutdown_timeout_s for each in (ingress, dehazer))
    assert serve > ServingConfig().requests.longest_s
    assert service["http_options"]["request_timeout_s"] <= serve
    assert ray_document("rayservice.yaml")["spec"]["rayClusterDeletionDelaySeconds"] > serve
    for group in groups("rayservice.yaml"):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert sleep == "sleep"
        assert float(seconds) > serve
        assert pod["terminationGracePeriodSeconds"] > float(seconds) + RAY_ENDS_S
    stop = re.search(r"--stop-timeout (\d+)", (DEPLOY / "Dockerfile").read_text())
    assert stop is not None
    assert float(stop[1]) > serve
    told = re.findall(r"(?:--time|--stop-timeout|stop_grace_period:|TimeoutStopSec=) ?(\d+)", SERVING)
    assert len(told) == 4
    assert set(told) == {stop[1]}


def test_the_job_is_a_command_that_there_is() -> None:
    from pipelines.train.__main__ import _parser
    from pipelines.train.recipe import load_recipe

    entrypoint = shlex.split(ray_document("rayjob.yaml")["spec"]["entrypoint"])
    assert entrypoint[:3] == ["python", "-m", "pipelines.train"]
    arguments = _parser().parse_args(entrypoint[3:])
    load_recipe(arguments.recipe)
    assert all(uri.startswith("s3://BUCKET/") for uri in (arguments.clear, str(arguments.out)))


def test_the_job_keeps_nothing_in_its_pods_and_can_ask_for_more_of_them() -> None:
    job = cluster("rayjob.yaml")
    assert job["enableInTreeAutoscaling"]
    assert job["workerGroupSpecs"][0]["maxReplicas"] > 1
    head, *workers = (group["template"]["spec"] for group in groups("rayjob.yaml"))
    assert head.get("automountServiceAccountToken", True), "the autoscaler is a client of Kubernetes"
    assert not any(pod["automountServiceAccountToken"] for pod in workers)
    for pod in (head, *workers):
        assert [list(volume) for volume in pod["volumes"]] == [["name", "emptyDir"]]
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "dehaze-storage"}}]


@pytest.mark.parametrize("file", ["nginx.conf", "Caddyfile"])
def test_proxies_let_through_what_the_service_takes(file: str) -> None:
    text = (DEPLOY / file).read_text()
    limits = ServingConfig().requests
    body = re.search(r"(?:client_max_body_size|max_size) (\d+)m", text, re.IGNORECASE)
    wait = re.search(r"(?:proxy_read_timeout|response_header_timeout) (\d+)s", text)
    assert body is not None
    assert wait is not None
    assert int(body[1]) * 1_000_000 > limits.batch_bytes + (limits.batch_files << 10)
    assert int(wait[1]) > limits.longest_s
    assert "X-Forwarded-For" in text
