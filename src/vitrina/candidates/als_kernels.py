"""Half-steps of implicit ALS: solve every row of one side while the other side stands still.

For a row with observed neighbours N (rows v of V), weights c and ridge r, both solvers work on

    A w = b,   A = G + kappa sum_N c v v^T + r I,   b = sum_N c v,   G = alpha0 V^T V

`conjugate_gradients` takes a few steps from the present w; `blocks` solves exactly for one block of
coordinates after the other (Rendle et al. 2021, arXiv:2110.14044); one block of all is the exact solution.
Chunks of rows are independent, so threads share nothing.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

from vitrina.ann.blas import one_blas_thread
from vitrina.schema import FloatArray, IntArray, LongArray

GROUP_ROWS = 64
"""Rows whose systems advance together, so that the dense part is one matrix product."""
GROUP_PAIRS = 2048
"""Pairs of such a group, so that their vectors stay in the second-level cache between passes."""
TILE_PAIRS = 1024
"""Pairs gathered at a time by `blocks`."""
CHUNK_WORK = 8192
"""Pairs that are worth handing to a thread."""
MAX_CHUNKS = 64
"""Of one half-step."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct (row, column) pairs in compressed rows, sorted within a row."""

    offsets: LongArray
    """(R + 1,)"""
    column: IntArray
    """(n,)"""
    weight: FloatArray
    """(n,), or (0,) where every pair weighs 1"""

    def row_weight(self) -> FloatArray:
        """Sum of the weights of each row. Shape (R,)."""
        if len(self.weight) == 0:
            return np.diff(self.offsets).astype(np.float32)
        total = np.concatenate([[0.0], np.cumsum(self.weight, dtype=np.float64)])
        return np.asarray(np.diff(total[self.offsets]), dtype=np.float32)


def both_sides(
    offsets: LongArray, column: IntArray, weight: FloatArray | None, n_columns: int
) -> tuple[Pairs, Pairs]:
    """Jagged rows, with repeats, to distinct pairs by row and by column; weights of repeats add up.

    Two counting sorts: O(N + R + C), no comparison. `weight` None gives pairs of weight 1.
    """
    offsets, column = np.asarray(offsets), np.asarray(column)
    given = np.zeros(0, np.float32) if weight is None else np.asarray(weight, dtype=np.float32)
    by_column = Pairs(*_transposed(offsets, column, given, n_columns))
    by_row = Pairs(*_transposed(by_column.offsets, by_column.column, by_column.weight, len(offsets) - 1))
    return by_row, by_column


@numba.njit(cache=True, nogil=True)
def _transposed(offsets, column, weight, n_columns):  # type: ignore[no-untyped-def]
    """Compressed columns of compressed rows; a pair that repeats is kept once, its weights added."""
    n, has_weight = len(column), len(weight) > 0
    start = np.zeros(n_columns + 1, np.int64)
    for at in range(offsets[0], offsets[-1]):
        start[column[at] + 1] += 1
    for c in range(n_columns):
        start[c + 1] += start[c]
    end = start[:-1].copy()
    row_out = np.empty(n, np.int32)
    weight_out = np.empty(n if has_weight else 0, np.float32)
    for r in range(len(offsets) - 1):
        for at in range(offsets[r], offsets[r + 1]):
            c = column[at]
            to = end[c]
            if to > start[c] and row_out[to - 1] == r:
                if has_weight:
                    weight_out[to - 1] += weight[at]
                continue
            row_out[to] = r
            if has_weight:
                weight_out[to] = weight[at]
            end[c] = to + 1
    out = np.zeros(n_columns + 1, np.int64)
    for c in range(n_columns):
        first, length = start[c], end[c] - start[c]
        if first != out[c]:
            for at in range(length):
                row_out[out[c] + at] = row_out[first + at]
                if has_weight:
                    weight_out[out[c] + at] = weight_out[first + at]
        out[c + 1] = out[c] + length
    return out, row_out[: out[-1]], weight_out[: out[-1] if has_weight else 0]


def half_step(
    pairs: Pairs,
    fixed_emb: FloatArray,
    gram: FloatArray,
    emb: FloatArray,
    ridge: FloatArray,
    *,
    curvature: float = 1.0,
    solver: Callable[..., None],
    effort: int,
    tolerance: float = 0.0,
    n_threads: int,
) -> None:
    """Improve `emb` in place against `fixed_emb`.

    Args:
        pairs: neighbours of the R rows among the C fixed rows.
        fixed_emb: V, (C, D).
        gram: G, (D, D).
        emb: W, (R, D); where it starts matters to conjugate gradients only.
        ridge: r of each row, (R,).
        curvature: kappa.
        solver: `conjugate_gradients` or `blocks`.
        effort: steps of the former, block size of the latter.
        tolerance: |b - A w| / |first b - A w| at which conjugate gradients stop early.
        n_threads: threads, each on chunks of its own.
    """
    cuts = _cuts(pairs.offsets)

    def work(chunk: tuple[int, int]) -> None:
        args = pairs.offsets, pairs.column, pairs.weight, fixed_emb, gram, ridge
        solver(*chunk, *args, np.float32(curvature), emb, effort, np.float32(tolerance))

    if n_threads == 1 or len(cuts) == 1:
        for chunk in cuts:
            work(chunk)
        return
    with one_blas_thread(), ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(work, cuts))


def _cuts(offsets: LongArray) -> list[tuple[int, int]]:
    """Consecutive rows in chunks of about equal work (pairs, and a fixed share a row)."""
    work = offsets - offsets[0] + 16 * np.arange(len(offsets))
    n_chunks = min(MAX_CHUNKS, 1 + int(work[-1]) // CHUNK_WORK)
    at = np.searchsorted(work, np.linspace(0, work[-1], n_chunks + 1))
    at[0], at[-1] = 0, len(offsets) - 1
    edges = np.unique(at).tolist()
    return list(itertools.pairwise(edges))


@numba.njit(cache=True, nogil=True, fastmath=True)
def conjugate_gradients(lo, hi, offsets, column, weight, V, gram, ridge, kappa, W, n_steps, tolerance):  # type: ignore[no-untyped-def]
    """`n_steps` steps of conjugate gradients for rows lo..hi, from where they are."""
    d = V.shape[1]
    R = np.empty((GROUP_ROWS, d), np.float32)
    P = np.empty((GROUP_ROWS, d), np.float32)
    Q = np.empty((GROUP_ROWS, d), np.float32)
    residual = np.empty(GROUP_ROWS, np.float32)
    enough = np.empty(GROUP_ROWS, np.float32)
    a = lo
    while a < hi:
        b = a + 1
        while b < hi and b - a < GROUP_ROWS and offsets[b + 1] - offsets[a] <= GROUP_PAIRS:
            b += 1
        m = b - a
        np.dot(W[a:b], gram, Q[:m])
        for j in range(m):
            w, r, p, q = W[a + j], R[j], P[j], Q[j]
            for x in range(d):
                r[x] = -q[x] - ridge[a + j] * w[x]
            _add_neighbours(offsets[a + j], offsets[a + j + 1], column, weight, V, w, kappa, np.float32(1), r)
            total = np.float32(0)
            for x in range(d):
                p[x] = r[x]
                total += r[x] * r[x]
            residual[j] = total
            enough[j] = max(tolerance * tolerance * total, np.float32(1e-20))
        for _ in range(n_steps):
            if (residual[:m] <= enough[:m]).all():
                break
            np.dot(P[:m], gram, Q[:m])
            for j in range(m):
                if residual[j] <= enough[j]:
                    continue
                w, r, p, q = W[a + j], R[j], P[j], Q[j]
                for x in range(d):
                    q[x] = -q[x] - ridge[a + j] * p[x]
                _add_neighbours(
                    offsets[a + j], offsets[a + j + 1], column, weight, V, p, kappa, np.float32(0), q
                )
                curvature = np.float32(0)
                for x in range(d):
                    curvature -= p[x] * q[x]
                step = residual[j] / curvature
                total = np.float32(0)
                for x in range(d):
                    w[x] += step * p[x]
                    r[x] += step * q[x]
                    total += r[x] * r[x]
                ratio = total / residual[j]
                for x in range(d):
                    p[x] = r[x] + ratio * p[x]
                residual[j] = total
        a = b


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_neighbours(first, last, column, weight, V, p, kappa, target, out):  # type: ignore[no-untyped-def]
    """Out += sum over pairs of c (target - v.p) v; eight pairs at a time share the loads of p and out."""
    d, has_weight = V.shape[1], len(weight) > 0
    at = first
    while at + 8 <= last:
        i0, i1, i2, i3 = column[at], column[at + 1], column[at + 2], column[at + 3]
        i4, i5, i6, i7 = column[at + 4], column[at + 5], column[at + 6], column[at + 7]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
        for x in range(d):
            s0 += V[i0, x] * p[x]
            s1 += V[i1, x] * p[x]
            s2 += V[i2, x] * p[x]
            s3 += V[i3, x] * p[x]
            s4 += V[i4, x] * p[x]
            s5 += V[i5, x] * p[x]
            s6 += V[i6, x] * p[x]
            s7 += V[i7, x] * p[x]
        s0, s1, s2, s3 = kappa * s0 - target, kappa * s1 - target, kappa * s2 - target, kappa * s3 - target
        s4, s5, s6, s7 = kappa * s4 - target, kappa * s5 - target, kappa * s6 - target, kappa * s7 - target
        if has_weight:
            s0 *= weight[at]
            s1 *= weight[at + 1]
            s2 *= weight[at + 2]
            s3 *= weight[at + 3]
            s4 *= weight[at + 4]
            s5 *= weight[at + 5]
            s6 *= weight[at + 6]
            s7 *= weight[at + 7]
        for x in range(d):
            near = s0 * V[i0, x] + s1 * V[i1, x] + s2 * V[i2, x] + s3 * V[i3, x]
            far = s4 * V[i4, x] + s5 * V[i5, x] + s6 * V[i6, x] + s7 * V[i7, x]
            out[x] -= near + far
        at += 8
    while at < last:
        i = column[at]
        s = np.float32(0)
        for x in range(d):
            s += V[i, x] * p[x]
        s = kappa * s - target
        if has_weight:
            s *= weight[at]
        for x in range(d):
            out[x] -= s * V[i, x]
        at += 1


@numba.njit(cache=True, nogil=True, fastmath=True)
def blocks(lo, hi, offsets, column, weight, V, gram, ridge, kappa, W, block_size, _):  # type: ignore[no-untyped-def]
    """One pass of exact block solutions for rows lo..hi."""
    d = V.shape[1]
    b = min(block_size, d)
    tile = np.empty(TILE_PAIRS * b, np.float32)
    scaled = np.empty(TILE_PAIRS * b, np.float32)
    for r in range(lo, hi):
        first, last = offsets[r], offsets[r + 1]
        w = W[r]
        score = np.empty(last - first, np.float32)
        for at in range(first, last):
            v = V[column[at]]
            s = np.float32(0)
            for x in range(d):
                s += v[x] * w[x]
            score[at - first] = s
        for begin in range(0, d, b):
            m = min(b, d - begin)
            A = np.empty((m, m), np.float32)
            g = np.empty(m, np.float32)
            part = np.empty((m, m), np.float32)
            for x in range(m):
                s = ridge[r] * w[begin + x]
                for y in range(d):
                    s += gram[begin + x, y] * w[y]
                g[x] = -s
                for y in range(m):
                    A[x, y] = gram[begin + x, begin + y]
                A[x, x] += ridge[r]
            for start in range(first, last, TILE_PAIRS):
                n = min(TILE_PAIRS, last - start)
                T, S = tile[: n * m].reshape(n, m), scaled[: n * m].reshape(n, m)
                for at in range(n):
                    v = V[column[start + at]]
                    c = weight[start + at] if len(weight) > 0 else np.float32(1)
                    e = c * (np.float32(1) - kappa * score[start - first + at])
                    for x in range(m):
                        T[at, x] = v[begin + x]
                        S[at, x] = kappa * c * v[begin + x]
                        g[x] += e * v[begin + x]
                np.dot(S.T, T, part)
                A += part
            _solve_in_place(A, g)
            for x in range(m):
                w[begin + x] += g[x]
            if begin + m < d:
                for at in range(first, last):
                    v = V[column[at]]
                    s = np.float32(0)
                    for x in range(m):
                        s += v[begin + x] * g[x]
                    score[at - first] += s


@numba.njit(cache=True, nogil=True, fastmath=True)
def _solve_in_place(A, b):  # type: ignore[no-untyped-def]
    """B becomes A^-1 b; A symmetric positive definite."""
    n = len(b)
    L = np.linalg.cholesky(A)
    for j in range(n):  # L y = b
        b[j] /= L[j, j]
        for x in range(j + 1, n):
            b[x] -= b[j] * L[x, j]
    for j in range(n - 1, -1, -1):  # L^T x = y
        s = b[j]
        for x in range(j + 1, n):
            s -= L[x, j] * b[x]
        b[j] = s / L[j, j]
