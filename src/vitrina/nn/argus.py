"""The network of ARGUS: events of (context, item, feedback) as one token each, and the heads that read them.

    token_t  = W [e(i_t); c_t; f_t]                                              (H,)
    h_t      = causal transformer over token_1 .. token_t                        (H,)
    query    = MLP [h_(t-1); c_t]          scored against e(i) for all items     (D,)
    feedback = MLP [h_(t-1); c_t; e(i_t)]  logits of the K kinds of event        (K,)

What is predicted about event t reads h_(t-1), so neither its item nor its feedback is among the inputs. Where
the context of the next event is not known, offline say, c is a learned vector that says so.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.nn.blocks import TransformerBlock
from vitrina.nn.layout import Layout
from vitrina.nn.next_item import Batch, LossConfig, NextItemObjective
from vitrina.schema import LongArray


class Tokens(NamedTuple):
    """What is known of the events of B histories; in each column the largest index means unknown."""

    item_BT: Tensor
    context_BTC: Tensor
    """Buckets of the C features of context."""
    kind_BT: Tensor
    """Feedback: which kind of event it was."""

    def rows(self, lo: int, hi: int) -> "Tokens":
        """Histories lo..hi."""
        return Tokens(self.item_BT[lo:hi], self.context_BTC[lo:hi], self.kind_BT[lo:hi])

    def to(self, device: torch.device) -> "Tokens":
        """The same on another device."""
        return Tokens(*(column.to(device) for column in self))


class Pairs(NamedTuple):
    """Of two items, the one that was preferred; each pair belongs to a token, after which it was seen."""

    row_N: Tensor
    token_N: Tensor
    better_N: Tensor
    worse_N: Tensor


class Triples(NamedTuple):
    """Events that were read, the event after each, and, for the fine-tuning, preferences."""

    read: Tokens
    after: Tokens
    layout: Layout
    pairs: Pairs | None = None

    def __len__(self) -> int:
        return len(self.read.item_BT)

    @property
    def next_item(self) -> Batch:
        """Items and next items alone."""
        return Batch(self.read.item_BT, self.after.item_BT, self.layout)

    def rows(self, lo: int, hi: int) -> "Triples":
        """Histories lo..hi."""
        pairs = self.pairs
        if pairs is not None:
            inside = (pairs.row_N >= lo) & (pairs.row_N < hi)
            pairs = Pairs(pairs.row_N[inside] - lo, *(column[inside] for column in pairs[1:]))
        layout = self.next_item.rows(lo, hi).layout
        return Triples(self.read.rows(lo, hi), self.after.rows(lo, hi), layout, pairs)

    def to(self, device: torch.device) -> "Triples":
        """The same on another device."""
        pairs = None if self.pairs is None else Pairs(*(column.to(device) for column in self.pairs))
        return Triples(self.read.to(device), self.after.to(device), self.layout.to(device), pairs)


class ArgusNet(nn.Module):
    """Embeddings of items, contexts and feedback, a causal transformer, two heads.

    Args:
        n_items: I.
        n_kinds: K kinds of feedback; the index K is an unknown one.
        n_contexts: buckets of each feature of context; one more is an unknown one.
        embedding_dim: D, of items, contexts, feedback and queries.
        hidden_dim: H, of the transformer.
        n_layers: L blocks of about 12 H^2 parameters.
        n_heads: heads of attention; divides H.
        dropout: while training.
    """

    def __init__(
        self,
        n_items: int,
        n_kinds: int,
        n_contexts: tuple[int, ...],
        *,
        embedding_dim: int,
        hidden_dim: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.n_items, self.n_kinds, self.n_contexts = n_items, n_kinds, n_contexts
        self.item = nn.Embedding(n_items + 1, embedding_dim, padding_idx=n_items)
        self.kind = nn.Embedding(n_kinds + 1, embedding_dim)
        self.contexts = nn.ModuleList(nn.Embedding(n + 1, embedding_dim) for n in n_contexts)
        self.merge = nn.Linear(3 * embedding_dim, hidden_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_dim, n_heads, ffn_dim=4 * hidden_dim, dropout=dropout, rotary=True)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.query_head = _mlp(hidden_dim + embedding_dim, hidden_dim, embedding_dim)
        self.feedback_head = _mlp(hidden_dim + 2 * embedding_dim, hidden_dim, n_kinds)
        for table in (self.item, self.kind, *self.contexts):
            nn.init.normal_(table.weight, std=embedding_dim**-0.5)
        with torch.no_grad():
            self.item.weight[n_items] = 0

    def forward(self, read: Tokens, layout: Layout) -> Tensor:
        """h_t of every token. Shape (B, T, H)."""
        parts = (self.item(read.item_BT), self.context(read.context_BTC), self.kind(read.kind_BT))
        x_BTH = self.dropout(self.merge(torch.cat(parts, -1))) * layout.valid_BT[..., None]
        mask = layout.causal_mask()
        for block in self.blocks:
            x_BTH = block(x_BTH, layout, mask)
        return self.norm(x_BTH)  # type: ignore[no-any-return]

    def context(self, context_BTC: Tensor) -> Tensor:
        """c, the sum of the vectors of its features. Shape (..., D)."""
        return torch.stack([table(context_BTC[..., c]) for c, table in enumerate(self.contexts)]).sum(0)

    def unknown_context(self) -> Tensor:
        """C of an event whose context is not known. Shape (D,)."""
        return self.context(torch.tensor(self.n_contexts, device=self.item.weight.device))

    def query(self, hidden_PH: Tensor, context_PD: Tensor) -> Tensor:
        """What the next item is scored against. Shape (..., D)."""
        return self.query_head(torch.cat([hidden_PH, context_PD.expand(*hidden_PH.shape[:-1], -1)], -1))  # type: ignore[no-any-return]

    def feedback(self, hidden_PH: Tensor, context_PD: Tensor, item_P: Tensor) -> Tensor:
        """Logits of the kinds of feedback to given items. Shape (P, K)."""
        return self.feedback_head(torch.cat([hidden_PH, context_PD, self.item(item_P)], -1))  # type: ignore[no-any-return]

    def item_vectors(self) -> Tensor:
        """e(i). Shape (I, D)."""
        return self.item.weight[: self.n_items]


def _mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out))


class PretrainingObjective(NextItemObjective):
    """-log P(i_t | h_(t-1), c_t) - lambda log P(f_t | h_(t-1), c_t, i_t), summed over the events of a batch.

    Args:
        encoder: the network.
        config: the loss of the next item.
        counts_I: rows of each item.
        feedback_weight: lambda; 0 leaves the second term out.
        p_no_context: chance that c_t is hidden from both, so that a query without context is learnt too.
    """

    encoder: ArgusNet  # type: ignore[assignment]

    def __init__(
        self,
        encoder: ArgusNet,
        config: LossConfig,
        counts_I: LongArray,
        *,
        feedback_weight: float,
        p_no_context: float,
    ) -> None:
        super().__init__(encoder, config, counts_I)  # type: ignore[arg-type]
        self.feedback_weight, self.p_no_context = feedback_weight, p_no_context

    def forward(self, batch: Triples) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(sum of losses, number of events)."""
        valid_BT = batch.layout.valid_BT
        hidden_PH = self.encoder(batch.read, batch.layout)[valid_BT]
        item_P, kind_P = batch.after.item_BT[valid_BT], batch.after.kind_BT[valid_BT]
        context_PD = self.encoder.context(batch.after.context_BTC[valid_BT])
        hidden_P1 = torch.rand(len(item_P), 1, device=item_P.device) < self.p_no_context
        context_PD = torch.where(hidden_P1, self.encoder.unknown_context(), context_PD)
        query_PD = self.encoder.query(hidden_PH, context_PD)
        loss = self.of_targets(query_PD, self.encoder.item_vectors(), item_P, batch.next_item)
        if self.feedback_weight:
            logit_PK = self.encoder.feedback(hidden_PH, context_PD, item_P)
            loss = loss + self.feedback_weight * F.cross_entropy(
                logit_PK.float(), kind_P, ignore_index=self.encoder.n_kinds, reduction="sum"
            )
        return loss, torch.tensor(len(item_P))


class TowersObjective(NextItemObjective):
    """Fine-tuning for offline answers: user vector u = query(h, no context), item vector e(i).

        sum over preferences (a over b, seen after h):   -log sigmoid( (<u, e(a)> - <u, e(b)>) / tau )
        + sum over events that were no refusal:          the loss of the next item against drawn negatives

    Args:
        encoder: the network, pre-trained.
        config: the loss against drawn negatives.
        counts_I: rows of each item.
        pair_weight: of the first sum.
        is_refusal_K: kinds of feedback that mean no, False for the unknown one. Shape (K + 1,).
    """

    encoder: ArgusNet  # type: ignore[assignment]

    def __init__(
        self,
        encoder: ArgusNet,
        config: LossConfig,
        counts_I: LongArray,
        *,
        pair_weight: float,
        is_refusal_K: Tensor,
    ) -> None:
        super().__init__(encoder, config, counts_I)  # type: ignore[arg-type]
        self.pair_weight = pair_weight
        self.register_buffer("is_refusal_K", is_refusal_K)

    def forward(self, batch: Triples) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(sum of losses, number of preferences and events)."""
        hidden_BTH = self.encoder(batch.read, batch.layout)
        user_BTD = self.encoder.query(hidden_BTH, self.encoder.unknown_context())
        wanted_BT = batch.layout.valid_BT & ~self.is_refusal_K[batch.after.kind_BT]  # type: ignore[index]
        item_P, item_emb_ID = batch.after.item_BT[wanted_BT], self.encoder.item_vectors()
        loss = self.of_targets(user_BTD[wanted_BT], item_emb_ID, item_P, batch.next_item)
        n_terms = len(item_P)
        if batch.pairs is not None and len(batch.pairs.row_N):
            row_N, token_N, better_N, worse_N = batch.pairs
            user_ND, better_ND, worse_ND = (
                user_BTD[row_N, token_N],
                F.embedding(better_N, item_emb_ID),
                F.embedding(worse_N, item_emb_ID),
            )
            if self.config.cosine:
                user_ND, better_ND, worse_ND = (
                    F.normalize(x, dim=-1) for x in (user_ND, better_ND, worse_ND)
                )
            margin_N = (user_ND * (better_ND - worse_ND)).sum(-1).float() / self.temperature()
            loss = loss + self.pair_weight * F.softplus(-margin_N).sum()
            n_terms += len(row_N)
        return loss, torch.tensor(n_terms)
