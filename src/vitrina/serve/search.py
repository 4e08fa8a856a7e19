"""Finds items by what people type: each word occurs in the title, or the text begins the item id."""

import numpy as np
import polars as pl

from vitrina.log import Catalogue
from vitrina.log.catalogue import TITLE
from vitrina.schema import IntArray, LongArray


class TitleSearch:
    """Items by title: first those where a word begins with the text, then the popular. A scan, O(I)."""

    def __init__(self, catalogue: Catalogue, item_counts: LongArray) -> None:
        self._ids = catalogue.items.values.cast(pl.String).str.to_lowercase()
        has_title = TITLE in catalogue.frame.columns
        titles = catalogue.frame[TITLE].cast(pl.String).str.to_lowercase() if has_title else self._ids
        self._titles = titles.fill_null("")
        self._counts = item_counts

    def find(self, text: str, limit: int = 8) -> IntArray:
        """At most `limit` item_ix, best first; none for an empty text."""
        words = text.lower().split()[:8]
        if not words:
            return np.zeros(0, np.int32)
        hit = self._ids.str.starts_with(text.strip().lower())
        in_title = self._titles.str.contains(words[0], literal=True)
        for word in words[1:]:
            in_title = in_title & self._titles.str.contains(word, literal=True)
        at = np.flatnonzero((hit | in_title).to_numpy())
        chosen = pl.Series(at, dtype=pl.UInt32)
        begins = (" " + self._titles.gather(chosen)).str.contains(" " + words[0], literal=True).to_numpy()
        order = np.lexsort((at, -self._counts[at], ~begins))
        return at[order[:limit]].astype(np.int32)
