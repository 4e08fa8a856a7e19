"""Where negatives come from: proposals, which draw items and know the probability of each draw.

Notation                                                                               shape
    I, P        items of the catalogue; positives of a batch
    M           negatives of a position: shared by all positions, drawn for each, or   (M,), (P, M)
                shared by some, G sets in all                                          or (G, M)
    c_i, N      how often item i is a target in an epoch, and their sum                (I,)
    Q(i)        probability that ONE draw gives item i; `log_q` is its logarithm

    Uniform           1 / I
    Unigram           c_i^power / sum_j c_j^power
    InBatch           c_i / N: the positives of the batch are each other's negatives
    Mixed             (B c_i / N + B' / I) / (B + B'): B in-batch, B' uniform (Yang et al., WWW 2020)
    CrossBatchMemory  c_i / N: positives of this and of earlier batches (Wang et al., SIGIR 2021)

Q is the probability of one draw, not that of standing anywhere in the batch, 1 - (1 - Q)^B: only the former
makes the corrected softmax right. All randomness comes from the generator given, which lives on the device of
the positives: the same state of it gives the same negatives.

See also: `vitrina.nn.losses.sampled_softmax`; docs/losses.md says which to choose.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numba
import numpy as np
import torch
from torch import Generator, Tensor

from vitrina.errors import ConfigError, InputError
from vitrina.nn.corrections import Negatives, Temperature, collisions
from vitrina.schema import BoolArray, DoubleArray, IntArray, LongArray

__all__ = [
    "CrossBatchMemory",
    "InBatch",
    "Mixed",
    "Negatives",
    "Proposal",
    "Temperature",
    "Uniform",
    "Unigram",
    "collisions",
]


class Proposal(Protocol):
    """A distribution over items that negatives are drawn from."""

    n_items: int

    def draw(self, positives_P: Tensor, generator: Generator) -> Negatives:
        """Negatives for a batch whose next items are `positives_P` (P,); `collisions` masks what is none."""
        ...

    def log_q(self, item_ix: Tensor) -> Tensor:
        """Log Q of any items, in their shape, float32; -inf for one that is never drawn."""
        ...


class Estimates(Protocol):
    """Counts of ids, exact or not, as `vitrina.log.Frequencies` keeps them."""

    def estimate(self, ids: Any) -> LongArray:
        """Count of each id. Shape (n,)."""
        ...


class Uniform:
    """Every item with probability 1 / I.

    Args:
        n_items: I.
        n: M, draws with replacement.
        shared: one set for all positions; False draws for each position anew.
        n_share: this many positions share one set, whatever `shared` says; 0 follows `shared`.
    """

    def __init__(self, n_items: int, n: int, *, shared: bool = True, n_share: int = 0) -> None:
        _check_at_least_one("Uniform", n_items=n_items, n=n)
        self.n_items, self.n, self.shared, self.n_share = n_items, n, shared, n_share

    def draw(self, positives_P: Tensor, generator: Generator) -> Negatives:
        """M items, (G, M) or (P, M). Cost: O(M), O(G M) or O(P M)."""
        shape = _shape(self, len(positives_P))
        item_ix = torch.randint(self.n_items, shape, generator=generator, device=positives_P.device)
        return Negatives(item_ix, self.log_q(item_ix), self.n_share)

    def log_q(self, item_ix: Tensor) -> Tensor:
        """-log I."""
        return torch.full(item_ix.shape, -float(np.log(self.n_items)), device=item_ix.device)


class Unigram:
    """Item i with probability proportional to c_i^power; an item that never occurred is never drawn.

    Draws by Walker's alias method: two look-ups each, whatever I is.

    Args:
        counts_I: c_i, (I,).
        n: M, draws with replacement.
        power: 1 draws as often as items occur, 0 draws all that occurred alike; word2vec has 0.75.
        shared: one set for all positions; False draws for each position anew.
        n_share: this many positions share one set, whatever `shared` says; 0 follows `shared`.
    """

    def __init__(
        self,
        counts_I: IntArray | LongArray | BoolArray | Tensor,
        n: int,
        *,
        power: float = 1.0,
        shared: bool = True,
        n_share: int = 0,
    ) -> None:
        _check_at_least_one("Unigram", n=n)
        c_I = _checked_counts("Unigram", counts_I)
        weight_I = np.where(c_I > 0, np.where(c_I > 0, c_I, 1.0) ** power, 0.0)
        p_I = weight_I / weight_I.sum()
        self.n_items, self.n, self.shared, self.n_share = len(p_I), n, shared, n_share
        with np.errstate(divide="ignore"):
            self.log_q_I = torch.from_numpy(np.log(p_I).astype(np.float32))
        keep_I, alias_I = _alias_table(p_I * len(p_I))
        self.keep_I, self.alias_I = torch.from_numpy(keep_I), torch.from_numpy(alias_I)

    @classmethod
    def of(cls, frequencies: Estimates, ids: Iterable[Any], n: int, **options: Any) -> "Unigram":
        """From counts that a stream of ids left, exact or estimated.

        Where counts are estimates, so is the draw, and `log_q` is that of the draw: corrections stay exact.

        Args:
            frequencies: counts by id.
            ids: of items 0, 1, ..., as `Histories.items.values` has them.
            n: M, draws with replacement.
            options: power, shared, n_share.

        Raises:
            InputError: none of the ids was counted.
        """
        return cls(frequencies.estimate(ids), n, **options)

    def draw(self, positives_P: Tensor, generator: Generator) -> Negatives:
        """M items, (G, M) or (P, M). Cost: O(M), O(G M) or O(P M)."""
        device = positives_P.device
        if self.keep_I.device != device:
            self.keep_I, self.alias_I = self.keep_I.to(device), self.alias_I.to(device)
        shape = _shape(self, len(positives_P))
        u = torch.rand(shape, generator=generator, device=device, dtype=torch.float64) * self.n_items
        column = u.long().clamp_(max=self.n_items - 1)
        item_ix = torch.where(u - column < self.keep_I[column], column, self.alias_I[column])
        return Negatives(item_ix, self.log_q(item_ix), self.n_share)

    def log_q(self, item_ix: Tensor) -> Tensor:
        """Log of the item's share of all c^power."""
        self.log_q_I = self.log_q_I.to(item_ix.device)
        return self.log_q_I[item_ix]


def _shape(proposal: Uniform | Unigram, n_positions: int) -> tuple[int, ...]:
    """Of the items to draw."""
    if proposal.n_share:
        return -(-n_positions // proposal.n_share), proposal.n
    return (proposal.n,) if proposal.shared else (n_positions, proposal.n)


class InBatch:
    """The positives of the batch, repeated as they are: each occurs in it with probability c_i / N.

    An item of the batch that the counts do not know is taken to have occurred once.

    Args:
        counts_I: c_i, how often each item is a positive, (I,).
        n: this many positives, chosen without replacement; None takes all P.
    """

    def __init__(self, counts_I: IntArray | Tensor, n: int | None = None) -> None:
        _check_at_least_one("InBatch", n=1 if n is None else n)
        c_I = _checked_counts("InBatch", counts_I)
        self.n_items, self.n, self.n_rows = len(c_I), n, float(c_I.sum())
        self.q_I = torch.from_numpy((c_I / self.n_rows).astype(np.float32))

    def draw(self, positives_P: Tensor, generator: Generator) -> Negatives:
        """P items, or n of them. Cost: O(P)."""
        item_ix = positives_P
        if self.n is not None and self.n < len(positives_P):
            order_P = torch.randperm(len(positives_P), generator=generator, device=positives_P.device)
            item_ix = positives_P[order_P[: self.n]]
        return Negatives(item_ix, self.log_q(item_ix))

    def log_q(self, item_ix: Tensor) -> Tensor:
        """log(max(c_i, 1) / N)."""
        return self.q(item_ix).clamp(min=1 / self.n_rows).log()

    def q(self, item_ix: Tensor) -> Tensor:
        """c_i / N, 0 for an item that never occurred."""
        self.q_I = self.q_I.to(item_ix.device)
        return self.q_I[item_ix]


class Mixed:
    """Positives of the batch and uniform draws, so that items nobody took are negatives too.

    Each draw is scored by the mixture, wherever it came from (the balance heuristic of Veach and Guibas,
    SIGGRAPH 1995), which keeps the estimate of the sum over the catalogue unbiased.

    Args:
        counts_I: c_i, how often each item is a positive, (I,).
        n_uniform: B', uniform draws.
        n_in_batch: B, positives chosen without replacement; None takes all.
        among_I: items that uniform draws come from, (I,); None: all.
    """

    def __init__(
        self,
        counts_I: IntArray | Tensor,
        *,
        n_uniform: int,
        n_in_batch: int | None = None,
        among_I: BoolArray | None = None,
    ) -> None:
        self.in_batch = InBatch(counts_I, n_in_batch)
        self.n_items = self.in_batch.n_items
        every = Uniform(self.n_items, n_uniform)
        self.uniform = every if among_I is None else Unigram(among_I, n_uniform)
        self._n_in_batch = n_in_batch

    def draw(self, positives_P: Tensor, generator: Generator) -> Negatives:
        """B + B' items. Cost: O(B + B')."""
        ours_B = self.in_batch.draw(positives_P, generator).item_ix
        self._n_in_batch = len(ours_B)
        item_ix = torch.cat([ours_B, self.uniform.draw(positives_P, generator).item_ix])
        return Negatives(item_ix, self.log_q(item_ix))

    def log_q(self, item_ix: Tensor) -> Tensor:
        """Log of the mixture, with the B of the last draw.

        Raises:
            InputError: B is the size of the batch, and there was none yet.
        """
        if self._n_in_batch is None:
            raise InputError("Mixed.log_q depends on the size of the batch; call draw first")
        n_in_batch, n_uniform = self._n_in_batch, self.uniform.n
        q = self.in_batch.q(item_ix)
        return torch.log(
            (n_in_batch * q + n_uniform * self.uniform.log_q(item_ix).exp()) / (n_in_batch + n_uniform)
        )


class CrossBatchMemory:
    """The positives of this batch and of earlier ones, first in, first out.

    Vectors of earlier batches change little from step to step once training has settled, so they can serve as
    negatives a second time: a large item tower need not run for them. `push` what the step has computed;
    `vector_KD` belongs to the last K of the items drawn. Without vectors, look the items up by number.

    Args:
        counts_I: c_i, how often each item is a positive, (I,).
        size: most items remembered.
        warmup_steps: pushes before anything is remembered; vectors move fast in the beginning.
        n: most items of a draw: positives of the batch, chosen without replacement, and only where those are
            fewer the latest of the items remembered; None draws all of both.
    """

    def __init__(
        self, counts_I: IntArray | Tensor, size: int, *, warmup_steps: int = 0, n: int | None = None
    ) -> None:
        _check_at_least_one("CrossBatchMemory", size=size)
        self.in_batch, self.n = InBatch(counts_I, n), n
        self.n_items, self.size, self.warmup_steps = self.in_batch.n_items, size, warmup_steps
        self.n_pushes = 0
        self.item_ix_K = torch.empty(0, dtype=torch.int64)
        """Items remembered, the oldest first, (K,)."""
        self.vector_KD: Tensor | None = None
        """Their vectors at the time, (K, D), without gradient; None if none were pushed."""

    def draw(self, positives_P: Tensor, generator: Generator) -> Negatives:
        """The P positives, then the K items remembered, n at most. Cost: O(P + K)."""
        ours = self.in_batch.draw(positives_P, generator).item_ix
        room = len(self.item_ix_K) if self.n is None else min(len(self.item_ix_K), self.n - len(ours))
        remembered = self.item_ix_K[len(self.item_ix_K) - room :]
        item_ix = torch.cat([ours, remembered.to(positives_P.device)])
        return Negatives(item_ix, self.log_q(item_ix))

    def log_q(self, item_ix: Tensor) -> Tensor:
        """log(c_i / N)."""
        return self.in_batch.log_q(item_ix)

    def push(self, item_ix_P: Tensor, vector_PD: Tensor | None = None) -> None:
        """Remember a batch after its step, and forget the oldest items beyond `size`."""
        self.n_pushes += 1
        if self.n_pushes <= self.warmup_steps:
            return
        device = item_ix_P.device
        self.item_ix_K = torch.cat([self.item_ix_K.to(device), item_ix_P])[-self.size :]
        if vector_PD is not None:
            known = [] if self.vector_KD is None else [self.vector_KD]
            self.vector_KD = torch.cat([*known, vector_PD.detach()])[-self.size :]

    def state_dict(self) -> dict[str, Tensor]:
        """What an exact resume needs."""
        state = {"n_pushes": torch.tensor([self.n_pushes]), "item_ix_K": self.item_ix_K}
        return state if self.vector_KD is None else state | {"vector_KD": self.vector_KD}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        self.n_pushes = int(state["n_pushes"][0])
        self.item_ix_K, self.vector_KD = state["item_ix_K"], state.get("vector_KD")


def _check_at_least_one(owner: str, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{owner}.{name} must be at least 1, got {value}")


def _checked_counts(owner: str, counts_I: IntArray | LongArray | BoolArray | Tensor) -> DoubleArray:
    counts = np.asarray(counts_I, dtype=np.float64)
    if counts.ndim != 1 or not len(counts) or counts.min() < 0 or counts.sum() == 0:
        raise InputError(
            f"{owner} needs one count >= 0 for each item, not all 0; got an array of shape {counts.shape}"
        )
    return counts


@numba.njit(cache=True)
def _alias_table(scaled_I):  # type: ignore[no-untyped-def]
    """Columns of height 1 that hold at most two items each (Vose, IEEE Trans. Software Eng. 1991).

    Column i gives item i with probability keep[i], else alias[i]; `scaled_I` is I p_i.
    """
    n = len(scaled_I)
    keep, alias = scaled_I.copy(), np.arange(n)
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    n_small = n_large = 0
    for i in range(n):
        if keep[i] < 1.0:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small > 0 and n_large > 0:
        n_small -= 1
        low, high = small[n_small], large[n_large - 1]
        alias[low] = high
        keep[high] -= 1.0 - keep[low]
        if keep[high] < 1.0:
            n_large -= 1
            small[n_small] = high
            n_small += 1
    for at in range(n_large):
        keep[large[at]] = 1.0
    return keep, alias
