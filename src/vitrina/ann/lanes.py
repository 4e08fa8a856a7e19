"""Sums of weighted rows: the inner loop of models that score several queries, or items, at once."""

import numba


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def add_rows(lo, hi, row, weight, source_NL, acc_L):  # type: ignore[no-untyped-def]
    """Add to acc_L the sum over lo <= at < hi of weight[at] * source_NL[row[at]].

    Four rows a step: the sums of a step stay in registers and acc_L is read and written once.
    """
    n_lanes = len(acc_L)
    at = lo
    while at + 4 <= hi:
        w0, w1, w2, w3 = weight[at], weight[at + 1], weight[at + 2], weight[at + 3]
        r0, r1, r2, r3 = row[at], row[at + 1], row[at + 2], row[at + 3]
        for c in range(n_lanes):
            acc_L[c] += (w0 * source_NL[r0, c] + w1 * source_NL[r1, c]) + (
                w2 * source_NL[r2, c] + w3 * source_NL[r3, c]
            )
        at += 4
    while at < hi:
        w0, r0 = weight[at], row[at]
        for c in range(n_lanes):
            acc_L[c] += w0 * source_NL[r0, c]
        at += 1
