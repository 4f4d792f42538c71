"""The Dockerfile as text; test_image.py builds it."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from serving.__main__ import _parser
from serving.config import HOOK

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"


@pytest.fixture(scope="module")
def parsed() -> DockerfileParser:
    return DockerfileParser(fileobj=FILE.open("rb"))


def values(parsed: DockerfileParser, instruction: str) -> list[str]:
    return [entry["value"] for entry in parsed.structure if entry["instruction"] == instruction]


def tracked(path: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", path], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return listed.stdout.split()


def test_what_is_copied_is_in_git_and_reaches_the_builder(parsed: DockerfileParser) -> None:
    kept = {line[1:] for line in (FILE.parent / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    sources = {
        source
        for value in values(parsed, "COPY")
        if not value.startswith("--from=")
        for source in shlex.split(value)[:-1]
    }
    assert all(tracked(source) for source in sources)
    assert sources == kept
    assert {"models", "pseudolabel", "serving", "pipelines"} <= sources


def test_dependencies_are_those_of_the_lock_with_their_hashes(parsed: DockerfileParser) -> None:
    installs = [shlex.split(value) for value in values(parsed, "RUN") if "uv pip install" in value]
    torch, dependencies, project = installs
    assert "--require-hashes" not in torch  # the lock has the hashes of PyPI's files
    assert {"torch.txt", "--index-url"} <= set(torch)
    assert "--require-hashes" in dependencies
    assert dependencies[dependencies.index("--excludes") + 1] == "torch.txt"
    assert dependencies[dependencies.index("--constraints") + 1] == "requirements.lock"
    assert dependencies[dependencies.index("--requirements") + 1] == "pyproject.toml"  # and not what developers need
    assert "--no-deps" in project
    locked = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in locked
    assert "\nsetuptools==" in locked  # --no-build-isolation builds with it


def test_it_is_slim_and_not_root(parsed: DockerfileParser) -> None:
    assert all(image.startswith("python:3.11-slim") for image in parsed.parent_images)
    assert len(parsed.parent_images) == 2
    (user,) = values(parsed, "USER")
    assert int(user) > 0
    last = max(index for index, entry in enumerate(parsed.structure) if entry["instruction"] == "FROM")
    after = [entry["instruction"] for entry in parsed.structure[last:]]
    assert after.index("USER") < after.index("CMD")


def test_the_commands_are_ones_that_there_are(parsed: DockerfileParser) -> None:
    (value,) = values(parsed, "CMD")
    command = json.loads(value)
    assert command[:3] == ["python", "-m", "serving"]
    assert _parser().parse_args(command[3:]).host == "0.0.0.0"
    (check,) = values(parsed, "HEALTHCHECK")
    argv = json.loads(check.partition("CMD ")[2])
    assert argv[:2] == ["python", "-c"]
    compile(argv[2], "HEALTHCHECK", "exec")
    assert "http://127.0.0.1:8000/healthz" in argv[2]


def test_serve_s_proxy_gets_its_hook(parsed: DockerfileParser) -> None:
    (environment,) = values(parsed, "ENV")
    given = dict(pair.split("=", 1) for pair in shlex.split(environment))
    ((name, value),) = HOOK.items()
    assert given[name] == value
