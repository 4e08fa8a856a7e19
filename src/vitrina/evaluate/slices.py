"""Parts of the test looked at on their own: users by their history, targets by what the item was."""

from typing import Final

import numpy as np

from vitrina.schema import BoolArray, LongArray
from vitrina.split import Truth

POPULARITY: Final = ((0, 0), (1, 5), (6, 20), (21, None))
"""Training rows of an item: nobody had taken it, hardly anybody, some, many."""

HISTORY: Final = ((0, 0), (1, 1), (2, 5), (6, 20), (21, None))
"""Training rows of a user."""

Range = tuple[int, int | None]


def target_slices(truth: Truth, n_train: LongArray, *, with_repeats: bool) -> dict[str, BoolArray]:
    """Masks over targets by slice name, `what:which`. The slices of one `what` hold every target once.

    Args:
        truth: T targets.
        n_train: training rows of each item, shape (I,); cold items have none.
        with_repeats: also split by whether the user had taken the item before.
    """
    count = np.concatenate([n_train, np.zeros(len(truth.cold_items), np.int64)])[truth.item_ix]
    found = {f"popularity:{range_name(r)}": _within(count, r) for r in POPULARITY}
    if with_repeats:
        found |= {"taken before:yes": truth.is_repeat, "taken before:no": ~truth.is_repeat}
    if truth.is_organic is not None:
        found |= {"organic:yes": truth.is_organic, "organic:no": ~truth.is_organic}
    return {name: mask for name, mask in found.items() if mask.any()}


def history_slices(history_length: LongArray) -> dict[str, BoolArray]:
    """Masks over users by slice name; every user is in one. Each of shape (U,)."""
    found = {f"history:{range_name(r)}": _within(history_length, r) for r in HISTORY}
    return {name: mask for name, mask in found.items() if mask.any()}


def range_name(bounds: Range) -> str:
    """`0`, `1-5`, `>20`."""
    low, high = bounds
    if high is None:
        return f">{low - 1}"
    return str(low) if low == high else f"{low}-{high}"


def _within(count: LongArray, bounds: Range) -> BoolArray:
    low, high = bounds
    return np.asarray((count >= low) & (count <= (np.inf if high is None else high)))
