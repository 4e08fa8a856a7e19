"""What is in fashion: an item's share of the latest events, at any time of a log.

    c_i(t) = sum over events of i before t of 2^(-(t - time of the event) / half-life)
    f_i(t) = log(1 + I c_i(t) / sum_j c_j(t)),     I items: 0 for what nobody took lately

A model of the next item that knows positions and items alone learns the fashion of its whole log. With f
as one more number of each item, weighed by `Encoder.trend` for each history, the logit of item i after token
p is

    <h_p, v_i> + (a + <w, h_p>) f_i(time of the target)

and starts, at a = 1 and w = 0, from the softmax of the shares, which is what bestsellers of the last days
are. Time is cut into rows: the f of a row is that of its beginning, so that no event counts towards its own
prediction. Served is f at the end of the log, one more column of the items' vectors.

Cost: R I numbers, R the rows: a quarter of a half-life each, but `MIN_ROWS` at least, and fewer where R I
would pass `MAX_NUMBERS`. (In the first row nothing was in fashion yet: of few rows it would be a large part.)
"""

from typing import NamedTuple, Self

import numpy as np

from vitrina.schema import US_PER_DAY, FloatArray, IntArray, LongArray

ROWS_OF_A_HALF_LIFE = 4
"""Rows of the table in one half-life."""
MIN_ROWS = 32
"""However short a log is beside the half-life."""
MAX_NUMBERS = 1 << 26
"""Of the table: 256 MiB."""


class Trend(NamedTuple):
    """f of every item at the beginning of every row of time, and at the end of the log."""

    start_us: int
    row_us: int
    table_RI: FloatArray
    now_I: FloatArray

    @classmethod
    def over(cls, item_ix: IntArray, ts: LongArray, n_items: int, *, half_life_days: float) -> Self:
        """Of the rows of a log.

        Args:
            item_ix: item of each row, (N,).
            ts: time of each row, UTC microseconds, (N,), in any order.
            n_items: I.
            half_life_days: above 0.
        """
        half_life_us = half_life_days * US_PER_DAY
        start, end = int(ts.min()), int(ts.max()) + 1
        n_rows = max(MIN_ROWS, np.ceil((end - start) / half_life_us * ROWS_OF_A_HALF_LIFE))
        n_rows = min(int(n_rows), max(1, MAX_NUMBERS // n_items))
        row_us = -(-(end - start) // n_rows)
        row_N = (ts - start) // row_us
        by_row = np.argsort(row_N, kind="stable")
        bounds = np.searchsorted(row_N[by_row], np.arange(int(row_N.max()) + 2))
        table_RI = np.empty((len(bounds) - 1, n_items), np.float32)
        count_I = np.zeros(n_items)
        for row in range(len(table_RI)):
            table_RI[row] = _share(count_I)
            rows, stop = by_row[bounds[row] : bounds[row + 1]], min(start + (row + 1) * row_us, end)
            weight = np.exp2(-(stop - ts[rows]) / half_life_us)
            count_I *= np.exp2(-row_us / half_life_us)
            count_I += np.bincount(item_ix[rows], weight, n_items)
        return cls(start, row_us, table_RI, _share(count_I))

    def row_of(self, ts: LongArray) -> LongArray:
        """Row of the table for each time; times outside the log have the first or the last. Shape of `ts`."""
        return np.clip((ts - self.start_us) // self.row_us, 0, len(self.table_RI) - 1)


def _share(count_I: np.ndarray) -> FloatArray:
    total = count_I.sum()
    share_I = count_I / total if total > 0 else count_I
    return np.asarray(np.log1p(len(count_I) * share_I), np.float32)
