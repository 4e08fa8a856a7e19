"""The vectors of items inside an encoder: a row each, or sums of rows of a smaller table.

    plain     v_i = E[i]                                            4 I D bytes
    hashed    v_i = sum_j T[h_j(i)],  j = 1..3, one table T         4 V D bytes, V rows whatever I is

Two hashed items are the same to the model only where all their rows are: with V = I / 4 rows and 3 functions,
an item has such a twin with probability of about 3! I / V^3 = 384 / I^2, 4 in 10^6 at 10,000 items
(`MultiHash.p_confused`). What hashing costs is not twins but neighbours: a row is shared by 12 items.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrina.nn.embeddings import MultiHash

N_HASHES = 3
"""Rows that make up a hashed vector: with fewer, items of a small table have twins."""


class Hashed(NamedTuple):
    """How items share rows."""

    n_items: int
    """I."""
    n_rows: int
    """V."""
    n_hashes: int = N_HASHES
    """Rows of a vector."""

    def table(self, embedding_dim: int, *, seed: int) -> MultiHash:
        """An untrained table; the id I is padding, and ids behind it are further tokens."""
        return MultiHash(
            self.n_rows,
            embedding_dim,
            n_hashes=self.n_hashes,
            shared=True,
            seed=seed,
            padding_id=self.n_items,
        )

    @property
    def p_confused(self) -> float:
        """Probability that an item has a twin, before it is known which items there are."""
        return self.table(1, seed=0).p_confused(self.n_items)


def read_table(items: int | Hashed, embedding_dim: int, *, n_extra: int) -> nn.Embedding | MultiHash:
    """A table of the items read, the index I padding with the vector 0; call `start` before it is used.

    Args:
        items: I, or how I items share rows.
        embedding_dim: D.
        n_extra: tokens behind the padding.
    """
    if isinstance(items, Hashed):
        return items.table(embedding_dim, seed=0)
    return nn.Embedding(items + 1 + n_extra, embedding_dim, padding_idx=items)


def target_table(items: int | Hashed, embedding_dim: int) -> nn.Embedding | MultiHash:
    """A table of the items to predict; likewise."""
    return (
        items.table(embedding_dim, seed=1)
        if isinstance(items, Hashed)
        else nn.Embedding(items, embedding_dim)
    )


def start(table: nn.Embedding | MultiHash, std: float) -> None:
    """Vectors whose numbers are drawn with a standard deviation, that of padding 0."""
    with torch.no_grad():
        if isinstance(table, MultiHash):
            table.table.weight.normal_(std=std * table.n_hashes**-0.5)
            table.table.weight[0] = 0
            return
        table.weight.normal_(std=std)
        if table.padding_idx is not None:
            table.weight[table.padding_idx] = 0


def all_vectors(table: nn.Embedding | MultiHash, n_items: int) -> Tensor:
    """Vectors of the items, without those of other tokens. Shape (I, D)."""
    if isinstance(table, nn.Embedding):
        return table.weight[:n_items]
    vectors: Tensor = table(torch.arange(n_items, device=table.table.weight.device))
    return vectors
