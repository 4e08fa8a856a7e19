"""Which of two items a person preferred, as logs of impressions and refusals tell it.

    shown b at t      .. taken a, the first event at or after t that is no refusal       a over b
    refused b         .. taken a, the next event that is no refusal                      a over b

The state that a preference is learnt with is the last event before b was seen, so that it holds neither.
"""

from typing import NamedTuple

import numpy as np
import torch

from vitrina.log import Histories
from vitrina.nn.argus import Pairs
from vitrina.nn.layout import Windows
from vitrina.schema import IntArray, LongArray


class Preferences(NamedTuple):
    """Pairs in the order of their states."""

    state_N: LongArray
    """Row of the events after which the pair was seen."""
    better_N: IntArray
    worse_N: IntArray

    def within(self, windows: Windows) -> Pairs:
        """Those whose state lies among the rows that some windows read."""
        lo_B = np.searchsorted(self.state_N, windows.start)
        n_B = np.searchsorted(self.state_N, windows.stop - 1) - lo_B
        row_N = np.repeat(np.arange(len(n_B)), n_B)
        at_N = np.arange(len(row_N)) + np.repeat(lo_B - (np.cumsum(n_B) - n_B), n_B)
        token_N = self.state_N[at_N] - windows.start[row_N]
        columns = (row_N, token_N, self.better_N[at_N], self.worse_N[at_N])
        return Pairs(*(torch.from_numpy(column.astype(np.int64)) for column in columns))


def preferences(events: Histories, shown: Histories, refusals: list[int]) -> Preferences:
    """Every pair that a log tells; pairs without an event before them, or without a take after, are left out.

    Cost: sorting both logs by user and time.

    Args:
        events: what users did. Row n of it is state n.
        shown: what they were shown and did not take; the same users and items.
        refusals: codes of events that mean no.
    """
    is_take_N = ~np.isin(events.event, refusals)
    n_rows = events.n_rows
    next_take_N = np.where(is_take_N, np.arange(n_rows), n_rows)
    next_take_N = np.append(np.minimum.accumulate(next_take_N[::-1])[::-1], n_rows)
    refused_N = np.flatnonzero(~is_take_N)
    first = np.concatenate([_row_at_or_after(events, shown), refused_N])
    user = np.concatenate([shown.user_rows, events.user_rows[refused_N]])
    worse = np.concatenate([shown.item_ix, np.asarray(events.item_ix)[refused_N]])
    take = next_take_N[first]
    known = (first > events.offsets[:-1][user]) & (take < events.offsets[1:][user])
    better = np.asarray(events.item_ix)[np.minimum(take, n_rows - 1)]
    known &= better != worse
    order = np.argsort(first[known], kind="stable")
    return Preferences(first[known][order] - 1, better[known][order], worse[known][order])


def _row_at_or_after(events: Histories, shown: Histories) -> LongArray:
    """For each row shown, the user's first event at or after its time; the end of the history if none is."""
    user = np.concatenate([shown.user_rows, events.user_rows])
    ts = np.concatenate([shown.ts, events.ts])
    is_event = np.repeat([False, True], [shown.n_rows, events.n_rows])
    order = np.lexsort((is_event, ts, user))
    n_before = np.empty(len(order), np.int64)
    n_before[order] = np.cumsum(is_event[order]) - is_event[order]
    return n_before[: shown.n_rows]
