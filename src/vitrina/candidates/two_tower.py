"""Two towers: people and items as vectors that meet in one product, items also from what is known of them.

Covington, Adams, Sargin, RecSys 2016; sampling correction: Yi et al., RecSys 2019; mixed negatives: Yang et
al., WWW 2020 (doi 10.1145/3366424.3386195); the correction without the positive: Khrylchenko et al.,
arXiv:2507.09331.

Notation                                                                                    shape
    d       hashed categories and words + projected numbers and vectors, of a row of a table (D,)
    x_i     id_i + d(item)                                                                 (D,)
    v_i     x_i + MLP(LN x_i), the item tower                                              (D,)
    u       MLP [mean of x over the history; x of the latest; d(person)], the user tower;
            with `n_layers` > 0 a causal transformer in place of the mean                   (D,)

    score of item i = cos(u, v_i) / temperature
    loss = -log softmax over the item taken and M drawn ones, corrected for how often each is drawn

The id of an item is hidden in training with the chance `p_no_id`, so that what remains learns to stand
alone: a new item is then served from its metadata. Items are new in two ways. A vocabulary wider than the
log (`train.reindex(ids)`, or `vocabulary = "items"` in a configuration) has them from the start, and every
model and the evaluation agree on it; `extend(items)` adds them to a fitted model.

d(person) is there where a users table was given. What is known of a person is hidden in training with the
chance `p_nobody`, so that people who are not in the table are served too, by their history alone.

Cost of an epoch: N (D^2 (8 + 12 L) + M D) multiply-adds, three times over; the item tower runs once for
each distinct item of a batch. Memory: 16 bytes a number of the tables of ids (I, D) and of buckets
(n_buckets, D) in training.
Use when: items come and go and have metadata, or answers must come from a vector index. See also: SASRec
(order), ImplicitALS (no metadata, no torch).
"""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812

from vitrina.candidates.held_out import HeldOut
from vitrina.candidates.next_item import NextItemModel
from vitrina.candidates.table_features import TableFeatures, common, encode, learn
from vitrina.errors import ConfigError, InputError
from vitrina.estimator import check_positive, fitted, unchanged_if_it_fails
from vitrina.ids import UNKNOWN, Ids
from vitrina.log import Histories
from vitrina.nn.layout import Layout, Windows
from vitrina.nn.next_item import Batch, NextItemObjective
from vitrina.nn.towers import Towers, TowersObjective
from vitrina.schema import ITEM_ID, USER_ID, BoolArray, IntArray, LongArray


@dataclass(kw_only=True, eq=False)
class TwoTower(NextItemModel):
    """A user tower over history and person, an item tower over id and metadata, under a corrected softmax.

    Example:
        >>> from vitrina.testing import markov_world
        >>> world = markov_world(seed=0)
        >>> model = TwoTower(max_len=20, n_epochs=5, lr=0.01, batch_size=32, n_negatives=64)
        >>> world.share_of_best(model.fit(world.train).retrieve(world.train, k=1)) > 0.7
        True
    """

    without: ClassVar[tuple[str, ...]] = ("trend_days", "item_table", "table_optimizer", "n_share")
    reads_items: ClassVar[bool] = True
    """`Pipeline.fit` hands item metadata to `fit`."""
    reads_users: ClassVar[bool] = True
    """`Pipeline.fit` hands the users table to `fit`."""
    columns: dict[str, str] = field(default_factory=dict)
    """"category", "text", "number", "vector" or "skip", by column of the metadata; else guessed."""
    user_columns: dict[str, str] = field(default_factory=dict)
    """The same for the users table."""
    n_buckets: int = 1 << 16
    """Rows of the table that hashed categories and words share; one of items, one of people."""
    min_count: int = 5
    """Trained items (people) that must have a category or word for it to be read; rarer ones act as names."""
    n_layers: int = 0
    """Transformer blocks over the history; 0 takes its mean."""
    n_heads: int = 2
    """Heads of attention; divides `embedding_dim`."""
    p_no_id: float = 0.2
    """Chance that an item's id is hidden in training, where there is metadata."""
    p_nobody: float = 0.2
    """Chance that what is known of a person is hidden in training."""
    loss: str = "sampled_softmax"
    n_negatives: int = 512
    negatives: str = "mixed"
    cosine: bool = True
    temperature: float = 0.1
    learned_temperature: bool = True
    learnt_: dict[str, Any] = fitted()
    """How each column of the metadata is read."""
    words_: LongArray = fitted()
    """Tokens of items that are read, ascending."""
    features_: dict[str, Any] = fitted()
    """Features of the items, as arrays (`vitrina.candidates.table_features`)."""
    has_id_: BoolArray = fitted()
    """Whether an item occurs in the training log. Shape (I,)."""
    people_: Ids = fitted()
    """People of the users table."""
    people_learnt_: dict[str, Any] = fitted()
    """How each column of the users table is read."""
    people_features_: dict[str, Any] = fitted()
    """Features of those people, and in the last row of nobody, as arrays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, n_buckets=self.n_buckets, n_heads=self.n_heads, min_count=self.min_count)
        if self.n_layers < 0 or (self.n_layers and self.embedding_dim % self.n_heads):
            raise ConfigError(
                f"TwoTower needs n_layers >= 0 and embedding_dim a multiple of n_heads, got {self.n_layers}, "
                f"{self.embedding_dim} and {self.n_heads}"
            )
        if not (0 <= self.p_no_id < 1 and 0 <= self.p_nobody < 1):
            raise ConfigError(
                f"TwoTower.p_no_id and p_nobody must be in [0, 1), got {self.p_no_id} and {self.p_nobody}"
            )
        if self.loss not in ("sampled_softmax", "softmax"):
            raise ConfigError(f'TwoTower.loss must be "sampled_softmax" or "softmax", got {self.loss!r}')

    def network(self, n_items: int) -> Any:
        """Both towers over the features that were fitted; without any, over ids."""
        items = self.__dict__.get("features_")
        if items is None:
            items = asdict(encode(None, Ids(pl.Series(np.arange(n_items))), learn(None, {})))
        known = bool(self.__dict__.get("people_learnt_", {}).get("columns"))
        return Towers(
            items,
            self.people_features_ if known else None,
            self.__dict__.get("has_id_", np.ones(n_items, bool)),
            n_buckets=self.n_buckets,
            embedding_dim=self.embedding_dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            dropout=self.dropout,
            p_no_id=self.p_no_id,
            p_nobody=self.p_nobody,
        )

    @unchanged_if_it_fails
    def fit(
        self, train: Histories, items: pl.DataFrame | None = None, users: pl.DataFrame | None = None
    ) -> Self:
        """Train both towers; returns self.

        Args:
            train: histories; items of its vocabulary without rows are known from metadata alone.
            items: metadata, one row an item_id; rows of items outside the vocabulary are not read.
            users: what is known of people, one row a user_id; those who come later are described by it too,
                but how its numbers are scaled follows from the people of `train`.

        Raises:
            InputError: nothing follows anything, or a table has an id twice.
            ConfigError: `columns` or `user_columns` does not fit its table.
        """
        known = _rows_of(items, ITEM_ID, train.items)
        self.learnt_ = learn(known, self.columns)
        self._described = encode(known, train.items, self.learnt_)
        trained = _rows_of(users, USER_ID, Ids(train.query_ids.drop_nulls()))
        self.people_learnt_ = learn(trained, self.user_columns, key=USER_ID)
        self.people_ = Ids(pl.Series([], dtype=pl.Int64) if users is None else users[USER_ID])
        people = encode(users, self.people_, self.people_learnt_, and_nobody=True)
        at = self.people_.ix(train.query_ids)
        self.people_features_ = asdict(people.only(common(people.take(at[at != UNKNOWN]), self.min_count)))
        super().fit(train)
        del self._described, self._person_U
        return self

    def extend(self, items: pl.DataFrame) -> Self:
        """Add items that the model does not know, from their metadata; returns self.

        Nothing is trained. Item numbers shift, for vocabularies are sorted: ask with histories over
        `items_` or let `retrieve` translate them. In a pipeline all generators must agree on the vocabulary;
        `Pipeline.bind` checks that, and gives the new vectors to the index of the source. Not while the model
        answers elsewhere: load a second one, extend that, and put it in place.

        Raises:
            InputError: the frame lacks a column that the model was fitted with, or has an item twice.
        """
        if ITEM_ID not in items.columns:
            raise InputError(f"item metadata needs a column item_id, it has: {', '.join(items.columns)}")
        old = self.items_
        new = Ids(items.filter(pl.Series(old.ix(items[ITEM_ID]) == UNKNOWN))[ITEM_ID])
        wide = Ids(pl.concat([old.values, new.values.cast(old.values.dtype)]))
        from_old, from_new = old.ix(wide.values), new.ix(wide.values)
        rows = np.where(from_old != UNKNOWN, from_old, len(old) + from_new).astype(np.int64)
        both = TableFeatures(**self.features_).then(encode(items, new, self.learnt_).only(self.words_))
        table = self.weights_["item.weight"]
        padded = np.concatenate([table[:-1], np.zeros((len(new), table.shape[1]), np.float32)])[rows]
        self.features_ = asdict(both.take(rows))
        self.has_id_ = np.concatenate([self.has_id_, np.zeros(len(new), bool)])[rows]
        self.weights_ = self.weights_ | {"item.weight": np.concatenate([padded, table[-1:]])}
        self.items_ = wide
        self.__dict__.pop("_encoder", None)
        with torch.inference_mode():
            vectors_ID = self._encoder.item_vectors()
        self.item_emb_ = (F.normalize(vectors_ID, dim=-1) if self.cosine else vectors_ID).numpy().copy()
        return self

    def _train(
        self, train: Histories, n_epochs: int, held: HeldOut | None
    ) -> tuple[NextItemObjective, list[dict[str, float]]]:
        """Train on these histories; an item without a row in them is new, also to a validation."""
        self.has_id_ = train.item_counts() > 0
        self.words_ = common(self._described.take(np.flatnonzero(self.has_id_)), self.min_count)
        self.features_ = asdict(self._described.only(self.words_))
        self._person_U = self._people_of(train)
        return super()._train(train, n_epochs, held)

    def _objective(self, train: Histories) -> NextItemObjective:
        return TowersObjective(self.network(train.n_items), self._loss_config(), self._target_counts(train))

    def _batch(self, windows: Windows, train: Histories, rng: np.random.Generator) -> Batch:
        batch = super()._batch(windows, train, rng)
        if not self.people_learnt_["columns"]:
            return batch
        person_B = self._person_U[np.searchsorted(train.offsets, windows.start, side="right") - 1]
        return replace(batch, layout=replace(batch.layout, person_B=torch.from_numpy(person_B)))

    def _asked(self, queries: Histories, users: IntArray) -> tuple[torch.Tensor, Layout]:
        item_BT, layout = super()._asked(queries, users)
        if not self.people_learnt_["columns"]:
            return item_BT, layout
        return item_BT, replace(layout, person_B=torch.from_numpy(self._people_of(queries)[users]))

    def _people_of(self, histories: Histories) -> LongArray:
        """Row of the users table of each history, the last for those whom it lacks. Shape (U,)."""
        nobody = len(self.people_)
        if histories.anonymous:
            return np.full(len(histories), nobody, np.int64)
        at = self.people_.ix(histories.query_ids)
        return np.where(at == UNKNOWN, nobody, at).astype(np.int64)

    def _fingerprint(self, train: Histories) -> str:
        about = f"{super()._fingerprint(train)} {self.learnt_} {self.people_learnt_}"
        digest = hashlib.sha256(about.encode())
        for array in (*self.features_.values(), *self.people_features_.values()):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def _rows_of(table: pl.DataFrame | None, key: str, ids: Ids) -> pl.DataFrame | None:
    """The rows of a table whose id is in a vocabulary."""
    if table is None or key not in table.columns:
        return table
    return table.filter(pl.Series(ids.ix(table[key]) != UNKNOWN))
