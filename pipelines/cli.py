"""The ``dehaze`` command: one verb per job, ``apply`` where none is given. A verb is imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from models.config import nearest

# verb: (module with main(argv) -> exit code, what it does)
VERBS = {
    "apply": (
        "pipelines.dehaze.apply",
        "dehaze photographs, folders, videos on this machine (the verb may be left out)",
    ),
    "batch": ("pipelines.dehaze.__main__", "dehaze a folder on a Ray cluster"),
    "serve": ("serving.__main__", "serve a model over HTTP"),
    "ingest": ("pipelines.ingest.__main__", "make a corpus from folders of photographs"),
    "card": ("pipelines.ingest.card.__main__", "draw the data card of a corpus anew"),
    "train": ("pipelines.train.__main__", "train a dehazing network from a recipe"),
    "pool": ("pseudolabel.__main__", "look into a label pool, export it, list runs and end them"),
    "evaluate": ("pipelines.evaluate.__main__", "measure models on test photographs and write a report"),
    "models": ("pipelines.model_files", "take over released weights; hand a model on, as ONNX or to a hub"),
    "doctor": ("pipelines.doctor.__main__", "say what this machine or a cluster has and lacks"),
    "register": ("pipelines.register", "put a checkpoint into the MLflow model registry"),
    "demo": ("pipelines.demo.__main__", "run everything once on small data, from ingest to a served request"),
}


def usage() -> str:
    """Return what ``dehaze --help`` prints."""
    verbs = "\n".join(f"  {verb:<10}{line}" for verb, (_, line) in VERBS.items())
    return (
        "usage: dehaze PHOTO ... | dehaze VERB ...\n\n"
        f"Remove haze from photographs.\n\n{verbs}\n\n`dehaze VERB --help` explains a verb. Exit codes: 0 done; 1 some "
        "photographs failed; 2 something\nto change, said in one line; 3 the disk is full; 130 interrupted."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; its exit code, or 2 for an unknown one."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"ray-dehaze {version('ray-dehaze')}")
        return 0
    if words[0] not in VERBS and _names_photographs(words[0]):
        words.insert(0, "apply")
    verb, *rest = words
    if verb not in VERBS:
        there = f"no file '{verb}' here, and no verb of that name"
        print(f"error: {there}{nearest(verb, list(VERBS))}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(VERBS[verb][0]).main(rest)
    return code


def _names_photographs(word: str) -> bool:
    """Say whether a word is a file, a path, a glob, a URI, standard input or a flag rather than a misspelt verb."""
    return word.startswith("-") or any(sign in word for sign in "./\\*?[:~") or os.path.lexists(word)


if __name__ == "__main__":
    sys.exit(main())
