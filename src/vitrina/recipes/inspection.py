"""What is in a log: counts, times, events, how long histories are, how often people repeat, where to cut."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vitrina.errors import ConfigError, SplitError
from vitrina.log import EventLog
from vitrina.recipes import toml
from vitrina.recipes.config import ColumnsConfig
from vitrina.recipes.data import Data, open_data
from vitrina.schema import EVENT, ITEM_ID, TS, US_PER_DAY, USER_ID
from vitrina.split import last_days, written

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
LAST_DAYS = (1, 7, 14, 30, 60, 90)
"""Test windows that are tried, in days."""
SENSIBLE_FRACTION = (0.02, 0.2)
"""Share of the rows that a test window should hold: enough to measure, not too much to learn from."""


def inspect(
    path: str,
    *,
    columns: Sequence[str] = (),
    time_unit: str | None = None,
    time_zone: str | None = None,
    quarantine: Path | None = None,
) -> dict[str, Any]:
    """Check a log and describe it; JSON values.

    Args:
        path: a log, or a TOML file whose `[data]` names one.
        columns: `user_id=customer` for each column that has another name.
        time_unit: of times that are numbers.
        time_zone: of times that carry none.
        quarantine: folder for rows that break a rule; None stops at the first.

    Raises:
        LogError: the log cannot be read or breaks a rule.
        ConfigError: an argument is wrong.
    """
    if path.endswith(".toml"):
        if columns or time_unit or time_zone:
            raise ConfigError(f"{path} says how to read its log; change it there and leave the options out")
        config = toml.load(path).data
    else:
        config = toml.data_section(
            {
                "path": path,
                "columns": _mapping(columns),
                "time_unit": time_unit,
                "time_zone": time_zone,
                "mode": "strict" if quarantine is None else "quarantine",
            }
        )
    if config.mode == "quarantine" and quarantine is None:
        with tempfile.TemporaryDirectory() as folder:
            return describe(open_data(config, out=Path(folder)))
    return describe(open_data(config, out=quarantine))


def describe(data: Data) -> dict[str, Any]:
    """What is in a checked log; JSON values. Streams it a few times, and holds users and pairs in memory."""
    log = data.log
    first, last = log.time_range()
    n_rows = log.n_rows()
    lengths = _column(log.frame.group_by(USER_ID).agg(pl.len().alias("n")))
    popularity = _column(log.frame.group_by(ITEM_ID).agg(pl.len().alias("n")))
    n_pairs = log.frame.select(USER_ID, ITEM_ID).unique().select(pl.len()).collect(engine="streaming").item()
    events = (
        log.frame.group_by(EVENT)
        .agg(pl.len().alias("n"))
        .collect(engine="streaming")
        .sort("n", descending=True)
    )
    return {
        "name": data.name,
        "check": log.report.to_dict(),
        "notes": list(data.notes),
        "rows": n_rows,
        "users": len(lengths),
        "items": len(popularity),
        "since": written(first),
        "until": written(last),
        "days": (last - first) / US_PER_DAY,
        "events": {row[EVENT]: row["n"] for row in events.to_dicts()},
        "frac_repeats": 1 - n_pairs / n_rows,
        "frac_users_with_one_event": float((lengths == 1).mean()),
        "history_length": _quantiles(lengths),
        "item_events": _quantiles(popularity),
        "density": n_pairs / (len(lengths) * len(popularity)),
        "digest": log.digest,
        "splits": splits(log),
    }


def splits(log: EventLog) -> list[dict[str, Any]]:
    """Test windows at the end of the log: what each would hold; `sensible` marks those worth measuring on."""
    found = []
    ts = pl.col(TS)
    for n_days in LAST_DAYS:
        try:
            made = last_days(log, n_days)
        except SplitError:
            continue
        cut = pl.lit(made.cut_us).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        is_test = ts >= cut
        users = log.frame.group_by(USER_ID).agg(
            trained=(~is_test).any(), tested=is_test.any(), n=is_test.sum()
        )
        tested = users.filter("tested").collect(engine="streaming")
        n_test = int(tested["n"].sum())
        frac = n_test / log.n_rows()
        low, high = SENSIBLE_FRACTION
        n_warm = int(tested["trained"].sum())
        found.append(
            {
                "last_days": n_days,
                "cut": written(made.cut_us or 0),
                "test_rows": n_test,
                "frac_rows": frac,
                "test_users": len(tested),
                "warm_users": n_warm,
                "cold_users": len(tested) - n_warm,
                "sensible": bool(low <= frac <= high and n_warm >= 30),
            }
        )
    return found


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    known = list(ColumnsConfig.model_fields)
    found = {}
    for given in columns:
        name, equals, column = given.partition("=")
        if not equals or name not in known or not column:
            raise ConfigError(f"--column {given!r} must be NAME=COLUMN, NAME one of {', '.join(known)}")
        found[name] = column
    return found


def _column(frame: pl.LazyFrame) -> np.ndarray:
    return frame.select("n").collect(engine="streaming")["n"].to_numpy()


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES} | {"mean": float(values.mean())}
