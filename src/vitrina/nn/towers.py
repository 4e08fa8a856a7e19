"""Two towers: an item as its id and what is known of it, a user as a function of the items taken.

d(row) = sum_t w_t token_t + W number + P content   what a table says of an item or of a person
x_i    = id_i + d(i)                                id_i is 0 for an item never trained on, and for others
                                                    with a chance while training
v_i    = x_i + MLP(LN x_i)
u_t    = MLP [mean of x over the history; x of the latest; d(person)], or a causal transformer over x in
                                                    place of the mean; a person nobody knows has d(nobody),
                                                    and others with a chance while training

A token is a hash of 63 bits; its vector is the sum of two rows of one table (`MultiHash`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.errors import InputError
from vitrina.nn import losses
from vitrina.nn.blocks import TransformerBlock, through
from vitrina.nn.embeddings import ContentProjection, MultiHash
from vitrina.nn.layout import Layout
from vitrina.nn.next_item import Batch, LossConfig, NextItemObjective
from vitrina.nn.shapes import ROWS, padded, rounded_up
from vitrina.schema import BoolArray, DoubleArray, LongArray

ITEMS_AT_ONCE = 16_384
"""Items whose vectors are made together."""
N_HASHES = 2
"""Rows of the table of tokens that make up the vector of one."""


class Described(nn.Module):
    """Vectors of the rows of a table, d; what it says is no parameter and is not saved with them.

    Args:
        features: offsets (R + 1,), token and weight (n,), number (R, F), content (R, C): arrays of
            `vitrina.candidates.table_features`.
        n_buckets: rows of the table of tokens.
        embedding_dim: D.

    Shape:
        row_U (U,), integers in [0, R) -> (U, D)
    """

    def __init__(self, features: Mapping[str, Any], *, n_buckets: int, embedding_dim: int) -> None:
        super().__init__()
        for name in ("offsets", "token", "weight", "number"):
            self.register_buffer(f"row_{name}", torch.from_numpy(features[name]), persistent=False)
        n_numbers, content_RC = features["number"].shape[1], features["content"]
        self.embedding_dim = embedding_dim
        self.token = None
        if len(features["token"]):
            self.token = MultiHash(n_buckets, embedding_dim, n_hashes=N_HASHES, shared=True)
        self.number = nn.Linear(n_numbers, embedding_dim) if n_numbers else None
        self.content = None
        if content_RC.shape[1]:
            self.content = ContentProjection(torch.from_numpy(content_RC), embedding_dim)

    @property
    def says_nothing(self) -> bool:
        """Whether the table has no columns."""
        return self.token is None and self.number is None and self.content is None

    def forward(self, row_U: Tensor) -> Tensor:
        """Vectors of some rows. Shape (U, D)."""
        d_UD = torch.zeros(len(row_U), self.embedding_dim, device=row_U.device)
        if self.token is not None:
            d_UD = d_UD + self._bags(self.token, row_U)
        if self.number is not None:
            d_UD = d_UD + self.number(self.row_number[row_U])  # type: ignore[index]
        return d_UD if self.content is None else d_UD + self.content(row_U)

    def _bags(self, table: MultiHash, row_U: Tensor) -> Tensor:
        """Weighted sums of the tokens of some rows. Shape (U, D)."""
        lo_U, hi_U = self.row_offsets[row_U], self.row_offsets[row_U + 1]  # type: ignore[index]
        first_U = (hi_U - lo_U).cumsum(0) - (hi_U - lo_U)
        at_N = torch.arange(int((hi_U - lo_U).sum()), device=row_U.device)
        at_N = at_N + (lo_U - first_U).repeat_interleave(hi_U - lo_U)
        return F.embedding_bag(
            table.rows(self.row_token[at_N]).flatten(),  # type: ignore[index]
            table.table.weight,
            first_U * N_HASHES,
            mode="sum",
            per_sample_weights=self.row_weight[at_N].repeat_interleave(N_HASHES),  # type: ignore[index]
        )


class Towers(nn.Module):
    """Both towers.

    Args:
        items: what is known of items, see `Described`.
        people: what is known of people, the last row that of nobody known; None reads histories alone.
        has_id_I: whether an item was trained on.
        n_buckets: rows of a table of tokens.
        embedding_dim: D.
        n_layers: blocks over the history; 0 pools it.
        n_heads: heads of attention.
        dropout: while training.
        p_no_id: chance that an item's id is hidden while training.
        p_nobody: chance that what is known of a person is hidden while training.
    """

    def __init__(
        self,
        items: Mapping[str, Any],
        people: Mapping[str, Any] | None,
        has_id_I: BoolArray,
        *,
        n_buckets: int,
        embedding_dim: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        p_no_id: float,
        p_nobody: float,
    ) -> None:
        super().__init__()
        self.n_items = len(has_id_I)
        self.register_buffer("has_id_I", torch.from_numpy(has_id_I), persistent=False)
        self.item = nn.Embedding(self.n_items + 1, embedding_dim, padding_idx=self.n_items)
        nn.init.normal_(self.item.weight, std=embedding_dim**-0.5)
        with torch.no_grad():
            self.item.weight[self.n_items] = 0
        self.about_item = Described(items, n_buckets=n_buckets, embedding_dim=embedding_dim)
        self.p_no_id = 0.0 if self.about_item.says_nothing else p_no_id
        self.about_person, self.p_nobody = None, p_nobody
        if people is not None:
            self.about_person = Described(people, n_buckets=n_buckets, embedding_dim=embedding_dim)
            self.nobody = len(people["offsets"]) - 2
        wide = 2 * embedding_dim
        self.item_head = nn.Sequential(
            nn.LayerNorm(embedding_dim),
            nn.Linear(embedding_dim, wide),
            nn.GELU(),
            nn.Linear(wide, embedding_dim),
        )
        known = wide + embedding_dim * (self.about_person is not None)
        self.user_head = nn.Sequential(nn.Linear(known, wide), nn.GELU(), nn.Linear(wide, embedding_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(embedding_dim, n_heads, ffn_dim=4 * embedding_dim, dropout=dropout, rotary=True)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(embedding_dim).requires_grad_(n_layers > 0)
        self.dropout = nn.Dropout(dropout)

    def read(self, item_U: Tensor) -> Tensor:
        """X of some items. Shape (U, D)."""
        id_U = torch.where(self.has_id_I[item_U], item_U, self.n_items)  # type: ignore[index]
        if self.training and self.p_no_id:
            id_U = id_U.masked_fill(torch.rand(len(id_U), device=id_U.device) < self.p_no_id, self.n_items)
        x_UD: Tensor = self.item(id_U)
        return x_UD if self.about_item.says_nothing else x_UD + self.about_item(item_U)

    def vectors(self, item_U: Tensor) -> Tensor:
        """V of some items. Shape (U, D)."""
        x_UD = self.read(item_U)
        return x_UD + self.item_head(x_UD)  # type: ignore[no-any-return]

    def forward(self, item_BT: Tensor, layout: Layout) -> Tensor:
        """U after every token. Shape (B, T, D).

        Raises:
            InputError: rows are packed, and would share one mean or one person among their histories.
        """
        if layout.segment_BT is not None and (not len(self.blocks) or self.about_person is not None):
            raise InputError(
                f"towers of {len(self.blocks)} blocks{' that know people' * (self.about_person is not None)} "
                "cannot read packed rows; pad them, one history a row"
            )
        distinct_U, at_BT = _distinct(item_BT.clamp(max=self.n_items - 1))
        x_BTD = self.dropout(self.read(distinct_U)[at_BT]) * layout.valid_BT[..., None]
        if len(self.blocks):
            past_BTD = self.norm(through(self.blocks, x_BTD, layout))
        else:
            n_T1 = torch.arange(1, x_BTD.shape[1] + 1, device=x_BTD.device)[:, None]
            past_BTD = x_BTD.cumsum(1) / n_T1
        return self.user_head(torch.cat([past_BTD, x_BTD, *self._people(x_BTD, layout)], -1))  # type: ignore[no-any-return]

    def _people(self, x_BTD: Tensor, layout: Layout) -> list[Tensor]:
        """What is known of whose history each row is, at every token; nothing where no table was given."""
        if self.about_person is None:
            return []
        person_B = layout.person_B
        if person_B is None:
            person_B = torch.full((len(x_BTD),), self.nobody, device=x_BTD.device)
        if self.training and self.p_nobody:
            hidden_B = torch.rand(len(person_B), device=person_B.device) < self.p_nobody
            person_B = person_B.masked_fill(hidden_B, self.nobody)
        d_BD = self.about_person(person_B)
        return [d_BD[:, None].expand(-1, x_BTD.shape[1], -1)]

    def item_vectors(self) -> Tensor:
        """V of all items. Shape (I, D)."""
        every_I = torch.arange(self.n_items, device=self.item.weight.device)
        return torch.cat([self.vectors(some) for some in torch.split(every_I, ITEMS_AT_ONCE)])


def _distinct(item: Tensor) -> tuple[Tensor, Tensor]:
    """Items that occur, with item 0 behind them (see `vitrina.nn.shapes`), (U,), and where each lies."""
    distinct_U, at = item.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return padded(distinct_U, rounded_up(len(distinct_U), ROWS)), at


class TowersObjective(NextItemObjective):
    """A softmax over items that were taken, sampled by running the item tower for those of the batch alone.

    An item that nobody has taken yet is no negative of anything: it would learn that it is new.
    """

    encoder: Towers  # type: ignore[assignment]
    taken_U: Tensor
    """Items that were taken, (U,)."""
    place_I: Tensor
    """Where each of those stands among them, (I,)."""

    def __init__(self, encoder: Towers, config: LossConfig, counts_I: LongArray | DoubleArray) -> None:
        has_id_I: Tensor = encoder.has_id_I  # type: ignore[assignment]
        super().__init__(encoder, config, counts_I, among_I=has_id_I.numpy())  # type: ignore[arg-type]
        self.register_buffer("taken_U", has_id_I.nonzero()[:, 0], persistent=False)
        self.register_buffer("place_I", has_id_I.cumsum(0) - 1, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of targets)."""
        target_P = batch.target_BT[batch.targets_BT]
        if self.config.loss == "softmax" or not len(target_P):
            hidden_PD = self.encoder(batch.item_BT, batch.layout)[batch.targets_BT]
            vectors_UD = self.encoder.vectors(self.taken_U)
            return self.of_targets(hidden_PD, vectors_UD, self.place_I[target_P], batch), torch.tensor(
                len(target_P)
            )
        hidden_PD = self.encoder(batch.item_BT, batch.layout)[batch.targets_BT]
        drawn = self.draw(target_P)
        valid_PM, masked_log_q_P = self.masks(drawn, target_P, batch)
        distinct_U, at = _distinct(torch.cat([target_P, drawn.item_ix]))
        item_emb_UD = self.encoder.vectors(distinct_U)
        if self.config.cosine:
            hidden_PD, item_emb_UD = F.normalize(hidden_PD, dim=-1), F.normalize(item_emb_UD, dim=-1)
        hidden_PD = hidden_PD / self.temperature()
        n_positions = len(target_P)
        loss_P = losses.sampled_softmax(
            (hidden_PD * item_emb_UD[at[:n_positions]]).sum(-1).float(),
            drawn.logits(hidden_PD, item_emb_UD[at[n_positions:]]).float(),
            pos_log_q_P=masked_log_q_P,
            neg_log_q=drawn.log_q,
            correction=self.config.correction,
            valid_PM=valid_PM,
        )
        loss = loss_P.sum() if batch.weight_BT is None else loss_P @ batch.weight_BT[batch.targets_BT]
        return loss, torch.tensor(n_positions)
