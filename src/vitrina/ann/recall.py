"""How much of the exact lists an approximate search finds, and whether that is enough to serve.

    recall@k of a query = share of its k exact places that the search filled with an item whose score reaches
    the
                          score of the last exact place

which is the share of common items, except that items tied at the end of the list count whichever is listed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitrina.ann.products import FEW_QUERIES, top_k_products
from vitrina.ann.rescore import rescored
from vitrina.ann.rows import Rows, checked_queries, no_rows
from vitrina.ann.topk import PAD, Jagged, TopK
from vitrina.errors import InputError
from vitrina.schema import BoolArray, FloatArray, IntArray

logger = logging.getLogger("vitrina.ann")

N_QUERIES = 200
"""Queries of a measurement: at recall .95 of 100 places each its standard error is below half a point."""
K = 100
"""Length of the lists of a measurement, less where there are fewer items."""
FEW_ROWS = 1 << 15
"""Up to so many rows are scored for few queries where they lie, in the calling thread: BLAS would spread them
over threads, and on a busy machine wait for the last of them."""
GATHER_BELOW = 0.25
"""Where a smaller share of the rows passes a filter, they are copied out and the others never read."""
MIN_RECALL = 0.99
"""Below it an index is refused, unless its owner says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """One measurement."""

    mean: float
    """Recall@k, averaged over queries."""
    worst_tenth: float
    """The same, averaged over the worst tenth of the queries."""
    k: int
    """Places looked at."""
    n_queries: int
    """Queries asked."""
    real_queries: bool
    """Whether they were given, or else vectors of items."""


def places_by_product(
    query_BD: FloatArray,
    rows: Rows,
    *,
    k: int,
    exclude: Jagged | None = None,
    mask: BoolArray | None = None,
) -> IntArray:
    """Places of the k best rows of each query, exactly. Shape (B, min(k, N)).

    Args:
        query_BD: (B, D) float32.
        rows: where to look.
        k: length of a list.
        exclude: items that may not enter each query's list.
        mask: (N,), False excludes a place from every list.
    """
    n_allowed = len(rows) if mask is None else int(np.count_nonzero(mask))
    if len(query_BD) <= FEW_QUERIES and n_allowed <= FEW_ROWS:
        at = (np.arange(len(rows)) if mask is None else np.flatnonzero(mask)).astype(np.int32)
        listed = np.broadcast_to(at, (len(query_BD), len(at)))
        found = rescored(query_BD, listed, rows, no_rows(rows.n_dims), k=min(k, len(at)), exclude=exclude)
        return rows.place(found.item_ix).astype(np.int32)
    if mask is not None and n_allowed < GATHER_BELOW * len(rows):
        kept = np.flatnonzero(mask)
        found_BK = places_by_product(query_BD, rows.take(kept), k=k, exclude=exclude)
        return np.where(found_BK < 0, PAD, kept[found_BK]).astype(np.int32)
    banned = None if exclude is None else rows.places(exclude)
    return top_k_products(
        query_BD, rows.vector_ND, k=min(k, len(rows)), exclude=banned, allowed=mask, bias=rows.bias_or_none
    ).item_ix


def exact_lists(query_BD: FloatArray, rows: Rows, *, k: int) -> TopK:
    """The k best rows of each query, as items."""
    return rescored(query_BD, places_by_product(query_BD, rows, k=k), rows, no_rows(rows.n_dims), k=k)


def sample_queries(rows: Rows, queries: FloatArray | None, *, seed: int, n: int = N_QUERIES) -> FloatArray:
    """At most n of the queries given, or of the vectors of items if none are given, drawn evenly.

    Raises:
        InputError: queries are given that are empty, not finite or of other dimensions.
    """
    asked = rows.vector_ND if queries is None else checked_queries(queries, rows.n_dims)
    if queries is not None and not len(asked):
        raise InputError("queries holds no query to measure recall with; give real ones, or None for items")
    chosen = np.random.default_rng(seed).permutation(len(asked))[:n]
    return np.ascontiguousarray(asked[np.sort(chosen)])


def measure(
    search: Callable[[FloatArray, int], TopK], rows: Rows, sample_BD: FloatArray, *, k: int = K, real: bool
) -> Recall:
    """Recall of a search over rows.

    Args:
        search: takes queries and k, gives lists of items.
        rows: what it searches.
        sample_BD: queries.
        k: places.
        real: whether the queries are real ones.
    """
    k = min(k, len(rows))
    best, found = exact_lists(sample_BD, rows, k=k), search(sample_BD, k)
    again = rescored(sample_BD, rows.place(found.item_ix).astype(np.int32), rows, no_rows(rows.n_dims), k=k)
    share = (again.score >= best.score[:, -1:]).mean(axis=1) if k and len(sample_BD) else np.ones(1)
    worst = np.sort(share)[: max(1, len(share) // 10)]
    return Recall(
        mean=float(share.mean()),
        worst_tenth=float(worst.mean()),
        k=k,
        n_queries=len(sample_BD),
        real_queries=real,
    )


def passes(recall: Recall, *, min_recall: float, name: str) -> bool:
    """Whether a measurement reaches the floor; it is logged, and below the floor it is a warning."""
    whose = "given queries" if recall.real_queries else "queries that are items"
    measured = f"{name} finds {recall.mean:.3f} of the exact top {recall.k} ({recall.n_queries} {whose})"
    if recall.mean >= min_recall:
        logger.info("%s", measured)
        return True
    logger.warning(
        "%s, below the floor of %g: it is refused and exact search answers instead; raise its effort, "
        "give vectors of equal norm, or lower min_recall",
        measured,
        min_recall,
    )
    return False
