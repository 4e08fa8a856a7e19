"""What is done to logits before a loss: entries that are no negatives are masked, temperature divides.

Notation                                                                               shape
    P, M, R     positives of a batch; negatives of a position; users
    T           items of a user, padded                                                (R, T)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitrina.errors import ConfigError, InputError
from vitrina.nn.shapes import ROWS, SETS, padded, rounded_up


@dataclass(frozen=True, slots=True)
class Negatives:
    """Items drawn for a batch, and how probable each draw was."""

    item_ix: Tensor
    """(M,), shared by all positions, or (P, M), or (G, M), each of `n_share` positions; int64."""
    log_q: Tensor
    """Log of the probability that one draw gives the item, in the shape of `item_ix`."""
    n_share: int = 0
    """Positions, one after another, that share a row of `item_ix` of shape (G, M); 0 for the other shapes."""

    def each(self, n_positions: int) -> "Negatives":
        """The same with a row for each position, where some share one."""
        if not self.n_share:
            return self
        at_P = torch.arange(n_positions, device=self.item_ix.device) // self.n_share
        return Negatives(self.item_ix[at_P], self.log_q[at_P])

    @property
    def asked(self) -> Tensor:
        """`item_ix` with rows of item 0 behind it (see `vitrina.nn.shapes`)."""
        if self.item_ix.ndim == 1:
            return self.item_ix
        return padded(self.item_ix, rounded_up(len(self.item_ix), SETS if self.n_share else ROWS))

    def logits(self, hidden_PD: Tensor, neg_emb: Tensor) -> Tensor:
        """Products of each position with its negatives. Shape (P, M).

        Args:
            hidden_PD: positions.
            neg_emb: vectors of `asked` (or of `item_ix`), in its shape and D.
        """
        n_positions, n_share = len(hidden_PD), max(1, self.n_share)
        if neg_emb.dim() == 2:
            return (padded(hidden_PD, rounded_up(n_positions, ROWS)) @ neg_emb.T)[:n_positions]
        hidden = padded(hidden_PD, len(neg_emb) * n_share)
        return (hidden.view(len(neg_emb), n_share, -1) @ neg_emb.mT).flatten(0, 1)[:n_positions]


def collisions(
    negatives: Negatives,
    positives_P: Tensor,
    own: Tensor | tuple[Tensor, Tensor] | None = None,
    *,
    row_P: Tensor | None = None,
) -> Tensor:
    """Which negatives count: False where one equals the positive, or is the user's own.

    No array of P M T or P I entries is made. Cost: O(P M + R T log M) for shared negatives, O((P M + R T)
    log(R T)) for drawn ones.

    Args:
        negatives: what the proposal drew.
        positives_P: the items that came next, (P,).
        own: items of each of R users, to be masked too: (R, T), padded with a number that is no item, or a
            pair of offsets (R + 1,) and items (N,).
        row_P: row of `own` that belongs to each position, (P,); None says R = P, row for row.

    Returns:
        Mask, (P, M) bool.

    Raises:
        InputError: there is no `row_P` and R differs from P.
    """
    drawn = negatives.item_ix
    valid_PM = drawn != positives_P[:, None]
    if own is None:
        return valid_PM
    row_N, item_N, n_rows = _flat(own)
    if row_P is None:
        if n_rows != len(positives_P):
            raise InputError(
                f"collisions got {n_rows} rows of own items for {len(positives_P)} positions; "
                f"say with row_P which row belongs to which position"
            )
        row_P = torch.arange(n_rows, device=drawn.device)
    if drawn.ndim == 1:
        return valid_PM & ~_owned_shared(drawn, row_N, item_N, n_rows).index_select(0, row_P)
    return valid_PM & ~_owned_each(drawn, row_N, item_N, row_P)


def _flat(own: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, int]:
    """Row and item of each entry, and the number of rows."""
    if isinstance(own, Tensor):
        n_rows, item_N = len(own), own.reshape(-1)
        row_N = torch.arange(n_rows, device=own.device).repeat_interleave(own.shape[1])
    else:
        offsets, item_N = own
        n_rows = len(offsets) - 1
        row_N = torch.arange(n_rows, device=item_N.device).repeat_interleave(offsets.diff())
    real_N = item_N >= 0
    return row_N[real_N], item_N[real_N], n_rows


def _owned_shared(drawn_M: Tensor, row_N: Tensor, item_N: Tensor, n_rows: int) -> Tensor:
    """Whether each row owns each of the items drawn for all. Shape (R, M)."""
    distinct_K, which_M = torch.unique(drawn_M, return_inverse=True)
    at_N = torch.searchsorted(distinct_K, item_N).clamp_(max=len(distinct_K) - 1)
    hit_N = distinct_K[at_N] == item_N
    owned_RK = torch.zeros(n_rows, len(distinct_K), dtype=torch.bool, device=drawn_M.device)
    owned_RK[row_N[hit_N], at_N[hit_N]] = True
    return owned_RK.index_select(1, which_M)


def _owned_each(drawn_PM: Tensor, row_N: Tensor, item_N: Tensor, row_P: Tensor) -> Tensor:
    """Whether each position's row owns each of the items drawn for it. Shape (P, M)."""
    if not len(item_N):
        return torch.zeros_like(drawn_PM, dtype=torch.bool)
    width = torch.maximum(drawn_PM.max(), item_N.max()) + 1
    key_N = (row_N * width + item_N).sort().values
    asked_PM = row_P[:, None] * width + drawn_PM
    at_PM = torch.searchsorted(key_N, asked_PM).clamp_(max=len(key_N) - 1)
    return key_N[at_PM] == asked_PM


class Temperature(nn.Module):
    """tau, what logits are divided by: fixed, or learned as exp(theta) within bounds.

    At a bound theta is put back, so that a later gradient can lead away from it.

    Example:
        >>> round(float(Temperature(0.05)()), 6)
        0.05
    """

    def __init__(self, init: float, *, learned: bool = False, low: float = 0.01, high: float = 100.0) -> None:
        super().__init__()
        if not 0 < low <= init <= high:
            raise ConfigError(f"Temperature.init must be in [{low}, {high}] and above 0, got {init}")
        self.low, self.high = low, high
        theta = torch.tensor(math.log(init))
        if learned:
            self.theta = nn.Parameter(theta)
        else:
            self.register_buffer("theta", theta)

    def forward(self) -> Tensor:
        """tau, a scalar."""
        with torch.no_grad():
            self.theta.clamp_(math.log(self.low), math.log(self.high))
        return self.theta.exp()
