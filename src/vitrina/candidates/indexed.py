"""A model with a vector for each item, asked through an index of those vectors.

    direct   all I products <u, v_i> (+ bias_i), the best k           `Model.retrieve`
    index    the same score for the candidates of an index alone      `IndexedItems.lists`

The index holds the vectors as the model scores with them: of unit norm where it was trained by cosine, with
the bias of an item beside its vector, added where candidates are scored again. Queries are the model's own
(`embed`), so one thing differs between the two ways: what an approximate index misses. Every build measures
that on queries of training users and, below its floor, searches exactly.

Items are numbered in the index in the order in which it got them, for vocabularies are sorted and a new item
would move the others: number n of the index is the item `item_ids[n]`.
"""

import hashlib
import os
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from vitrina import artifact
from vitrina.ann import PAD, Index, Jagged, TopK, load_index
from vitrina.ann.recall import N_QUERIES
from vitrina.ann.topk import within
from vitrina.candidates.factors import emptied
from vitrina.errors import ArtifactError, ConfigError
from vitrina.ids import UNKNOWN, Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray, FloatArray, IntArray

KIND = "IndexedItems"


class VectorModel(Protocol):
    """A fitted model with a vector for each item and for any history."""

    items_: Ids
    item_emb_: FloatArray
    """(I, D); with `bias_column` the last column is the bias of the item."""

    def embed(self, queries: Histories) -> FloatArray:
        """Vectors of histories, (B, D); with `bias_column` their last number is 1."""


@dataclass(eq=False)
class IndexedItems:
    """The item vectors of one model in an index."""

    index: Index
    item_ids: pl.Series
    """External id of each number of the index. Shape (n,)."""
    digest: str
    """SHA-256 of the model's vectors at the last build or addition."""

    @classmethod
    def build(cls, index: Index, model: VectorModel, train: Histories, *, seed: int = 0) -> "IndexedItems":
        """Put all vectors of a model into an index, and measure it on training users.

        Args:
            index: what it held is replaced.
            model: fitted.
            train: histories; what 200 of their users would be answered is compared with exact search.
            seed: draws those users.
        """
        vector_ID, bias_I = exported(model)
        users = np.flatnonzero(train.lengths > 0)
        drawn = np.sort(np.random.default_rng(seed).permutation(users)[:N_QUERIES])
        asked = train.rows(drawn.astype(np.int32)).asked_at(int(train.ts.max()) if train.n_rows else None)
        queries = _without_bias(model, model.embed(asked))
        queries = queries[queries.any(axis=1)]
        index.build(vector_ID, bias=bias_I, queries=queries if len(queries) else None)
        return cls(index, model.items_.values, _digest(model))

    def follow(self, model: VectorModel) -> int:
        """Add the items that a model has learnt of since (`TwoTower.extend`); returns how many.

        Raises:
            ConfigError: it was fitted anew, so that the index holds other vectors than the model.
        """
        digest = _digest(model)
        if digest == self.digest:
            return 0
        known = Ids(self.item_ids)
        new = np.flatnonzero(known.ix(model.items_.values) == UNKNOWN)
        if not len(new) or (model.items_.ix(self.item_ids) == UNKNOWN).any():
            raise ConfigError(
                f"{type(model).__name__} has other vectors than its index; it was fitted again: call "
                "Source.build_index(train)"
            )
        vector_ID, bias_I = exported(model)
        numbers = np.arange(len(self.item_ids), len(self.item_ids) + len(new), dtype=np.int32)
        self.index.add(numbers, vector_ID[new], bias=None if bias_I is None else bias_I[new])
        self.item_ids = pl.concat([self.item_ids, model.items_.values.gather(new)])
        self.digest = digest
        self.__dict__.pop("_numbering", None)
        return len(new)

    def lists(
        self,
        model: VectorModel,
        queries: Histories,
        *,
        k: int,
        exclude: Jagged | None = None,
        allowed: BoolArray | None = None,
    ) -> TopK:
        """What `model.retrieve` answers, out of the index: arguments, shapes and numbering are the same.

        Of items with one and the same score those come first that the index got first.
        """
        queries = queries.reindex(model.items_)
        emb_BD = model.embed(queries)
        number_I, item_N = self._numbering
        if exclude is not None:
            exclude = within(exclude, len(number_I))
            exclude = Jagged(exclude.offsets, number_I[exclude.item_ix])
        if allowed is not None:
            allowed = allowed[item_N]
        search = partial(
            self.index.search, _without_bias(model, emb_BD), k=min(k, len(number_I)), exclude=exclude
        )
        found = search(allowed=allowed)
        if (found.item_ix >= len(item_N)).any():  # another server has added what this model has not learnt of
            found = search(allowed=np.ones(len(item_N), dtype=bool))
        item_BK = np.where(found.item_ix == PAD, PAD, item_N[np.maximum(found.item_ix, 0)]).astype(np.int32)
        return emptied(TopK(item_BK, found.score), emb_BD, queries.lengths)

    def note(self) -> str:
        """What a reader of the model's numbers must know, in one sentence without a subject."""
        recall, name = getattr(self.index, "recall_", None), type(self.index).__name__
        if recall is None:
            return f"answers through {name}, which searches its {len(self.index):,} vectors exactly"
        floor = float(self.index.params()["min_recall"])
        whose = "training users" if recall.real_queries else "queries that are items"
        measured = f"{recall.mean:.4f} of the exact top {recall.k}, measured on {recall.n_queries} {whose}"
        if recall.mean < floor:
            return (
                f"was to answer through {name}, which found only {measured}; that is below its floor of "
                f"{floor:g}, so exact search answers"
            )
        return f"answers through {name}, which finds {measured} (worst tenth {recall.worst_tenth:.4f})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as it is, with what was measured of it, to a folder."""
        folder = Path(path)
        state = {"item_ids": self.item_ids.alias("item_id").to_frame(), "digest": self.digest}
        artifact.save(artifact.Saved(kind=KIND, params={}, state=state), folder / "items")
        self.index.save(folder / "vectors")

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: VectorModel) -> "IndexedItems":
        """The very index that `save` wrote, its vectors memory-mapped where they are in files.

        Raises:
            ArtifactError: the folder is missing, corrupted, or belongs to another model.
        """
        folder = Path(path)
        saved = artifact.load(folder / "items")
        if saved.kind != KIND or saved.state.get("digest") != _digest(model):
            raise ArtifactError(f"{folder} is the index of another {type(model).__name__}; train it again")
        return cls(load_index(folder / "vectors"), saved.state["item_ids"]["item_id"], saved.state["digest"])

    @cached_property
    def _numbering(self) -> tuple[IntArray, IntArray]:
        """Number of each item of the vocabulary, and the item of each number; both of shape (I,)."""
        items = Ids(self.item_ids)
        item_N = items.ix(self.item_ids)
        number_I = np.empty_like(item_N)
        number_I[item_N] = np.arange(len(item_N), dtype=np.int32)
        return number_I, item_N


def has_vectors(generator: Any) -> bool:
    """Whether a model, fitted or not, has item vectors that an index can hold."""
    names = {f.name for f in fields(generator)} if hasattr(generator, "__dataclass_fields__") else set()
    return "item_emb_" in names and callable(getattr(generator, "embed", None))


def exported(model: VectorModel) -> tuple[FloatArray, FloatArray | None]:
    """Vectors of items as they are scored with, (I, D), and their biases, (I,) or None."""
    if not getattr(model, "bias_column", False):
        return model.item_emb_, None
    return np.ascontiguousarray(model.item_emb_[:, :-1]), np.ascontiguousarray(model.item_emb_[:, -1])


def _without_bias(model: VectorModel, emb_BD: FloatArray) -> FloatArray:
    """Vectors of histories as an index takes them: without the 1 that stands for the bias."""
    return emb_BD[:, :-1] if getattr(model, "bias_column", False) else emb_BD


def _digest(model: VectorModel) -> str:
    hashed = hashlib.sha256(f"{model.items_.digest} {model.item_emb_.shape}".encode())
    hashed.update(np.ascontiguousarray(model.item_emb_).data)
    return hashed.hexdigest()
