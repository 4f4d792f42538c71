"""The configuration of an evaluation, and what follows from it before any photograph is read. No Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from models import zoo
from models.config import ConfigError, Settings
from pipelines.evaluate.evaluator import CLEAR, HAZY, Kind, ModelChoice
from pipelines.evaluate.metrics import METRICS
from pipelines.evaluate.sources import Split

BASELINE = "dcp"
HEADLINE: dict[Kind, tuple[str, ...]] = {
    "real": ("fade",), "paired": ("psnr", "ssim", "ciede2000"), "synthetic": ("psnr", "ssim", "ciede2000")
}  # fmt: skip
"""What each kind of photograph is judged by, the first of those that are measured."""


class EvaluateConfig(Settings):
    """An evaluation.

    Attributes:
        data: hazy photographs: corpora and plain folders, each with a table of its own.
        out: folder for the results.
        models: zoo names or checkpoint folders; ``label=folder`` names the row.
        allow_networks: packages whose networks checkpoints may name; see :mod:`models.imports`.
        results: ``name=folder`` of another program's results for the photographs of ``data``.
        baseline: also measure the dark channel prior, which needs no training: what a model has to beat.
        clear: clear photographs (corpus or folder); synthetic pairs are made from its test split.
        reference: folder with clear versions of photographs in ``data``.
        annotations: folder of VOC XML files or COCO JSON file of photographs in ``data``.
        detector: torchvision's name, ``name=file`` or file, for average precision on annotated photographs.
        classes: what the labels 1, 2, ... of the detector mean; None for COCO's.
        split: of a corpus; by default ``test``, and all of a plain folder given as ``data``.
        limit: at most so many photographs of each source, the first by image id.
        metrics: of :data:`pipelines.evaluate.metrics.METRICS`; ``default`` for the usual ones.
        metric_weights: file of a metric's weights, by the metric.
        headline: metric that tables are judged by where it is measured; None for FADE or PSNR.
        allow_missing: what cannot run is ``n/a`` with a reason in place of an error.
        scorer: for clearness and quality; None leaves them out.
        max_side: longer side that photographs are shrunk to before they are dehazed and measured; 0 for none.
        pair_size: side of the square synthetic pairs.
        degraded_pairs: also darken, add noise and compress as in training, not only haze.
        cases: photographs with pictures in the report, of each table.
        sheet: photographs of each table on the contact sheets.
        seed: of the synthetic haze and the bootstrap.
        tracking_uri: MLflow server or database; None tracks nothing.
        batch: photographs that a worker gets at a time, at most; what is lost when one dies.
        concurrency: workers, each with all models.
        num_cpus: that Ray sets aside for each worker; two workers must fit two logical CPUs.
        num_gpus: likewise, may be a fraction; None is 1 on ``cuda``, else 0.
        threads: of torch in each worker; None shares this machine's cores between them.
        device: of each worker: ``cpu``, ``cuda``, or ``auto`` for a GPU where the cluster has any.
    """

    data: tuple[str, ...] = Field(min_length=1)
    out: str
    models: tuple[str, ...] = (zoo.DEFAULT,)
    allow_networks: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    baseline: bool = True
    clear: str | None = None
    reference: str | None = None
    annotations: str | None = None
    detector: str | None = None
    classes: tuple[str, ...] | None = None
    split: Split | None = None
    limit: int | None = Field(None, ge=1)
    metrics: tuple[str, ...] = ("default",)
    metric_weights: dict[str, str] = Field(default_factory=dict)
    headline: str | None = None
    allow_missing: bool = False
    scorer: str | None = "clip-compact"
    max_side: int = Field(640, ge=0)
    pair_size: int = Field(320, ge=64)
    degraded_pairs: bool = False
    cases: int = Field(12, ge=0)
    sheet: int = Field(8, ge=0)
    seed: int = Field(0, ge=0)
    tracking_uri: str | None = None
    batch: int = Field(8, ge=1)
    concurrency: int = Field(2, ge=1)
    num_cpus: float = Field(0.5, gt=0.0)
    num_gpus: float | None = Field(None, ge=0.0)
    threads: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "cpu"

    @field_validator("data", mode="before")
    @classmethod
    def _one_source(cls, data: Any) -> Any:
        return (data,) if isinstance(data, str) else data


def model_choices(specs: Sequence[str]) -> tuple[ModelChoice, ...]:
    """``label=source`` or ``source``, folders made absolute because workers have another current folder.

    Raises:
        ConfigError: a label that is taken twice or is a row of every table.
    """
    choices: dict[str, ModelChoice] = {}
    for spec in specs:
        label, separator, source = spec.partition("=")
        if not separator or "/" in label:
            label, source = spec, spec
        if label in choices or label in (HAZY, CLEAR) or not label or not source:
            raise ConfigError(f"model '{spec}' cannot be labelled '{label}': labels must differ; use label=folder")
        folder = source not in zoo.NAMES and Path(source).is_dir()
        choices[label] = ModelChoice(label=label, source=str(Path(source).absolute()) if folder else source)
    return tuple(choices.values())


def with_baseline(choices: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
    """The dark channel prior before the others, unless it is among them."""
    if any(choice.source == BASELINE for choice in choices):
        return choices
    return (ModelChoice(label=BASELINE, source=BASELINE), *choices)


def result_folders(specs: Sequence[str], taken: Iterable[str]) -> dict[str, Path]:
    """Folders of other programs' results by the label of their row.

    Raises:
        ConfigError: a specification without a name, or a name that is taken.
    """
    folders: dict[str, Path] = {}
    labels = {*taken, HAZY, CLEAR}
    for spec in specs:
        label, equals, folder = spec.partition("=")
        if not equals or not label or not folder:
            raise ConfigError(f"results '{spec}': expected NAME=DIR")
        if label in labels:
            raise ConfigError(f"results '{spec}': the name '{label}' is taken; rows of the table need different ones")
        labels.add(label)
        folders[label] = Path(folder)
    return folders


def describe_model(choice: ModelChoice, allow_networks: Collection[str] = ()) -> dict[str, Any]:
    """What the summary says of a model, so that its numbers can be traced to its weights.

    Raises:
        ConfigError: there is no such model, or it is of a network that is not allowed.
    """
    loaded = zoo.load(choice.source, allow_networks)
    digest = hashlib.sha256()
    for name, tensor in sorted(loaded.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    scorer = (loaded.config.get("recipe") or {}).get("scorer") or {}
    return {
        "source": choice.source,
        "network": loaded.config.get("network"),
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "weights_sha256": digest.hexdigest(),
        "labels_by_iqa": isinstance(scorer, Mapping) and scorer.get("iqa") is not None,
    }


def label_metrics(described: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Metrics that selected pseudo labels: the scorer's, and MUSIQ where a model's scorer had it for quality."""
    own = {name for name, metric in METRICS.items() if metric.selected_labels}
    by_iqa = any(model.get("labels_by_iqa") for model in described)
    return frozenset(own | ({name for name in METRICS if name.startswith("musiq")} if by_iqa else set()))


def headline_of(kind: Kind, measured: Sequence[str], wanted: str | None, banned: frozenset[str]) -> str:
    """The metric that a table is judged by.

    Args:
        kind: of its photographs.
        measured: metrics of the run.
        wanted: by the user.
        banned: metrics that selected labels.

    Raises:
        ConfigError: the one wanted selected labels or is not measured; or nothing is left.
    """
    if wanted in banned:
        raise ConfigError(f"'{wanted}' selected the labels that models learn from, so it cannot be the headline")
    if wanted is not None and wanted not in measured:
        raise ConfigError(f"headline '{wanted}' is not measured; add it to --metrics ({', '.join(measured)})")
    usable = [
        name for name in measured
        if name not in banned and METRICS[name].needs != "transmission"
        and (kind != "real" or METRICS[name].needs != "reference")
    ]  # fmt: skip
    found = next((n for n in (wanted, *HEADLINE[kind], *usable) if n in usable), None)
    if found is None:
        raise ConfigError(
            f"no metric of {', '.join(measured) or 'none'} can headline {kind} photographs: those of the scorer "
            "selected labels; add another, such as fade"
        )
    return found
