"""The network of ARGUS: events of (context, item, feedback) as one token each, and the heads that read them.

    token_t  = W (e(i_t) * (1 + g(f_t))) + W_f f_t + W_c c_t                     (H,)
    h_t      = causal transformer over token_1 .. token_t                        (H,)
    z_t      = h_t and what of h_1 .. h_t fits the context c_(t+1)               (H,), see `Asking`
    query    = V z_t + MLP [z_t; c_(t+1)]       scored against e(i) of all items (D,)
    feedback = MLP [z_t; c_(t+1); e(i); W_t z_t * e(i)], i = i_(t+1); logits of the K kinds of event

What is predicted about event t + 1 reads z_t, so neither its item nor its feedback is among the inputs. Where
a feature of its context is not known, c has a learned vector in its place that says so.

At the start W and W_f have orthonormal columns, V is the transpose of W, and g, W_c, the query's MLP and what
`Asking` adds are 0: items read reach the query as they are, as in SASRec, and contexts come in as they are
learnt. g lets a feedback change, or turn round, what an item says. What each of these is worth was measured
(docs/negative_results.md).
NOTE[DIFF] paper: the context of the next event is concatenated to the state; here also: the state looks back
over the history from that context, with a product of contexts in the logits; because on small logs a
network of products of small numbers does not find out by itself which events were of a like context.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.nn.blocks import TransformerBlock
from vitrina.nn.layout import Layout, joined, runs
from vitrina.nn.next_item import INIT_STD, Batch, LossConfig, NextItemObjective
from vitrina.schema import LongArray

Groups = tuple[tuple[tuple[int, ...], float], ...]
"""Features of context that are told together or not at all, and the chance that they are not."""


class Tokens(NamedTuple):
    """What is known of the events of B histories; in each column the largest index means unknown."""

    item_BT: Tensor
    context_BTC: Tensor
    """Buckets of the C features of context."""
    kind_BT: Tensor
    """Feedback: which kind of event it was."""

    def rows(self, part: slice) -> "Tokens":
        """Some of the histories."""
        return Tokens(*(column[part] for column in self))

    def first(self, n_tokens: int) -> "Tokens":
        """The first tokens of each."""
        return Tokens(*(column[:, :n_tokens] for column in self))

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

    def rows(self, part: slice) -> "Triples":
        """Some of the histories, with the preferences of those."""
        pairs = self.pairs
        if pairs is not None:
            kept_R = torch.arange(len(self), device=pairs.row_N.device)[part]
            new_B = torch.full((len(self),), -1, device=kept_R.device)
            new_B[kept_R] = torch.arange(len(kept_R), device=kept_R.device)
            inside = new_B[pairs.row_N] >= 0
            pairs = Pairs(new_B[pairs.row_N[inside]], *(column[inside] for column in pairs[1:]))
        return Triples(self.read.rows(part), self.after.rows(part), self.layout.rows(part), pairs)

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
        self.embedding_dim = embedding_dim
        self.item = nn.Embedding(n_items + 1, embedding_dim, padding_idx=n_items)
        self.kind = nn.Embedding(n_kinds + 1, embedding_dim)
        self.gate = nn.Embedding(n_kinds + 1, embedding_dim)
        self.contexts = nn.ModuleList(nn.Embedding(n + 1, embedding_dim) for n in n_contexts)
        self.merge = nn.Linear(3 * embedding_dim, hidden_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_dim, n_heads, ffn_dim=4 * hidden_dim, dropout=dropout, rotary=True)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.asking = Asking(hidden_dim, embedding_dim, n_heads)
        self.back = nn.Linear(hidden_dim, embedding_dim)
        self.query_head = _mlp(hidden_dim + embedding_dim, hidden_dim, embedding_dim)
        self.taste = nn.Linear(hidden_dim, embedding_dim)
        self.feedback_head = _mlp(hidden_dim + 3 * embedding_dim, hidden_dim, n_kinds)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Weights before the first step (see the module)."""
        nn.init.normal_(self.item.weight, std=INIT_STD)
        self.item.weight[self.n_items] = 0
        nn.init.zeros_(self.gate.weight)
        for table in self.contexts.parameters():
            nn.init.normal_(table, std=len(self.contexts) ** -0.5)
        last = self.query_head[-1]
        out = self.asking.out
        for zero in (
            self.merge.weight, self.merge.bias, self.back.bias, last.weight, last.bias, out.weight, out.bias
        ):  # fmt: skip
            nn.init.zeros_(zero)  # type: ignore[arg-type]
        dim = self.item.embedding_dim
        of_items, of_kinds = self.merge.weight[:, :dim], self.merge.weight[:, 2 * dim :]
        nn.init.orthogonal_(of_items)
        nn.init.orthogonal_(of_kinds)
        self.back.weight.copy_(of_items.T)

    def forward(self, read: Tokens, layout: Layout) -> Tensor:
        """h_t of every token. Shape (B, T, H)."""
        said = INIT_STD * self.context(read.context_BTC), INIT_STD * self.kind(read.kind_BT)
        item_BTD = self.item(read.item_BT) * (1.0 + self.gate(read.kind_BT))
        parts = (item_BTD, *said)
        x_BTH = self.dropout(self.merge(torch.cat(parts, -1))) * layout.valid_BT[..., None]
        mask = layout.causal_mask()
        for block in self.blocks:
            x_BTH = block(x_BTH, layout, mask)
        return self.norm(x_BTH)  # type: ignore[no-any-return]

    def context(self, context_BTC: Tensor) -> Tensor:
        """c, the sum of the vectors of its features. Shape (..., D)."""
        return torch.stack([table(context_BTC[..., c]) for c, table in enumerate(self.contexts)]).sum(0)

    def asked(self, hidden_BTH: Tensor, read_BTC: Tensor, asked_BTC: Tensor, layout: Layout) -> Tensor:
        """z_t: the history once more, looked at from the next event's context. Shape (B, T, H)."""
        return self.asking(hidden_BTH, self.context(read_BTC), self.context(asked_BTC), layout)  # type: ignore[no-any-return]

    def query(self, asked_PH: Tensor, context_PC: Tensor) -> Tensor:
        """What the next item is scored against. Shape (..., D)."""
        read = torch.cat([asked_PH, self.context(context_PC)], -1)
        return self.back(asked_PH) + self.query_head(read)  # type: ignore[no-any-return]

    def feedback(self, hidden_PH: Tensor, context_PC: Tensor, item_P: Tensor) -> Tensor:
        """Logits of the kinds of feedback to given items. Shape (P, K)."""
        item_PD = F.layer_norm(self.item(item_P), (self.item.embedding_dim,))
        parts = (hidden_PH, self.context(context_PC), item_PD, self.taste(hidden_PH) * item_PD)
        return self.feedback_head(torch.cat(parts, -1))  # type: ignore[no-any-return]

    def item_vectors(self) -> Tensor:
        """e(i). Shape (I, D)."""
        return self.item.weight[: self.n_items]


PLACE_GAIN = 2.5
"""One feature in common, of four, then multiplies the weight of an event by about 8 (head of 16)."""


class Asking(nn.Module):
    """z_t = h_t + W_o Attention(W_q LN h_t + U c_(t+1);  W_k LN h_s + U c_s, W_v LN h_s;  s <= t).

    U is the same for both and starts `PLACE_GAIN` times larger than usual, so that from the first step on
    events of a context like the one asked in weigh more. W_o starts at 0: z = h.
    """

    def __init__(self, hidden_dim: int, embedding_dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(hidden_dim)
        self.qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.place = nn.Linear(embedding_dim, hidden_dim, bias=False)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        with torch.no_grad():
            self.place.weight.mul_(PLACE_GAIN)

    def forward(self, hidden_BTH: Tensor, read_BTD: Tensor, asked_BTD: Tensor, layout: Layout) -> Tensor:
        """Shape (B, T, H)."""
        n_rows, n_tokens, dim = hidden_BTH.shape
        q_BTH, k_BTH, v_BTH = self.qkv(self.norm(hidden_BTH)).chunk(3, -1)
        parts = (q_BTH + self.place(asked_BTD), k_BTH + self.place(read_BTD), v_BTH)
        q, k, v = (x.view(n_rows, n_tokens, self.n_heads, -1).transpose(1, 2) for x in parts)
        mask = layout.causal_mask()
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return hidden_BTH + self.out(mixed.transpose(1, 2).reshape(n_rows, n_tokens, dim))  # type: ignore[no-any-return]


def _mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out))


def hidden(context_PC: Tensor, n_contexts: tuple[int, ...], groups: Groups) -> Tensor:
    """Contexts with some features made unknown, each group of features together or not at all. (..., C).

    Args:
        context_PC: buckets.
        n_contexts: buckets of each feature; the next index is the unknown one.
        groups: features of a group, and the chance that they are hidden.
    """
    context_PC = context_PC.clone()
    unknown_C = torch.tensor(n_contexts, device=context_PC.device)
    for features, p in groups:
        hide_P = torch.rand(context_PC.shape[:-1], device=context_PC.device) < p
        for c in features:
            context_PC[..., c] = torch.where(hide_P, unknown_C[c], context_PC[..., c])
    return context_PC


class ArgusObjective(NextItemObjective):
    """Both objectives: the loss of the next item, that of the feedback, that of preferences.

        sum over events t that count:    -log P(i_t | h_(t-1), c_t)
        + lambda sum over all events:    -log P(f_t | h_(t-1), c_t, i_t)
        + mu sum over preferences:       -log sigmoid( (<u, e(a)> - <u, e(b)>) / tau ),  u = query(h, c)

    Pre-training counts all events and has mu = 0. Fine-tuning counts the events that were no refusal, with mu
    > 0, and hides from the contexts what will not be told either when the towers are asked.

    Args:
        encoder: the network.
        config: the loss of the next item.
        counts_I: rows of each item.
        feedback_weight: lambda; 0 leaves the feedback out.
        pair_weight: mu, of one preference beside one event.
        groups: which features of c_t are hidden together from query and feedback, how often.
        refused_K: kinds of feedback whose events do not count, the unknown kind last. Shape (K + 1,).
    """

    encoder: ArgusNet  # type: ignore[assignment]

    def __init__(
        self,
        encoder: ArgusNet,
        config: LossConfig,
        counts_I: LongArray,
        *,
        feedback_weight: float,
        groups: Groups,
        pair_weight: float = 0.0,
        refused_K: Tensor | None = None,
    ) -> None:
        super().__init__(encoder, config, counts_I)  # type: ignore[arg-type]
        self.feedback_weight, self.pair_weight, self.groups = feedback_weight, pair_weight, groups
        for part in (encoder.feedback_head, encoder.taste):  # DDP would wait for what no loss reads
            part.requires_grad_(feedback_weight > 0)
        refused_K = torch.zeros(encoder.n_kinds + 1, dtype=torch.bool) if refused_K is None else refused_K
        self.register_buffer("refused_K", refused_K, persistent=False)

    def forward(self, batch: Triples) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(sum of losses, number of events)."""
        encoder, valid_BT = self.encoder, batch.layout.valid_BT
        context_BTC = hidden(batch.after.context_BTC, encoder.n_contexts, self.groups)
        item_BT, kind_BT = batch.after.item_BT, batch.after.kind_BT
        counts_BT = valid_BT & ~self.refused_K[kind_BT]  # type: ignore[index]
        parts = batch.read, batch.after._replace(context_BTC=context_BTC), batch.layout
        found = [
            self._heads(*(part.rows(rows).first(n_tokens) for part in parts))  # type: ignore[arg-type]
            for rows, n_tokens in runs(batch.layout, encoder.blocks)
        ]
        both_BTE = joined(found, valid_BT.shape[1])
        query_BTD, logit_BTK = both_BTE[..., : encoder.embedding_dim], both_BTE[..., encoder.embedding_dim :]
        item_emb_ID = encoder.item_vectors()
        loss = self.of_targets(query_BTD[counts_BT], item_emb_ID, item_BT[counts_BT], batch.next_item)
        if self.feedback_weight:
            loss = loss + self.feedback_weight * F.cross_entropy(
                logit_BTK[valid_BT].float(), kind_BT[valid_BT], ignore_index=encoder.n_kinds, reduction="sum"
            )
        if self.pair_weight and batch.pairs is not None and len(batch.pairs.row_N):
            loss = loss + self.pair_weight * self._of_pairs(query_BTD, item_emb_ID, batch.pairs)
        return loss, valid_BT.sum()

    def _heads(self, read: Tokens, after: Tokens, layout: Layout) -> Tensor:
        """What the next item is scored against, then the logits of its feedback. (R, T, D + K, or D)."""
        encoder = self.encoder
        hidden_RTH = encoder.asked(encoder(read, layout), read.context_BTC, after.context_BTC, layout)
        query_RTD = encoder.query(hidden_RTH, after.context_BTC)
        if not self.feedback_weight:
            return query_RTD
        logit_RTK = encoder.feedback(hidden_RTH, after.context_BTC, after.item_BT)
        return torch.cat([query_RTD, logit_RTK], -1)

    def _of_pairs(self, query_BTD: Tensor, item_emb_ID: Tensor, pairs: Pairs) -> Tensor:
        """Sum of the losses of preferences."""
        row_N, token_N, better_N, worse_N = pairs
        user_ND = query_BTD[row_N, token_N]
        better_ND, worse_ND = F.embedding(better_N, item_emb_ID), F.embedding(worse_N, item_emb_ID)
        if self.config.cosine:
            user_ND, better_ND, worse_ND = (F.normalize(x, dim=-1) for x in (user_ND, better_ND, worse_ND))
        margin_N = (user_ND * (better_ND - worse_ND)).sum(-1).float() / self.temperature()
        return F.softplus(-margin_N).sum()
