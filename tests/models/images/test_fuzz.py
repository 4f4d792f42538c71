"""Thousands of damaged files, decoded in a process of their own: a photo or a typed error, little memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from typing import Any

import pytest

from models import images
from tests.models.images.mutants import LIMITS, mutants, seeds

GROWTH_MB = 120  # 4 million pixels of RGBA at 16 bits are 32 MB, and turning them takes a copy
SECONDS = 3.0  # of processor time for one file; the slowest need a tenth


def fuzz(count: int, seed: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.images.mutants", str(count), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "always"},
    )
    assert (done.returncode, done.stderr) == (0, "")  # neither a crash nor a warning, nor noise of a C library
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check(report: dict[str, Any], count: int) -> None:
    assert report["files"] == count
    assert report["outcomes"].keys() == {"photo", "too_large", "unsupported_format", "corrupt", "truncated"}
    assert min(report["outcomes"].values()) > count // 50
    assert report["grown_mb"] < GROWTH_MB, report["growth"]
    assert report["slowest_s"] < SECONDS, report["slowest"]


def test_mutated_files_give_a_photo_or_a_typed_error() -> None:
    check(fuzz(2100, 11), 2100)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_more(seed: int) -> None:
    check(fuzz(10_000, seed), 10_000)


def test_mutants_are_the_same_every_time() -> None:
    first, again = ([zlib.crc32(data) for _, data in mutants(700)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 650


@pytest.mark.parametrize("name", seeds())
def test_what_is_mutated_is_sound_before(name: str) -> None:
    limits = LIMITS.model_copy(update={"first_frame": True})
    photo = images.decode(seeds()[name], limits)
    assert images.probe(seeds()[name], limits)[1:] == photo.pixels.shape[1::-1]
