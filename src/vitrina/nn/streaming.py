"""Frequencies of items in a stream of batches, without a pass over the log (Yi et al., RecSys 2019).

Notation                                                                               shape
    t           step, one a batch of B draws
    h_j         hash function j of m
    A_j, D_j    step at which a bucket was last hit; smoothed gap between hits         (m, H)
    p(i)        probability that item i is in a batch;  Q(i) that one draw gives it

At step t, for each bucket hit:    D_j <- (1 - a) D_j + a (t - A_j),    A_j <- t                (algorithm 2)
    p(i) = 1 / max_j D_j[h_j(i)]                                                                (algorithm 3)

Two items in one bucket make gaps too short, never too long; the largest of m estimates is hurt least. With
gaps of mean d, E[D] - d falls as (1 - a)^(hits), and Var[D] tends to a / (2 - a) of the variance of a gap
(proposition 4.1 bounds it by a): a small a is exact but slow to learn and to forget.

p is no Q: by 1 - (1 - Q)^B = p it is turned into Q = 1 - (1 - p)^(1 / B), which the corrected softmax needs.

NOTE[DIFF] Yi et al.: an item twice in a batch updates twice, the second time with gap 0; here: once; because
p is then the probability of being in the batch, and Q follows from it exactly.
"""

import torch
from torch import Generator, Tensor

from vitrina.errors import ConfigError
from vitrina.nn.corrections import Negatives
from vitrina.nn.embeddings import hash_bucket


class StreamingFrequency:
    """In-batch negatives whose probability is learned from the batches as they come.

    For streams without end, where counts of the training rows are not at hand or drift; else `InBatch` is
    exact. Each `draw` is a step.

    Args:
        n_items: I; items are any integers, I is not used to store anything.
        n_buckets: H, buckets of each hash function; 12 m H bytes.
        n_hashes: m.
        rate: a.
        first_gap: D before the first hit, in steps.
        n: this many positives are drawn, chosen without replacement; None draws all P. All are counted.
        seed: draws the hash functions.
    """

    def __init__(
        self,
        n_items: int,
        n_buckets: int,
        *,
        n_hashes: int = 2,
        rate: float = 0.01,
        first_gap: float = 100.0,
        n: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < rate <= 1 or n_buckets < 1 or n_hashes < 1 or not first_gap >= 1:
            raise ConfigError(
                f"StreamingFrequency needs a rate in (0, 1], buckets, hashes and a first gap of at least 1, "
                f"got {rate}, {n_buckets}, {n_hashes} and {first_gap}"
            )
        self.n_items, self.n_buckets, self.rate, self.n, self.seed = n_items, n_buckets, rate, n, seed
        self.step, self.batch_size = 0, 1
        self.last_MH = torch.zeros(n_hashes, n_buckets, dtype=torch.int64)
        self.gap_MH = torch.full((n_hashes, n_buckets), first_gap)

    def update(self, item_ix_P: Tensor) -> None:
        """Count one batch. Cost: O(m P log P)."""
        self.step += 1
        self.batch_size = max(1, len(item_ix_P))
        self._to(item_ix_P.device)
        for j, (last_H, gap_H) in enumerate(zip(self.last_MH, self.gap_MH, strict=True)):
            hit = hash_bucket(item_ix_P, self.seed, j, self.n_buckets)
            hit = torch.unique(hit)
            gap_H[hit] += self.rate * ((self.step - last_H[hit]) - gap_H[hit])
            last_H[hit] = self.step

    def p_in_batch(self, item_ix: Tensor) -> Tensor:
        """Probability that a batch of the last size holds each item, in their shape."""
        self._to(item_ix.device)
        gaps = [
            gap_H[hash_bucket(item_ix, self.seed, j, self.n_buckets)] for j, gap_H in enumerate(self.gap_MH)
        ]
        return 1 / torch.stack(gaps).amax(0).clamp(min=1.0)

    def log_q(self, item_ix: Tensor) -> Tensor:
        """Log Q of each item, in their shape."""
        # an item in every batch has a Q that p = 1 cannot tell; half a batch in doubt keeps it below 1
        p = self.p_in_batch(item_ix).double().clamp(max=1 - self.rate / 2)
        return torch.log(-torch.expm1(torch.log1p(-p) / self.batch_size)).float()

    def draw(self, positives_P: Tensor, generator: Generator) -> Negatives:
        """Count the batch, and give its positives as negatives, n at most."""
        self.update(positives_P)
        item_ix = positives_P
        if self.n is not None and self.n < len(positives_P):
            order_P = torch.randperm(len(positives_P), generator=generator, device=positives_P.device)
            item_ix = positives_P[order_P[: self.n]]
        return Negatives(item_ix, self.log_q(item_ix))

    def state_dict(self) -> dict[str, Tensor]:
        """What an exact resume needs."""
        about = torch.tensor([self.step, self.batch_size])
        return {"about": about, "last_MH": self.last_MH, "gap_MH": self.gap_MH}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        self.step, self.batch_size = state["about"].tolist()
        self.last_MH, self.gap_MH = state["last_MH"].clone(), state["gap_MH"].clone()

    def _to(self, device: torch.device) -> None:
        self.last_MH, self.gap_MH = self.last_MH.to(device), self.gap_MH.to(device)
