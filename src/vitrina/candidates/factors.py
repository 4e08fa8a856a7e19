"""What models with one vector per item share: the best items by inner product, the nearest by cosine."""

import numpy as np

from vitrina.ann import PAD, Jagged, TopK
from vitrina.ann.products import top_k_products
from vitrina.ann.sparse import check_items
from vitrina.schema import BoolArray, FloatArray, IntArray, LongArray


def best_by_product(
    query_emb_BD: FloatArray,
    lengths: LongArray,
    item_emb_ID: FloatArray,
    *,
    k: int,
    exclude: Jagged | None = None,
    allowed: BoolArray | None = None,
) -> TopK:
    """The k items with the largest inner product for each query; none for a query that says nothing."""
    lists = top_k_products(query_emb_BD, item_emb_ID, k=k, exclude=exclude, allowed=allowed)
    return emptied(lists, query_emb_BD, lengths)


def emptied(lists: TopK, query_emb_BD: FloatArray, lengths: LongArray) -> TopK:
    """The same lists, in place, those of empty histories and of the vector 0 left empty."""
    says_nothing_B = (lengths == 0) | ~query_emb_BD.any(axis=1)
    lists.item_ix[says_nothing_B] = PAD
    lists.score[says_nothing_B] = -np.inf
    return lists


def nearest_by_cosine(item_emb_ID: FloatArray, item_ix: IntArray, *, k: int) -> TopK:
    """The k items with the largest cosine to each given item, itself left out. Shape (n, k)."""
    item_ix = check_items(item_ix, len(item_emb_ID))
    norm = np.linalg.norm(item_emb_ID, axis=1, keepdims=True)
    unit_ID = item_emb_ID / np.maximum(norm, np.float32(1e-30))
    itself = Jagged(np.arange(len(item_ix) + 1, dtype=np.int64), item_ix)
    return top_k_products(unit_ID[item_ix], unit_ID, k=k, exclude=itself)
