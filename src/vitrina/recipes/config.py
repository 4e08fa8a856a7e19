"""Configuration of a run: what a TOML file may say, each key with its meaning, unit and default.

`docs/configuration.md` is generated from these classes, so a key is described here and nowhere else.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A table of the TOML file: unknown keys are refused, values are never guessed."""

    model_config = ConfigDict(
        extra="forbid", strict=False, frozen=True, use_attribute_docstrings=True, str_strip_whitespace=True
    )


class ColumnsConfig(Section):
    """`[data.columns]`: the names that your file gives to what Vitrina needs.

    An optional column that is left out is used where the file has it under Vitrina's own name.
    """

    user_id: str = "user_id"
    """Who acted; integers or text."""
    item_id: str = "item_id"
    """What they acted on; integers or text."""
    ts: str = "ts"
    """When: a time with its zone, text in ISO 8601, or numbers in `time_unit`."""
    event: str = "event"
    """The kind of event, as `click` or `purchase`; without it, all rows are of one kind."""
    weight: str = "weight"
    """How much a row counts, a number >= 0; without it, every row weighs 1."""
    value: str = "value"
    """A value of the event, as a rating or a price."""
    organic: str = "organic"
    """Whether the person found the item without a recommendation; true/false or 1/0."""
    text_ids: bool = False
    """True keeps the ids of a CSV or NDJSON file as text even where they look like integers."""


class DataConfig(Section):
    """`[data]`: the event log, and what is known of its items."""

    path: str | None = None
    """Parquet, CSV, TSV or NDJSON: a file, a folder, a pattern (`events/*.parquet`), a store's URL."""
    dataset: str | None = None
    """A data set by name instead of a path; `vitrina data list` has them."""
    folder: str | None = None
    """Folder with the files of a data set that does not ship."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of its reader, as `{ size = "50m", part = "likes" }`."""
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    """Names of the columns, see `[data.columns]`."""
    events: list[str] | None = None
    """Kinds of event to learn from and to predict, the others being left out and counted; by default all."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of times that are numbers since 1970-01-01 UTC; needed where `ts` holds numbers."""
    time_zone: str | None = None
    """Zone of times that carry none, as `Europe/London`; without it such times are refused."""
    time_format: str | None = None
    """strftime format of times that are text; left out, ISO 8601."""
    mode: Literal["strict", "quarantine"] = "strict"
    """`strict` stops at the first bad rows; `quarantine` sets them aside in the run's folder with reasons."""
    duplicates: Literal["set_aside", "keep", "error"] = "set_aside"
    """What to do with rows that repeat another in every column: keep the first and count, keep all, stop."""
    items: str | None = None
    """Parquet, CSV or NDJSON with one row an item: `item_id`, `title` and columns that policies can name."""
    users: str | None = None
    """Parquet, CSV or NDJSON with one row a person: `user_id` and columns for models that read them."""
    vocabulary: Literal["log", "items"] = "log"
    """What can be recommended: `log`, items that training has rows of; `items`, all of the item metadata too,
    so that models which read it can show what nobody has taken yet."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError(
                "needs either path (your own log) or dataset (a known one), and not both;"
                f" got path = {self.path!r}, dataset = {self.dataset!r}"
            )
        if self.dataset is None and (self.folder is not None or self.options):
            raise ValueError("takes folder and options only beside dataset; for your own log give path")
        return self


class SplitConfig(Section):
    """`[split]`: what is learned from and what is held out. Give one of `last_days`, `cut` and `quantile`."""

    protocol: Literal["time", "leave_one_out", "last_n_per_user"] = "time"
    """`time` cuts everybody at one moment, as production does; the two others see the future and say so."""
    last_days: float | None = Field(default=None, gt=0)
    """Days held out at the end of the log."""
    cut: str | None = None
    """Held out from this moment on, ISO 8601 with its zone, as `2026-03-01T00:00Z`."""
    quantile: float | None = Field(default=None, gt=0, lt=1)
    """Held out after the moment before which this fraction of the rows lies; 0.9 where no cut is given."""
    gap_days: float = Field(default=0.0, ge=0)
    """Days left out before what is held out, for what is logged late."""
    horizon_days: float | None = Field(default=None, gt=0)
    """Days held out after the cut; left out, everything until the end of the log."""
    validation_days: float | None = Field(default=None, gt=0)
    """Days before the cut on which `vitrina tune` measures; left out, as many as are held out."""
    windows: int = Field(default=1, ge=1, le=100)
    """Test windows in all. Above 1, a backtest measures the same on the windows before, each as long as what
    is held out."""
    n: int = Field(default=1, ge=1)
    """Rows held out of each user, for `protocol = "last_n_per_user"`."""
    seed: int = Field(default=0, ge=0)
    """Orders rows of equal time, for the protocols per user."""

    @model_validator(mode="after")
    def _one_cut(self) -> Self:
        given = [name for name in ("last_days", "cut", "quantile") if getattr(self, name) is not None]
        if self.protocol != "time" and given:
            raise ValueError(
                f"has {given[0]}, which has no meaning with protocol {self.protocol!r}; leave it out"
            )
        if self.protocol != "time" and self.windows > 1:
            raise ValueError(
                f"has windows = {self.windows}, which has no meaning with protocol {self.protocol!r};"
                " a backtest moves one cut for everybody"
            )
        if len(given) > 1:
            raise ValueError(f"takes one of last_days, cut and quantile, got {' and '.join(given)}")
        return self


class EvaluateConfig(Section):
    """`[evaluate]`: what is measured, on whom, and how surely."""

    metrics: list[str] | None = None
    """Metrics as `NDCG@10`; the first orders the table and picks the winner. Left out: all of them."""
    k: int = Field(default=100, ge=1, le=10_000)
    """Length of the lists that are asked for, measured and written as Parquet, in items."""
    repeats: list[Literal["count", "new_only", "as_configured"]] = Field(
        default=["count", "new_only"], min_length=1
    )
    """Views, each a leaderboard; the first picks the winner. `count`: nothing is hidden, taking an item again
    counts. `new_only`: what the person had taken is neither shown nor counted. `as_configured`: policies
    decide."""
    users: Literal["all", "warm"] = "all"
    """`all` measures new people too, with an empty history; `warm` only those with a training history."""
    keep_models: bool = True
    """Keep fitted models in the run's folder: the next run trains only what has changed."""
    n_bootstrap: int = Field(default=2000, ge=1000, le=100_000)
    """Resamples of users behind each 95 % interval."""
    n_seeds: int = Field(default=1, ge=1, le=20)
    """Seeds with which a model that has randomness is trained."""
    seed: int = Field(default=0, ge=0)
    """First of those seeds, and the seed of the resampling."""


class PolicyConfig(BaseModel):
    """One policy: `kind` and its parameters, as `{ kind = "CapPer", column = "category", cap = 2 }`."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    kind: str
    """Unseen, CapPer, MinAge, MaxAge, Allow or Block."""

    @property
    def params(self) -> dict[str, Any]:
        """What stands beside `kind`; lists as tuples."""
        extra = self.model_extra or {}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in extra.items()}


class IndexConfig(BaseModel):
    """`index`: where item vectors are searched, as `{ kind = "FaissIndex", min_recall = 0.98 }`."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    kind: str
    """ExactIndex, FaissIndex, PgVectorIndex or QdrantIndex; its parameters stand beside."""

    @property
    def params(self) -> dict[str, Any]:
        """What stands beside `kind`."""
        return dict(self.model_extra or {})


class SourceConfig(Section):
    """One source of a model that merges several, in `[[models.sources]]`."""

    kind: str
    """Class of the candidate generator, as `ItemKNN`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its parameters; those left out have their defaults."""
    name: str = ""
    """Shown with every item that it contributed; left out, its `kind`."""
    k: int = Field(default=200, ge=1)
    """Candidates asked of it."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of its ranks in the merged list."""
    budget_ms: float | None = Field(default=None, gt=0)
    """In live requests it is left out when slower than so many milliseconds; left out, it is waited for."""
    index: IndexConfig | None = None
    """Index that answers for its item vectors; left out, the model scores every item, exactly."""


class FallbackConfig(Section):
    """`fallback`: the model that fills lists which the sources leave short."""

    kind: str = "MostPop"
    """Class of a candidate generator that answers for everybody."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its parameters."""


class ModelConfig(Section):
    """`[[models]]`: one row of the leaderboard. One candidate generator (`kind`), or several (`sources`)."""

    name: str = ""
    """Name in the leaderboard; left out, its `kind`."""
    kind: str | None = None
    """Class of the candidate generator, as `ItemKNN`; the page on models has them all."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its parameters; those left out have their defaults."""
    index: IndexConfig | None = None
    """Index that answers for its item vectors, as `{ kind = "FaissIndex" }`; left out, the model scores every
    item, exactly."""
    sources: list[SourceConfig] = Field(default_factory=list)
    """Several generators whose lists are merged by reciprocal rank, see `[[models.sources]]`."""
    policies: list[PolicyConfig] = Field(default_factory=list)
    """Policies of this model, after those of `[pipeline]`."""
    fallback: FallbackConfig | Literal["none"] | None = None
    """What fills short lists; left out, that of `[pipeline]`; `"none"` leaves lists short."""

    @model_validator(mode="after")
    def _kind_or_sources(self) -> Self:
        if (self.kind is None) == (not self.sources):
            raise ValueError("needs either kind (one generator) or sources (several), and not both")
        if self.sources and (self.params or self.index is not None):
            raise ValueError("params and index stand beside kind; with sources each has its own")
        if self.sources and not self.name:
            raise ValueError("with several sources needs a name")
        return self

    @property
    def label(self) -> str:
        """Name in the leaderboard."""
        return self.name or str(self.kind)


class PipelineConfig(Section):
    """`[pipeline]`: what holds for every model."""

    policies: list[PolicyConfig] = Field(default_factory=list)
    """Rules between the models and the person, in the measurement and in the served feed alike."""
    fallback: FallbackConfig | Literal["none"] = Field(default_factory=FallbackConfig)
    """What fills lists which a model leaves short, as those of new users; `"none"` leaves them short."""
    k_sources: int = Field(default=200, ge=1)
    """Candidates asked of a model with a single source."""


class TrainingConfig(Section):
    """`[training]`: who hears of the epochs of models that learn so, beside the report."""

    tracker: Literal["tensorboard", "mlflow"] | None = None
    """Where curves of loss and validation go too, those of each fit of `vitrina evaluate` and `train` apart;
    needs the extra `tracking`."""
    tracker_where: str | None = None
    """Its folder, or for MLflow also the URI of a database or server; left out, `tensorboard` or `mlflow` in
    the run's folder."""

    @model_validator(mode="after")
    def _where_of_what(self) -> Self:
        if self.tracker is None and self.tracker_where is not None:
            raise ValueError(f"has tracker_where = {self.tracker_where!r} and no tracker; name one")
        return self


class ServeConfig(Section):
    """`[serve]`: the defaults of `vitrina serve`."""

    model: str | None = None
    """Name of the model that `vitrina train` fits; left out, the winner of the evaluation."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the service to the network."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""


class TuneConfig(Section):
    """`[tune]`: the budget of `vitrina tune`, which measures on the validation window only."""

    models: list[str] = Field(default_factory=list)
    """Names of the models to search; left out, all that have a search space, merged sources among them."""
    n_trials: int = Field(default=20, ge=1)
    """Settings tried for each model."""
    minutes: float | None = Field(default=None, gt=0)
    """Wall time for each model; the search ends at this or at `n_trials`, whichever comes first."""
    metric: str | None = None
    """Metric to maximise, as `NDCG@10`; left out, the first of `[evaluate]`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the search."""


class RunConfig(Section):
    """A whole run."""

    data: DataConfig
    """The event log."""
    split: SplitConfig = Field(default_factory=SplitConfig)
    """What is held out."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """What is measured."""
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    """What holds for every model."""
    models: list[ModelConfig] = Field(default_factory=list)
    """Rows of the leaderboard; left out, the classical models with their defaults."""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """Who hears of trainings."""
    serve: ServeConfig = Field(default_factory=ServeConfig)
    """Defaults of the service."""
    tune: TuneConfig = Field(default_factory=TuneConfig)
    """Budget of the search."""
    out: str = "runs"
    """Folder for everything that a run writes, relative to the TOML file."""

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        names = [model.label for model in self.models]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"models has the name {repeated[0]!r} more than once; give each its own name")
        return self

    def rooted(self, folder: Path) -> "RunConfig":
        """The same run with relative paths taken from `folder`."""
        data = self.data.model_copy(
            update={
                name: _rooted(getattr(self.data, name), folder)
                for name in ("path", "folder", "items", "users")
            }
        )
        where = _rooted(self.training.tracker_where, folder)
        training = self.training.model_copy(update={"tracker_where": where})
        return self.model_copy(update={"data": data, "training": training, "out": _rooted(self.out, folder)})


def _rooted(path: str | None, folder: Path) -> str | None:
    if path is None or "://" in path or path.startswith("file:"):
        return path
    return str(folder / Path(path).expanduser())
