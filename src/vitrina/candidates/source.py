"""One source of a pipeline: a candidate generator, how it is asked, and the index it may answer through."""

import os
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import polars as pl

from vitrina.ann import Index, Jagged, TopK
from vitrina.candidates.indexed import IndexedItems, has_vectors
from vitrina.errors import ConfigError
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray


class CandidateGenerator(Protocol):
    """What a source holds: a model that answers for histories (see `vitrina.candidates`)."""

    items_: Ids

    def fit(self, train: Histories) -> Self:
        """Learn from the training histories; classes that read tables take them too (`tables_of`)."""

    def retrieve(
        self,
        queries: Histories,
        *,
        k: int,
        exclude: Jagged | None = None,
        allowed: BoolArray | None = None,
    ) -> TopK:
        """The k best items of each query, without those excluded, only those allowed."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder."""


@dataclass(kw_only=True)
class Source:
    """One candidate generator in a pipeline."""

    generator: CandidateGenerator
    name: str = ""
    """Shown with every item it contributed; the class name where left out."""
    k: int = 200
    """Candidates asked for."""
    weight: float = 1.0
    """Weight of its ranks where several sources are merged."""
    budget_ms: float | None = None
    """In live requests, a source slower than this contributes nothing and is counted; None waits for it."""
    index: Index | None = None
    """Where the item vectors of the model are searched (`vitrina.ann`), one for each source; None has the
    model score every item itself, exactly."""
    indexed: IndexedItems | None = field(default=None, init=False, repr=False)
    """The index with the model's vectors in it, once it is built or loaded."""

    def __post_init__(self) -> None:
        self.name = self.name or type(self.generator).__name__
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(
                f"source name {self.name!r} must be letters, digits, - and _; it names a folder"
            )
        if self.k < 1 or self.weight <= 0:
            raise ConfigError(
                f"source {self.name} needs k >= 1 and weight > 0, got k={self.k}, weight={self.weight}"
            )
        if self.index is not None and not has_vectors(self.generator):
            kind = type(self.generator).__name__
            raise ConfigError(
                f"source {self.name} has an index, but {kind} has no vectors to put in it; leave index out"
            )

    def fit(
        self, train: Histories, metadata: pl.DataFrame | None = None, users: pl.DataFrame | None = None
    ) -> Self:
        """Fit the generator, then build its index; returns self."""
        fit_generator(self.generator, train, metadata, users)
        return self.build_index(train)

    def build_index(self, train: Histories) -> Self:
        """Fill the index, if there is one, from a fitted generator; returns self.

        Args:
            train: histories whose users the index is measured on.
        """
        if self.index is not None:
            model: Any = self.generator
            self.indexed = IndexedItems.build(self.index, model, train)
        return self

    def follow(self) -> None:
        """Give the index the items that the generator has learnt of since.

        Raises:
            ConfigError: the index was never built, or holds vectors of another fit.
        """
        if self.index is None:
            return
        if self.indexed is None:
            raise ConfigError(f"the index of source {self.name} is empty; call Source.build_index(train)")
        model: Any = self.generator
        self.indexed.follow(model)

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """What the generator answers, through the index if there is one."""
        if self.indexed is None:
            return self.generator.retrieve(queries, k=k, exclude=exclude, allowed=allowed)
        model: Any = self.generator
        return self.indexed.lists(model, queries, k=k, exclude=exclude, allowed=allowed)

    @property
    def note(self) -> str | None:
        """What was measured of the index; None without one."""
        return None if self.indexed is None else self.indexed.note()

    def take(self, other: "Source") -> None:
        """The fitted generator and the built index of a source of the same configuration."""
        self.generator, self.index, self.indexed = other.generator, other.index, other.indexed

    def save_index(self, path: str | os.PathLike[str]) -> None:
        """Write the index, if there is one."""
        if self.indexed is not None:
            self.indexed.save(path)

    def load_index(self, path: str | os.PathLike[str]) -> Self:
        """Read the index that `save_index` wrote for this generator; returns self."""
        model: Any = self.generator
        self.indexed = IndexedItems.load(path, model)
        self.index = self.indexed.index
        return self


def fit_generator(
    generator: CandidateGenerator,
    train: Histories,
    metadata: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
) -> None:
    """Fit a generator, on the tables that it reads too."""
    tables: dict[str, Any] = tables_of(generator, metadata, users)
    generator.fit(train, **tables)


def tables_of(
    generator: object, metadata: pl.DataFrame | None, users: pl.DataFrame | None
) -> dict[str, pl.DataFrame]:
    """The tables that a generator learns from: `items` if it has `reads_items`, `users` if `reads_users`."""
    given = {"items": metadata, "users": users}
    return {
        name: table
        for name, table in given.items()
        if table is not None and getattr(generator, f"reads_{name}", False)
    }
