"""The ``dehaze`` command: one verb per job. A verb's module is imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from models.config import nearest

# verb: (module with main(argv) -> exit code, what it does)
VERBS = {
    "ingest": ("pipelines.ingest.__main__", "make a corpus from folders of photographs"),
    "train": ("pipelines.train.__main__", "train a dehazing network from a recipe"),
    "evaluate": ("pipelines.evaluate.__main__", "measure models on test photographs and write a report"),
    "apply": ("pipelines.dehaze.apply", "dehaze photographs on this machine"),
    "batch": ("pipelines.dehaze.__main__", "dehaze a folder on a Ray cluster"),
    "register": ("pipelines.register", "put a checkpoint into the MLflow model registry"),
    "demo": ("pipelines.demo.__main__", "run everything once on small data, from ingest to a served request"),
    "serve": ("serving.__main__", "serve a model over HTTP"),
}


def usage() -> str:
    """What ``dehaze --help`` prints."""
    verbs = "\n".join(f"  {verb:<10}{line}" for verb, (_, line) in VERBS.items())
    return (
        f"usage: dehaze VERB ...\n\nRemove haze from photographs.\n\n{verbs}\n\n`dehaze VERB --help` explains a verb."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; its exit code, or 2 for an unknown one."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    verb, *rest = words
    if verb not in VERBS:
        print(f"error: unknown verb '{verb}'{nearest(verb, list(VERBS))}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(VERBS[verb][0]).main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
