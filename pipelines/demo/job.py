"""The main job, end to end: ingest, pretrain, fine-tune with Colabator, evaluate, register, serve.

Without folders of its own it runs on sample photographs that it makes from images inside scikit-image and scikit-learn
(their haze is synthetic). An interrupted run goes on after its last finished stage; a finished one by a new run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from models.config import ConfigError
from models.imports import package_of
from models.paths import replacing
from pipelines.cluster import local_out, ray_session
from pipelines.train import Recipe, TrainJob, load_recipe, train

PRETRAIN, FINETUNE = "demo_pretrain", "demo_colabator"
EXPERIMENT = "ray-dehaze-demo"


class State:
    """What a run has done so far, in ``state.json``: results and seconds of its finished stages."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        known = json.loads(path.read_text()) if path.is_file() else {}
        self.values: dict[str, Any] = known if known.get("digest") == digest else {"digest": digest, "stages": {}}

    def save(self) -> None:
        """Write the state, atomically."""
        with replacing(os.fspath(self.path)) as stream:
            stream.write((json.dumps(self.values, indent=2) + "\n").encode())

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the stage's result: from an earlier attempt, or by doing the work now."""
        stages = self.values["stages"]
        if name in stages:
            print(f"\n== {name}: done before, in {stages[name]['seconds']:.0f} s", flush=True)
        else:
            print(f"\n== {name}", flush=True)
            began = time.monotonic()
            result = work()
            stages[name] = {"seconds": time.monotonic() - began, "result": result}
            self.save()
        found: dict[str, Any] = stages[name]["result"]
        return found


class Demo:
    """One run of the main job. Folders are absolute."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.out = local_out(args.out)
        self.hazy, self.clear = args.hazy, args.clear
        self.pretrain, self.finetune = load_recipe(PRETRAIN, args.set), load_recipe(FINETUNE, args.set)
        if args.from_scratch:
            self.pretrain = self.pretrain.model_copy(update={"init": None})
        self.port, self.limit = args.port, args.limit
        own = (name for recipe in (self.pretrain, self.finetune) for name in package_of(recipe.network))
        self.allow_networks = tuple(dict.fromkeys((*args.allow_networks, *own)))  # what it trains, it loads again
        recipes = [json.dumps(recipe.trained(), sort_keys=True) for recipe in (self.pretrain, self.finetune)]
        steps = [recipe.train.steps for recipe in (self.pretrain, self.finetune)]  # its stages are done or not
        inputs = json.dumps([str(self.hazy), str(self.clear), recipes, steps])
        self.digest = hashlib.sha256(inputs.encode()).hexdigest()[:12]
        self.run = self._run_folder()
        self.state = State(self.run / "state.json", self.digest)

    def _run_folder(self) -> Path:
        """The unfinished run with the same inputs, else the next free number."""
        found = (re.fullmatch(r"run-(\d+)", path.name) for path in self.out.glob("run-*"))  # others are not ours
        last = max((int(run[1]) for run in found if run), default=0)
        run, following = (self.out / f"run-{number:03d}" for number in (last, last + 1))
        if (run / "state.json").is_file():
            state = json.loads((run / "state.json").read_text())
            if state.get("digest") == self.digest and "serve" not in state["stages"]:
                return run
        return following

    @property
    def tracking_uri(self) -> str:
        """Return the address of the demo's own MLflow database."""
        from models.mlflow_client import default_uri

        return default_uri(self.out)

    def tracker(self) -> Any:
        """Return the run in MLflow: begun once, found again after an interruption."""
        from pipelines.tracking import Tracker

        if "mlflow_run" in self.state.values:
            return Tracker.resume(self.tracking_uri, self.state.values["mlflow_run"])
        tracker = Tracker.start(EXPERIMENT, self.run.name, self.tracking_uri)
        for name, recipe in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            tracker.log_params({name: recipe.model_dump(mode="json")})
        self.state.values["mlflow_run"] = tracker.run_id
        self.state.save()
        return tracker

    def ingest(self) -> dict[str, Any]:
        """Make both corpora."""
        from pipelines.demo.samples import make_samples
        from pipelines.ingest import IngestConfig, ingest, summary

        folders = {"hazy": self.hazy, "clear": self.clear}
        if self.hazy is None or self.clear is None:
            made = make_samples(self.out / "samples")
            folders = {"hazy": self.hazy or made.hazy, "clear": self.clear or made.clear}
            print(f"sample photographs (synthetic haze) in {self.out / 'samples'}", flush=True)
        counts = {}
        for domain, folder in folders.items():
            out = str(self.out / "corpus" / domain)
            manifest = ingest(IngestConfig(sources=(str(folder),), domain=domain, out=out))
            print(summary(manifest, out), flush=True)
            counts[domain] = manifest.model_dump(include={"found", "accepted", "rejected", "duplicates"})
        return {"folders": {key: str(value) for key, value in folders.items()}, "counts": counts}

    def _job(self, name: str, recipe: Recipe, run_id: str) -> TrainJob:
        corpora = {domain: str(self.out / "corpus" / domain) for domain in ("clear", "hazy")}
        tracking, allow = (self.tracking_uri, run_id), self.allow_networks
        return TrainJob(recipe, str(self.run / name), tracking=tracking, allow_networks=allow, **corpora)

    def train(self, name: str, recipe: Recipe, run_id: str) -> dict[str, Any]:
        """Run one of the two training stages."""
        result = train(self._job(name, recipe, run_id))
        return {"model": str(result.model), "metrics": result.metrics, "labels": result.labels}

    def evaluate(self, pretrained: str, dehazer: str) -> dict[str, Any]:
        """Measure held-out photographs before and after."""
        from pipelines.evaluate import EvaluateConfig, evaluate

        found = evaluate(
            EvaluateConfig(
                data=(str(self.out / "corpus" / "hazy"),),
                clear=str(self.out / "corpus" / "clear"),
                models=(f"pretrained={pretrained}", f"dehazer={dehazer}"),
                out=str(self.run / "evaluation"),
                limit=self.limit,
                allow_networks=self.allow_networks,
            )
        )
        return {"summary": found.summary, "files": [str(f) for f in (found.sheet, found.csv, found.json) if f]}

    def register(self, tracker: Any, model: str, evaluation: dict[str, Any]) -> dict[str, Any]:
        """Register the model in MLflow with its figures and pictures; the alias ``champion`` points to it."""
        from models.registry import register_model
        from pipelines.evaluate import flat

        tracker.log_metrics(flat(evaluation["summary"]))
        tracker.log_artifact(self.run / "evaluation", "evaluation")
        version = register_model(model, tracking_uri=self.tracking_uri, run_id=tracker.run_id)
        return {"version": str(version)}

    def serve(self, folder: str) -> dict[str, Any]:
        """Load the champion, answer one real request, and stop."""
        import httpx

        from serving import app
        from serving.config import ServingConfig

        photo = example_photo(Path(folder))
        url = app.start(
            ServingConfig(
                port=self.port,
                model="models:/dehazer@champion",
                tracking_uri=self.tracking_uri,
                allow_networks=self.allow_networks,
            )
        )
        try:
            answer = httpx.post(f"{url}/v1/dehaze", content=photo.read_bytes(), timeout=120)
            answer.raise_for_status()
        finally:
            app.stop()
        target = self.run / f"served_{photo.stem}{photo.suffix}"
        target.write_bytes(answer.content)
        print(f"POST {url}/v1/dehaze {photo.name}: {answer.status_code}, {len(answer.content):,} bytes -> {target}")
        return {"file": str(target), "url": url}

    def main(self) -> int:
        """Run all stages that are not done yet, then print the table."""
        print(f"run folder: {self.run}", flush=True)
        from pipelines.tracking import running
        from serving.config import local_ray_environment

        with ray_session(local=local_ray_environment()), ExitStack() as stack:
            self.state.stage("ingest", self.ingest)
            tracker = self.tracker()
            stack.enter_context(running(tracker))
            first = self.state.stage("pretrain", lambda: self.train("pretrain", self.pretrain, tracker.run_id))
            recipe = self.finetune.model_copy(update={"init": first["model"]})
            second = self.state.stage("fine-tune", lambda: self.train("finetune", recipe, tracker.run_id))
            judged = self.state.stage("evaluate", lambda: self.evaluate(first["model"], second["model"]))
            self.state.stage("register", lambda: self.register(tracker, second["model"], judged))
            folder = self.state.values["stages"]["ingest"]["result"]["folders"]["hazy"]
            self.state.stage("serve", lambda: self.serve(folder))
        print(closing_table(self.state.values["stages"], self.run, self.tracking_uri))
        return 0


def example_photo(folder: Path) -> Path:
    """Return the first photograph of a folder that can be decoded."""
    from models import images

    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in images.IMAGE_SUFFIXES:
            try:
                images.read_image(path)
            except images.ImageError:
                continue
            return path
    raise ConfigError(f"no readable photograph in {folder}")


def figures(summary: dict[str, Any]) -> list[str]:
    """Return the means of an evaluation as a table for the terminal: a line per model, a column per metric."""
    from pipelines.evaluate import METRICS

    arrows = {"lower": "v", "higher": "^", "zero": "~"}
    lines = []
    for kind, table in summary["tables"].items():
        names = [name for name in METRICS if any(name in metrics for metrics in table.values())]
        heads = [f"{name} {arrows[METRICS[name].better]}" for name in names]
        lines += ["", f"{'held out, ' + kind:<26}" + "".join(f"{head:>14}" for head in heads)]
        for model, metrics in table.items():
            means = [metrics.get(name, {}).get("mean") for name in names]
            cells = ["" if mean is None else f"{mean:.3f}" for mean in means]
            lines.append(f"{model:<26}" + "".join(f"{cell:>14}" for cell in cells))
    return lines


def closing_table(stages: dict[str, Any], run: Path, tracking_uri: str) -> str:
    """Return what the run came to, as text."""
    lines = ["", "stage            seconds"]
    lines += [f"{name:<15}{stage['seconds']:>9.0f}" for name, stage in stages.items()]
    lines += figures(stages["evaluate"]["result"]["summary"])
    labels = stages["fine-tune"]["result"]["labels"].get("pool", {})
    if labels:
        lines.append(
            f"\nlabel pool: {labels['size']} labels, clearness {labels['mean_clearness']:.3f}, "
            f"quality {labels['mean_quality']:.3f}, {labels['acceptance_rate']:.0%} of offers accepted"
        )
    lines.append("\nfiles")
    lines += [f"  {path}" for path in [*stages["evaluate"]["result"]["files"], stages["serve"]["result"]["file"]]]
    out = os.path.relpath(run.parent)
    out = str(run.parent) if out.startswith("..") else out
    lines += [
        f"\nMLflow:  .venv/bin/mlflow ui --backend-store-uri {tracking_uri}",
        f"service: make serve OUT={out}",
        "         curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/dehaze -o out.jpg",
    ]
    return "\n".join(lines)
