"""What follows from an evaluation's configuration before any photograph is read: models, results, headlines. No Ray."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models import zoo
from models.checkpoints import weights_hash
from models.config import ConfigError
from pipelines.evaluate.evaluator import CLEAR, HAZY, UNHARMED, Kind, ModelChoice
from pipelines.evaluate.metrics import METRICS

BASELINE = "dcp"
_TRUTH = ("psnr", "ssim", "ciede2000")
HEADLINE: dict[Kind, tuple[str, ...]] = {
    "real": ("fade",), "paired": _TRUTH, "synthetic": _TRUTH, "unharmed": _TRUTH
}  # fmt: skip
"""What each kind of photograph is judged by, the first of those that are measured."""


def model_choices(specs: Sequence[str]) -> tuple[ModelChoice, ...]:
    """Parse ``label=source`` or ``source``, paths made absolute because workers have another current folder.

    Raises:
        ConfigError: a label that is taken twice or is a row of every table.
    """
    choices: dict[str, ModelChoice] = {}
    for spec in specs:
        label, separator, source = spec.partition("=")
        if not separator or "/" in label:
            label, source = spec, spec
        if label in choices or label in (HAZY, CLEAR) or not label or not source:
            raise ConfigError(f"model '{spec}' cannot be labeled '{label}': labels must differ; use label=folder")
        path = source not in zoo.NAMES and Path(source).exists()
        choices[label] = ModelChoice(label=label, source=str(Path(source).absolute()) if path else source)
    return tuple(choices.values())


def with_baseline(choices: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
    """Put the dark channel prior before the others, unless it is among them."""
    if any(choice.source == BASELINE for choice in choices):
        return choices
    return (ModelChoice(label=BASELINE, source=BASELINE), *choices)


def result_folders(specs: Sequence[str], taken: Iterable[str]) -> dict[str, str]:
    """Return folders of other programs' results by the label of their row.

    Raises:
        ConfigError: a specification without a name, or a name that is taken.
    """
    folders: dict[str, str] = {}
    labels = {*taken, HAZY, CLEAR}
    for spec in specs:
        label, equals, folder = spec.partition("=")
        if not equals or not label or not folder:
            raise ConfigError(f"results '{spec}': expected NAME=DIR")
        if label in labels:
            raise ConfigError(f"results '{spec}': the name '{label}' is taken; rows of the table need different ones")
        labels.add(label)
        folders[label] = folder
    return folders


def describe_model(choice: ModelChoice, allow_networks: Collection[str] = ()) -> dict[str, Any]:
    """Return what the summary says of a model, so that its numbers can be traced to its weights.

    Raises:
        ConfigError: there is no such model, or it is of a network that is not allowed.
    """
    loaded = zoo.load(choice.source, allow_networks)
    scorer = (loaded.config.get("recipe") or {}).get("scorer") or {}
    return {
        "source": choice.source,
        "network": loaded.config.get("network"),
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "weights_sha256": weights_hash(loaded.network),
        "labels_by_iqa": isinstance(scorer, Mapping) and scorer.get("iqa") is not None,
    }


def label_metrics(described: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the metrics that selected pseudo labels: the scorer's, and MUSIQ where a model's scorer had it for
    quality.
    """
    own = {name for name, metric in METRICS.items() if metric.selected_labels}
    by_iqa = any(model.get("labels_by_iqa") for model in described)
    return frozenset(own | ({name for name in METRICS if name.startswith("musiq")} if by_iqa else set()))


def headline_of(kind: Kind, measured: Sequence[str], wanted: str | None, banned: frozenset[str]) -> str:
    """Choose the metric that a table is judged by.

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
        and (kind != UNHARMED or METRICS[name].needs == "reference")  # less haze than none is no gain
    ]  # fmt: skip
    found = next((n for n in (wanted, *HEADLINE[kind], *usable) if n in usable), None)
    if found is None:
        without = ", which have no clear version (--reference)" if kind == "real" else ""
        raise ConfigError(
            f"no metric of {', '.join(measured) or 'none'} can headline {kind} photographs{without}; "
            f"those of the scorer selected labels: add another, such as {HEADLINE[kind][0]}"
        )
    return found
