"""Data that several benchmarks share, and one evaluator for all peers. numpy alone: it runs anywhere.

    ml1m          MovieLens 1M, the last 10 % of each user's ratings held out
    synthetic     20 million events, 138 thousand users, 27 thousand items in 64 groups, 10 % held out

Each is made once and kept as an .npz under .bench/.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import LOCAL, WORK

if TYPE_CHECKING:
    from vitrina.log import Histories


@dataclass(frozen=True)
class Data:
    """Distinct (user, item) pairs of training, in time order within a user, and what is held out of each."""

    n_items: int
    offsets: np.ndarray
    """(U + 1,) int64"""
    item_ix: np.ndarray
    """(n,) int32"""
    ts: np.ndarray
    """(n,) int64, seconds"""
    test_offsets: np.ndarray
    test_item_ix: np.ndarray

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def user_ix(self) -> np.ndarray:
        """User of each training row."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.offsets))


def histories(data: Data) -> "Histories":
    """The training part for our models; ids are the integers themselves. Needs vitrina."""
    import polars as pl

    from vitrina.ids import Ids
    from vitrina.log import Histories

    return Histories(
        user_ids=Ids(pl.Series(np.arange(data.n_users))),
        items=Ids(pl.Series(np.arange(data.n_items))),
        offsets=data.offsets,
        item_ix=data.item_ix,
        ts=data.ts * 1_000_000,
        event=np.zeros(len(data.item_ix), np.uint8),
    )


def ratings_folder() -> Path:
    """Where MovieLens 1M lies: $VITRINA_DATA, or the folder shared/data beside the repository."""
    return LOCAL / "ml-1m"


def ml1m() -> Data:
    """MovieLens 1M: 6,040 users, 3,706 items; every rating is an interaction."""
    return _kept("ml1m", _make_ml1m)


def synthetic(n_events: int = 20_000_000, n_users: int = 138_000, n_items: int = 27_000) -> Data:
    """A log in which a user's items come from a few of 64 groups, each group with a long tail."""
    return _kept(f"synthetic-{n_events}", lambda: _make_synthetic(n_events, n_users, n_items))


def quality(data: Data, item_BK: np.ndarray) -> dict[str, float]:
    """NDCG@10 (binary gain, ideal over min(|test|, 10)) and Recall@100 (over |test|), means over users.

    Args:
        data: whose held-out items count.
        item_BK: one list a user, in order, -1 where it is short; training items must have been left out.
    """
    n_test = np.diff(data.test_offsets)
    key = np.repeat(np.arange(data.n_users, dtype=np.int64), n_test) * data.n_items + data.test_item_ix
    key.sort()
    wanted = np.arange(len(item_BK), dtype=np.int64)[:, None] * data.n_items + item_BK
    at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    hit_BK = (key[at] == wanted) & (item_BK >= 0)
    gain = 1.0 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[0.0], np.cumsum(gain)])[np.minimum(n_test, 10)]
    held = n_test > 0
    ndcg = hit_BK[:, :10] @ gain[: min(10, item_BK.shape[1])] / np.maximum(ideal, 1e-12)
    recall = hit_BK[:, :100].sum(axis=1) / np.maximum(n_test, 1)
    return {"ndcg@10": round(float(ndcg[held].mean()), 5), "recall@100": round(float(recall[held].mean()), 5)}


def _kept(name: str, make: Callable[[], Data]) -> Data:
    file = WORK / f"{name}.npz"
    if not file.exists():
        WORK.mkdir(exist_ok=True)
        data = make()
        partial = WORK / f".{name}-{os.getpid()}.npz"
        np.savez(partial, **vars(data))
        partial.rename(file)
    with np.load(file) as stored:
        arrays = {field: stored[field] for field in stored.files}
    return Data(**arrays | {"n_items": int(arrays["n_items"])})


def _make_ml1m() -> Data:
    file = ratings_folder() / "ratings.dat"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; put MovieLens 1M in it or set VITRINA_DATA")
    fields = np.array(file.read_text().replace("::", " ").split(), dtype=np.int64).reshape(-1, 4)
    _, user = np.unique(fields[:, 0], return_inverse=True)
    items, item = np.unique(fields[:, 1], return_inverse=True)
    return _held_out(user, item, fields[:, 3], len(items))


def _make_synthetic(n_events: int, n_users: int, n_items: int, n_groups: int = 64) -> Data:
    rng = np.random.default_rng(0)
    group_of_item = rng.integers(0, n_groups, n_items)
    popularity = 1.0 / (10.0 + rng.permutation(n_items))
    by_group = np.lexsort((-popularity, group_of_item))
    starts = np.searchsorted(group_of_item[by_group], np.arange(n_groups + 1))
    cumulated = np.concatenate([[0.0], np.cumsum(popularity[by_group])])
    likes_UG = rng.dirichlet(np.full(3, 0.7), n_users).astype(np.float32)
    groups_U3 = rng.integers(0, n_groups, (n_users, 3))
    activity = rng.lognormal(0.0, 1.0, n_users)
    length = np.maximum(5, (2.1 * activity / activity.mean() * n_events / n_users)).astype(np.int64)
    users, items = [], []
    for lo in range(0, n_users, 10_000):
        user = np.repeat(np.arange(lo, min(n_users, lo + 10_000)), length[lo : lo + 10_000])
        slot = (rng.random(len(user))[:, None] > np.cumsum(likes_UG[user], axis=1)).sum(axis=1)
        group = np.where(
            rng.random(len(user)) < 0.15,
            rng.integers(0, n_groups, len(user)),
            groups_U3[user, np.minimum(slot, 2)],
        )
        lowest, highest = cumulated[starts[group]], cumulated[starts[group + 1]]
        drawn = lowest + rng.random(len(user)) * (highest - lowest)
        item = by_group[np.minimum(np.searchsorted(cumulated, drawn, side="right") - 1, n_items - 1)]
        pair = np.unique(user * n_items + item)
        pair = pair[rng.permutation(len(pair))]
        users.append(pair // n_items)
        items.append(pair % n_items)
    user, item = np.concatenate(users), np.concatenate(items)
    if len(user) > n_events:
        kept = rng.permutation(len(user))[:n_events]
        user, item = user[kept], item[kept]
    return _held_out(user, item, rng.integers(0, 10**7, len(user)), n_items)


def _held_out(user: np.ndarray, item: np.ndarray, ts: np.ndarray, n_items: int) -> Data:
    """The last 10 % of each user, at least one row of users with two or more, is the test."""
    order = np.lexsort((ts, user))
    user, item, ts = user[order], item[order], ts[order]
    lengths = np.bincount(user)
    place = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    n_test = np.where(lengths > 1, np.maximum(1, lengths // 10), 0)
    test = place >= (lengths - n_test)[user]
    return Data(
        n_items=n_items,
        offsets=np.concatenate([[0], np.cumsum(lengths - n_test)]).astype(np.int64),
        item_ix=item[~test].astype(np.int32),
        ts=ts[~test].astype(np.int64),
        test_offsets=np.concatenate([[0], np.cumsum(n_test)]).astype(np.int64),
        test_item_ix=item[test].astype(np.int32),
    )
