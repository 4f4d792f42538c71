"""MLflow as teams have it: a server on PostgreSQL with its files in a bucket, on a host that goes away for a minute."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import JOB_SECONDS, TRACKING, WORKERS, Cluster, dehazer

pytestmark = pytest.mark.cluster

STEPS, AWAY_SECONDS = 40, 60.0
PORT, DATABASE_PORT, SERVE_PORT = 5000, 5432, 8000
USER, TOKEN = "postgres", "of-the-tests-of-hosts"
TINY = (
    "network={name: corun, stages: 1, dim: 2}",
    "init=null",
    "crop={size: 32, per_photo: 2}",
    f"train={{steps: {STEPS}, batch_size: 2, workers: 1, threads: 1, data_tasks: 1, data_cpus: 0.1}}",
    "train.checkpoint_every=10",
    "train.log_every=1",
)
_POSTGRES = """
set -e
cd /var/tmp
install -d -o {user} database
as="setpriv --reuid={user} --regid={user} --clear-groups"
test -e database/PG_VERSION || $as {folder}/initdb -D database --auth=trust --username=mlflow
exec $as {folder}/postgres -D database -p {port} -h 127.0.0.1 -k /var/tmp/database
"""
_READ = """
import json, sys
from models.mlflow_client import prepare_mlflow
prepare_mlflow()
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1], registry_uri=sys.argv[1])
run = client.get_run(sys.argv[2])
print(json.dumps({
    "status": run.info.status,
    "steps": sorted({metric.step for metric in client.get_metric_history(sys.argv[2], "supervised/l1")}),
    "champion": client.get_model_version_by_alias("dehazer", "champion").version,
}))
"""
_DEHAZE = """
import io, sys
from PIL import Image
from serving.client import Client
from tests.conftest import make_photo
picture = io.BytesIO()
Image.fromarray(make_photo(1, hazy=True)).save(picture, "JPEG")
with Client(sys.argv[1], token=sys.argv[2]) as service:
    print(service.dehaze(picture.getvalue()).model)
"""


def programs() -> Path:
    """The folder of PostgreSQL's programs, which Debian keeps out of PATH; skips where there is none."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if os.geteuid() != 0 or not places:
        pytest.skip("needs root, as PostgreSQL wants a user of its own, and the package postgresql")
    return places[-1]


@pytest.fixture(scope="module")
def tracking(cluster: Cluster, new_bucket: Callable[[], Callable[[str], str]]) -> str:
    """URI of the server."""
    files = new_bucket()("mlflow")
    script = _POSTGRES.format(user=USER, folder=programs(), port=DATABASE_PORT)
    cluster.start(TRACKING, "bash", "-c", script)
    cluster.await_port(TRACKING, DATABASE_PORT, seen_from=TRACKING)
    database = f"postgresql://mlflow@127.0.0.1:{DATABASE_PORT}/postgres"
    command = ["mlflow", "server", "--host", "0.0.0.0", "--port", str(PORT), "--workers", "1", "--allowed-hosts", "*"]
    cluster.start(TRACKING, *command, "--backend-store-uri", database, "--artifacts-destination", files)
    cluster.await_port(TRACKING, PORT)
    return f"http://{TRACKING}:{PORT}"


@pytest.fixture
def served(cluster: Cluster, tracking: str) -> Iterator[str]:
    """URL of a service whose model is the champion of the registry."""
    cluster.serve(dehazer(SERVE_PORT, TOKEN, model="models:/dehazer@champion", tracking_uri=tracking))
    url = f"http://{cluster.host(WORKERS[0]).address}:{SERVE_PORT}"
    cluster.await_ready([url], JOB_SECONDS)
    yield url
    cluster.serve({"applications": []})


def test_the_server_is_away_for_a_minute_and_nothing_is_lost(
    cluster: Cluster, bucket: Callable[[str], str], corpora: dict[str, str], tracking: str
) -> None:
    out = bucket("runs/one")
    settings = [word for setting in TINY for word in ("--set", setting)]
    words = ("--recipe", "pretrain_corun_compact", *settings, "--clear", corpora["clear"], "--out", out)
    job = cluster.submit("pipelines.train", *words, "--tracking-uri", tracking)
    job.says(f" 5/{STEPS}", JOB_SECONDS)
    host = cluster.host(TRACKING)
    host.cut()
    time.sleep(AWAY_SECONDS)
    host.mend()
    print(f"away for {AWAY_SECONDS:.0f} s; {job.end(JOB_SECONDS):.0f} s in all")

    run = json.loads(cluster.read(f"{out}/tracking.json"))["run_id"]
    cluster.submit("pipelines.register", f"{out}/model", "--tracking-uri", tracking, "--run-id", run).end(JOB_SECONDS)
    found = json.loads(cluster.on_desk(_READ, tracking, run))
    assert found == {"status": "FINISHED", "steps": list(range(1, STEPS + 1)), "champion": found["champion"]}


def test_the_champion_of_the_registry_is_served(cluster: Cluster, served: str) -> None:
    assert "dehazer" in cluster.on_desk(_DEHAZE, served, TOKEN)
