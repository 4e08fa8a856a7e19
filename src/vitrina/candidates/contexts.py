"""The context of an event, as histories tell it: when it was, how long after the one before, and where."""

import numpy as np

from vitrina.log import Histories
from vitrina.schema import US_PER_SECOND, ByteArray, LongArray

N_CONTEXTS = (24, 7, 26, 2)
"""Buckets of each feature: hour of the day (UTC); day of the week (Monday first); gap to the event before,
powers of two of seconds, the last from about a year on; alone (0) or from a feed (1). The next number means
unknown."""
TIME, SURFACE = (0, 1, 2), (3,)
"""Features that are known together."""
OF_ORGANIC = np.array([1, 0, N_CONTEXTS[3]], np.uint8)
"""Surface of a row that a feed led to, that a person found alone, of which nobody says."""


def of_time(ts_N: LongArray, before_N: LongArray) -> ByteArray:
    """Hour, day and gap. Shape (N, 3).

    Args:
        ts_N: times, UTC microseconds.
        before_N: times of the events before.
    """
    hour_N = np.asarray(ts_N) // (3600 * US_PER_SECOND)
    gap_N = np.maximum(ts_N - before_N, 0) / US_PER_SECOND
    bucket_N = np.minimum(np.log2(1.0 + gap_N), N_CONTEXTS[2] - 1)
    return np.stack([hour_N % 24, (hour_N // 24 + 3) % 7, bucket_N], 1).astype(np.uint8)


def contexts(histories: Histories, feed: list[int] | None = None) -> ByteArray:
    """The context of each row; the gap of a history's first row is unknown.

    Cost: 4 bytes a row are kept, 40 are needed meanwhile.

    Args:
        histories: N rows.
        feed: codes of the kinds of event that a feed led to; None goes by `Histories.organic`, if there.

    Returns:
        (N, 4), buckets of `N_CONTEXTS`.
    """
    ts_N = np.asarray(histories.ts)
    context_NC = np.empty((len(ts_N), len(N_CONTEXTS)), np.uint8)
    context_NC[:, TIME] = of_time(ts_N, np.concatenate([ts_N[:1], ts_N[:-1]]))
    context_NC[histories.offsets[:-1][histories.lengths > 0], TIME[-1]] = N_CONTEXTS[TIME[-1]]
    if feed is not None:
        context_NC[:, SURFACE[0]] = np.isin(histories.event, feed)
    elif histories.organic is not None:
        context_NC[:, SURFACE[0]] = OF_ORGANIC[histories.organic]
    else:
        context_NC[:, SURFACE[0]] = N_CONTEXTS[SURFACE[0]]
    return context_NC
