"""Next-item learning: an encoder of histories, and the losses that teach it what came next.

    hidden_BTD = encoder(item_BT, layout)                what is known after each token
    logit of item i after token t = <hidden_t, v_i> + b_i, or cos(hidden_t, v_i) / temperature

Every token of a history but the last has a target, the next one; a loss is taken at all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.errors import ConfigError
from vitrina.nn import losses
from vitrina.nn.encoder import INIT_STD, Encoder
from vitrina.nn.fade import Fade
from vitrina.nn.layout import Layout, Rows, Windows, pad
from vitrina.nn.losses import Correction
from vitrina.nn.proposals import (
    CrossBatchMemory,
    InBatch,
    Mixed,
    Negatives,
    Proposal,
    Temperature,
    Uniform,
    Unigram,
    collisions,
)
from vitrina.nn.streaming import StreamingFrequency
from vitrina.nn.trend import Trend
from vitrina.schema import (
    US_PER_SECOND,
    BoolArray,
    DoubleArray,
    IntArray,
    LongArray,
)

LOSSES = ("softmax", "sampled_softmax", "bce", "gbce")
PROPOSALS = ("uniform", "unigram", "in_batch", "mixed", "memory", "streaming")
CORRECTIONS = ("none", "standard", "corrected")

__all__ = [
    "INIT_STD",
    "NO_AIMS",
    "Aims",
    "Batch",
    "Encoder",
    "Fade",
    "LossConfig",
    "NextItemObjective",
    "batch_of",
    "followed",
    "proposal_of",
    "target_counts",
]

ROWS_AT_ONCE = 1 << 20
"""Rows that are read together where all of a log are."""


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of B windows."""

    item_BT: Tensor
    """long, the padding index where there is no token."""
    target_BT: Tensor
    """long, the item after each token."""
    layout: Layout
    counted_BT: Tensor | None = None
    """bool, tokens whose target counts; None where every token's does."""
    weight_BT: Tensor | None = None
    """float, weight of each target's loss; None weighs all alike."""
    trend_BT: Tensor | None = None
    """long, row of the objective's trend for the time of each target; None where it has none."""

    def __len__(self) -> int:
        return len(self.item_BT)

    def rows(self, part: slice) -> "Batch":
        """Some of the windows."""
        return self._each(lambda x: x[part], self.layout.rows(part))

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return self._each(lambda x: x.to(device), self.layout.to(device))

    def _each(self, part: Callable[[Tensor], Tensor], layout: Layout) -> "Batch":
        optional = (self.counted_BT, self.weight_BT, self.trend_BT)
        more = (None if x is None else part(x) for x in optional)
        return Batch(part(self.item_BT), part(self.target_BT), layout, *more)

    @property
    def targets_BT(self) -> Tensor:
        """bool, tokens whose target counts."""
        return self.layout.valid_BT if self.counted_BT is None else self.counted_BT


class Aims(NamedTuple):
    """What is asked of the rows of a log as targets."""

    fade: Fade | None = None
    """Their weights."""
    trend: Trend | None = None
    """What was in fashion at their times."""
    counted_N: BoolArray | None = None
    """(N,), False for rows that are read but not learned to predict."""

    def of(self, row_BT: LongArray, ts: LongArray, valid_BT: Tensor) -> dict[str, Tensor]:
        """Fields of a `Batch` whose targets are these rows."""
        fields = {}
        if self.counted_N is not None:
            fields["counted_BT"] = valid_BT & torch.from_numpy(self.counted_N[row_BT])
        if self.fade is not None:
            fields["weight_BT"] = torch.from_numpy(self.fade.of(ts[row_BT]))
        if self.trend is not None:
            fields["trend_BT"] = torch.from_numpy(self.trend.row_of(ts[row_BT]))
        return fields


NO_AIMS = Aims()


def batch_of(
    windows: Windows,
    item_ix: IntArray,
    ts: LongArray,
    n_items: int,
    *,
    longest: int | None = None,
    aims: Aims = NO_AIMS,
) -> Batch:
    """Inputs (all rows of a window but the last) and targets (all but the first), padded (see `pad`)."""
    inputs = pad(Windows(windows.start, windows.stop - 1), longest)
    return followed(inputs, item_ix, ts, n_items, aims=aims)


def followed(
    inputs: Rows,
    item_ix: IntArray,
    ts: LongArray,
    n_items: int,
    *,
    asked: bool = False,
    aims: Aims = NO_AIMS,
) -> Batch:
    """Each input with the row after it in its history as target.

    Args:
        inputs: rows that are read.
        item_ix: items of all rows.
        ts: their times, UTC microseconds.
        n_items: I, the padding.
        asked: tells the target's time.
        aims: what is asked of the targets.
    """
    targets = Rows(np.minimum(inputs.row_BT + 1, len(item_ix) - 1), inputs.layout)
    asked_BT = targets.take(ts, 0) // US_PER_SECOND if asked else None
    layout = replace(inputs.layout, ts_BT=inputs.take(ts, 0) // US_PER_SECOND, asked_BT=asked_BT)
    items, after = inputs.take(item_ix, n_items), targets.take(item_ix, n_items)
    return Batch(items, after, layout, **aims.of(targets.row_BT, ts, layout.valid_BT))


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which loss, over which negatives, corrected how."""

    loss: str = "softmax"
    n_negatives: int = 256
    negatives: str = "uniform"
    correction: Correction = "corrected"
    n_share: int = 0
    """Positions that share a set of "uniform" or "unigram" negatives; 0: all of the batch, or none in BCE."""
    gbce_t: float = 0.75
    cosine: bool = False
    temperature: float = 1.0
    learned_temperature: bool = False
    mask_own: bool = False
    """Whether other items of the user's own window are kept out of the negatives; "corrected" is then exact
    for the softmax without them."""

    def __post_init__(self) -> None:
        allowed = {"loss": LOSSES, "negatives": PROPOSALS, "correction": CORRECTIONS}
        for name, known in allowed.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be > 0, got {self.temperature}")


def target_counts(
    windows: Windows, item_ix: IntArray, n_items: int, counted_N: BoolArray | None = None
) -> LongArray:
    """How often each item is a target in an epoch: negatives in the batch are drawn with these odds. (I,).

    Not how often it occurs: the first row of a history, rows before its latest window, and rows that are not
    `counted_N`, are targets of nothing. Cost: O(N), N bytes.
    """
    edge_N = np.zeros(len(item_ix) + 1, np.int8)
    edge_N[windows.start + 1] += 1
    edge_N[windows.stop] -= 1
    is_target_N = np.cumsum(edge_N[:-1], dtype=np.int8).astype(bool)
    if counted_N is not None:
        is_target_N &= counted_N
    counts_I = np.zeros(n_items, np.int64)
    for lo in range(0, len(item_ix), ROWS_AT_ONCE):
        some = slice(lo, lo + ROWS_AT_ONCE)
        counts_I += np.bincount(item_ix[some][is_target_N[some]], minlength=n_items)
    return counts_I


def proposal_of(
    config: LossConfig, counts_I: LongArray | DoubleArray, among_I: BoolArray | None = None
) -> Proposal:
    """The distribution that negatives are drawn from.

    Args:
        config: which one.
        counts_I: how often each item is a target, (I,).
        among_I: items that may be drawn where all are alike, (I,); None: all of them.
    """
    n_items, counts = len(counts_I), torch.from_numpy(np.asarray(counts_I, dtype=np.float64))
    shared, n_share = config.loss == "sampled_softmax", config.n_share
    match config.negatives:
        case "uniform":
            if among_I is not None:
                return Unigram(among_I, config.n_negatives, shared=shared, n_share=n_share)
            return Uniform(n_items, config.n_negatives, shared=shared, n_share=n_share)
        case "unigram":
            return Unigram(counts, config.n_negatives, shared=shared, n_share=n_share)
        case "in_batch":
            return InBatch(counts, config.n_negatives)
        case "memory":
            return CrossBatchMemory(counts, config.n_negatives, n=config.n_negatives)
        case "streaming":
            return StreamingFrequency(n_items, max(1024, 2 * n_items), n=config.n_negatives)
    half = max(1, config.n_negatives // 2)
    return Mixed(counts, n_uniform=half, n_in_batch=half, among_I=among_I)


class NextItemObjective(nn.Module):
    """Sum of the losses of a batch, and the number of its targets: what `vitrina.nn.training.fit` wants."""

    trend_RI: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        config: LossConfig,
        counts_I: LongArray | DoubleArray,
        trend: Trend | None = None,
        *,
        among_I: BoolArray | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.temperature = Temperature(config.temperature, learned=config.learned_temperature)
        self.proposal = proposal_of(config, counts_I, among_I)
        table = None if trend is None else torch.from_numpy(trend.table_RI)
        self.register_buffer("trend_RI", table, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of targets)."""
        hidden_PD = self.encoder(batch.item_BT, batch.layout)[batch.targets_BT]
        target_P = batch.target_BT[batch.targets_BT]
        is_small = self.config.loss != "softmax" and getattr(self.encoder, "hashed", False)
        item_emb_ID = None if is_small else self.encoder.item_vectors()
        loss = self.of_targets(hidden_PD, item_emb_ID, target_P, batch)
        return loss, torch.tensor(len(target_P))

    def of_targets(
        self, hidden_PD: Tensor, item_emb_ID: Tensor | None, target_P: Tensor, batch: Batch
    ) -> Tensor:
        """Sum of the losses of P positions after which `target_P` came.

        Without `item_emb_ID`, vectors of all items, those of drawn items are looked up one by one.
        """
        side = self._side(hidden_PD, batch)
        if self.config.cosine:
            hidden_PD = F.normalize(hidden_PD, dim=-1)
            item_emb_ID = None if item_emb_ID is None else F.normalize(item_emb_ID, dim=-1)
        hidden_PD = hidden_PD / self.temperature()
        if not len(target_P):
            # every parameter takes part, or DDP would wait for it
            parts = [hidden_PD, self.encoder.item_vectors() if item_emb_ID is None else item_emb_ID]
            parts += [] if side is None else [side.weight_P]
            return torch.stack([part.sum() for part in parts]).sum() * 0.0
        if item_emb_ID is None:
            loss_P = self._sampled(hidden_PD, None, target_P, batch, side)
            return loss_P.sum() if batch.weight_BT is None else loss_P @ batch.weight_BT[batch.targets_BT]
        if self.config.loss == "softmax" and batch.weight_BT is None:
            return losses.full_softmax_mean(hidden_PD, item_emb_ID, target_P, side=side) * len(target_P)
        if self.config.loss == "softmax":
            loss_P = losses.full_softmax(hidden_PD, item_emb_ID, target_P, side=side)
        else:
            loss_P = self._sampled(hidden_PD, item_emb_ID, target_P, batch, side)
        return loss_P.sum() if batch.weight_BT is None else loss_P @ batch.weight_BT[batch.targets_BT]

    def _side(self, hidden_PD: Tensor, batch: Batch) -> losses.Side | None:
        """What the fashion adds to the logits."""
        if self.trend_RI is None or self.encoder.trend is None or batch.trend_BT is None:
            return None
        weight_P = self.encoder.trend(hidden_PD).squeeze(-1)
        return losses.Side(weight_P, batch.trend_BT[batch.targets_BT], self.trend_RI)

    def _sampled(
        self,
        hidden_PD: Tensor,
        item_emb_ID: Tensor | None,
        target_P: Tensor,
        batch: Batch,
        side: losses.Side | None,
    ) -> Tensor:
        """Loss of each position over drawn negatives. Shape (P,)."""
        drawn = self.draw(target_P)
        pos_logit_P = (hidden_PD * self._vectors(target_P, item_emb_ID)).sum(-1)
        neg_emb = self._vectors(drawn.asked, item_emb_ID)  # its gradient adds up in one fixed order
        neg_logit_PM = drawn.logits(hidden_PD, neg_emb)
        drawn = drawn.each(len(target_P))
        valid_PM, masked_log_q_P = self.masks(drawn, target_P, batch)
        pos_logit_P, neg_logit_PM = pos_logit_P.float(), neg_logit_PM.float()
        if side is not None:
            pos_logit_P = pos_logit_P + side.of(target_P)
            neg_logit_PM = neg_logit_PM + side.of_many(drawn.item_ix)
        match self.config.loss:
            case "bce":
                return losses.bce(pos_logit_P, neg_logit_PM, valid_PM)
            case "gbce":
                n_items = max(2, self.encoder.n_items)  # of one item, all negatives collide
                return losses.gbce(
                    pos_logit_P, neg_logit_PM, n_items=n_items, t=self.config.gbce_t, valid_PM=valid_PM
                )
        return losses.sampled_softmax(
            pos_logit_P,
            neg_logit_PM,
            pos_log_q_P=masked_log_q_P,
            neg_log_q=drawn.log_q,
            correction=self.config.correction,
            valid_PM=valid_PM,
        )

    def draw(self, target_P: Tensor) -> Negatives:
        """Negatives for a batch with these targets; what remembers batches has seen it then."""
        seed = int(torch.randint(1 << 62, ()))  # from the global generator, whose state checkpoints keep
        drawn = self.proposal.draw(target_P, torch.Generator(target_P.device).manual_seed(seed))
        if isinstance(self.proposal, CrossBatchMemory):
            self.proposal.push(target_P)
        return drawn

    def masks(self, drawn: Negatives, target_P: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which negatives count, (P, M), and the log of what "corrected" must know of the masked ones, (P,).

        That is log Q of the positive; with `mask_own`, log of Q summed over the positive and the own items.
        """
        log_q_P = self.proposal.log_q(target_P)
        if not self.config.mask_own:
            return collisions(drawn, target_P), log_q_P
        row_P = batch.targets_BT.nonzero()[:, 0]
        own_BT = torch.cat([batch.item_BT, batch.target_BT], 1)
        valid_PM = collisions(drawn, target_P, own_BT, row_P=row_P)
        if self.config.correction == "corrected":
            own_BT = own_BT.sort(1).values
            real_BT = own_BT < self.encoder.n_items
            real_BT[:, 1:] &= own_BT[:, 1:] != own_BT[:, :-1]
            q_BT = self.proposal.log_q(own_BT.clamp(max=self.encoder.n_items - 1)).exp() * real_BT
            log_q_P = q_BT.sum(1)[row_P].clamp(max=1 - 1e-6).log()
        return valid_PM, log_q_P

    def carried(self) -> dict[str, Tensor]:
        """What the proposal has learned or remembers, for checkpoints."""
        keeps = isinstance(self.proposal, CrossBatchMemory | StreamingFrequency)
        return self.proposal.state_dict() if keeps else {}  # type: ignore[attr-defined]

    def take_up(self, state: dict[str, Tensor]) -> None:
        """Go on from what `carried` gave."""
        self.proposal.load_state_dict(state)  # type: ignore[attr-defined]

    def _vectors(self, item_ix: Tensor, item_emb_ID: Tensor | None) -> Tensor:
        """Vectors of drawn items, out of all or by looking them up alone."""
        if item_emb_ID is not None:
            return F.embedding(item_ix, item_emb_ID)
        vectors = self.encoder.vectors_of(item_ix)
        return F.normalize(vectors, dim=-1) if self.config.cosine else vectors
