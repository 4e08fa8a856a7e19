"""Cross-entropy against the whole catalogue with a bounded amount of memory.

Notation                                                                               shape
    h, E, b     vectors of positions, vectors and biases of items                      (P, D), (I, D), (I,)
    s           logits, s_pi = h_p . e_i / temperature + b_i                           (P, I), never whole
    Z_p         sum_i exp(s_pi)
    L_p         log Z_p - s_pt, t the target of p

    dL_p / ds_pi = exp(s_pi) / Z_p - [i = t]

so that with S = exp(s - c_p) for any constant c_p of the row, and weights w_p = dLoss / dL_p,

    dLoss / dh = w (S E / Z - E_t),    dLoss / dE = S^T (w h / Z) - scatter_t(w h),    dLoss / db likewise:

the division by Z falls on rows of D numbers instead of I, and the one-hot matrix is never made. Positions are
taken in chunks; S of a chunk is the only large array, and its memory is used again by the next.

Cost: `full_softmax_mean` computes its gradient along with the loss: 3 products of P I D multiply-adds a step.
`full_softmax` does not yet know w_p then, and computes S again in the backward pass: 4 products.
"""

from typing import Any

import torch
from torch import Tensor

from vitrina.errors import InputError

CHUNK_BYTES = 32 << 20
"""Size of the logits of one chunk unless `chunk_positions` says otherwise."""


def full_softmax(
    hidden_PD: Tensor,
    item_emb_ID: Tensor,
    target_P: Tensor,
    *,
    bias_I: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    chunk_positions: int | None = None,
) -> Tensor:
    """L_p = log sum_i exp(s_pi) - s_pt of each position, whatever the weights given to them later.

    Args:
        hidden_PD: vectors of the positions that count (padding left out), (P, D).
        item_emb_ID: vectors of all items (no padding row), (I, D).
        target_P: the item that came next, (P,), integers in [0, I).
        bias_I: bias of each item, (I,).
        temperature: divides the products, not the bias; a tensor may be learned.
        chunk_positions: positions whose logits exist at a time; None makes them 32 MiB.

    Returns:
        Loss of each position, (P,), float32 (float64 if the vectors are).

    Raises:
        InputError: the shapes do not belong together.
    """
    chunk = _check(hidden_PD, item_emb_ID, target_P, bias_I, chunk_positions)
    return _Each.apply(hidden_PD / temperature, item_emb_ID, bias_I, target_P, chunk)  # type: ignore[no-any-return, no-untyped-call]


def full_softmax_mean(
    hidden_PD: Tensor,
    item_emb_ID: Tensor,
    target_P: Tensor,
    *,
    bias_I: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    chunk_positions: int | None = None,
) -> Tensor:
    """`full_softmax(...).mean()`, a quarter cheaper: the gradient is computed along with the loss.

    The arguments are those of `full_softmax`. With P = 0 the loss is 0.
    """
    chunk = _check(hidden_PD, item_emb_ID, target_P, bias_I, chunk_positions)
    return _Mean.apply(hidden_PD / temperature, item_emb_ID, bias_I, target_P, chunk)  # type: ignore[no-any-return, no-untyped-call]


def _check(
    hidden_PD: Tensor, item_emb_ID: Tensor, target_P: Tensor, bias_I: Tensor | None, chunk: int | None
) -> int:
    P, I = len(hidden_PD), len(item_emb_ID)  # noqa: E741
    if hidden_PD.shape != (P, item_emb_ID.shape[-1]) or target_P.shape != (P,):
        raise InputError(
            f"full_softmax needs hidden (P, D), items (I, D) and targets (P,), "
            f"got {tuple(hidden_PD.shape)}, {tuple(item_emb_ID.shape)} and {tuple(target_P.shape)}"
        )
    if bias_I is not None and bias_I.shape != (I,):
        raise InputError(f"full_softmax needs one bias for each of {I} items, got {tuple(bias_I.shape)}")
    if chunk is None:
        chunk = CHUNK_BYTES // (4 * max(I, 1))
    return max(1, min(chunk, P))


def _exponentials(h_CD: Tensor, E_ID: Tensor, b_I: Tensor | None, S_CI: Tensor) -> Tensor:
    """Make S = exp(s - max s) in place; returns log Z, (C,)."""
    torch.mm(h_CD, E_ID.t(), out=S_CI)
    if b_I is not None:
        S_CI += b_I
    top_C = S_CI.amax(1, keepdim=True)
    S_CI.sub_(top_C).exp_()
    return top_C.squeeze(1)


class _Each(torch.autograd.Function):
    """Loss of each position; S is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, E: Tensor, b: Tensor | None, target_P: Tensor, chunk: int) -> Tensor:
        h, E = h.to(_kind(h)), E.to(_kind(h))
        S = h.new_empty(chunk, len(E))
        log_Z_P = h.new_empty(len(h))
        for lo in range(0, len(h), chunk):
            S_CI = S[: min(chunk, len(h) - lo)]
            top_C = _exponentials(h[lo : lo + chunk], E, b, S_CI)
            log_Z_P[lo : lo + chunk] = S_CI.sum(1).log_().add_(top_C)
        ctx.save_for_backward(h, E, b, target_P, log_Z_P)
        ctx.chunk = chunk
        return log_Z_P - _target_logit(h, E, b, target_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, E, b, target_P, log_Z_P = ctx.saved_tensors
        (w_P,) = grads
        grad_h, grad_E = torch.empty_like(h), torch.zeros_like(E)
        grad_b = None if b is None else torch.zeros_like(b)
        S = h.new_empty(ctx.chunk, len(E))
        for lo in range(0, len(h), ctx.chunk):
            at = slice(lo, lo + ctx.chunk)
            S_CI = S[: min(ctx.chunk, len(h) - lo)]
            top_C = _exponentials(h[at], E, b, S_CI)
            scale_C = w_P[at] * (top_C - log_Z_P[at]).exp()
            _accumulate(S_CI, scale_C, h[at], E, grad_h[at], grad_E, grad_b)
        _subtract_targets(w_P, h, E, target_P, grad_h, grad_E, grad_b)
        return grad_h, grad_E, grad_b, None, None


class _Mean(torch.autograd.Function):
    """Mean loss; the gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, E: Tensor, b: Tensor | None, target_P: Tensor, chunk: int) -> Tensor:
        h, E = h.to(_kind(h)), E.to(_kind(h))
        S = h.new_empty(chunk, len(E))
        log_Z_P = h.new_empty(len(h))
        wanted = any(ctx.needs_input_grad)
        grad_h, grad_E = (torch.empty_like(h), torch.zeros_like(E)) if wanted else (None, None)
        grad_b = torch.zeros_like(b) if wanted and b is not None else None
        for lo in range(0, len(h), chunk):
            at = slice(lo, lo + chunk)
            S_CI = S[: min(chunk, len(h) - lo)]
            top_C = _exponentials(h[at], E, b, S_CI)
            Z_C = S_CI.sum(1)
            log_Z_P[at] = Z_C.log().add_(top_C)
            if grad_h is not None and grad_E is not None:
                _accumulate(S_CI, 1 / (len(h) * Z_C), h[at], E, grad_h[at], grad_E, grad_b)
        if grad_h is not None and grad_E is not None:
            w_P = h.new_full((len(h),), 1 / max(len(h), 1))
            _subtract_targets(w_P, h, E, target_P, grad_h, grad_E, grad_b)
        ctx.save_for_backward(grad_h, grad_E, grad_b)
        return (log_Z_P - _target_logit(h, E, b, target_P)).sum() / max(len(h), 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_E, grad_b = ctx.saved_tensors
        w = grads[0]
        return grad_h * w, grad_E * w, None if grad_b is None else grad_b * w, None, None


def _kind(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32


def _target_logit(h: Tensor, E: Tensor, b: Tensor | None, target_P: Tensor) -> Tensor:
    s_P = (h * E[target_P]).sum(1)
    return s_P if b is None else s_P + b[target_P]


def _accumulate(
    S_CI: Tensor,
    scale_C: Tensor,
    h_CD: Tensor,
    E_ID: Tensor,
    grad_h_CD: Tensor,
    grad_E_ID: Tensor,
    grad_b_I: Tensor | None,
) -> None:
    torch.mm(S_CI, E_ID, out=grad_h_CD)
    grad_h_CD *= scale_C[:, None]
    grad_E_ID.addmm_(S_CI.t(), h_CD * scale_C[:, None])
    if grad_b_I is not None:
        grad_b_I.addmv_(S_CI.t(), scale_C)


def _subtract_targets(
    w_P: Tensor,
    h: Tensor,
    E: Tensor,
    target_P: Tensor,
    grad_h: Tensor,
    grad_E: Tensor,
    grad_b: Tensor | None,
) -> None:
    grad_h -= w_P[:, None] * E[target_P]
    grad_E.index_add_(0, target_P, w_P[:, None] * h, alpha=-1)
    if grad_b is not None:
        grad_b.index_add_(0, target_P, w_P, alpha=-1)
