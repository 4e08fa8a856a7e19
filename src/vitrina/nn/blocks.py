"""Blocks of sequence models: attention over the past, and what surrounds it.

All take x_BTD with a `Layout` and give x_BTD; a token never sees what comes after it or another history.

    TransformerBlock  x + MHA(LN x);  x + FFN(LN x)                    norm="pre" (Xiong et al., ICML 2020)
                      LN(x + MHA x);  LN(x + FFN x)                    norm="post" (Vaswani et al., 2017)
    LiGRBlock         x + sigmoid(W1 x) * MHA(LN x);  x + sigmoid(W2 x) * SwiGLU(LN x)
                      (LiGR, arXiv:2502.03417; in eSASRec, RecSys 2025, arXiv:2508.06450)

NOTE[DIFF] papers: dropout also on attention weights and inside the feed-forward part; here: on what leaves
the two; because the fused attention of processors takes no dropout, and masks of 4 D numbers cost as much as
a product.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.nn.layout import Layout, joined, runs


def through(blocks: nn.ModuleList, x_BTD: Tensor, layout: Layout, *, causal: bool = True) -> Tensor:
    """Tokens after all blocks, taken through them in runs of rows of like length. Shape (B, T, D).

    Args:
        blocks: modules that take (x_BTD, layout, mask).
        x_BTD: tokens, the longest rows first.
        layout: where they stand.
        causal: whether a token sees only itself and those before it.
    """
    cut = runs(layout, blocks)
    parts = torch.split(x_BTD, [rows.stop - rows.start for rows, _ in cut])
    found = []
    for part_RTD, (rows, n_tokens) in zip(parts, cut, strict=True):
        x_RTD, run = part_RTD[:, :n_tokens], layout.rows(rows).first(n_tokens)
        mask = run.causal_mask() if causal else run.mutual_mask()
        for block in blocks:
            x_RTD = block(x_RTD, run, mask)
        found.append(x_RTD)
    return joined(found, x_BTD.shape[1])


class Attention(nn.Module):
    """Causal multi-head attention, softmax(Q K^T / sqrt(D / H)) V.

    Cost: 4 B T D^2 + B T^2 D multiply-adds.
    """

    def __init__(self, embedding_dim: int, n_heads: int, *, rotary: bool = False) -> None:
        super().__init__()
        if embedding_dim % n_heads:
            raise ValueError(f"embedding_dim={embedding_dim} must be a multiple of n_heads={n_heads}")
        self.n_heads = n_heads
        self.rotary = rotary
        self.qkv = nn.Linear(embedding_dim, 3 * embedding_dim)
        self.out = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, x_BTD: Tensor, layout: Layout, mask: Tensor | None = None) -> Tensor:
        """Each token as a mixture of itself and those before it; `mask` (B, 1, T, T) replaces causality."""
        n_rows, n_tokens, dim = x_BTD.shape
        qkv = self.qkv(x_BTD).view(n_rows, n_tokens, 3, self.n_heads, dim // self.n_heads)
        q_BHTE, k_BHTE, v_BHTE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary:
            q_BHTE, k_BHTE = (rotate(x, layout.position_BT) for x in (q_BHTE, k_BHTE))
        mask = layout.causal_mask() if mask is None else mask
        mixed = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=mask, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).reshape(n_rows, n_tokens, dim))  # type: ignore[no-any-return]


def rotate(x_BHTE: Tensor, position_BT: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary positions (Su et al., arXiv:2104.09864): pairs (e, e + E/2) turned by position * base^(-2e/E).

    The inner product of two turned vectors depends on the difference of their positions alone.
    """
    half = x_BHTE.shape[-1] // 2
    rate_E = base ** (-torch.arange(half, device=x_BHTE.device, dtype=torch.float32) / half)
    angle_B1TE = (-position_BT.float()[:, :, None] * rate_E)[:, None]
    cos, sin = angle_B1TE.cos().to(x_BHTE.dtype), angle_B1TE.sin().to(x_BHTE.dtype)
    first, second = x_BHTE[..., :half], x_BHTE[..., half : 2 * half]
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
    return torch.cat([turned, x_BHTE[..., 2 * half :]], -1)


class TransformerBlock(nn.Module):
    """Attention and a feed-forward part with residuals; `norm` "pre" or "post"."""

    def __init__(
        self,
        embedding_dim: int,
        n_heads: int,
        *,
        ffn_dim: int,
        dropout: float,
        norm: str = "pre",
        rotary: bool = False,
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f'norm must be "pre" or "post", got {norm!r}')
        self.pre = norm == "pre"
        self.attention = Attention(embedding_dim, n_heads, rotary=rotary)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(embedding_dim), nn.LayerNorm(embedding_dim)
        self.ffn = nn.Sequential(
            nn.Linear(embedding_dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, embedding_dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, layout: Layout, mask: Tensor | None = None) -> Tensor:
        """The block's formula (see the module)."""
        if self.pre:
            x_BTD = x_BTD + self.dropout(self.attention(self.norm_attention(x_BTD), layout, mask))
            return x_BTD + self.dropout(self.ffn(self.norm_ffn(x_BTD)))  # type: ignore[no-any-return]
        x_BTD = self.norm_attention(x_BTD + self.dropout(self.attention(x_BTD, layout, mask)))
        return self.norm_ffn(x_BTD + self.dropout(self.ffn(x_BTD)))  # type: ignore[no-any-return]


class LiGRBlock(nn.Module):
    """Residuals behind learned gates, and a SwiGLU feed-forward part: deep stacks stay trainable."""

    def __init__(
        self, embedding_dim: int, n_heads: int, *, ffn_dim: int, dropout: float, rotary: bool = False
    ) -> None:
        super().__init__()
        self.attention = Attention(embedding_dim, n_heads, rotary=rotary)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(embedding_dim), nn.LayerNorm(embedding_dim)
        self.gate_attention = nn.Linear(embedding_dim, embedding_dim)
        self.gate_ffn = nn.Linear(embedding_dim, embedding_dim)
        self.up, self.gate = nn.Linear(embedding_dim, ffn_dim), nn.Linear(embedding_dim, ffn_dim)
        self.down = nn.Linear(ffn_dim, embedding_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, layout: Layout, mask: Tensor | None = None) -> Tensor:
        """The block's formula (see the module)."""
        attended = self.dropout(self.attention(self.norm_attention(x_BTD), layout, mask))
        x_BTD = x_BTD + torch.sigmoid(self.gate_attention(x_BTD)) * attended
        normed = self.norm_ffn(x_BTD)
        fed = self.dropout(self.down(F.silu(self.gate(normed)) * self.up(normed)))
        return x_BTD + torch.sigmoid(self.gate_ffn(x_BTD)) * fed  # type: ignore[no-any-return]
