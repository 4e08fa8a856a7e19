"""Splits per user, for comparison with papers: the last rows of each user are the test.

They let training see the time after other users' test rows; every table measured on them says so. On several
public data sets the order of models under them is the reverse of that under a temporal split (Gusak et al.,
"Time to Split", RecSys 2025).
"""

from dataclasses import replace

import numpy as np
import polars as pl

from vitrina.errors import SplitError
from vitrina.ids import Ids
from vitrina.log import EventLog
from vitrina.log.order import flags, time_order
from vitrina.schema import EVENT, ITEM_ID, ORGANIC, TS, USER_ID, WEIGHT, BoolArray
from vitrina.split.splits import PER_USER_WARNING, Part, Split


def leave_one_out(log: EventLog, *, validation: bool = False, seed: int = 0) -> Split:
    """The last row of each user is the test, and the one before it the validation where asked; see below."""
    return last_n_per_user(log, 1, validation=validation, seed=seed)


def last_n_per_user(log: EventLog, n: int, *, validation: bool = False, seed: int = 0) -> Split:
    """The last n rows of each user are the test; with `validation`, the n before them are the validation.

    A user with too few rows to leave one for training stays wholly in training. Rows of equal time are
    ordered by a hash of (seed, user, time, item), as in `Histories`, never by their place in the file. The
    log is read into memory.

    Raises:
        SplitError: n < 1, the log is empty, or no user has more than n rows.
    """
    if n < 1:
        raise SplitError(f"n must be >= 1, got {n}; it is the number of test rows of each user")
    rows = log.frame.collect(engine="streaming")
    if not len(rows):
        raise SplitError("the log is empty, there is nothing to split; check the file and its filters")
    user_ix = Ids(rows[USER_ID]).ix(rows[USER_ID])
    item_ix = Ids(rows[ITEM_ID]).ix(rows[ITEM_ID])
    event = rows[EVENT].rank("dense").to_numpy().astype(np.uint8)
    weight = rows[WEIGHT].to_numpy() if WEIGHT in rows.columns else None
    organic = flags(rows[ORGANIC]) if ORGANIC in rows.columns else None
    ts = rows[TS].dt.timestamp("us").to_numpy()
    order = time_order(user_ix, ts, item_ix, seed, event, weight, organic)
    n_of_user = np.bincount(user_ix)
    ends = np.cumsum(n_of_user)
    from_end = np.empty(len(rows), dtype=np.int64)
    from_end[order] = (ends[user_ix] - 1)[order] - np.arange(len(rows))
    n_held = n * (2 if validation else 1)
    splittable = (n_of_user > n_held)[user_ix]
    is_test = splittable & (from_end < n)
    is_validation = splittable & (from_end >= n) & (from_end < n_held)
    if not is_test.any():
        raise SplitError(f"no user has more than {n_held} rows; lower n or split by time")
    parts = [Part("train", None, None, int((~is_test & ~is_validation).sum()))]
    if validation:
        parts.append(Part("validation", None, None, int(is_validation.sum())))
    parts.append(Part("test", None, None, int(is_test.sum())))
    return Split(
        kind="leave one out" if n == 1 else "last n per user",
        train=_rows(log, rows, ~is_test),
        test=_rows(log, rows, is_test),
        validation=_rows(log, rows, is_validation) if validation else None,
        train_before_validation=_rows(log, rows, ~is_test & ~is_validation) if validation else None,
        n_per_user=n,
        parts=tuple(parts),
        log_digest=f"{log.digest}:{seed}",
        warning=PER_USER_WARNING,
    )


def _rows(log: EventLog, rows: pl.DataFrame, mask: BoolArray) -> EventLog:
    return replace(log, frame=rows.filter(pl.Series(mask)).lazy(), known=None)
