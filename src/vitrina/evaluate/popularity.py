"""Does a model with vectors prefer what is popular, and is it the length of the vectors that does it?

Notation                                                                                  shape
    q_u, v_i    vectors of query u, of item i before any normalisation                    (U, D), (I, D)
    c_i         training rows of item i                                                   (I,)

    dot         score <q_u, v_i>           a long vector is nearer to everybody who points its way
    cosine      score cos(q_u, v_i)        length does not count

A model is trained for one of the two. Served by the other, it gives other lists: `Serving` holds what both
would give for the same vectors, so that a popularity boost that nobody asked for is seen. What the figures
mean, and what they are on real logs: docs/popularity.md. Functions of arrays; no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from vitrina.ann import PAD, Jagged
from vitrina.ann.products import top_k_products
from vitrina.errors import InputError
from vitrina.metrics import NDCG, Context, Coverage, PopularityLift, Recall, compute, exposures, gini
from vitrina.metrics.correlation import spearman
from vitrina.schema import BoolArray, DoubleArray, FloatArray, IntArray, LongArray

K = 10
"""Depth of the lists that are compared."""

MAX_QUERIES = 10_000
"""Test users asked, evenly spaced among all; more would not move a figure by what a table shows."""

N_NEIGHBOURS, MAX_HUB_QUERIES = 10, 5_000
"""Neighbours of an item, and items whose neighbours are looked for, evenly spaced among all."""

GROUPS = ("head", "middle", "tail")


@dataclass(frozen=True)
class Decile:
    """Items of like popularity."""

    decile: int
    """1: the least popular tenth of the items; 10: the most popular."""
    n_items: int
    count_low: int
    count_high: int
    """Training rows of its least and most popular item."""
    norm: float
    """Mean of |v_i|."""


@dataclass(frozen=True)
class Serving:
    """What one way to score gives for the same vectors."""

    serving: str
    """"dot" or "cosine"."""
    is_served: bool
    """Whether the model itself scores this way."""
    ndcg: float
    recall: float
    recall_head: float
    recall_middle: float
    recall_tail: float
    """Recall of the targets of a group of items; NaN where it has no target."""
    gini: float
    """Of exposures over all items."""
    coverage: float
    shown_popularity: float
    """Mean over users of the mean c_i of what is shown."""
    target_popularity: float
    """The same of what people took."""
    count_score: float
    """Spearman of (c_i, mean score of item i over the users)."""
    hubness: float
    """Skew of how often an item is among the 10 nearest of another."""

    @property
    def lift(self) -> float:
        """Popularity of what is shown over that of what people took; NaN where they took nothing known."""
        return self.shown_popularity / self.target_popularity if self.target_popularity > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class PopularityDiagnostics:
    """How the vectors of one fitted model follow popularity."""

    source: str
    """Name of the source whose vectors they are."""
    k: int
    n_users: int
    """Users asked."""
    n_items: int
    count_norm: float
    """Spearman of (c_i, |v_i|) over the items of the log; with log c_i it is the same."""
    n_unseen: int
    """Items without a training row."""
    unseen_norm: float
    """Mean |v_i| of those; NaN where there is none."""
    seen_norm: float
    """Mean |v_i| of the others."""
    start_norm: float
    """Mean |v_i| before training; NaN where it is not known or was not asked for."""
    group_items: tuple[int, ...]
    """Items of the head, of the middle and of the tail."""
    deciles: tuple[Decile, ...]
    servings: tuple[Serving, ...]
    epochs: tuple[dict[str, float], ...] = ()
    """epoch, norm, count_norm and update_cos, where the training kept them (`vitrina.nn.session`)."""

    def decile_frame(self) -> pl.DataFrame:
        """Mean norm by popularity: decile, n_items, count_low, count_high, norm."""
        return pl.DataFrame([asdict(entry) for entry in self.deciles])

    def serving_frame(self) -> pl.DataFrame:
        """A row for "dot" and one for "cosine", a column for each field of `Serving`."""
        return pl.DataFrame([asdict(entry) for entry in self.servings])

    def epoch_frame(self) -> pl.DataFrame:
        """epoch, norm, count_norm, update_cos; empty where the training kept none."""
        names = ("epoch", "norm", "count_norm", "update_cos")
        return pl.DataFrame(list(self.epochs), schema=dict.fromkeys(names, pl.Float64()))

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "PopularityDiagnostics":
        """From what `dataclasses.asdict` and JSON made of it."""
        return cls(
            **{
                **saved,
                "group_items": tuple(saved["group_items"]),
                "deciles": tuple(Decile(**entry) for entry in saved["deciles"]),
                "servings": tuple(Serving(**entry) for entry in saved["servings"]),
                "epochs": tuple(saved["epochs"]),
            }
        )


def norms(vectors_ID: FloatArray) -> DoubleArray:
    """|v_i|. Shape (I,)."""
    return np.asarray(np.sqrt(np.einsum("id,id->i", vectors_ID, vectors_ID, dtype=np.float64)))


def unit(vectors_ID: FloatArray) -> FloatArray:
    """v_i / |v_i|, 0 for a vector of length 0. Shape (I, D)."""
    return (vectors_ID / np.maximum(norms(vectors_ID), 1e-30)[:, None]).astype(np.float32)


def popularity_deciles(counts_I: LongArray, *, n_groups: int = 10) -> LongArray:
    """1 + floor(n_groups (r_i - 1/2) / I), r_i the rank of c_i, equal counts sharing the mean of their ranks.

    So items of one count are in one group, and with many of one count some groups are empty. Shape (I,).
    """
    counts = np.asarray(counts_I)
    _, inverse, size = np.unique(counts, return_inverse=True, return_counts=True)
    rank_I = (np.cumsum(size) - (size - 1) / 2)[inverse]
    found = 1 + np.floor(n_groups * (rank_I - 0.5) / max(1, len(counts)))
    return np.asarray(np.minimum(found, n_groups), dtype=np.int64)


def norm_by_decile(counts_I: LongArray, norm_I: DoubleArray) -> tuple[Decile, ...]:
    """Mean norm of each tenth of the items, least popular first; empty tenths are left out."""
    decile_I = popularity_deciles(counts_I)
    found = []
    for decile in np.unique(decile_I):
        counts = counts_I[decile_I == decile]
        low, high = int(counts.min()), int(counts.max())
        found.append(Decile(int(decile), len(counts), low, high, float(norm_I[decile_I == decile].mean())))
    return tuple(found)


def popularity_groups(counts_I: LongArray) -> IntArray:
    """0 head, 1 middle, 2 tail: items that hold a third of the training rows each, the most popular first.

    An item is where the middle of the rows of all items of its count lies, so that items of one count are
    together. Items without a training row are tail. Shape (I,).
    """
    counts = np.asarray(counts_I, dtype=np.int64)
    value, inverse, size = np.unique(-counts, return_inverse=True, return_counts=True)
    rows = -value * size
    middle = np.cumsum(rows) - rows / 2
    group = np.floor(3 * middle / max(1, rows.sum()))
    return np.asarray(np.minimum(group, 2)[inverse], dtype=np.int32)


def recall_by_popularity(
    lists_BK: IntArray,
    truth: Jagged,
    counts_I: LongArray,
    *,
    k: int = K,
    score_BK: FloatArray | None = None,
) -> dict[str, float]:
    """Recall of the targets of each group, mean over the users with a target in it; NaN where nobody has one.

    Cold targets, numbered I and above, belong to no group. With scores, ties are read against the model.
    """
    target_ix = np.asarray(truth.item_ix)
    group_T = np.full(len(target_ix), -1)
    is_known = target_ix < len(counts_I)
    group_T[is_known] = popularity_groups(counts_I)[target_ix[is_known]]
    metric = Recall(k)
    found = {}
    for at, name in enumerate(GROUPS):
        part = _only(truth, group_T == at)
        found[name] = compute([metric], lists_BK, part, score_BK=score_BK).values[metric.name]
    return found


def skewness(values: LongArray | DoubleArray) -> float:
    """mean((x - m)^3) / mean((x - m)^2)^1.5; NaN where all are equal.

    Of k-occurrences it is the hubness of Radovanović et al., JMLR 11, 2010: 0 where they are symmetric about
    their mean, large where a few items are among the neighbours of nearly everything.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x - x.mean()
    spread = np.mean(x**2)
    return float(np.mean(x**3) / spread**1.5) if spread > 0 else float("nan")


def k_occurrences(
    vectors_ID: FloatArray, *, k: int = N_NEIGHBOURS, n_queries: int = MAX_HUB_QUERIES
) -> LongArray:
    """How often each item is among the k items with the largest inner product to another one. Shape (I,).

    Args:
        vectors_ID: of the items; of length 1 for neighbours by cosine.
        k: neighbours; cut to I - 1.
        n_queries: items whose neighbours are looked for, evenly spaced among all. Cost: n_queries I D.
    """
    asked = spaced(len(vectors_ID), n_queries)
    itself = Jagged(np.arange(len(asked) + 1, dtype=np.int64), asked.astype(np.int32))
    lists = top_k_products(vectors_ID[asked], vectors_ID, k=min(k, len(vectors_ID) - 1), exclude=itself)
    return exposures(lists.item_ix, k=k, n_items=len(vectors_ID))


def mean_scores(query_UD: FloatArray, item_ID: FloatArray) -> DoubleArray:
    """Mean over users of <q_u, v_i>, which is <mean of q_u, v_i>. Shape (I,)."""
    return np.asarray(item_ID @ query_UD.mean(axis=0, dtype=np.float64), dtype=np.float64)


def spaced(n: int, most: int) -> LongArray:
    """All of 0..n-1, or `most` of them at even distances."""
    return np.arange(n) if n <= most else np.arange(most) * n // most


class Fashion(NamedTuple):
    """The trend of a next-item model (`vitrina.nn.trend`): scores are scale <q_u, v_i> + weight_u f_i."""

    scale: float
    """1 over the temperature."""
    weight_U: FloatArray
    f_I: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What lists are made for, and what they are measured against."""

    query_UD: FloatArray
    """0 for a user who gets no list."""
    truth: Jagged
    """Targets of the users, cold items numbered I and above."""
    counts_I: LongArray
    exclude: Jagged | None = None
    allowed: BoolArray | None = None
    fashion: Fashion | None = None
    """What is added to the products, in either serving."""

    def __post_init__(self) -> None:
        if len(self.truth.offsets) != len(self.query_UD) + 1 or not len(self.query_UD):
            raise InputError(
                f"{len(self.query_UD)} queries need {len(self.query_UD) + 1} offsets of targets and at least "
                f"one query, got {len(self.truth.offsets)}"
            )


def measure_serving(kind: str, item_ID: FloatArray, asked: Asked, *, is_served: bool, k: int = K) -> Serving:
    """Make the lists of all users by one score and measure them.

    Cost: U I D multiply-adds, and as many again for up to 5,000 items in place of the users.

    Args:
        kind: "dot" or "cosine", which takes the item vectors at length 1. The length of a query vector
            changes no list; for `count_score` it is taken as it is by "dot" and as 1 by "cosine".
        item_ID: item vectors before any normalisation.
        asked: queries and targets.
        is_served: whether the model itself scores this way.
        k: depth of the lists.
    """
    if kind not in ("dot", "cosine"):
        raise InputError(f'serving must be "dot" or "cosine", got {kind!r}')
    query_UD, counts = asked.query_UD, asked.counts_I
    if kind == "cosine":
        query_UD, item_ID = unit(query_UD), unit(item_ID)
    hubs = skewness(k_occurrences(item_ID))
    if asked.fashion is not None:
        scale, weight_U, f_I = asked.fashion
        query_UD = np.hstack([np.float32(scale) * query_UD, weight_U[:, None]])
        item_ID = np.hstack([item_ID, f_I[:, None]])
    found = top_k_products(query_UD, item_ID, k=k, exclude=asked.exclude, allowed=asked.allowed)
    has_list = (query_UD != 0).any(axis=1)[:, None]
    lists = np.where(has_list, found.item_ix, PAD)
    score = np.where(has_list, found.score, np.float32(-np.inf))
    accuracy = compute([NDCG(k), Recall(k)], lists, asked.truth, score_BK=score).values
    recall = recall_by_popularity(lists, asked.truth, counts, k=k, score_BK=score)
    exposure_I = exposures(lists, k=k, n_items=len(item_ID))
    shown, taken = PopularityLift(k).parts(lists, asked.truth, Context(item_counts=counts))
    return Serving(
        serving=kind,
        is_served=is_served,
        ndcg=accuracy[f"ndcg@{k}"],
        recall=accuracy[f"recall@{k}"],
        **{f"recall_{name}": value for name, value in recall.items()},
        gini=gini(exposure_I),
        coverage=Coverage(k).of(exposure_I),
        shown_popularity=_mean(np.where(shown > 0, shown, np.nan)),
        target_popularity=_mean(np.where(shown > 0, taken, np.nan)),
        count_score=spearman(counts, mean_scores(query_UD, item_ID)),
        hubness=hubs,
    )


def diagnose(
    item_ID: FloatArray,
    asked: Asked,
    *,
    source: str,
    served: str,
    start_norm: float = float("nan"),
    epochs: tuple[dict[str, float], ...] = (),
    k: int = K,
) -> PopularityDiagnostics:
    """Everything that can be said of a model with vectors.

    Args:
        item_ID: item vectors before any normalisation. Where a model has a bias, as BPR, it is a coordinate
            of theirs and counts to their length, and the query's is 1.
        asked: queries, targets and training counts.
        source: whose vectors they are.
        served: "dot" or "cosine", the score of the model itself.
        start_norm: mean length of an item vector before training, where it is known.
        epochs: of the training curve.
        k: depth of the lists.
    """
    counts = np.asarray(asked.counts_I)
    if len(counts) != len(item_ID):
        raise InputError(f"{len(item_ID)} item vectors need as many training counts, got {len(counts)}")
    norm_I, is_seen = norms(item_ID), counts > 0
    return PopularityDiagnostics(
        source=source,
        k=k,
        n_users=len(asked.query_UD),
        n_items=len(item_ID),
        count_norm=spearman(counts[is_seen], norm_I[is_seen]),
        n_unseen=int((~is_seen).sum()),
        unseen_norm=_mean(norm_I[~is_seen]),
        seen_norm=_mean(norm_I[is_seen]),
        start_norm=start_norm,
        group_items=tuple(np.bincount(popularity_groups(counts), minlength=3).tolist()),
        deciles=norm_by_decile(counts, norm_I),
        servings=tuple(
            measure_serving(kind, item_ID, asked, is_served=kind == served, k=k) for kind in ("dot", "cosine")
        ),
        epochs=epochs,
    )


def _mean(values: DoubleArray) -> float:
    """Mean of what is not NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _only(truth: Jagged, mask_T: BoolArray) -> Jagged:
    kept = np.concatenate([[0], np.cumsum(mask_T)])[truth.offsets]
    return Jagged(kept.astype(np.int64), np.asarray(truth.item_ix)[mask_T])
