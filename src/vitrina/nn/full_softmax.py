"""Cross-entropy against the whole catalogue with a bounded amount of memory.

Notation                                                                               shape
    h, E, b     vectors of positions, vectors and biases of items                      (P, D), (I, D), (I,)
    s           logits, s_pi = h_p . e_i / temperature + b_i + a_p f_(row p) i         (P, I), never whole
    a, f        weight of a number that each item has in a row of a table (`Side`)     (P,), (R, I)
    p           softmax of s along a row; t the target of a position
    q           1 - p_pt, summed over the other items                                  (P,)
    L           -log p_pt, that is -log(1 - q)                                         (P,)
    w           dLoss / dL, the weight of a position                                   (P,)

    dLoss / ds_pi = w p_pi for i != t,  -w q for i = t;    so with R = p, its target entries set to 0,

    dLoss / dh = w (R E - q e_t),    dLoss / dE = R^T (w h) - scatter_t(w q h),    dLoss / db likewise,
    dLoss / da_p = w (sum_i R_pi f_pi - q f_pt).

q, the small difference of two large numbers once a model is confident, is a sum here and keeps its digits
even where p is rounded to bfloat16. Positions are taken in chunks; the p of a chunk is the only large array,
and the next chunk uses its memory again.

Under autocast (or with vectors in half precision) the products and p are in that precision, as with
torch.nn.functional.cross_entropy; sums over the catalogue and gradients are in float32.

Under autocast to bfloat16 the products and S are bfloat16, sums and gradients float32: half the time.

Cost: `full_softmax_mean` computes its gradient along with the loss: 3 products of P I D multiply-adds a step.
`full_softmax` does not know w then, and computes p again in the backward pass: 4 products.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitrina.errors import InputError
from vitrina.nn.shapes import REST

CACHE_LOGITS = 1 << 21
"""Logits of one chunk for a small catalogue: 8 MiB stay in a processor's cache."""
GPU_LOGITS = 1 << 27
"""The same on a GPU: enough work for a kernel."""
ITEM_BLOCK = 1 << 15
"""Items whose gradient in half precision exists before it is added up in float32."""
FAR = 1e-30
"""Below this p_pt, its logarithm is taken another way."""


class Side(NamedTuple):
    """A term of the logits beside the product: a_p f[row_p, i]. No gradient flows into f."""

    weight_P: Tensor
    """a."""
    row_P: Tensor
    """long, row of the table for each position."""
    table_RI: Tensor
    """f."""

    def of(self, item_P: Tensor) -> Tensor:
        """The term of one item a position. Shape (P,)."""
        return self.weight_P * self.table_RI[self.row_P, item_P]

    def rows(self, at: slice | Tensor) -> Tensor:
        """F of all items for some positions, in the precision of the weights. Shape (C, I)."""
        return self.table_RI.index_select(0, self.row_P[at]).to(self.weight_P.dtype)

    def of_many(self, item_M: Tensor) -> Tensor:
        """The term of M items, the same for all positions (M,) or each its own (P, M). Shape (P, M)."""
        return self.weight_P[:, None] * self.table_RI[self.row_P[:, None], item_M]


def full_softmax(
    hidden_PD: Tensor,
    item_emb_ID: Tensor,
    target_P: Tensor,
    *,
    bias_I: Tensor | None = None,
    side: Side | None = None,
    temperature: float | Tensor = 1.0,
    chunk_positions: int | None = None,
) -> Tensor:
    """L_p = log sum_i exp(s_pi) - s_pt of each position, whatever weights it is given later.

    Args:
        hidden_PD: vectors of the positions that count (padding left out), (P, D).
        item_emb_ID: vectors of all items (no padding row), (I, D).
        target_P: the item that came next, (P,), integers in [0, I).
        bias_I: bias of each item, (I,).
        side: a term of each position's logits beside the product.
        temperature: divides the products, not the bias; a tensor may be learned.
        chunk_positions: positions whose logits exist at a time. None takes 2 M logits (128 M on a GPU), or
            2 D positions if that is more: two times the size of E, whose gradient is as large anyway.

    Returns:
        L, (P,), float32 (float64 if the vectors are).

    Raises:
        InputError: the shapes do not belong together.
    """
    return _apply(
        _Each, _divided(hidden_PD, temperature), item_emb_ID, bias_I, side, target_P, chunk_positions
    )


def full_softmax_mean(
    hidden_PD: Tensor,
    item_emb_ID: Tensor,
    target_P: Tensor,
    *,
    bias_I: Tensor | None = None,
    side: Side | None = None,
    temperature: float | Tensor = 1.0,
    chunk_positions: int | None = None,
) -> Tensor:
    """`full_softmax(...).mean()`, a quarter cheaper: the gradient is computed along with the loss.

    The arguments are those of `full_softmax`. With P = 0 the loss is 0.
    """
    return _apply(
        _Mean, _divided(hidden_PD, temperature), item_emb_ID, bias_I, side, target_P, chunk_positions
    )


def _divided(h: Tensor, temperature: float | Tensor) -> Tensor:
    return h if isinstance(temperature, float) and temperature == 1.0 else h / temperature


def _apply(
    form: type[torch.autograd.Function],
    h: Tensor,
    E: Tensor,
    b: Tensor | None,
    side: Side | None,
    target_P: Tensor,
    chunk: int | None,
) -> Tensor:
    n, n_items, dim = len(h), *E.shape
    if h.shape != (n, dim) or target_P.shape != (n,):
        raise InputError(
            f"full_softmax needs hidden (P, D), items (I, D) and targets (P,), "
            f"got {tuple(h.shape)}, {tuple(E.shape)} and {tuple(target_P.shape)}"
        )
    if b is not None and b.shape != (n_items,):
        raise InputError(f"full_softmax needs one bias for each of {n_items} items, got {tuple(b.shape)}")
    if chunk is None:
        chunk = max((GPU_LOGITS if h.is_cuda else CACHE_LOGITS) // n_items, 2 * dim)
    if side is not None and (side.weight_P.shape != (n,) or side.table_RI.shape[1] != n_items):
        raise InputError(
            f"full_softmax.side needs a weight for each of {n} positions and a number for each of {n_items} "
            f"items, got {tuple(side.weight_P.shape)} and {tuple(side.table_RI.shape)}"
        )
    a, row_P, f_RI = (None, None, None) if side is None else side
    if n < chunk:
        chunk = max(n - n % REST, n % REST, 1)
    return form.apply(h, E, b, a, row_P, f_RI, target_P, chunk)  # type: ignore[no-any-return, no-untyped-call]


class _Each(torch.autograd.Function):
    """L of each position; p is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        rows = _Rows.of(*given[:-1], chunk=given[-1])
        loss_P = rows.new_column()
        for at in rows.chunks():
            rows.softmax(at, loss_P)
        ctx.save_for_backward(*given[:-1])
        ctx.chunk, ctx.work = given[-1], rows.h.dtype
        return loss_P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, w_P: Tensor) -> tuple[Tensor | None, ...]:
        h, E, b, a = ctx.saved_tensors[:4]
        rows = _Rows.of(*ctx.saved_tensors, chunk=ctx.chunk, work=ctx.work)
        grads, loss_P, q_P = _Gradients.zeros(h, E, b, a), rows.new_column(), rows.new_column()
        for at in rows.chunks():
            R_CI, q_P[at] = rows.softmax(at, loss_P)
            grads.add(rows, at, R_CI, w_P[at])
        grads.subtract_targets(rows, w_P * q_P)
        return *grads.like(h, E), None, None, None, None


class _Mean(torch.autograd.Function):
    """Mean of L; the gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        rows = _Rows.of(*given[:-1], chunk=given[-1])
        h, E, b, a = given[:4]
        loss_P, q_P = rows.new_column(), rows.new_column()
        w_P = torch.full_like(loss_P, 1 / max(len(h), 1))
        grads = _Gradients.zeros(h, E, b, a) if any(ctx.needs_input_grad) else None
        for at in rows.chunks():
            R_CI, q_P[at] = rows.softmax(at, loss_P)
            if grads is not None:
                grads.add(rows, at, R_CI, w_P[at])
        if grads is not None:
            grads.subtract_targets(rows, w_P * q_P)
            ctx.save_for_backward(*grads.like(h, E))
        return (w_P * loss_P).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        return *(x if x is None else x * w for x in ctx.saved_tensors), None, None, None, None


@dataclass
class _Rows:
    """The positions of a batch in working precision, with room for the p of one chunk."""

    h: Tensor
    E: Tensor
    b: Tensor | None
    side: Side | None
    target_P: Tensor
    room: Tensor
    """(chunk, I)."""

    @classmethod
    def of(
        cls,
        h: Tensor,
        E: Tensor,
        b: Tensor | None,
        a: Tensor | None,
        row_P: Tensor | None,
        f_RI: Tensor | None,
        target_P: Tensor,
        *,
        chunk: int,
        work: torch.dtype | None = None,
    ) -> "_Rows":
        device = h.device.type
        if work is None:
            work = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
        h, E = h.to(work), E.to(work)
        side = None
        if a is not None and row_P is not None and f_RI is not None:
            side = Side(a.to(work), row_P, f_RI)
        return cls(h, E, None if b is None else b.to(work), side, target_P, h.new_empty(chunk, len(E)))

    def new_column(self) -> Tensor:
        return self.h.new_zeros(len(self.h), dtype=_sums(self.h))

    def chunks(self) -> list[slice]:
        """Of as many positions as there is room for, then what is left (see `vitrina.nn.shapes`)."""
        n, step = len(self.h), len(self.room)
        rest = n % step
        ends = [*range(step, n + 1, step), n - rest % REST, n]
        return [slice(lo, hi) for lo, hi in pairwise([0, *ends]) if hi > lo]

    def softmax(self, at: slice, loss_P: Tensor) -> tuple[Tensor, Tensor]:
        """R (C, I) and q (C,) of a chunk; writes its part of L."""
        R_CI, target_C = self.room[: at.stop - at.start], self.target_P[at]
        row_C = torch.arange(len(target_C), device=target_C.device)
        self.logits(at, R_CI)
        torch.softmax(R_CI, 1, out=R_CI)
        p_C = R_CI[row_C, target_C].to(loss_P.dtype)
        R_CI[row_C, target_C] = 0.0
        q_C = R_CI.sum(1).to(loss_P.dtype)
        loss_P[at] = torch.where(q_C < 0.5, -torch.log1p(-q_C), -p_C.log())
        far_C = p_C < FAR
        if far_C.any():
            self.far(at, far_C, loss_P)
        return R_CI, q_C

    def logits(self, at: slice | Tensor, out_CI: Tensor) -> None:
        h_CD = self.h[at]
        if self.b is None:
            torch.mm(h_CD, self.E.t(), out=out_CI)
        else:
            torch.addmm(self.b, h_CD, self.E.t(), out=out_CI)
        if self.side is not None:
            out_CI.addcmul_(self.side.weight_P[at, None], self.side.rows(at))

    def far(self, at: slice, far_C: Tensor, loss_P: Tensor) -> None:
        """L of positions whose p_pt is too small a number, from logits alone."""
        far = at.start + far_C.nonzero().squeeze(1)
        target_C1 = self.target_P[far, None]
        s_CI = self.h.new_empty(len(far), len(self.E))
        self.logits(far, s_CI)
        s_CI = s_CI.to(loss_P.dtype)
        loss_P[far] = s_CI.logsumexp(1) - s_CI.gather(1, target_C1).squeeze(1)


@dataclass
class _Gradients:
    """Sums of the gradient over chunks."""

    h: Tensor
    E: Tensor
    b: Tensor | None
    a: Tensor | None

    @classmethod
    def zeros(cls, *of: Tensor | None) -> "_Gradients":
        return cls(*(x if x is None else torch.zeros_like(x, dtype=_sums(x)) for x in of))  # type: ignore[arg-type]

    def like(self, h: Tensor, E: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of h and E in their precision, those of b and a."""
        return self.h.to(h.dtype), self.E.to(E.dtype), self.b, self.a

    def add(self, rows: _Rows, at: slice, R_CI: Tensor, w_C: Tensor) -> None:
        """All terms of a chunk but those of the targets."""
        w_C1, wide = w_C[:, None], self.h.dtype
        self.h[at] = torch.mm(R_CI, rows.E).to(wide) * w_C1
        scaled_CD = (rows.h[at].to(wide) * w_C1).to(rows.h.dtype)
        if rows.h.dtype == self.E.dtype:
            self.E.addmm_(R_CI.t(), scaled_CD)
        else:
            for lo in range(0, len(self.E), ITEM_BLOCK):
                items = slice(lo, lo + ITEM_BLOCK)
                self.E[items] += torch.mm(R_CI[:, items].t(), scaled_CD).to(wide)
        if self.b is not None:
            self.b += torch.mv(R_CI.t(), w_C.to(R_CI.dtype))
        if self.a is not None and rows.side is not None:
            self.a[at] = w_C * torch.linalg.vecdot(R_CI, rows.side.rows(at)).to(wide)

    def subtract_targets(self, rows: _Rows, wq_P: Tensor) -> None:
        """The terms of the targets."""
        self.h -= wq_P[:, None] * rows.E[rows.target_P]
        self.E.index_add_(0, rows.target_P, wq_P[:, None] * rows.h, alpha=-1)
        if self.b is not None:
            self.b.index_add_(0, rows.target_P, wq_P.to(self.b.dtype), alpha=-1)
        if self.a is not None and rows.side is not None:
            f_P = rows.side.table_RI[rows.side.row_P, rows.target_P].to(rows.h.dtype)
            self.a -= wq_P * f_P.to(self.a.dtype)


def _sums(x: Tensor) -> torch.dtype:
    """The precision of sums: float32 for all but float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
