"""The k best inner products of each query, exactly: factor models and vectors end with it.

    score_bi = <query_b, item_i> + bias_i

The product is made in tiles of R queries by T items that stay in a core's L2 cache, and each tile is offered
to the R lists while it is there: the matrix of all scores, whose way to memory and back costs more than the
selection, never exists. Threads take blocks of queries; BLAS runs single-threaded inside each of them.
"""

from typing import NamedTuple

import numpy as np

from vitrina.ann.blas import one_blas_thread
from vitrina.ann.blocks import in_threads, spans
from vitrina.ann.select import LOWEST, STRIPE, drain, fresh, offer, raise_floors, scratch_for
from vitrina.ann.topk import PAD, Jagged, TopK, empty_lists, limits, top_k
from vitrina.schema import BoolArray, FloatArray, IntArray, LongArray

TILE_QUERIES = 256
TILE_ITEMS = 512
"""A tile takes 512 kB, half of the L2 cache of a server core; OpenBLAS packs its operands beside it."""
SAMPLE = 2048
"""Items of the first tile, at least: from them the floors are guessed."""
SIGMAS = 3.0
"""Standard deviations between the expected number of scores above a guessed floor and k."""
FEW_QUERIES = 16
"""Up to so many queries are scored at once, over all items: setting up tiles would cost more."""


def top_k_products(
    query_BD: FloatArray,
    item_ID: FloatArray,
    *,
    k: int,
    exclude: Jagged | None = None,
    allowed: BoolArray | None = None,
    bias: FloatArray | None = None,
) -> TopK:
    """The k best items of each query by inner product.

    Cost: B I D multiply-adds; memory for a copy of the items and one tile a thread. Scores may differ in
    the last bits from those of one large product, since BLAS sums in another order; so may near ties.

    Args:
        query_BD: (B, D) float32.
        item_ID: (I, D) float32.
        k: length of a list; cut to I.
        exclude: items that may not enter each query's list; a number that is no item excludes nothing.
        allowed: (I,), False excludes an item from every list.
        bias: (I,), added to the score of each item.
    """
    query_BD = np.ascontiguousarray(query_BD, dtype=np.float32)
    banned, allowed = limits(len(query_BD), len(item_ID), exclude, allowed)
    if len(query_BD) <= FEW_QUERIES:
        score_BI = query_BD @ item_ID.T
        if bias is not None:
            score_BI += bias
        return top_k(score_BI, k=k, exclude=banned, allowed=allowed)
    if bias is not None:
        query_BD = np.hstack([query_BD, np.ones((len(query_BD), 1), np.float32)])
        item_ID = np.hstack([item_ID, np.asarray(bias, np.float32)[:, None]])
    lists = empty_lists(len(query_BD), min(k, len(item_ID)))
    number = np.random.default_rng(0).permutation(len(item_ID)).astype(np.int32)
    if allowed is not None:
        number = number[allowed[number]]
    if lists.item_ix.size and len(number):
        shuffled_ID = np.ascontiguousarray(item_ID[number], dtype=np.float32)
        with one_blas_thread():
            _fill(query_BD, shuffled_ID, number, banned, lists)
    return lists


def _fill(
    query_BD: FloatArray, shuffled_ID: FloatArray, number: IntArray, exclude: Jagged, lists: TopK
) -> None:
    """Fill the lists, a block of queries in each thread. Items come shuffled: `number` tells which is which.

    The first tile is a random sample of the items. A score of such a rank in the sample that more than k
    scores of the row almost surely reach it is the row's floor; a row that finds fewer than k is done again.
    """
    n_shuffled, k = len(shuffled_ID), lists.item_ix.shape[1]
    n_sample = min(n_shuffled, max(SAMPLE, n_shuffled // 10 // STRIPE * STRIPE))
    rest = spans(n_shuffled - n_sample, TILE_ITEMS)
    tiles = [(0, n_sample), *((n_sample + lo, n_sample + hi) for lo, hi in rest)]
    expected = k * n_sample / n_shuffled
    rank = int(np.ceil((SIGMAS + np.sqrt(SIGMAS**2 + 4 * expected)) ** 2 / 4))
    place = np.full(int(number.max()) + 1, -1, np.int32)
    place[number] = np.arange(n_shuffled, dtype=np.int32)

    def work(lo: int, hi: int) -> None:
        n_rows = hi - lo
        buffer = np.empty(n_rows * max(n_sample, TILE_ITEMS), np.float32)
        state, scratch = fresh(n_rows, k), scratch_for(max(n_sample, TILE_ITEMS))
        banned = _by_tile(exclude.span(lo, hi), place, n_sample, len(tiles))
        for at, (left, right) in enumerate(tiles):
            tile = buffer[: n_rows * (right - left)].reshape(n_rows, right - left)
            np.matmul(query_BD[lo:hi], shuffled_ID[left:right].T, out=tile)
            cells = slice(banned.offsets[at], banned.offsets[at + 1])
            tile[banned.row[cells], banned.place[cells] - left] = -np.inf
            if at == 0 and n_sample < n_shuffled:
                raise_floors(tile, rank, n_sample // 8, state, scratch)
            offer(tile, left, number, k, state, scratch)
        again = np.flatnonzero((state[1] < k) & (state[2] > LOWEST))
        drain(k, state, (lists.item_ix[lo:hi], lists.score[lo:hi].view(np.uint32)))
        for b in (lo + again).tolist():
            _one_row(b, query_BD[b], shuffled_ID, number, exclude.span(b, b + 1), lists)

    in_threads(work, len(query_BD), TILE_QUERIES)


def _one_row(
    b: int, query_D: FloatArray, shuffled_ID: FloatArray, number: IntArray, exclude: Jagged, lists: TopK
) -> None:
    """Do a row again whose floor was too high, without one."""
    k = lists.item_ix.shape[1]
    row = (shuffled_ID @ query_D)[None, :]
    row[0, np.isin(number, exclude.item_ix)] = -np.inf
    state = fresh(1, k)
    offer(row, 0, number, k, state, scratch_for(row.shape[1]))
    lists.item_ix[b], lists.score[b] = PAD, -np.inf
    drain(k, state, (lists.item_ix[b : b + 1], lists.score[b : b + 1].view(np.uint32)))


class _Banned(NamedTuple):
    """Excluded cells in the order of the tiles: tile t owns row[offsets[t] : offsets[t + 1]]."""

    offsets: LongArray
    row: IntArray
    place: IntArray


def _by_tile(exclude: Jagged, place: IntArray, n_sample: int, n_tiles: int) -> _Banned:
    """Sort the excluded cells of a block of queries by tile."""
    row = np.repeat(np.arange(len(exclude.offsets) - 1, dtype=np.int32), np.diff(exclude.offsets))
    known = exclude.item_ix < len(place)
    row, at = row[known], place[exclude.item_ix[known]]
    row, at = row[at >= 0], at[at >= 0]
    tile = np.where(at < n_sample, 0, (at - n_sample) // TILE_ITEMS + 1)
    order = np.argsort(tile.astype(np.uint16) if n_tiles < 2**16 else tile, kind="stable")
    return _Banned(np.searchsorted(tile[order], np.arange(n_tiles + 1)), row[order], at[order])
