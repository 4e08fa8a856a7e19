"""Two towers: people and items as vectors that meet in one product, items also from what is known of them.

Covington, Adams, Sargin, RecSys 2016; sampling correction: Yi et al., RecSys 2019; mixed negatives: Yang et
al., WWW 2020 (doi 10.1145/3366424.3386195); the correction without the positive: Khrylchenko et al.,
arXiv:2507.09331.

Notation                                                                                    shape
    x_i     id_i + hashed categories and words + projected numbers and vectors             (D,)
    v_i     x_i + MLP(LN x_i), the item tower                                              (D,)
    u       MLP [mean of x over the history; x of the latest], the user tower; with
            `n_layers` > 0 a causal transformer in place of the mean                        (D,)

    score of item i = cos(u, v_i) / temperature
    loss = -log softmax over the item taken and M drawn ones, corrected for how often each is drawn

The id of an item is hidden in training with the chance `p_no_id`, so that what remains learns to stand
alone: a new item is then served from its metadata. Items are new in two ways. A vocabulary wider than the
log (`train.reindex(ids)`, or `Histories.from_frame(..., items=ids)`) has them from the start, and every
model and the evaluation agree on it; `extend(items)` adds them to a fitted model.

Cost of an epoch: N (D^2 (8 + 12 L) + M D) multiply-adds, three times over; the item tower runs once for
each distinct item of a batch. Memory: 16 bytes a number of the tables of ids (I, D) and of buckets
(n_buckets, D) in training.
NOTE[DIFF] papers: a feed-forward user tower over demographics too; here: history alone; because histories
carry no features of people.
Use when: items come and go and have metadata, or answers must come from a vector index. See also: SASRec
(order), ImplicitALS (no metadata, no torch).
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812

from vitrina.candidates.item_features import ItemFeatures, encode, learn
from vitrina.candidates.next_item import NextItemModel
from vitrina.errors import ConfigError, InputError
from vitrina.estimator import check_positive, fitted
from vitrina.ids import UNKNOWN, Ids
from vitrina.log import Histories
from vitrina.nn.next_item import NextItemObjective
from vitrina.nn.towers import Towers, TowersObjective
from vitrina.schema import ITEM_ID, BoolArray


@dataclass(kw_only=True, eq=False)
class TwoTower(NextItemModel):
    """A user tower over the history and an item tower over id and metadata, under a corrected softmax.

    Example:
        >>> from vitrina.testing import markov_world
        >>> world = markov_world(seed=0)
        >>> model = TwoTower(max_len=20, n_epochs=5, lr=0.01, batch_size=32, n_negatives=64)
        >>> world.share_of_best(model.fit(world.train).retrieve(world.train, k=1)) > 0.7
        True
    """

    without: ClassVar[tuple[str, ...]] = ("trend_days",)
    reads_items: ClassVar[bool] = True
    """`Pipeline.fit` hands item metadata to `fit`."""
    columns: dict[str, str] = field(default_factory=dict)
    """"category", "text", "number", "vector" or "skip", by column of the metadata; else guessed."""
    n_buckets: int = 1 << 16
    """Rows of the table that hashed categories and words share."""
    n_layers: int = 0
    """Transformer blocks over the history; 0 takes its mean."""
    n_heads: int = 2
    """Heads of attention; divides `embedding_dim`."""
    p_no_id: float = 0.2
    """Chance that an item's id is hidden in training, where there is metadata."""
    loss: str = "sampled_softmax"
    n_negatives: int = 512
    negatives: str = "mixed"
    cosine: bool = True
    temperature: float = 0.1
    learned_temperature: bool = True
    learnt_: dict[str, Any] = fitted()
    """How each column of the metadata is read."""
    features_: dict[str, Any] = fitted()
    """Features of the items, as arrays (`vitrina.candidates.item_features`)."""
    has_id_: BoolArray = fitted()
    """Whether an item occurs in the training log. Shape (I,)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, n_buckets=self.n_buckets, n_heads=self.n_heads)
        if self.n_layers < 0 or (self.n_layers and self.embedding_dim % self.n_heads):
            raise ConfigError(
                f"TwoTower needs n_layers >= 0 and embedding_dim a multiple of n_heads, got {self.n_layers}, "
                f"{self.embedding_dim} and {self.n_heads}"
            )
        if not 0 <= self.p_no_id < 1:
            raise ConfigError(f"TwoTower.p_no_id must be in [0, 1), got {self.p_no_id}")
        if self.loss not in ("sampled_softmax", "softmax"):
            raise ConfigError(f'TwoTower.loss must be "sampled_softmax" or "softmax", got {self.loss!r}')

    def network(self, n_items: int) -> Any:
        """Both towers over the features that were fitted; without any, over ids."""
        features = self.__dict__.get("features_")
        if features is None:
            features = asdict(
                encode(None, Ids(pl.Series(np.arange(n_items))), learn(None, {}, self.n_buckets))
            )
        return Towers(
            features["offsets"],
            features["token"],
            features["weight"],
            features["dense"],
            self.__dict__.get("has_id_", np.ones(n_items, bool)),
            n_buckets=self.n_buckets,
            embedding_dim=self.embedding_dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            dropout=self.dropout,
            p_no_id=self.p_no_id,
        )

    def fit(self, train: Histories, items: pl.DataFrame | None = None) -> Self:
        """Train both towers; returns self.

        Args:
            train: histories; items of its vocabulary without rows are known from metadata alone.
            items: metadata, one row an item_id; rows of items outside the vocabulary are not read.

        Raises:
            InputError: nothing follows anything, or the metadata has an item twice.
            ConfigError: `columns` does not fit the metadata.
        """
        known = items
        if items is not None and ITEM_ID in items.columns:
            known = items.filter(pl.Series(train.items.ix(items[ITEM_ID]) != UNKNOWN))
        self.learnt_ = learn(known, self.columns, self.n_buckets)
        self.features_ = asdict(encode(known, train.items, self.learnt_))
        self.has_id_ = train.item_counts() > 0
        return super().fit(train)

    def extend(self, items: pl.DataFrame) -> Self:
        """Add items that the model does not know, from their metadata; returns self.

        Nothing is trained. Item numbers shift, for vocabularies are sorted: ask with histories over
        `items_` or let `retrieve` translate them. In a pipeline all generators must agree on the vocabulary
        (`Pipeline.bind`).

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
        both = ItemFeatures(**self.features_).then(encode(items, new, self.learnt_))
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

    def _objective(self, train: Histories) -> NextItemObjective:
        return TowersObjective(self.network(train.n_items), self._loss_config(), train.item_counts())

    def _fingerprint(self, train: Histories, n_epochs: int) -> str:
        digest = hashlib.sha256(f"{super()._fingerprint(train, n_epochs)} {self.learnt_}".encode())
        for array in self.features_.values():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]
