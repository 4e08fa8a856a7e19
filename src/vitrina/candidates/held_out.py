"""Histories seen another way: in two parts, in another order of ties, by what is new to a user."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vitrina.ann import Jagged
from vitrina.errors import InputError
from vitrina.log import Histories
from vitrina.schema import BoolArray

VALIDATION_USERS = 5000
"""Users whose next items a validation asks for, at most; drawn by the seed."""


class HeldOut(NamedTuple):
    """A log in two parts, and whom to ask."""

    train: Histories
    queries: Histories
    truth: Jagged
    hide_seen: bool
    """Whether what a user took already cannot be right."""


def hold_out(
    train: Histories, *, by: str, frac: float, seed: int, only_new: bool = False, kind: str = "model"
) -> HeldOut:
    """Training and validation parts.

    Items that a user took before are hidden, and are no truth, where `only_new` says so or where held-out
    rows repeat almost nothing.

    Args:
        train: histories.
        by: "time": the latest `frac` of all rows; "last": the last row of each user with more than two.
        frac: share of rows.
        seed: draws `VALIDATION_USERS` where there are more.
        only_new: whether only items new to a user are asked for.
        kind: name of the model, for the message.

    Raises:
        InputError: nobody has rows on both sides.
    """
    if by == "time":
        cut = int(np.quantile(train.ts, 1 - frac, method="higher"))
        is_held = np.asarray(train.ts) >= cut
    else:
        is_held = np.zeros(train.n_rows, bool)
        is_held[train.offsets[1:][train.lengths > 2] - 1] = True
    before, after = train.only(~is_held), train.only(is_held)
    if only_new:
        after = train.only(is_held & first_takes(train))
    users = np.flatnonzero((before.lengths > 0) & (after.lengths > 0))
    if not len(users) or not (before.lengths > 1).any():
        raise InputError(
            f"{kind}.validation={by!r} leaves nobody with rows on both sides; raise frac_validation or take "
            'validation="none"'
        )
    rng = np.random.default_rng(seed)
    users = np.sort(rng.permutation(users)[:VALIDATION_USERS])
    queries, truth = before.rows(users.astype(np.int32)), after.rows(users.astype(np.int32))
    width = np.int64(train.n_items)
    seen = queries.user_rows * width + queries.item_ix
    n_repeated = np.isin(truth.user_rows * width + truth.item_ix, seen).sum()
    hide_seen = only_new or bool(n_repeated < 0.01 * truth.n_rows)
    queries = queries.asked_at(cut if by == "time" else truth.ts[truth.offsets[:-1]])
    return HeldOut(before, queries, Jagged(truth.offsets, truth.item_ix), hide_seen)


def first_takes(histories: Histories) -> BoolArray:
    """Rows in which a user takes an item for the first time. (N,)."""
    key = histories.user_rows * np.int64(histories.n_items) + histories.item_ix
    order = np.argsort(key, kind="stable")
    is_first = np.empty(len(key), bool)
    is_first[order] = np.concatenate([[True], np.diff(key[order]) > 0])[: len(key)]
    return is_first


def ties_shuffled(histories: Histories, rng: np.random.Generator) -> Histories:
    """The same rows; those of one user and one time in an order drawn anew. Cost: a sort of N rows."""
    order = np.lexsort((rng.random(histories.n_rows), histories.ts, histories.user_rows))
    changed = {name: getattr(histories, name) for name in ("item_ix", "event", "weight", "organic")}
    return replace(histories, **{name: x[order] for name, x in changed.items() if x is not None})
