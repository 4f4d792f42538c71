"""Hosts that share no disk, for the tests of this folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import JOB_SECONDS, NAMES, Cluster
from tests.cluster.hosts import HostsError, Network
from tests.conftest import ROOT

PHOTOGRAPHS = 12  # of each corpus
_MAKE_BUCKET = """
import sys
from pyarrow.fs import FileSystem
files, path = FileSystem.from_uri(f"s3://{sys.argv[1]}?allow_bucket_creation=true")
files.create_dir(path)
"""
_TAKE_PHOTOGRAPHS = """
import io, sys
from PIL import Image
from models.paths import child, replacing
from tests.conftest import make_photo
uri, count, first, hazy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "hazy"
for index in range(count):
    with replacing(child(uri, f"{index:04d}.jpg")) as stream:
        picture = io.BytesIO()
        Image.fromarray(make_photo(first + index, hazy=hazy)).save(picture, "JPEG", quality=92)
        stream.write(picture.getvalue())
"""


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Skips where the machine lets nobody make hosts; fails with ``DEHAZE_HOSTS=required``."""
    made = None
    try:
        made = Network(tmp_path_factory.mktemp("hosts"), NAMES, ROOT)
        made.host("desk")
    except HostsError as problem:
        if made is not None:
            made.close()
        reason = f"this machine lets nobody make hosts: {problem}"
        if os.environ.get("DEHAZE_HOSTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    yield made
    made.close()


@pytest.fixture(scope="session")
def cluster(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of all tests of a run."""
    made = Cluster(network, tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def new_bucket(cluster: Cluster) -> Callable[[], Callable[[str], str]]:
    """``new_bucket()("runs/one")``: a URI in a bucket that was made for it."""

    def make() -> Callable[[str], str]:
        name = f"b{uuid.uuid4().hex[:12]}"
        cluster.on_desk(_MAKE_BUCKET, name)
        return lambda path: f"s3://{name}/{path}"

    return make


@pytest.fixture
def bucket(new_bucket: Callable[[], Callable[[str], str]]) -> Callable[[str], str]:
    """``bucket("runs/one")``: a URI in a bucket of the test's own. All hosts have its endpoint in their environment."""
    return new_bucket()


@pytest.fixture(scope="session")
def photographs(cluster: Cluster) -> Callable[..., str]:
    """``photographs(uri, count, first=0, domain="clear")``: made-up ones, there from then on."""

    def take(uri: str, count: int, first: int = 0, domain: str = "clear") -> str:
        cluster.on_desk(_TAKE_PHOTOGRAPHS, uri, str(count), str(first), domain)
        return uri

    return take


@pytest.fixture(scope="session")
def corpora(
    cluster: Cluster, new_bucket: Callable[[], Callable[[str], str]], photographs: Callable[..., str]
) -> dict[str, str]:
    """URI of a corpus of each domain, in a bucket; ingested side by side, as two people's would be."""
    bucket, made, jobs = new_bucket(), {}, []
    for domain in ("clear", "hazy"):
        taken = photographs(bucket(domain), PHOTOGRAPHS, first=50 * (domain == "hazy"), domain=domain)
        made[domain] = bucket(f"corpora/{domain}")
        options = ("--domain", domain, "--test-fraction", "0", "--shard-mb", "0.05")
        jobs.append(cluster.submit("pipelines.ingest", taken, *options, "--out", made[domain]))
    print("ingest:", [round(job.end(JOB_SECONDS)) for job in jobs], "seconds")
    return made
