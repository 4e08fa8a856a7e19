"""What models with one vector per item share: the best items by inner product, the nearest by cosine."""

import numpy as np

from vitrina.ann import Jagged, TopK, empty_lists, top_k
from vitrina.ann.blocks import spans
from vitrina.ann.sparse import check_items
from vitrina.schema import BoolArray, FloatArray, IntArray

BLOCK_BYTES = 32 << 20
"""Size of the dense block of scores of one step."""


def best_by_product(
    query_emb_BD: FloatArray,
    item_emb_ID: FloatArray,
    *,
    k: int,
    exclude: Jagged | None = None,
    allowed: BoolArray | None = None,
) -> TopK:
    """The k items with the largest inner product for each query; a query of NaN gets an empty list.

    Cost: B I D multiply-adds, in blocks of 32 MB of scores.
    """
    lists = empty_lists(len(query_emb_BD), min(k, len(item_emb_ID)))
    for lo, hi in spans(len(query_emb_BD), BLOCK_BYTES // (4 * max(len(item_emb_ID), 1))):
        banned = None if exclude is None else exclude.span(lo, hi)
        part = top_k(query_emb_BD[lo:hi] @ item_emb_ID.T, k=k, exclude=banned, allowed=allowed)
        lists.item_ix[lo:hi], lists.score[lo:hi] = part.item_ix, part.score
    return lists


def nearest_by_cosine(item_emb_ID: FloatArray, item_ix: IntArray, *, k: int) -> TopK:
    """The k items with the largest cosine to each given item, itself left out. Shape (n, k)."""
    item_ix = check_items(item_ix, len(item_emb_ID))
    norm = np.linalg.norm(item_emb_ID, axis=1, keepdims=True)
    unit_ID = item_emb_ID / np.maximum(norm, np.float32(1e-30))
    itself = Jagged(np.arange(len(item_ix) + 1, dtype=np.int64), item_ix)
    return best_by_product(unit_ID[item_ix], unit_ID, k=k, exclude=itself)
