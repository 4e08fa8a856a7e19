"""Ranked lists: are they well formed, and are two of them the same up to ties."""

import numpy as np

from vitrina.ann import PAD, TopK
from vitrina.schema import FloatArray, IntArray


def well_formed(lists: TopK, *, n_queries: int, k: int, n_items: int) -> str | None:
    """What is wrong with the lists, in one sentence; None when nothing is.

    Shape (B, min(k, I)), int32 and float32; items in [0, I) or -1; -1 only at the end and exactly where the
    score is -inf; other scores finite and non-increasing; no item twice in a list.
    """
    item_BK, score_BK = lists.item_ix, lists.score
    shape = (n_queries, min(k, n_items))
    if item_BK.shape != shape or score_BK.shape != shape:
        return f"lists have shape {item_BK.shape} and scores {score_BK.shape}, they must have {shape}"
    if item_BK.dtype != np.int32 or score_BK.dtype != np.float32:
        return f"item_ix is {item_BK.dtype} and score {score_BK.dtype}, they must be int32 and float32"
    held = item_BK != PAD
    if ((item_BK < PAD) | (item_BK >= n_items)).any():
        return f"an item lies outside [0, {n_items})"
    if (held[:, 1:] & ~held[:, :-1]).any():
        return "-1 stands before an item; padding belongs at the end"
    if not np.isfinite(score_BK[held]).all():
        return "the score of an item is not finite"
    if not np.isneginf(score_BK[~held]).all():
        return "a padded place has a score other than -inf"
    if (score_BK[:, 1:] > score_BK[:, :-1]).any():
        return "scores rise along a list"
    for b, row in enumerate(item_BK):
        items = row[row != PAD]
        if len(np.unique(items)) < len(items):
            return f"list {b} holds an item twice"
    return None


def same_lists(a: TopK, b: TopK, *, rtol: float = 1e-4, atol: float = 1e-6) -> str | None:
    """How two batches of lists differ, in one sentence; None when they are the same up to ties.

    Scores must agree place by place within `atol + rtol * max |score|` of the list. Places whose scores lie
    within twice that distance of each other form a group; a group holds the same set of items in both lists.
    The last group of a full list may differ, since a tie across the cut can be broken either way.
    """
    if a.item_ix.shape != b.item_ix.shape:
        return f"shapes differ: {a.item_ix.shape} and {b.item_ix.shape}"
    for at in range(len(a)):
        difference = _row_difference(a.item_ix[at], a.score[at], b.item_ix[at], b.score[at], rtol, atol)
        if difference:
            return f"list {at} differs: {difference}"
    return None


def _row_difference(
    item_a: IntArray, score_a: FloatArray, item_b: IntArray, score_b: FloatArray, rtol: float, atol: float
) -> str | None:
    n = int((item_a != PAD).sum())
    if n != int((item_b != PAD).sum()):
        return f"{n} items and {int((item_b != PAD).sum())} items"
    if n == 0:
        return None
    tolerance = atol + rtol * float(np.abs(score_a[:n]).max())
    gap = np.abs(score_a[:n].astype(np.float64) - score_b[:n])
    if gap.max() > tolerance:
        at = int(gap.argmax())
        return f"scores {score_a[at]:.6g} and {score_b[at]:.6g} at rank {at + 1}"
    ends = np.flatnonzero(-np.diff(score_a[:n].astype(np.float64)) > 2 * tolerance) + 1
    start = 0
    for end in [*ends.tolist(), n]:
        open_ended = end == n == len(item_a)
        if not open_ended and set(item_a[start:end].tolist()) != set(item_b[start:end].tolist()):
            return f"items {item_a[start:end].tolist()} and {item_b[start:end].tolist()} at rank {start + 1}"
        start = end
    return None
