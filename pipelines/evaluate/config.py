"""The configuration of an evaluation. No Ray, no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from models.config import Settings

Split = Literal["test", "train", "all"]


class EvaluateConfig(Settings):
    """An evaluation. Its fields are the flags of the command.

    Attributes:
        allow_networks: packages of yours whose networks checkpoints may name; by default a checkpoint runs no code.
    """

    data: tuple[str, ...] = Field(
        min_length=1,
        description="hazy photographs: corpora and folders (paths or URIs), each with a table of its own",
        json_schema_extra={"metavar": "DIR"},
    )
    out: str = Field(description="folder or URI for the results", json_schema_extra={"metavar": "DIR"})
    models: tuple[str, ...] = Field(
        ("corun-compact",),
        description="packaged names, dcp, checkpoint folders or URIs, label=folder, or 'none'",
        json_schema_extra={"metavar": "A,B"},
    )
    allow_networks: tuple[str, ...] = ()
    results: tuple[str, ...] = Field(
        (), description="other programs' results for --data", json_schema_extra={"metavar": "NAME=DIR"}
    )
    baseline: bool = Field(
        True, description="leave the dark channel prior, which a model has to beat, out of the tables"
    )
    clear: str | None = Field(
        None,
        description="clear photographs (corpus or folder) to make synthetic pairs from",
        json_schema_extra={"metavar": "DIR"},
    )
    unharmed: bool = Field(
        True, description="do not give the models clear photographs (--clear, --reference) to see what they harm"
    )
    reference: str | None = Field(
        None, description="folder with the clear versions of --data", json_schema_extra={"metavar": "DIR"}
    )
    annotations: str | None = Field(
        None, description="VOC folder or COCO .json of --data, for --detector", json_schema_extra={"metavar": "PATH"}
    )
    detector: str | None = Field(
        None,
        description="of torchvision, NAME=FILE, or a weights file, for --annotations",
        json_schema_extra={"metavar": "NAME|FILE"},
    )
    classes: tuple[str, ...] | None = Field(
        None,
        description="what the detector's labels 1, 2, ... mean (default: COCO's)",
        json_schema_extra={"metavar": "A,B"},
    )
    split: Split | None = Field(None, description="default: test of a corpus, all of a folder given as --data")
    limit: int | None = Field(None, ge=1, description="at most N photographs of each source, the first by image id")
    metrics: tuple[str, ...] = Field(
        ("default",),
        description="'default', or names of docs/reference/metrics.md",
        json_schema_extra={"metavar": "A,B"},
    )
    metric_weights: dict[str, str] = Field(default_factory=dict, description="file of a metric's weights")
    headline: str | None = Field(
        None,
        description="metric to judge by where it is measured (default: fade, psnr)",
        json_schema_extra={"metavar": "NAME"},
    )
    allow_missing: bool = Field(False, description="what cannot run is n/a with a reason, not an error")
    scorer: str | None = Field("clip-compact", description="for clearness and quality, or 'none'")
    max_side: int = Field(
        640, ge=0, description="longer side of photographs before they are dehazed and measured; 0: as they are"
    )
    pair_size: int = Field(320, ge=64, description="side of synthetic pairs")
    degraded_pairs: bool = Field(
        False, description="also darken, add noise and compress the synthetic pairs, as in training"
    )
    cases: int = Field(12, ge=0, description="photographs with pictures in the report, of each table")
    sheet: int = Field(8, ge=0, description="photographs of each table on the contact sheets")
    seed: int = Field(0, ge=0, description="of the synthetic haze and the bootstrap")
    tracking_uri: str | None = Field(
        None, description="of MLflow, or 'none' (default: MLFLOW_TRACKING_URI, else a database in --out, none at a URI)"
    )
    batch: int = Field(8, ge=1, description="photographs for a worker at a time; what is lost when one dies")
    concurrency: int = Field(2, ge=1, description="workers, each with all models")
    num_cpus: float = Field(0.5, gt=0.0, description="of Ray for each worker")
    num_gpus: float | None = Field(
        None, ge=0.0, description="of Ray for each worker; may be a fraction (default: 1 for cuda, else 0)"
    )
    threads: int | None = Field(
        None, ge=1, description="of torch in each worker (default: this machine's cores shared between them)"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "cpu", description="of each worker; auto: a GPU where the cluster has any"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_source(cls, data: Any) -> Any:
        return (data,) if isinstance(data, str) else data

    @field_validator("data", "out", "clear", "reference")
    @classmethod
    def _not_empty(cls, places: Any) -> Any:
        """Refuse what a shell makes of a variable that is not set, before it means the current folder."""
        if "" in (places if isinstance(places, tuple) else (places,)):
            raise ValueError("expected a folder or a URI, not no text")
        return places

    @field_validator("models", "metrics", "classes", mode="before")
    @classmethod
    def _with_commas(cls, words: Any) -> Any:
        """Take ``A,B`` as well as ``A B``; ``none`` means no names."""
        if not isinstance(words, (list, tuple)):
            return words
        names = tuple(name.strip() for word in words for name in str(word).split(",") if name.strip())
        return () if names == ("none",) else names

    @field_validator("scorer")
    @classmethod
    def _none_by_name(cls, scorer: str | None) -> str | None:
        return None if scorer == "none" else scorer
