"""ItemKNN: an item votes for the items that the same people took.

Notation                                                          shape
    X    how often user u took item i, or 1 if ever               (U, I)
    W    X after weighting                                        (U, I)
    S    S_ij = <w_i, w_j> / (|w_i| |w_j| + shrink), only the     (I, I)
         n_neighbors largest of each row i, and S_ii
    q    counts, or 1s, of a query's history                      (I,)
    score = q S

Weighting, with items as documents and users as terms (n_u items of user u, x_i = sum_u x_ui, avg = mean x_i):
    none     w_ui = x_ui
    tfidf    w_ui = sqrt(x_ui) * idf_u
    bm25     w_ui = x_ui (k1 + 1) / (x_ui + k1 (1 - b + b x_i / avg)) * idf_u
    idf_u = log((1 + I) / (1 + n_u)): agreeing with a person who takes everything says little.

NOTE[DIFF] implicit 0.7.3: idf_u = log(I / (1 + n_u)), negative for a user of all items; here: 1 + I, never
negative; because a negative weight turns a shared user into evidence against. Its K includes the item itself.

Source: Sarwar, Karypis, Konstan, Riedl, WWW 2001 (cosine); Robertson and Walker, SIGIR 1994 (BM25).
Cost: sum_u n_u^2 multiply-adds and O(nnz + I * n_neighbors) memory to fit; never the full product.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy import sparse

from vitrina.ann import Jagged, TopK, empty_lists, top_k_sparse
from vitrina.ann.sparse import similar_rows
from vitrina.candidates.neighbors import nearest_items
from vitrina.errors import ConfigError
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray, IntArray

Weighting = Literal["none", "tfidf", "bm25"]


@dataclass(kw_only=True, eq=False)
class ItemKNN(Estimator):
    """Nearest neighbours between items, over who took them.

    Use when: little data, or a strong, explainable first model; where people repeat, since an item is its own
    nearest neighbour. Not when most items have one or two events. See also: DecayedItemKNN (recency of the
    history, no truncation), Ease (learns what cosine guesses), SANSA (the same for large catalogues).
    """

    n_neighbors: int = 100
    """Neighbours kept for each item, itself not counted."""
    weighting: Weighting = "none"
    """`none`, `tfidf` or `bm25`; see the formulas above."""
    normalize: bool = True
    """Divide by norms (cosine); False keeps the inner product, which is usual with bm25."""
    shrink: float = 0.0
    """Added to the product of norms: pairs that few users support lose. Needs `normalize`."""
    binary: bool = True
    """A pair of user and item counts once, however often it repeats; in training and in queries."""
    self_similarity: bool = True
    """Keep S_ii, so that what a person took before can be listed again where it is not excluded."""
    bm25_k1: float = 1.2
    """Saturation of repeats in bm25."""
    bm25_b: float = 0.75
    """Share of length normalisation in bm25, in [0, 1]: 1 discounts popular items fully."""
    max_len: int | None = None
    """Latest rows of each training history to learn from; None takes all. The time to find neighbours grows
    with the sum of the squared lengths, which a cap bounds where a few people have very long histories."""
    items_: Ids = fitted()
    similarity_: sparse.csr_matrix = fitted()
    """S, (I, I)."""

    def __post_init__(self) -> None:
        check_positive(self, n_neighbors=self.n_neighbors, bm25_k1=self.bm25_k1)
        check_positive(self, max_len=1 if self.max_len is None else self.max_len)
        if self.weighting not in ("none", "tfidf", "bm25"):
            raise ConfigError(f"ItemKNN.weighting must be 'none', 'tfidf' or 'bm25', got {self.weighting!r}")
        if not 0 <= self.bm25_b <= 1:
            raise ConfigError(f"ItemKNN.bm25_b must be in [0, 1], got {self.bm25_b}")
        if not 0 <= self.shrink < float("inf") or (self.shrink and not self.normalize):
            raise ConfigError(
                f"ItemKNN.shrink must be >= 0, and 0 without normalize, got {self.shrink}; "
                "it is added to the norms"
            )

    def fit(self, train: Histories) -> Self:
        """Find the neighbours of every item; returns self."""
        latest = train if self.max_len is None else train.last(self.max_len)
        W = self._weighted(latest.user_item(binary=self.binary))
        norm_I = np.sqrt(np.asarray(W.multiply(W).sum(axis=0), dtype=np.float64)).ravel()
        S = nearest_items(
            W,
            norm_I.astype(np.float32) if self.normalize else np.zeros(0, np.float32),
            shrink=self.shrink,
            n_neighbors=self.n_neighbors,
        )
        if self.self_similarity:
            self_I = norm_I**2 / (norm_I**2 + self.shrink + 1e-30) if self.normalize else norm_I**2
            S = S + sparse.diags(self_I.astype(np.float32), format="csr")
        self.items_ = train.items
        self.similarity_ = S.tocsr()
        return self

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k items that the neighbours of each history vote for most.

        A list holds only items that a neighbour names, so it may be shorter than k; an empty history gets an
        empty list.

        Args:
            queries: B histories.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        return voted(self.similarity_, queries.reindex(self.items_), self.binary, k, exclude, allowed)

    def similar(self, item_ix: IntArray, *, k: int) -> TopK:
        """The nearest neighbours of each item, itself left out; at most `n_neighbors`. Shape (n, k)."""
        return similar_rows(self.similarity_, item_ix, k=k)

    def _weighted(self, X: sparse.csr_matrix) -> sparse.csr_matrix:
        """W of the formulas above."""
        if self.weighting == "none":
            return X
        W = X.copy()
        idf_U = np.log((1.0 + X.shape[1]) / (1.0 + np.diff(X.indptr)))
        idf = np.repeat(idf_U, np.diff(X.indptr))
        if self.weighting == "tfidf":
            W.data = (np.sqrt(X.data) * idf).astype(np.float32)
            return W
        x_I = np.bincount(X.indices, X.data, minlength=X.shape[1])
        length = 1.0 - self.bm25_b + self.bm25_b * x_I / max(x_I.mean(), 1e-30)
        k1 = self.bm25_k1
        W.data = (X.data * (k1 + 1.0) / (X.data + k1 * length[X.indices]) * idf).astype(np.float32)
        return W


def voted(
    weights: sparse.csr_matrix,
    queries: Histories,
    binary: bool,
    k: int,
    exclude: Jagged | None,
    allowed: BoolArray | None,
) -> TopK:
    """Best k of `counts of the history @ weights`, a block of queries at a time."""
    lists = empty_lists(len(queries), min(k, weights.shape[1]))
    for lo, block in queries.blocks(max_users=100_000):
        hi = lo + len(block)
        banned = None if exclude is None else exclude.span(lo, hi)
        part = top_k_sparse(block.user_item(binary=binary), weights, k=k, exclude=banned, allowed=allowed)
        lists.item_ix[lo:hi], lists.score[lo:hi] = part.item_ix, part.score
    return lists
