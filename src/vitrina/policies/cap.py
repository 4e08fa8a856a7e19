"""At most so many items of one author, category or brand in a list."""

from dataclasses import dataclass

import numpy as np

from vitrina.errors import ConfigError
from vitrina.log import Catalogue
from vitrina.schema import BoolArray, IntArray


@dataclass(kw_only=True, frozen=True)
class CapPer:
    """Walk the ranked list from the top and skip an item once `cap` of its group are in."""

    column: str
    """Column of the catalogue that names the group; items without a value are never capped."""
    cap: int
    """Items of one group allowed in a list."""

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise ConfigError(f"CapPer.cap must be >= 1, got {self.cap}; to show none of a group use Block")

    def keep(self, ranked_BN: IntArray, catalogue: Catalogue) -> BoolArray:
        """Which candidates stay, given item_ix in rank order (-1 pads). Shape (B, N).

        Cost: O(B N log N).
        """
        codes = catalogue.codes(self.column)
        group_BN = np.where(ranked_BN >= 0, codes[np.maximum(ranked_BN, 0)], -1)
        order = np.argsort(group_BN, axis=1, kind="stable")
        sorted_BN = np.take_along_axis(group_BN, order, axis=1)
        position = np.arange(group_BN.shape[1])
        starts = np.concatenate(
            [np.ones((len(group_BN), 1), bool), sorted_BN[:, 1:] != sorted_BN[:, :-1]], axis=1
        )
        first = np.maximum.accumulate(np.where(starts, position, 0), axis=1)
        nth_BN = np.empty_like(order)
        np.put_along_axis(nth_BN, order, position - first, axis=1)
        return np.asarray((nth_BN < self.cap) | (group_BN < 0))
