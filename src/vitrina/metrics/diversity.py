"""How different the items of one list are. Two measures, because each is blind where the other is not.

Both read the cosines of `Context.item_vectors`: embeddings of content, `one_hot` categories (cosine 1 inside
one, 0 across), or `cooccurrence_vectors` (who took them). Say in the report which.

No known measure is monotone, rewards replacing a copy and is continuous at once (Mironov and Prokhorenkova,
ICML 2025, arXiv:2410.14556). Here: ILD of {v, v, -v, -v} is 4/3, above the 1 of four orthogonal items, while
half of the list are copies; the Vendi score gives that list 1 and the orthogonal one 4, but it cannot tell -v
from v.
"""

from dataclasses import dataclass
from typing import ClassVar

import numba
import numpy as np

from vitrina.errors import InputError
from vitrina.metrics.exposure import Context, ListMetric
from vitrina.metrics.hits import DoubleArray, FloatArray, IntArray, LongArray, Targets
from vitrina.rng import Seed, generator

VENDI_BLOCK = 1 << 22
"""Doubles of the Gram matrices held at once (32 MB)."""


@dataclass(frozen=True)
class ILD(ListMetric):
    """Intra-list diversity: mean over pairs of filled places of 1 - cos(i, j), in [0, 2].

    Ziegler et al., WWW 2005 (as a mean of dissimilarities). Lists with fewer than two items are excluded and
    counted.
    Cost: O(B k D).
    """

    label: ClassVar[str] = "ild"

    def parts(
        self, lists: IntArray, truth: Targets | None, context: Context
    ) -> tuple[DoubleArray, DoubleArray]:
        """Mean distance and 1. Each (B,)."""
        unit = _unit_vectors(lists, context, self.name)
        value = np.full(len(lists), np.nan)
        _ild(lists, unit, min(self.k, lists.shape[1]), value)
        return np.nan_to_num(value), (~np.isnan(value)).astype(np.float64)


@dataclass(frozen=True)
class Vendi(ListMetric):
    """Vendi score: exp of the Shannon entropy of the eigenvalues of G / n, G the cosines of a list's n items.

    The effective number of different items, in [1, n] (Friedman and Dieng, TMLR 2023, arXiv:2210.02410).
    Lists without items are excluded and counted. Cost: O(B k^3); about 20 us a list at k = 10.
    """

    label: ClassVar[str] = "vendi"

    def parts(
        self, lists: IntArray, truth: Targets | None, context: Context
    ) -> tuple[DoubleArray, DoubleArray]:
        """Effective number of items and 1. Each (B,)."""
        unit = _unit_vectors(lists, context, self.name)
        k = min(self.k, lists.shape[1])
        value = np.zeros(len(lists))
        step = max(1, VENDI_BLOCK // max(1, k * k))
        for start in range(0, len(lists), step):
            value[start : start + step] = _vendi(lists[start : start + step, :k], unit)
        return value, (value > 0).astype(np.float64)


def one_hot(codes: IntArray) -> FloatArray:
    """Vectors of categories: cosine 1 within one, 0 across and for items without one (code -1). (I, n codes).

    Memory: 4 I n_codes bytes.
    """
    vectors = np.zeros((len(codes), int(codes.max(initial=-1)) + 1), dtype=np.float32)
    known = codes >= 0
    vectors[known, codes[known]] = 1.0
    return vectors


def cooccurrence_vectors(
    offsets: LongArray, item_ix: IntArray, *, n_items: int, n_dims: int = 256, seed: Seed = 0
) -> FloatArray:
    """Vectors whose cosine estimates |users of both| / sqrt(|users of i| |users of j|), from user histories.

    A random sign projection of the item-user matrix (Achlioptas, JCSS 2003): unbiased dot products with a
    standard error of at most 1 / sqrt(n_dims) between unit vectors, 0.06 at 256. Items without a user get 0.

    Args:
        offsets: (U + 1,), user u took item_ix[offsets[u] : offsets[u + 1]].
        item_ix: (n,), each in [0, n_items); a repeat counts once.
        n_items: rows of the answer.
        n_dims: columns of the answer.
        seed: draws the signs.

    Cost:
        O(n D) additions; 4 I D bytes.
    """
    rng = generator(seed)
    vectors = np.zeros((n_items, n_dims), dtype=np.float32)
    stamp = np.full(n_items, -1, np.int64)
    step = 8192
    for start in range(0, len(offsets) - 1, step):
        bounds = np.asarray(offsets[start : start + step + 1], dtype=np.int64)
        signs = rng.integers(0, 2, size=(len(bounds) - 1, n_dims), dtype=np.int8) * np.int8(2) - np.int8(1)
        _project(bounds, np.asarray(item_ix), signs, start, stamp, vectors)
    return vectors


def _unit_vectors(lists: IntArray, context: Context, asked_by: str) -> FloatArray:
    if context.item_vectors is None:
        raise InputError(f"{asked_by} needs item vectors; give Context(item_vectors=...)")
    vectors = np.asarray(context.item_vectors, dtype=np.float32)
    if lists.max(initial=-1) >= len(vectors):
        raise InputError(f"{asked_by}: lists hold item {lists.max()}, there are {len(vectors)} item vectors")
    if not np.isfinite(vectors).all():
        raise InputError(f"{asked_by}: item vectors must be finite; row {_first_bad_row(vectors)} is not")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0))


def _first_bad_row(vectors: FloatArray) -> int:
    return int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])


def _vendi(lists: IntArray, unit: FloatArray) -> DoubleArray:
    """Vendi score of each list, 0 for an empty one. Pads add eigenvalues 0, which add nothing."""
    gram = np.zeros((*lists.shape, lists.shape[1]))
    _gram(lists, unit, gram)
    n = (lists >= 0).sum(axis=1)
    p = np.maximum(np.linalg.eigvalsh(gram), 0.0) / np.maximum(n, 1)[:, None]
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
    return np.where(n > 0, np.exp(entropy), 0.0)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _gram(lists, unit, gram):  # type: ignore[no-untyped-def]
    """Cosines of the items of each list, 1 on the diagonal: an item without a vector is like itself alone."""
    for b in range(lists.shape[0]):
        for r in range(lists.shape[1]):
            if lists[b, r] < 0:
                continue
            gram[b, r, r] = 1.0
            for q in range(r):
                if lists[b, q] >= 0:
                    dot = np.float32(0.0)
                    for d in range(unit.shape[1]):
                        dot += unit[lists[b, r], d] * unit[lists[b, q], d]
                    gram[b, r, q] = dot
                    gram[b, q, r] = dot


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _ild(lists, unit, k, value):  # type: ignore[no-untyped-def]
    """Sum over pairs of cos = (|sum of unit vectors|^2 - sum of their squared lengths) / 2."""
    n_dims = unit.shape[1]
    total = np.zeros(n_dims)
    for b in range(lists.shape[0]):
        total[:] = 0.0
        n, lengths = 0, 0.0
        for r in range(k):
            i = lists[b, r]
            if i < 0:
                continue
            n += 1
            for d in range(n_dims):
                v = float(unit[i, d])
                total[d] += v
                lengths += v * v
        if n > 1:
            square = 0.0
            for d in range(n_dims):
                square += total[d] * total[d]
            value[b] = 1.0 - (square - lengths) / (n * (n - 1))


@numba.njit(cache=True, nogil=True)
def _project(bounds, item_ix, signs, first_user, stamp, vectors):  # type: ignore[no-untyped-def]
    for u in range(len(bounds) - 1):
        for at in range(bounds[u], bounds[u + 1]):
            i = item_ix[at]
            if stamp[i] != first_user + u:
                stamp[i] = first_user + u
                for d in range(signs.shape[1]):
                    vectors[i, d] += signs[u, d]
