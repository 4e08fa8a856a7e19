"""From `[data]` and `[split]` to a checked log, its items and its split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from vitrina import split
from vitrina.errors import ConfigError, InputError
from vitrina.ids import Ids
from vitrina.log import Columns, EventLog, Histories, scan_log
from vitrina.recipes.config import DataConfig, SplitConfig
from vitrina.recipes.known_data import open_dataset
from vitrina.schema import EVENT, ITEM_ID, US_PER_DAY, USER_ID

ROWS_IN_MEMORY = 5_000_000
"""Training rows above which histories go to disk: 17 bytes a row and what sorting them takes."""
DEFAULT_QUANTILE = 0.9
"""Where the log is cut when the configuration does not say."""


@dataclass(frozen=True, eq=False)
class Data:
    """A log, what is known of its items, and where both come from."""

    name: str
    log: EventLog
    items: pl.DataFrame | None
    """One row an item_id."""
    users: pl.DataFrame | None
    """One row a user_id."""
    licence: str
    """Licence note of a known data set; of your own log nothing is known."""
    notes: tuple[str, ...]
    """What was assumed, merged, left out."""
    knows_all_items: bool = False
    """Whether models know the items of the metadata that they have no rows of."""

    def about(self) -> dict[str, Any]:
        """For model cards."""
        first, last = self.log.time_range()
        return {
            "name": self.name,
            "rows": self.log.n_rows(),
            "since": split.written(first),
            "until": split.written(last),
            "events": list(self.log.event_names),
            "digest": self.log.digest,
            "licence": self.licence,
            "notes": list(self.notes),
            "check": self.log.report.to_dict(),
        }


def open_data(config: DataConfig, *, out: Path | None = None) -> Data:
    """Scan and check what `[data]` names.

    Args:
        config: where the log is and how to read it.
        out: folder of the run, for rows that are set aside.

    Raises:
        LogError: the log cannot be read or breaks a rule.
        ConfigError: the configuration does not fit the log.
    """
    if config.dataset is not None:
        data = _known(config)
    else:
        quarantine = None
        if config.mode == "quarantine":
            quarantine = (out or Path()) / "quarantine.parquet"
        columns = Columns(**config.columns.model_dump())
        log = scan_log(
            str(config.path),
            columns,
            time_unit=config.time_unit,
            time_zone=config.time_zone,
            time_format=config.time_format,
            mode=config.mode,
            quarantine_path=quarantine,
            duplicates=config.duplicates,
        )
        name = Path(str(config.path)).name
        data = Data(
            name,
            log,
            read_table(config.items, ITEM_ID),
            read_table(config.users, USER_ID),
            "your own data: you know its terms",
            log.report.notes,
        )
    if config.events is not None:
        data = _only_events(data, config.events)
    if not data.log.n_rows():
        raise InputError(
            f"{data.name} has no events, there is nothing to learn from; check the file and [data]"
        )
    return data if config.vocabulary == "log" else _knowing_all_items(data)


def _knowing_all_items(data: Data) -> Data:
    if data.items is None:
        raise ConfigError('data.vocabulary = "items" needs the metadata of items; give data.items')
    note = "models know every item of the item metadata, also those that nobody had taken before the cut"
    return replace(data, notes=(*data.notes, note), knows_all_items=True)


def read_table(path: str | None, key: str) -> pl.DataFrame | None:
    """Metadata of items or people: Parquet, CSV or NDJSON with a column of ids.

    Args:
        path: the file; None gives None.
        key: item_id or user_id.

    Raises:
        ConfigError: the file is missing, of another kind, or has no such column.
    """
    if path is None:
        return None
    what = {ITEM_ID: "data.items", USER_ID: "data.users"}[key]
    readers: dict[str, Callable[[str], pl.DataFrame]] = {
        ".parquet": pl.read_parquet,
        ".csv": pl.read_csv,
        ".ndjson": pl.read_ndjson,
        ".jsonl": pl.read_ndjson,
    }
    kind = Path(path).suffix.lower()
    if kind not in readers:
        raise ConfigError(
            f"{what} {path} must end in one of {', '.join(readers)}, got {kind or 'no ending'!r}"
        )
    try:
        table = readers[kind](path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{what} {path} cannot be read ({error}); give a table of {key}") from error
    if key not in table.columns:
        raise ConfigError(f"{what} {path} has no column {key!r}; it has: {', '.join(table.columns)}")
    return table


def make_split(log: EventLog, config: SplitConfig, *, validation: bool = False) -> split.Split:
    """Cut a log as `[split]` says.

    Args:
        log: a checked log.
        config: where to cut.
        validation: also make the window on which parameters are chosen.

    Raises:
        SplitError: the cut is outside the log or leaves a part empty.
    """
    if config.protocol == "leave_one_out":
        return split.leave_one_out(log, validation=validation, seed=config.seed)
    if config.protocol == "last_n_per_user":
        return split.last_n_per_user(log, config.n, validation=validation, seed=config.seed)
    days = config.validation_days
    if validation and days is None:
        days = _test_days(_cut(log, config, None))
    return _cut(log, config, days if validation else None)


def training_histories(data: Data, made: split.Split, folder: Path) -> Histories:
    """Histories of the training part: in memory, or mapped from the run's folder where they are many."""
    items = vocabulary(data, made.train)
    if made.train.n_rows() <= ROWS_IN_MEMORY:
        return made.train.histories(items=items)
    return made.train.histories(folder / "histories" / made.digest[:16], items=items)


def vocabulary(data: Data, log: EventLog) -> Ids | None:
    """All items of a log and of the metadata, where models are to know them; None for those of the log."""
    if not data.knows_all_items or data.items is None:
        return None
    taken = log.frame.select(ITEM_ID).unique().collect(engine="streaming")[ITEM_ID]
    return Ids(pl.concat([Ids(taken).values, data.items[ITEM_ID].cast(Ids(taken).values.dtype)]))


def _cut(log: EventLog, config: SplitConfig, validation_days: float | None) -> split.Split:
    gap, horizon = config.gap_days, config.horizon_days
    if config.cut is not None:
        return split.at(
            log, cut=config.cut, gap_days=gap, horizon_days=horizon, validation_days=validation_days
        )
    if config.last_days is not None:
        return split.last_days(
            log, config.last_days, gap_days=gap, horizon_days=horizon, validation_days=validation_days
        )
    q = DEFAULT_QUANTILE if config.quantile is None else config.quantile
    return split.by_quantile(log, q, gap_days=gap, horizon_days=horizon, validation_days=validation_days)


def _test_days(made: split.Split) -> float:
    test = next(part for part in made.parts if part.name == "test")
    return ((test.until_us or 0) - (test.since_us or 0)) / US_PER_DAY


def _known(config: DataConfig) -> Data:
    loaded = open_dataset(str(config.dataset), config.folder, config.options)
    items = loaded.items if len(loaded.items) else None
    users = loaded.users if len(loaded.users) else None
    dropped = tuple(f"{n:,} rows left out: {reason}" for reason, n in loaded.dropped.items())
    return Data(
        loaded.name,
        loaded.log,
        items if config.items is None else read_table(config.items, ITEM_ID),
        users if config.users is None else read_table(config.users, USER_ID),
        f"{loaded.licence} ({loaded.attribution}; {loaded.page})",
        (*loaded.notes, *dropped),
    )


def _only_events(data: Data, events: list[str]) -> Data:
    unknown = [name for name in events if name not in data.log.event_names]
    if unknown:
        there = ", ".join(data.log.event_names)
        raise ConfigError(f"data.events: the log has no event {unknown[0]!r}; it has: {there}")
    n_before = data.log.n_rows()
    log = data.log.filter(pl.col(EVENT).is_in(events))
    note = f"{n_before - log.n_rows():,} rows of other events than {', '.join(events)} were left out"
    return replace(data, log=log, notes=(*data.notes, note))
