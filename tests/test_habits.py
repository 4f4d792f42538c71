"""What a repository has beside code: workflows, templates, citation, lock."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", sorted((GITHUB / "workflows").glob("*.yaml"))),
        ("custom.github-workflows-require-timeout", sorted((GITHUB / "workflows").glob("*.yaml"))),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.github-issue-forms", [GITHUB / "ISSUE_TEMPLATE" / "bug.yml", GITHUB / "ISSUE_TEMPLATE" / "idea.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_files_for_the_host_fit_their_schemas(schema: str, files: list[Path]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_call_what_exists_and_cover_every_python() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "ci.yaml").read_text())["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word.removeprefix("make ") for word in runs if word.startswith("make ")} <= targets
    for path in re.findall(r"(?:\.ci|tests)/[\w./]+", "\n".join(runs)):
        assert (ROOT / path).is_file(), path
    pythons = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert set(jobs["wheel"]["strategy"]["matrix"]["python"]) == pythons


def test_hooks_call_installed_tools() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    tools = [hook["entry"].split()[0] for hook in repo["hooks"]]
    assert [tool for tool in tools if not (Path(sys.executable).parent / Path(tool).name).is_file()] == []


def test_the_citation_is_of_this_version_and_names_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert {paper["identifiers"][0]["value"] for paper in citation["references"]} == {
        "arXiv:2406.07966",
        "arXiv:2203.07677",
    }


def test_the_changelog_and_images_are_of_this_version() -> None:
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[heads[0] == "Unreleased"] == PROJECT["version"]
    places = [*(ROOT / "deploy").iterdir(), *(ROOT / "docs").rglob("*.md")]
    named = {(tag, place.name) for place in places for tag in re.findall(r"ray-dehaze:([\d.]*\d)", place.read_text())}
    assert {tag for tag, _ in named} == {PROJECT["version"]}, named


def test_the_lock_names_no_host_and_has_every_extra_that_tests_need() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    for extra in extras.keys() - {"iqa"}:  # its licenses keep it out
        for line in extras[extra]:
            name = re.split(r"[\[><=!~; ]", line)[0].lower()
            assert name.replace("_", "-") in pinned, f"{extra}: {line}"
