"""Two towers: an item as its id and what is known of it, a user as a function of the items taken.

x_i   = id_i + sum_t w_t token_t + W dense_i        id_i is 0 for an item never trained on, and for others
                                                    with a chance while training
v_i   = x_i + MLP(LN x_i)
u_t   = MLP [mean of x over the history; x of the latest], or a causal transformer over x
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.nn import losses
from vitrina.nn.blocks import TransformerBlock
from vitrina.nn.layout import Layout
from vitrina.nn.next_item import Batch, LossConfig, NextItemObjective
from vitrina.nn.proposals import collisions
from vitrina.schema import BoolArray, FloatArray, LongArray

ITEMS_AT_ONCE = 16_384
"""Items whose vectors are made together."""


class Towers(nn.Module):
    """Both towers; features of items are no parameters and are not saved with them.

    Args:
        offsets: where the tokens of each item start, (I + 1,).
        token: buckets, (n,).
        weight: of each token, (n,).
        dense_IF: numbers of each item.
        has_id_I: whether an item was trained on.
        n_buckets: rows of the table of tokens.
        embedding_dim: D.
        n_layers: blocks over the history; 0 pools it.
        n_heads: heads of attention.
        dropout: while training.
        p_no_id: chance that an item's id is hidden while training.
    """

    def __init__(
        self,
        offsets: LongArray,
        token: LongArray,
        weight: FloatArray,
        dense_IF: FloatArray,
        has_id_I: BoolArray,
        *,
        n_buckets: int,
        embedding_dim: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        p_no_id: float,
    ) -> None:
        super().__init__()
        self.n_items = len(has_id_I)
        arrays = {
            "offsets": offsets,
            "bag_token": token,
            "bag_weight": weight,
            "dense_IF": dense_IF,
            "has_id_I": has_id_I,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        n_dense = dense_IF.shape[1]
        self.item = nn.Embedding(self.n_items + 1, embedding_dim, padding_idx=self.n_items)
        self.token = nn.Embedding(n_buckets, embedding_dim) if len(token) else None
        self.dense = nn.Linear(n_dense, embedding_dim) if n_dense else None
        self.p_no_id = p_no_id if self.token is not None or self.dense is not None else 0.0
        wide = 2 * embedding_dim
        self.item_head = nn.Sequential(
            nn.LayerNorm(embedding_dim),
            nn.Linear(embedding_dim, wide),
            nn.GELU(),
            nn.Linear(wide, embedding_dim),
        )
        self.user_head = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, embedding_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(embedding_dim, n_heads, ffn_dim=4 * embedding_dim, dropout=dropout, rotary=True)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(embedding_dim).requires_grad_(n_layers > 0)
        self.dropout = nn.Dropout(dropout)
        for table in (self.item, self.token):
            if table is not None:
                nn.init.normal_(table.weight, std=embedding_dim**-0.5)
        with torch.no_grad():
            self.item.weight[self.n_items] = 0

    def read(self, item_U: Tensor) -> Tensor:
        """X of some items. Shape (U, D)."""
        id_U = torch.where(self.has_id_I[item_U], item_U, self.n_items)  # type: ignore[index]
        if self.training and self.p_no_id:
            id_U = id_U.masked_fill(torch.rand(len(id_U), device=id_U.device) < self.p_no_id, self.n_items)
        x_UD = self.item(id_U)
        if self.token is not None:
            lo_U, hi_U = self.offsets[item_U], self.offsets[item_U + 1]  # type: ignore[index]
            first_U = (hi_U - lo_U).cumsum(0) - (hi_U - lo_U)
            at_N = torch.arange(int((hi_U - lo_U).sum()), device=item_U.device)
            at_N = at_N + (lo_U - first_U).repeat_interleave(hi_U - lo_U)
            x_UD = x_UD + F.embedding_bag(
                self.bag_token[at_N],  # type: ignore[index]
                self.token.weight,
                first_U,
                mode="sum",
                per_sample_weights=self.bag_weight[at_N],  # type: ignore[index]
            )
        return x_UD if self.dense is None else x_UD + self.dense(self.dense_IF[item_U])  # type: ignore[index, no-any-return]

    def vectors(self, item_U: Tensor) -> Tensor:
        """V of some items. Shape (U, D)."""
        x_UD = self.read(item_U)
        return x_UD + self.item_head(x_UD)  # type: ignore[no-any-return]

    def forward(self, item_BT: Tensor, layout: Layout) -> Tensor:
        """U after every token. Shape (B, T, D)."""
        distinct_U, at_BT = item_BT.clamp(max=self.n_items - 1).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        x_BTD = self.dropout(self.read(distinct_U)[at_BT]) * layout.valid_BT[..., None]
        if not len(self.blocks):
            n_T1 = torch.arange(1, x_BTD.shape[1] + 1, device=x_BTD.device)[:, None]
            return self.user_head(torch.cat([x_BTD.cumsum(1) / n_T1, x_BTD], -1))  # type: ignore[no-any-return]
        mask = layout.causal_mask()
        y_BTD = x_BTD
        for block in self.blocks:
            y_BTD = block(y_BTD, layout, mask)
        return self.user_head(torch.cat([self.norm(y_BTD), x_BTD], -1))  # type: ignore[no-any-return]

    def item_vectors(self) -> Tensor:
        """V of all items. Shape (I, D)."""
        every_I = torch.arange(self.n_items, device=self.item.weight.device)
        return torch.cat([self.vectors(some) for some in torch.split(every_I, ITEMS_AT_ONCE)])


class TowersObjective(NextItemObjective):
    """Sampled softmax in which the item tower runs for the items of the batch alone."""

    encoder: Towers  # type: ignore[assignment]

    def __init__(self, encoder: Towers, config: LossConfig, counts_I: LongArray) -> None:
        super().__init__(encoder, config, counts_I)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of targets)."""
        if self.config.loss != "sampled_softmax":
            return super().forward(batch)
        target_P = batch.target_BT[batch.targets_BT]
        hidden_PD = self.encoder(batch.item_BT, batch.layout)[batch.targets_BT]
        seed = int(torch.randint(1 << 62, ()))  # from the global generator, whose state checkpoints keep
        drawn = self.proposal.draw(target_P, torch.Generator(target_P.device).manual_seed(seed))
        distinct_U, at = torch.cat([target_P, drawn.item_ix]).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        item_emb_UD = self.encoder.vectors(distinct_U)
        if self.config.cosine:
            hidden_PD, item_emb_UD = F.normalize(hidden_PD, dim=-1), F.normalize(item_emb_UD, dim=-1)
        hidden_PD = hidden_PD / self.temperature()
        n_positions = len(target_P)
        loss_P = losses.sampled_softmax(
            (hidden_PD * item_emb_UD[at[:n_positions]]).sum(-1).float(),
            (hidden_PD @ item_emb_UD[at[n_positions:]].T).float(),
            pos_log_q_P=self.proposal.log_q(target_P),
            neg_log_q=drawn.log_q,
            correction=self.config.correction,
            valid_PM=collisions(drawn, target_P, None),
        )
        loss = loss_P.sum() if batch.weight_BT is None else loss_P @ batch.weight_BT[batch.targets_BT]
        return loss, torch.tensor(n_positions)
