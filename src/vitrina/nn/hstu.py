"""HSTU: pointwise attention with biases for distance and time (Zhai et al., ICML 2024, arXiv:2402.17152).

Notation                                                                                     shape
    x          tokens                                                                        (B, T, D)
    U V Q K    split(SiLU(norm(x) W)), each of H heads of width E = D / H                    (B, H, T, E)
    p_r        bias of a token r places back                                                 (H, max_len)
    w_b        bias of a token whose age falls into bucket b                                 (H, 128)
    age_ij     asked_i - t_j where the time of the request is told, t_i - t_j where it is not
    S          Q K^T + p_(i-j) + w_(bucket(age_ij))                                          (B, H, T, T)
    A          SiLU(S) / n, 0 where j comes after i or belongs to another history; no softmax

    y = x + dropout(norm(A V) * U) W_o,        bucket(s) = floor( ln(max(1, s seconds)) / 0.301 ), at most 127

n is `max_len`, whatever the batch is padded to, so that padded and packed rows give the same numbers. norm is
LayerNorm without parameters.

Cost of a layer: 5 B T D^2 + B T^2 D multiply-adds, and a table look-up and a SiLU for each of the B H T^2 / 2
pairs; backward computes S again, so that no (T, T) array outlives its tile. Of each pair only its bucket is
kept, one byte, for all layers together.
NOTE[DIFF] paper: a table of 2 n - 1 distances; here: n, because those of later tokens are never read.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.errors import ConfigError, InputError
from vitrina.nn.layout import Layout

N_BUCKETS = 128
"""Of time."""
BUCKET_WIDTH = 0.301
"""In natural logarithms of seconds: a bucket reaches e^0.301 = 1.35 times as far as the one before."""
INIT_STD = 0.02
"""Of W and of both biases at the start, as the authors' code has it."""
TILE_NUMBERS = {"cpu": 2**18, "cuda": 2**26}
"""Numbers of a tile of S: what stays in the cache of a core, or keeps a GPU busy."""
ROWS_OF_A_TILE = 64
"""Tokens of a tile; keys after the last of them are not multiplied at all."""


class Pairs(NamedTuple):
    """What a layer must know of two tokens, for all layers of a batch."""

    bucket_BTT: Tensor | None
    """uint8, bucket of the age; None without times."""
    same_BTT: Tensor | None
    """bool, whether both belong to one history; None where a row is one history."""


def pairs_of(layout: Layout) -> Pairs:
    """Buckets and histories of the pairs of a batch. Cost: O(B T^2), once for all layers."""
    bucket_BTT = None
    if layout.ts_BT is not None:
        asked_BT = layout.ts_BT if layout.asked_BT is None else layout.asked_BT
        bucket_BTT = bucket_of(asked_BT[:, :, None] - layout.ts_BT[:, None, :])
    segment = layout.segment_BT
    return Pairs(bucket_BTT, None if segment is None else segment[:, :, None] == segment[:, None, :])


def bucket_of(age_s: Tensor) -> Tensor:
    """Bucket of an age in seconds; below a second, and for what lies ahead, 0. uint8, in the same shape."""
    log_s = age_s.clamp(min=1).float().log_()
    return log_s.div_(BUCKET_WIDTH).clamp_(max=N_BUCKETS - 1).to(torch.uint8)


class HSTULayer(nn.Module):
    """One layer: x + dropout(norm(A V) * U) W_o.

    Args:
        embedding_dim: D.
        n_heads: H; divides D.
        max_len: n, and how many places back the bias of distance tells apart.
        dropout: share of values set to 0 before W_o.
    """

    def __init__(self, embedding_dim: int, n_heads: int, *, max_len: int, dropout: float) -> None:
        super().__init__()
        if embedding_dim % n_heads:
            raise ConfigError(f"embedding_dim={embedding_dim} must be a multiple of n_heads={n_heads}")
        self.n_heads, self.max_len = n_heads, max_len
        self.norm = nn.LayerNorm(embedding_dim, eps=1e-6, elementwise_affine=False)
        self.norm_mixed = nn.LayerNorm(embedding_dim, eps=1e-6, elementwise_affine=False)
        self.uvqk = nn.Linear(embedding_dim, 4 * embedding_dim, bias=False)
        self.out = nn.Linear(embedding_dim, embedding_dim)
        self.by_distance = nn.Parameter(torch.empty(n_heads, max_len))
        self.by_time = nn.Parameter(torch.empty(n_heads, N_BUCKETS))
        self.dropout = nn.Dropout(dropout)
        for weight in (self.uvqk.weight, self.by_distance, self.by_time):
            nn.init.normal_(weight, std=INIT_STD)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTD: Tensor, pairs: Pairs) -> Tensor:
        """The layer's formula (see the module)."""
        n_rows, n_tokens, dim = x_BTD.shape
        uvqk = F.silu(self.uvqk(self.norm(x_BTD)))
        u_BTD, vqk = uvqk[..., :dim], uvqk[..., dim:]
        vqk = vqk.view(n_rows, n_tokens, 3, self.n_heads, dim // self.n_heads)
        v_BHTE, q_BHTE, k_BHTE = vqk.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BHTE = pointwise_attention(
            q_BHTE, k_BHTE, v_BHTE, self.by_distance, self.by_time, pairs, n=self.max_len
        )
        mixed_BTD = self.norm_mixed(mixed_BHTE.transpose(1, 2).reshape(n_rows, n_tokens, dim))
        return x_BTD + self.out(self.dropout(mixed_BTD * u_BTD))  # type: ignore[no-any-return]


class HSTULayers(nn.Module):
    """Layers one after another; what they must know of pairs of tokens is found once."""

    def __init__(
        self, embedding_dim: int, n_heads: int, n_layers: int, *, max_len: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            HSTULayer(embedding_dim, n_heads, max_len=max_len, dropout=dropout) for _ in range(n_layers)
        )

    def forward(self, x_BTD: Tensor, layout: Layout, mask: Tensor | None = None) -> Tensor:
        """All layers.

        Raises:
            InputError: the mask is another than that of the layout, which alone says what a token sees.
        """
        if mask is not None and not layout.is_causal(mask):
            raise InputError(
                f"HSTU looks back alone and cannot follow a mask of shape {tuple(mask.shape)}; "
                "give the encoder causal=True or other blocks"
            )
        pairs = pairs_of(layout)
        for layer in self.layers:
            x_BTD = layer(x_BTD, pairs)
        return x_BTD


def pointwise_attention(
    q_BHTE: Tensor,
    k_BHTE: Tensor,
    v_BHTE: Tensor,
    distance_HR: Tensor,
    time_HN: Tensor,
    pairs: Pairs,
    *,
    n: int,
) -> Tensor:
    """A V of the module's formula, tile by tile. Shape (B, H, T, E).

    Raises:
        InputError: a row that is one history has more tokens than there are distances.
    """
    if pairs.same_BTT is None and q_BHTE.shape[2] > distance_HR.shape[1]:
        raise InputError(
            f"a history of {q_BHTE.shape[2]} tokens is longer than the {distance_HR.shape[1]} distances that "
            "are told apart; raise max_len or cut it"
        )
    return _Pointwise.apply(q_BHTE, k_BHTE, v_BHTE, distance_HR, time_HN, pairs, n)  # type: ignore


class _Tile(NamedTuple):
    """Some histories (`rows`), the tokens that look (`lo`..`hi`), and those they look at (0..`hi`)."""

    rows: slice
    lo: int
    hi: int


def _tiles(n_rows: int, n_heads: int, n_tokens: int, device: str) -> Iterator[_Tile]:
    height = min(ROWS_OF_A_TILE, max(1, n_tokens))
    at_once = max(1, TILE_NUMBERS.get(device, 2**26) // max(1, n_heads * height * n_tokens))
    for start in range(0, n_rows, at_once):
        for lo in range(0, n_tokens, height):
            yield _Tile(slice(start, start + at_once), lo, min(lo + height, n_tokens))


def _scores(ctx: Any, tile: _Tile) -> tuple[Tensor, Tensor | None]:
    """S of a tile, float32, and the buckets of its pairs as indices."""
    rows, lo, hi = tile
    S = (ctx.q[rows, :, lo:hi] @ ctx.k[rows, :, :hi].mT).float()
    S += ctx.distance_HTT[:, lo:hi, :hi]
    if ctx.pairs.bucket_BTT is None:
        return S, None
    bucket = ctx.pairs.bucket_BTT[rows, lo:hi, :hi].reshape(-1).long()
    shape = (S.shape[0], hi - lo, hi)
    for h, table in enumerate(ctx.time_HN):
        S[:, h] += table.index_select(0, bucket).view(shape)
    return S, bucket


def _hide_(pair_BHtT: Tensor, ctx: Any, tile: _Tile) -> Tensor:
    """Put 0 where a token may not look, in place."""
    rows, lo, hi = tile
    pair_BHtT[..., lo:hi].tril_()
    if ctx.pairs.same_BTT is not None:
        pair_BHtT *= ctx.pairs.same_BTT[rows, None, lo:hi, :hi]
    return pair_BHtT


class _Pointwise(torch.autograd.Function):
    """Tiles of A V; backward computes S of each tile again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, distance_HR: Tensor, time_HN: Tensor, pairs: Pairs, n: int
    ) -> Tensor:
        n_rows, n_heads, n_tokens, _ = q.shape
        at_T = torch.arange(n_tokens, device=q.device)
        ctx.back_TT = (at_T[:, None] - at_T).clamp_(0, distance_HR.shape[1] - 1)
        ctx.q, ctx.k, ctx.v, ctx.pairs, ctx.n = q.detach(), k.detach(), v.detach(), pairs, n
        ctx.distance_HTT = distance_HR.detach().float()[:, ctx.back_TT]
        ctx.time_HN, ctx.n_distances = time_HN.detach().float(), distance_HR.shape[1]
        mixed = torch.empty_like(v, memory_format=torch.contiguous_format)
        with torch.autocast(q.device.type, enabled=False):
            for tile in _tiles(n_rows, n_heads, n_tokens, q.device.type):
                rows, lo, hi = tile
                A = _hide_(F.silu(_scores(ctx, tile)[0], inplace=True), ctx, tile).div_(n)
                mixed[rows, :, lo:hi] = A.to(v.dtype) @ ctx.v[rows, :, :hi]
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v = ctx.q, ctx.k, ctx.v
        grad = grad.to(v.dtype)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_distance_HTT, d_time_HN = torch.zeros_like(ctx.distance_HTT), torch.zeros_like(ctx.time_HN)
        with torch.autocast(q.device.type, enabled=False):
            for tile in _tiles(len(q), q.shape[1], q.shape[2], q.device.type):
                rows, lo, hi = tile
                S, bucket = _scores(ctx, tile)
                gate = torch.sigmoid(S)
                A = _hide_(S * gate, ctx, tile).div_(ctx.n).to(v.dtype)
                d_v[rows, :, :hi] += A.mT @ grad[rows, :, lo:hi]
                d_S = (grad[rows, :, lo:hi] @ v[rows, :, :hi].mT).float()
                slope = torch.addcmul(gate, S * gate, 1 - gate)
                d_S = _hide_(d_S.mul_(slope), ctx, tile).div_(ctx.n)
                d_distance_HTT[:, lo:hi, :hi] += d_S.sum(0)
                if bucket is not None:
                    for h, total in enumerate(d_time_HN):
                        total.index_add_(0, bucket, d_S[:, h].reshape(-1))
                d_S = d_S.to(q.dtype)
                d_q[rows, :, lo:hi] = d_S @ k[rows, :, :hi]
                d_k[rows, :, :hi] += d_S.mT @ q[rows, :, lo:hi]
        d_distance_HR = torch.zeros(len(ctx.time_HN), ctx.n_distances, device=q.device)
        d_distance_HR.index_add_(1, ctx.back_TT.reshape(-1), d_distance_HTT.flatten(1))
        return d_q, d_k, d_v, d_distance_HR, d_time_HN, None, None
