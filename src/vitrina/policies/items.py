"""Policies that rule on an item for everybody: allow and block lists, minimum and maximum age.

The pipeline asks each once per request for the items it allows and passes the answer down to the sources,
so that a feed is full even if only a few items are allowed.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from vitrina.errors import ConfigError
from vitrina.log import Catalogue
from vitrina.schema import US_PER_DAY, BoolArray


@dataclass(kw_only=True, frozen=True)
class Allow:
    """Only the listed items."""

    item_ids: tuple[object, ...]
    """External ids; those that the catalogue lacks have no effect."""

    def allowed(self, catalogue: Catalogue, now: int) -> BoolArray:
        """(I,), True where an item may be shown."""
        mask = np.zeros(len(catalogue), dtype=bool)
        ix = catalogue.items.ix(list(self.item_ids))
        mask[ix[ix >= 0]] = True
        return mask


@dataclass(kw_only=True, frozen=True)
class Block:
    """Never the listed items, nor those whose `column` has one of `values`."""

    item_ids: tuple[object, ...] = ()
    """External ids."""
    column: str | None = None
    """A column of the catalogue, as `category`."""
    values: tuple[object, ...] = ()
    """Values of that column to block."""

    def allowed(self, catalogue: Catalogue, now: int) -> BoolArray:
        """(I,), True where an item may be shown."""
        mask = np.ones(len(catalogue), dtype=bool)
        ix = catalogue.items.ix(list(self.item_ids))
        mask[ix[ix >= 0]] = False
        if self.column is not None:
            catalogue.codes(self.column)
            listed = pl.Series(list(self.values), strict=False).cast(
                catalogue.frame[self.column].dtype, strict=False
            )
            mask &= ~catalogue.frame[self.column].is_in(listed.implode()).fill_null(False).to_numpy()
        return mask


@dataclass(kw_only=True, frozen=True)
class MinAge:
    """Only items at least `days` old at the time of the request (their first event or birth)."""

    days: float

    def __post_init__(self) -> None:
        _check_days(self, self.days)

    def allowed(self, catalogue: Catalogue, now: int) -> BoolArray:
        """(I,), True where an item may be shown."""
        return np.asarray(now - catalogue.first_ts >= self.days * US_PER_DAY)


@dataclass(kw_only=True, frozen=True)
class MaxAge:
    """Only items at most `days` old at the time of the request."""

    days: float

    def __post_init__(self) -> None:
        _check_days(self, self.days)

    def allowed(self, catalogue: Catalogue, now: int) -> BoolArray:
        """(I,), True where an item may be shown."""
        return np.asarray(now - catalogue.first_ts <= self.days * US_PER_DAY)


def _check_days(policy: object, days: float) -> None:
    if not 0 <= days < float("inf"):
        raise ConfigError(f"{type(policy).__name__}.days must be >= 0 and finite, got {days}")
