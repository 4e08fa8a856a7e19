"""What models with one vector per item share: the best by inner product, the nearest by cosine, lengths."""

import numpy as np
import polars as pl

from vitrina.ann import PAD, Jagged, TopK
from vitrina.ann.products import top_k_products
from vitrina.ann.sparse import check_items
from vitrina.metrics.correlation import spearman
from vitrina.nn import session
from vitrina.schema import BoolArray, DoubleArray, FloatArray, IntArray, LongArray


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


def norm_figures(norm_I: DoubleArray, counts_I: LongArray) -> dict[str, float]:
    """norm, the mean |v_i|, and count_norm, Spearman of (count, |v_i|) over the items of the log."""
    found, is_known = {"norm": float(norm_I.mean())}, counts_I > 0
    if np.isfinite(norm_I).all() and not np.isnan(rho := spearman(counts_I[is_known], norm_I[is_known])):
        found["count_norm"] = rho
    return found


class NormCurve:
    """Lengths of item vectors after each epoch, kept in a session with `norms`; else it does nothing."""

    def __init__(self, counts_I: LongArray) -> None:
        self.counts_I, self.is_wanted = counts_I, session.current().norms
        self._epochs: list[dict[str, float]] = []

    def after_epoch(self, *columns_ID: FloatArray) -> None:
        """Add an epoch, of vectors whose coordinates may lie in several arrays."""
        if self.is_wanted:
            squares = [np.einsum("id,id->i", part, part, dtype=np.float64) for part in columns_ID]
            figures = norm_figures(np.sqrt(sum(squares)), self.counts_I)
            self._epochs.append({"epoch": len(self._epochs) + 1.0, **figures})

    def frame(self) -> pl.DataFrame:
        """epoch, norm, count_norm; no rows where nobody asked."""
        return pl.DataFrame(self._epochs, schema=dict.fromkeys(("epoch", "norm", "count_norm"), pl.Float64()))
