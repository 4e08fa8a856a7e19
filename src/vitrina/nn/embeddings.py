"""Vectors of ids without a table of their own each: hashed, one table for many features, projected content.

Notation                                                                               shape
    I, C, D     items; numbers of content; dimensions of a vector
    V           rows of a hashed table, without padding
    h_j         hash function j: 64-bit integers to 0..V-1
    k, n        hash functions of an id; ids in use

A hashed table needs no vocabulary and never grows; the price is that ids share rows. With independent uniform
hash functions, one id of n

    shares its row of one table with another id     1 - (1 - 1 / V)^(n - 1)        about (n - 1) / V
    is the same to the model as another id          1 - (1 - V^-k)^(n - 1)         about (n - 1) / V^k

The vector of padding is zero in every class, before and after any step.
See also: `vitrina.nn.tables`, the plain and hashed tables of an encoder, tied or separate;
`vitrina.nn.rowwise.RowwiseAdagrad`, the optimiser for tables that fill the memory.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vitrina.errors import ConfigError, InputError


class ContentProjection(nn.Module):
    """Given vectors of content (text, images), projected to D dimensions by a learned linear map.

    Without bias, so that an item without content (a row of zeros) gets the vector zero. `project` serves
    items that came after training.

    Args:
        content_IC: one vector for each item, (I, C); neither trained nor saved with the parameters.
        embedding_dim: D.

    Shape:
        item_ix (...) of integers in [0, I] -> (..., D); I is padding
    """

    content_IC: Tensor
    """The content, and a row of zeros for padding, (I + 1, C)."""

    def __init__(self, content_IC: Tensor, embedding_dim: int) -> None:
        super().__init__()
        if content_IC.ndim != 2:
            raise InputError(f"content must be a matrix with a row for each item, got {content_IC.ndim} axes")
        if not bool(content_IC.isfinite().all()):
            raise InputError("content must be finite, got NaN or infinity; replace it by zeros")
        padding_1C = content_IC.new_zeros(1, content_IC.shape[1])
        self.register_buffer("content_IC", torch.cat([content_IC, padding_1C]).float(), persistent=False)
        self.linear = nn.Linear(content_IC.shape[1], embedding_dim, bias=False)

    def forward(self, item_ix: Tensor) -> Tensor:
        """Projected content of known items. Shape (..., D)."""
        return self.project(self.content_IC[item_ix])

    def project(self, content_NC: Tensor) -> Tensor:
        """Projected content of any items. Shape (N, D)."""
        projected: Tensor = self.linear(content_NC)
        return projected

    def project_all(self) -> Tensor:
        """Projected content of the catalogue. Shape (I, D)."""
        return self.project(self.content_IC[:-1])


class MultiHash(nn.Module):
    """A vector for any 64-bit id, put together from k rows of hashed tables.

    Two ids that share one row still differ in the others: 2 functions into V = 1 M rows tell 10 M ids apart
    except for one in 100,000, where one function would leave hardly any id alone.

    Args:
        n_buckets: V, rows of one table.
        embedding_dim: D.
        n_hashes: k.
        combine: "sum" adds k rows of D numbers; "concat" puts k rows of D / k side by side, at 1 / k of the
            memory.
        shared: one table for all functions, in place of one each: 1 / k of the memory, and k n look-ups that
            collide in it.
        seed: draws the functions.
        padding_id: the id whose vector is zero.
        sparse: gradients hold only the rows looked up.

    Shape:
        ids (...), int64 -> (..., D)
    """

    def __init__(
        self,
        n_buckets: int,
        embedding_dim: int,
        *,
        n_hashes: int = 2,
        combine: str = "sum",
        shared: bool = False,
        seed: int = 0,
        padding_id: int = -1,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        if combine not in ("sum", "concat") or (combine == "concat" and embedding_dim % n_hashes):
            raise ConfigError(
                f"MultiHash.combine must be sum, or concat with embedding_dim a multiple of n_hashes; "
                f"got {combine!r}, {embedding_dim} and {n_hashes}"
            )
        self.n_buckets, self.n_hashes, self.padding_id = n_buckets, n_hashes, padding_id
        self.combine, self.shared, self.seed = combine, shared, seed
        width = embedding_dim if combine == "sum" else embedding_dim // n_hashes
        # a sum of k rows, or k parts side by side: norm about 1 either way
        n_rows = n_buckets if shared else n_hashes * n_buckets
        self.table = _table(1 + n_rows, width, embedding_dim**-0.5, padding_ix=0, sparse=sparse)
        if combine == "sum":
            with torch.no_grad():
                self.table.weight *= n_hashes**-0.5

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the table that make up each vector; 0 for padding. Shape (..., k)."""
        each = []
        for j in range(self.n_hashes):
            start = 1 if self.shared else 1 + j * self.n_buckets
            each.append(start + hash_bucket(ids, self.seed, j, self.n_buckets))
        return torch.where((ids == self.padding_id)[..., None], 0, torch.stack(each, -1))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of ids. Shape (..., D)."""
        parts: Tensor = self.table(self.rows(ids))
        return parts.sum(-2) if self.combine == "sum" else parts.flatten(-2)

    def p_row_shared(self, n_ids: int) -> float:
        """Probability that another of n ids has the same row under a given function.

        Of a shared table, that another look-up of the k n has it; k look-ups of one id count among them.
        """
        others = n_ids * self.n_hashes - 1 if self.shared else n_ids - 1
        return p_collision(others, 1 / self.n_buckets)

    def p_confused(self, n_ids: int) -> float:
        """Probability that another of n ids has the same row under every function: no model tells them apart.

        A shared table with "sum" also confuses ids whose rows are the same in another order; that is k! times
        as frequent, and counted.
        """
        orders = math.factorial(self.n_hashes) if self.shared and self.combine == "sum" else 1
        return p_collision(n_ids - 1, orders * self.n_buckets**-self.n_hashes)


class UnifiedEmbedding(nn.Module):
    """One table for all features: each looks up its values with hash functions of its own.

    A feature gets as many dimensions as it needs by more look-ups, put side by side, not by a table of
    another width. Values of different features share rows, but meet different weights in the layer above,
    which can keep them apart; values of one feature that share all rows cannot be told apart at all. So what
    has to be small is `p_confused`, and `p_row_shared` may be large (Coleman et al., "Unified Embedding",
    NeurIPS 2023).

    Args:
        lookups: number of look-ups of each feature, by name.
        n_buckets: V, rows of the table.
        width: dimensions of one look-up.
        seed: draws the functions.
        padding_id: the value whose vector is zero.
        sparse: gradients hold only the rows looked up.

    Shape:
        values of F features (...) -> (..., sum of look-ups * width), features in the order of `lookups`
    """

    def __init__(
        self,
        lookups: Mapping[str, int],
        n_buckets: int,
        width: int,
        *,
        seed: int = 0,
        padding_id: int = -1,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        if not lookups or min(lookups.values()) < 1:
            raise ConfigError(f"UnifiedEmbedding.lookups must be at least 1 for each feature, got {lookups}")
        self.lookups, self.n_buckets, self.width = dict(lookups), n_buckets, width
        self.seed, self.padding_id = seed, padding_id
        # functions of a feature follow from its name alone, so that adding a feature moves no other
        self._first_function = {feature: _name_number(feature) for feature in self.lookups}
        self.table = _table(1 + n_buckets, width, width**-0.5, padding_ix=0, sparse=sparse)

    @property
    def embedding_dim(self) -> int:
        """Dimensions of all features together."""
        return self.width * sum(self.lookups.values())

    def rows(self, feature: str, values: Tensor) -> Tensor:
        """Rows of the table that make up the vector of each value of a feature. Shape (..., look-ups)."""
        first = self._first_function[feature]
        functions = range(first, first + self.lookups[feature])
        each = [1 + hash_bucket(values, self.seed, j, self.n_buckets) for j in functions]
        return torch.where((values == self.padding_id)[..., None], 0, torch.stack(each, -1))

    def lookup(self, feature: str, values: Tensor) -> Tensor:
        """Vectors of values of one feature. Shape (..., look-ups * width)."""
        vectors: Tensor = self.table(self.rows(feature, values))
        return vectors.flatten(-2)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """All features side by side. Shape (..., `embedding_dim`)."""
        return torch.cat([self.lookup(feature, values[feature]) for feature in self.lookups], -1)

    def p_confused(self, feature: str, n_values: Mapping[str, int]) -> float:
        """Probability that a value has all rows in common with another value of its feature.

        Args:
            feature: its name.
            n_values: number of values in use, by feature.
        """
        return p_collision(n_values[feature] - 1, self.n_buckets ** -self.lookups[feature])

    def p_row_shared(self, feature: str, n_values: Mapping[str, int]) -> float:
        """Probability that a row of a value is looked up by any other value or look-up too.

        Args:
            feature: its name.
            n_values: number of values in use, by feature.
        """
        if feature not in self.lookups:
            raise InputError(f"there is no feature {feature!r}; there is: {', '.join(self.lookups)}")
        others = sum(n * self.lookups[name] for name, n in n_values.items()) - 1
        return p_collision(others, 1 / self.n_buckets)


def p_collision(n_others: int, p: float) -> float:
    """1 - (1 - p)^n: probability that one of n others falls where this one did, each with probability p."""
    return -math.expm1(n_others * math.log1p(-p)) if p < 1 else float(n_others > 0)


def hash_bucket(ids: Tensor, seed: int, function: int, n_buckets: int) -> Tensor:
    """Bucket in [0, n_buckets) of each id under one of the functions that a seed draws. Shape of `ids`.

    The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) over the id plus a salt; the same on every
    device and in every process.
    """
    salt = _mixed(_mixed(torch.tensor(seed)) + function)
    mixed = _mixed(ids.long() + salt.to(ids.device))
    return (mixed & (2**63 - 1)) % n_buckets


def _mixed(z: Tensor) -> Tensor:
    z = z + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift to the right that fills with zeros, whatever the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


def _name_number(name: str) -> int:
    """A number below 2^62 for a name (FNV-1a, 64 bits, by Fowler, Noll and Vo)."""
    number = 0xCBF29CE484222325
    for byte in name.encode():
        number = ((number ^ byte) * 0x100000001B3) % 2**64
    return number >> 2


def _table(n_rows: int, width: int, std: float, *, padding_ix: int | None, sparse: bool) -> nn.Embedding:
    table = nn.Embedding(n_rows, width, padding_idx=padding_ix, sparse=sparse)
    with torch.no_grad():
        table.weight.normal_(std=std)
        if padding_ix is not None:
            table.weight[padding_ix] = 0
    return table
