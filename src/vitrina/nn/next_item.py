"""Next-item learning: an encoder of histories, and the losses that teach it what came next.

    hidden_BTD = encoder(item_BT, layout)                what is known after each token
    logit of item i after token t = <hidden_t, v_i> + b_i, or cos(hidden_t, v_i) / temperature

Every token of a history but the last has a target, the next one; a loss is taken at all of them.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.errors import ConfigError
from vitrina.nn import losses
from vitrina.nn.layout import Layout, Rows, Windows, pad
from vitrina.nn.losses import Correction
from vitrina.nn.proposals import InBatch, Mixed, Proposal, Temperature, Uniform, Unigram, collisions
from vitrina.nn.trend import Trend
from vitrina.schema import US_PER_DAY, US_PER_SECOND, BoolArray, FloatArray, IntArray, LongArray

LOSSES = ("softmax", "sampled_softmax", "bce", "gbce")
PROPOSALS = ("uniform", "unigram", "in_batch", "mixed")
CORRECTIONS = ("none", "standard", "corrected")


INIT_STD = 0.02
"""Of the vectors at the start; 1 / sqrt(D) makes confident logits, slow to unlearn on MovieLens 1M."""


class Batch(NamedTuple):
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

    def rows(self, lo: int, hi: int) -> "Batch":
        """Windows lo..hi."""
        more = (None if x is None else x[lo:hi] for x in self[3:])
        return Batch(self.item_BT[lo:hi], self.target_BT[lo:hi], self.layout.rows(lo, hi), *more)

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        items, targets = self.item_BT.to(device), self.target_BT.to(device)
        more = (None if x is None else x.to(device) for x in self[3:])
        return Batch(items, targets, self.layout.to(device), *more)

    @property
    def targets_BT(self) -> Tensor:
        """bool, tokens whose target counts."""
        return self.layout.valid_BT if self.counted_BT is None else self.counted_BT


class Aims(NamedTuple):
    """What is asked of the rows of a log as targets."""

    fade: "Fade | None" = None
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


class Fade(NamedTuple):
    """Weights that halve with age, 1 on average: what followed lately says more about what follows now."""

    end_us: int
    """Time of the newest row."""
    half_life_us: float
    scale: float

    @classmethod
    def over(cls, ts: LongArray, half_life_days: float) -> "Fade":
        """For the rows of a log."""
        raw = cls(int(ts.max()), half_life_days * US_PER_DAY, 1.0)
        return raw._replace(scale=1.0 / float(raw.of(ts).mean(dtype=np.float64)))

    def of(self, ts: LongArray) -> FloatArray:
        """Each row's weight: scale * 2^(-(end - ts) / half-life). Shape of `ts`."""
        n_halvings = (self.end_us - np.asarray(ts)).astype(np.float32) / np.float32(self.half_life_us)
        return np.asarray(self.scale * np.exp2(-n_halvings), dtype=np.float32)


NO_AIMS = Aims()


def batch_of(
    windows: Windows, item_ix: IntArray, ts: LongArray, n_items: int, *, aims: Aims = NO_AIMS
) -> Batch:
    """Inputs (all rows of a window but the last) and targets (all but the first), padded."""
    return followed(pad(Windows(windows.start, windows.stop - 1)), item_ix, ts, n_items, aims=aims)


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


class Encoder(nn.Module):
    """Items plus positions through blocks, normed.

    Args:
        n_items: I; the index I is padding and has the vector 0.
        embedding_dim: D.
        max_len: tokens that are looked at; older ones share the oldest position.
        blocks: modules that take (x_BTD, layout).
        dropout: on the input.
        positions: "learned" adds a vector a position, counted from the newest token; "none" adds nothing.
        tied: whether the items to predict have the vectors of the items read, or a table of their own.
        final_norm: LayerNorm at the end, as pre-norm blocks need.
        scale: multiplies the vectors of the items read.
        causal: whether a token sees only itself and those before it; False shows it all of its history.
        n_extra: vectors behind the padding one, for tokens that are no items.
    """

    def __init__(
        self,
        n_items: int,
        embedding_dim: int,
        max_len: int,
        blocks: list[nn.Module],
        *,
        dropout: float,
        positions: str = "learned",
        tied: bool = True,
        final_norm: bool = True,
        scale: float = 1.0,
        causal: bool = True,
        n_extra: int = 0,
    ) -> None:
        super().__init__()
        self.n_items, self.max_len, self.scale, self.causal = n_items, max_len, scale, causal
        self.item = nn.Embedding(n_items + 1 + n_extra, embedding_dim, padding_idx=n_items)
        self.target = None if tied else nn.Embedding(n_items, embedding_dim)
        self.position = nn.Embedding(max_len, embedding_dim) if positions == "learned" else None
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embedding_dim) if final_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        for table in (self.item, self.target, self.position):
            if table is not None:
                nn.init.normal_(table.weight, std=INIT_STD)
        with torch.no_grad():
            self.item.weight[n_items] = 0
        self.trend: nn.Linear | None = None

    def follow_trend(self) -> "Encoder":
        """Let each history say how much it follows the fashion (`vitrina.nn.trend`); returns self."""
        self.trend = nn.Linear(self.item.embedding_dim, 1)
        nn.init.zeros_(self.trend.weight)
        nn.init.ones_(self.trend.bias)
        return self

    def forward(self, item_BT: Tensor, layout: Layout) -> Tensor:
        """Hidden states, (B, T, D)."""
        x_BTD = self.item(item_BT)
        x_BTD = x_BTD * self.scale if self.scale != 1.0 else x_BTD
        if self.position is not None:
            x_BTD = x_BTD + self.position(layout.position_BT.clamp(max=self.max_len - 1))
        x_BTD = self.dropout(x_BTD) * layout.valid_BT[..., None]
        mask = layout.causal_mask() if self.causal else layout.mutual_mask()
        for block in self.blocks:
            x_BTD = block(x_BTD, layout, mask)
        return self.norm(x_BTD)  # type: ignore[no-any-return]

    def item_vectors(self) -> Tensor:
        """Vectors of the items to predict. Shape (I, D)."""
        return self.item.weight[: self.n_items] if self.target is None else self.target.weight


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which loss, over which negatives, corrected how."""

    loss: str = "softmax"
    n_negatives: int = 256
    negatives: str = "uniform"
    correction: Correction = "corrected"
    gbce_t: float = 0.75
    cosine: bool = False
    temperature: float = 1.0
    learned_temperature: bool = False
    mask_own: bool = False
    """Whether other items of the user's own window are kept out of the negatives."""

    def __post_init__(self) -> None:
        allowed = {"loss": LOSSES, "negatives": PROPOSALS, "correction": CORRECTIONS}
        for name, known in allowed.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be > 0, got {self.temperature}")


def proposal_of(config: LossConfig, counts_I: LongArray) -> Proposal:
    """The distribution that negatives are drawn from."""
    n_items, counts = len(counts_I), torch.from_numpy(np.asarray(counts_I, dtype=np.float64))
    match config.negatives:
        case "uniform":
            return Uniform(n_items, config.n_negatives, shared=config.loss == "sampled_softmax")
        case "unigram":
            return Unigram(counts, config.n_negatives)
        case "in_batch":
            return InBatch(counts, config.n_negatives)
    half = max(1, config.n_negatives // 2)
    return Mixed(counts, n_uniform=half, n_in_batch=half)


class NextItemObjective(nn.Module):
    """Sum of the losses of a batch, and the number of its targets: what `vitrina.nn.training.fit` wants."""

    trend_RI: Tensor | None

    def __init__(
        self, encoder: Encoder, config: LossConfig, counts_I: LongArray, trend: Trend | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.temperature = Temperature(config.temperature, learned=config.learned_temperature)
        self.proposal = proposal_of(config, counts_I)
        table = None if trend is None else torch.from_numpy(trend.table_RI)
        self.register_buffer("trend_RI", table, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of targets)."""
        hidden_PD = self.encoder(batch.item_BT, batch.layout)[batch.targets_BT]
        target_P = batch.target_BT[batch.targets_BT]
        loss = self.of_targets(hidden_PD, self.encoder.item_vectors(), target_P, batch)
        return loss, torch.tensor(len(target_P))

    def of_targets(self, hidden_PD: Tensor, item_emb_ID: Tensor, target_P: Tensor, batch: Batch) -> Tensor:
        """Sum of the losses of P positions after which `target_P` came."""
        side = self._side(hidden_PD, batch)
        if self.config.cosine:
            hidden_PD, item_emb_ID = F.normalize(hidden_PD, dim=-1), F.normalize(item_emb_ID, dim=-1)
        hidden_PD = hidden_PD / self.temperature()
        if not len(target_P):
            return hidden_PD.sum() * 0.0
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
        item_emb_ID: Tensor,
        target_P: Tensor,
        batch: Batch,
        side: losses.Side | None,
    ) -> Tensor:
        """Loss of each position over drawn negatives. Shape (P,)."""
        seed = int(torch.randint(1 << 62, ()))  # from the global generator, whose state checkpoints keep
        drawn = self.proposal.draw(target_P, torch.Generator(target_P.device).manual_seed(seed))
        own = None
        if self.config.mask_own:
            own = batch.item_BT.repeat_interleave(batch.targets_BT.sum(1), dim=0)
        valid_PM = collisions(drawn, target_P, own)
        pos_logit_P = (hidden_PD * F.embedding(target_P, item_emb_ID)).sum(-1)
        if drawn.item_ix.dim() == 1:
            neg_logit_PM = hidden_PD @ F.embedding(drawn.item_ix, item_emb_ID).T
        else:
            neg_emb_PMD = F.embedding(drawn.item_ix, item_emb_ID)  # its gradient adds up in one fixed order
            neg_logit_PM = torch.einsum("pd,pmd->pm", hidden_PD, neg_emb_PMD)
        pos_logit_P, neg_logit_PM = pos_logit_P.float(), neg_logit_PM.float()
        if side is not None:
            pos_logit_P = pos_logit_P + side.of(target_P)
            neg_logit_PM = neg_logit_PM + side.of_many(drawn.item_ix)
        match self.config.loss:
            case "bce":
                return losses.bce(pos_logit_P, neg_logit_PM, valid_PM)
            case "gbce":
                n_items = len(item_emb_ID)
                return losses.gbce(
                    pos_logit_P, neg_logit_PM, n_items=n_items, t=self.config.gbce_t, valid_PM=valid_PM
                )
        return losses.sampled_softmax(
            pos_logit_P,
            neg_logit_PM,
            pos_log_q_P=self.proposal.log_q(target_P),
            neg_log_q=drawn.log_q,
            correction=self.config.correction,
            valid_PM=valid_PM,
        )
