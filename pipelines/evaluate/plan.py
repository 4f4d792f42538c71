"""What an evaluation is going to do: everything that can be refused is, before a photograph is measured. No Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.config import ConfigError
from models.haze import HazeConfig
from models.inference import local_cpus
from models.paths import is_uri, name_of
from pipelines.evaluate import iqa as evaluate_iqa
from pipelines.evaluate import metrics
from pipelines.evaluate.annotations import Annotated, match_annotations, read_annotations, shared_classes
from pipelines.evaluate.cases import PLAIN_HAZE
from pipelines.evaluate.choices import (
    describe_model,
    headline_of,
    label_metrics,
    model_choices,
    result_folders,
    with_baseline,
)
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.detection import Detector, precision_program
from pipelines.evaluate.evaluator import (
    CLEAR,
    HAZY,
    ITEM_SCHEMA,
    PAIRED,
    REAL,
    SYNTHETIC,
    UNHARMED,
    Kind,
    ModelChoice,
    RowSettings,
    first_row,
)
from pipelines.evaluate.metrics import METRICS
from pipelines.evaluate.sources import (
    Selection,
    choose,
    clear_selection,
    is_corpus,
    match_references,
    match_results,
    require_different,
)

CLEAR_TABLE = "clear, unharmed"


@dataclass(frozen=True)
class Group:
    """Photographs of one table.

    Attributes:
        kind: of all of them.
        selection: the photographs.
        references: clear versions by image id.
        results: other programs' results by label and image id.
        headline: metric that the table is judged by.
    """

    kind: Kind
    selection: Selection
    references: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    headline: str = ""


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation about to be done.

    Attributes:
        settings: for the workers.
        order: rows of the tables of hazy photographs from top to bottom.
        subject: the model that the worst photographs are those of.
        groups: the tables by name.
        models: what is to be said of each row.
        banned: metrics that selected labels.
        missing: what cannot run, and why.
        about: what is to be said of metrics and the detector.
        truth: annotations by image id.
        classes: of annotations, that count.
    """

    settings: RowSettings
    order: tuple[str, ...]
    subject: str
    groups: dict[str, Group]
    models: dict[str, Any]
    banned: frozenset[str]
    missing: dict[str, str]
    about: dict[str, Any]
    truth: dict[str, Annotated]
    classes: list[str]

    @property
    def photographs(self) -> int:
        """Return the number of photographs to be measured."""
        return sum(len(group.selection.entries) for group in self.groups.values())

    def rows(self, name: str) -> tuple[str, ...]:
        """Return the rows of a table from top to bottom; the one that the others are compared with comes first."""
        first = first_row(self.groups[name].kind)
        return (first, *(row for row in self.order if row not in (HAZY, first)))


def prepare(config: EvaluateConfig) -> EvaluationPlan:
    """Make the plan, and refuse all that can be refused before any photograph is measured.

    Raises:
        ConfigError: as :func:`evaluate`.
    """
    choices = model_choices(config.models)
    named = [choice.label for choice in choices]
    choices = with_baseline(choices) if config.baseline else choices
    folders = result_folders(config.results, (choice.label for choice in choices))
    if not choices and not folders:
        raise ConfigError("there is nothing to evaluate: name --models or --results")
    require_apart(config)
    names = metrics.chosen(config.metrics, scorer=config.scorer is not None)
    described: dict[str, Any] = {choice.label: describe_model(choice, config.allow_networks) for choice in choices}
    banned = label_metrics(described.values())
    check_scorer(config.scorer)
    groups = select(config, folders)
    missing, about = learned(config, names)
    measured = tuple(name for name in names if name not in missing)
    if config.unharmed and choices and any(METRICS[name].needs == "reference" for name in measured):
        groups |= unharmed(config, groups)
    for name, group in groups.items():
        groups[name] = replace(group, headline=headline_of(group.kind, measured, config.headline, banned))
    truth, classes, missing_detector, about_detector = detection(config, groups)
    settings = row_settings(config, choices, measured, tuple(folders))
    if missing_detector or not truth:
        settings = settings.model_copy(update={"detector": None})
    return EvaluationPlan(
        settings=settings,
        order=(HAZY, *(choice.label for choice in choices), *folders, CLEAR),
        subject=next(iter((*named, *folders, *described))),
        groups=groups,
        models=described | {label: {"results": folder} for label, folder in folders.items()},
        banned=banned,
        missing=missing | missing_detector,
        about=about | about_detector,
        truth=truth,
        classes=classes,
    )


def require_apart(config: EvaluateConfig) -> None:
    """Refuse results in a plain folder of photographs, where the next evaluation would measure their pictures.

    Raises:
        ConfigError: they would lie there.
    """
    if is_uri(config.out):
        return
    for source in filter(None, (*config.data, config.clear)):
        inside = not is_uri(source) and Path(config.out).resolve().is_relative_to(Path(source).resolve())
        if inside and not is_corpus(source):
            raise ConfigError(
                f"--out {config.out} lies in {source}, where the next evaluation would take its pictures for "
                "photographs: choose another folder for the results"
            )


def select(config: EvaluateConfig, folders: Mapping[str, str]) -> dict[str, Group]:
    """Return the tables: one for each source, and of photographs with a clear version one of their own."""
    groups: dict[str, Group] = {}
    several = len(config.data) > 1
    referenced = 0
    for source in config.data:
        chosen = choose(source, "hazy", config.split, config.limit, default="all")
        own = {label: match_results(label, folder, chosen.entries) for label, folder in folders.items()}
        references: dict[str, str] = {}
        if config.reference is not None:
            references = match_references(chosen.entries, config.reference)
            require_different(references, chosen.entries, config.reference)
        referenced += len(references)
        kinds: tuple[tuple[Kind, bool], ...] = ((REAL, False), (PAIRED, True))
        for kind, has in kinds:
            entries = tuple(e for e in chosen.entries if (e.image_id in references) == has)
            if entries:
                name = f"{kind}, {_unique(source, config.data)}" if several else kind
                groups[name] = Group(kind, replace(chosen, entries=entries), references, own)
    if config.reference is not None and not referenced:
        raise ConfigError(
            f"no photograph has a reference in {config.reference}; expected the same file names, such as "
            f"{chosen.entries[0].name}"
        )
    if config.clear is not None:
        groups[SYNTHETIC] = Group(SYNTHETIC, choose(config.clear, "clear", config.split, config.limit, default="test"))
    return groups


def unharmed(config: EvaluateConfig, groups: Mapping[str, Group]) -> dict[str, Group]:
    """Return tables of clear photographs, to see what models do to them: those that pairs are made of, and the
    references.
    """
    found: dict[str, Selection] = {}
    if config.clear is not None:
        found[config.clear] = groups[SYNTHETIC].selection
    if config.reference is not None:
        paired = [group for group in groups.values() if group.kind == PAIRED]
        paths = [group.references[entry.image_id] for group in paired for entry in group.selection.entries]
        if config.reference == config.clear:  # one table for both
            paths += [entry.path for entry in groups[SYNTHETIC].selection.entries]
        found[config.reference] = clear_selection(config.reference, paths)
    names = {source: f", {_unique(source, tuple(found))}" if len(found) > 1 else "" for source in found}
    return {f"{CLEAR_TABLE}{names[source]}": Group(UNHARMED, selection) for source, selection in found.items()}


def _unique(source: str, sources: Sequence[str]) -> str:
    """The last part of a source's path, or all of it where another has the same."""
    name = name_of(source)
    return name if sum(name_of(s) == name for s in sources) == 1 else source


def learned(config: EvaluateConfig, names: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metrics that cannot run, with the reasons, and a description of those that can.

    FADE is left out where its package is not installed and nobody asked for it by name.

    Raises:
        ConfigError: another one cannot, and that is not allowed.
    """
    own = [name for name in names if METRICS[name].provider in ("lpips", "pyiqa")]
    unknown = sorted(set(config.metric_weights) - set(own))
    if unknown:
        why = "takes none" if unknown[0] in names else "is not measured; add it to --metrics"
        raise ConfigError(f"--metric-weights names '{unknown[0]}', which {why}")
    missing, about = evaluate_iqa.problems(own, config.metric_weights)
    without_fade = _without_fade(names)
    if "fade" in (*config.metrics, config.headline):
        missing = without_fade | missing
    if missing and not config.allow_missing:
        raise ConfigError(f"{next(iter(missing.values()))} (--allow-missing makes it n/a)")
    return without_fade | missing, about


def _without_fade(names: Sequence[str]) -> dict[str, str]:
    """Return why FADE cannot be measured, as in the installation without its extra."""
    if "fade" not in names:
        return {}
    try:
        metrics.fade_program()
    except ConfigError as problem:
        return {"fade": str(problem)}
    return {}


def detection(
    config: EvaluateConfig, groups: Mapping[str, Group]
) -> tuple[dict[str, Annotated], list[str], dict[str, str], dict[str, Any]]:
    """Return annotations by image id, the classes that count, the reason why there is no detector, and the detector's
    description.

    Raises:
        ConfigError: annotations without a detector or the other way round; or either cannot be used.
    """
    if config.annotations is None and config.detector is None:
        return {}, [], {}, {}
    if config.annotations is None or config.detector is None:
        raise ConfigError("--annotations and --detector go together")
    entries = [entry for g in groups.values() if g.kind != SYNTHETIC for entry in g.selection.entries]
    truth = match_annotations(entries, read_annotations(Path(config.annotations)))
    try:
        precision_program()
        detector = Detector(config.detector, config.classes)
    except ConfigError as problem:
        if not config.allow_missing:
            raise ConfigError(f"{problem} (--allow-missing makes it n/a)") from problem
        return truth, [], {"detection": str(problem)}, {}
    classes, unknown = shared_classes(truth.values(), detector.classes)
    about = detector.about | {"classes": classes, "unknown_classes": unknown, "labels": list(detector.classes)}
    return truth, classes, {}, {"detector": about}


def check_scorer(name: str | None) -> None:
    """Fail here, in a sentence, instead of in a worker; packaged scorers are known to load.

    Raises:
        ConfigError: there is no such scorer.
    """
    from pseudolabel.scorer import PACKAGED, load_scorer

    if name is not None and name not in PACKAGED:
        load_scorer(name)


def row_settings(
    config: EvaluateConfig, choices: tuple[ModelChoice, ...], measured: tuple[str, ...], results: tuple[str, ...]
) -> RowSettings:
    """Return the part of the configuration that travels to the workers."""
    weights = {name: str(Path(file).resolve()) for name, file in config.metric_weights.items() if name in measured}
    return RowSettings(
        models=choices,
        allow_networks=config.allow_networks,
        results=results,
        metrics=measured,
        metric_weights=weights,
        scorer=_absolute_scorer(config.scorer),
        detector=_absolute(config.detector),
        classes=config.classes,
        max_side=config.max_side,
        pair_size=config.pair_size,
        haze=HazeConfig() if config.degraded_pairs else PLAIN_HAZE,
        seed=config.seed,
        threads=config.threads or max(1, local_cpus() // config.concurrency),
        device=config.device,
    )


def _absolute_scorer(scorer: str | None) -> str | None:
    """Return a scorer with its folder's whole path, likewise."""
    from pseudolabel.scorer import PACKAGED

    is_folder = scorer is not None and scorer not in PACKAGED and Path(scorer).is_dir()
    return str(Path(str(scorer)).absolute()) if is_folder else scorer


def _absolute(detector: str | None) -> str | None:
    """Return the detector with its file's whole path: workers have another current folder."""
    name, equals, file = (detector or "").partition("=")
    if equals:
        return f"{name}={Path(file).resolve()}"
    return str(Path(name).resolve()) if "/" in name or Path(name).is_file() else detector


def _items(name: str, group: Group, plan: EvaluationPlan) -> list[dict[str, Any]]:
    """Return `ITEM_SCHEMA` without blocks; neighbors in a row group together, so that it is read once."""
    results = [group.results.get(label, {}) for label in plan.settings.results]
    return [
        {
            "group": name,
            "kind": group.kind,
            "image_id": e.image_id,
            "name": e.name,
            "path": e.path,
            "row_group": e.row_group,
            "reference": group.references.get(e.image_id),
            "results": [found[e.image_id] for found in results if found],
            "detect": e.image_id in plan.truth and group.kind in (REAL, PAIRED),
        }
        for e in sorted(group.selection.entries, key=lambda e: (e.path, e.row_group or 0, e.image_id))
    ]


def item_blocks(plan: EvaluationPlan, config: EvaluateConfig) -> list[pa.Table]:
    """Return small tables of pointers to photographs (`ITEM_SCHEMA`): each is one batch of a worker."""
    items = [item for name, group in plan.groups.items() for item in _items(name, group, plan)]
    size = max(1, min(config.batch, len(items) // (4 * config.concurrency)))
    return [
        pa.Table.from_pylist([item | {"block": block} for item in items[at : at + size]], ITEM_SCHEMA)
        for block, at in enumerate(range(0, len(items), size))
    ]
