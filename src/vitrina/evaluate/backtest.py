"""Several windows of one log put together: is a model better every time, or was it that week?"""

from collections.abc import Sequence

import polars as pl

from vitrina.errors import InputError
from vitrina.evaluate.evaluation import Evaluation


def backtest(windows: Sequence[Evaluation]) -> pl.DataFrame:
    """Combine the evaluations of several test windows (`split.windows`), oldest first.

    Every window weighs the same, whatever the number of its users. The spread over windows says how much the
    answer depends on when one asks; it is not an interval for the mean, for windows that follow each other
    share training data.

    Returns:
        A row per model and metric, best first by the mean of the metric that orders the tables. Columns:
        model, metric, k, mean, sd_windows (null for one window), worst, best, n_windows, n_first (windows in
        which the model came first), values (the mean of each window).

    Raises:
        InputError: no window, or windows with other models or protocols.
    """
    if not windows:
        raise InputError("a backtest needs the evaluation of at least one window, got none")
    first = windows[0]
    for other in windows[1:]:
        if other.protocol != first.protocol or set(other.models) != set(first.models):
            raise InputError("the windows of a backtest must hold the same models under the same protocol")
    if len({window.split.digest for window in windows}) < len(windows):
        raise InputError("the same window is given twice; each split may occur once in a backtest")
    tables = [
        w.leaderboard().select("model", "metric", "k", "mean").with_columns(window=n)
        for n, w in enumerate(windows)
    ]
    joined = pl.concat(tables)
    rank = pl.col("mean").rank("min", descending=True).over("metric", "k", "window")
    combined = (
        joined.with_columns(is_first=rank == 1)
        .sort("window")
        .group_by("model", "metric", "k", maintain_order=True)
        .agg(
            pl.col("mean").mean(),
            pl.col("mean").std(ddof=1).alias("sd_windows"),
            pl.col("mean").min().alias("worst"),
            pl.col("mean").max().alias("best"),
            pl.len().cast(pl.Int64).alias("n_windows"),
            pl.col("is_first").sum().cast(pl.Int64).alias("n_first"),
            pl.col("mean").alias("values"),
        )
    )
    label, _, k = first.protocol.main.partition("@")
    main = combined.filter((pl.col("metric") == label) & (pl.col("k") == int(k))).sort(
        "mean", descending=True
    )
    order = {model: at for at, model in enumerate(main["model"])}
    place = pl.col("model").replace_strict(order, return_dtype=pl.Int64)
    return combined.sort(place, maintain_order=True)
