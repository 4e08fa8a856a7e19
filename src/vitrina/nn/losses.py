"""Losses of next-item prediction, as pure functions of logits: one number a position, no reduction.

Notation                                                                               shape
    P, M        positions that count; negatives of a position
    s_p, s_pm   logit of the positive, of the m-th negative                            (P,), (P, M)
    v_pm        1 if the negative counts, 0 if it collides (`valid_PM`)                (P, M)
    n_p         sum_m v_pm
    Q(i)        probability that one draw of the proposal gives item i

Logits are divided by the temperature before they come here. A masked entry contributes nothing to the loss or
to a gradient, whatever it holds, -inf included; a position whose negatives are all masked keeps the term of
its positive alone (`bce`, `gbce`) or has loss 0 and gradient 0 (`sampled_softmax`).

See also: `vitrina.nn.proposals` draws negatives and knows Q; docs/losses.md derives each form.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vitrina.errors import InputError
from vitrina.nn.full_softmax import Side, full_softmax, full_softmax_mean

__all__ = ["Correction", "Side", "bce", "full_softmax", "full_softmax_mean", "gbce", "sampled_softmax"]

Correction = Literal["none", "standard", "corrected"]
"""What `sampled_softmax` subtracts from logits."""


def bce(pos_logit_P: Tensor, neg_logit_PM: Tensor, valid_PM: Tensor | None = None) -> Tensor:
    """Binary cross-entropy: is this item the next one, or was it drawn?

        L_p = -( log sigma(s_p) + sum_m v_pm log(1 - sigma(s_pm)) ) / (1 + n_p)

    It trusts the probability of each item by itself, and is over-confident when few negatives are drawn: see
    `gbce`. Cost: O(P M).

    Args:
        pos_logit_P: s_p, (P,).
        neg_logit_PM: s_pm, (P, M).
        valid_PM: v_pm, (P, M) bool; None counts all.

    Returns:
        L_p, (P,).

    References:
        Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018 (with M = 1).
    """
    return _weighted_bce(pos_logit_P, neg_logit_PM, 1.0, valid_PM)


def gbce(
    pos_logit_P: Tensor, neg_logit_PM: Tensor, *, n_items: int, t: float, valid_PM: Tensor | None = None
) -> Tensor:
    """Generalised binary cross-entropy: the positive's probability is raised to a power below 1.

        L_p  = -( beta log sigma(s_p) + sum_m v_pm log(1 - sigma(s_pm)) ) / (1 + n_p)
        beta = a (t (1 - 1/a) + 1/a),    a = M / (n_items - 1), the share of items drawn as negatives

    t = 0 gives beta = 1, which is `bce`; t = 1 gives beta = a, which undoes the over-confidence in full. The
    definition, log(sigma(s)^beta), is beta log sigma(s): no power is taken and float32 is exact to its last
    digits, where a detour through the logit of sigma^beta needs float64. Cost: O(P M).

    Args:
        pos_logit_P: s_p, (P,).
        neg_logit_PM: s_pm, (P, M), of negatives drawn uniformly.
        n_items: items in the catalogue, at least 2.
        t: calibration, in [0, 1]; 0.75 is the authors' default.
        valid_PM: v_pm, (P, M) bool; None counts all. M in a counts the masked ones.

    Returns:
        L_p, (P,).

    Raises:
        InputError: t is outside [0, 1], or the catalogue has fewer than 2 items.

    References:
        Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with
        Negative Sampling", RecSys 2023.
    """
    if not 0 <= t <= 1 or n_items < 2:
        raise InputError(f"gbce needs t in [0, 1] and n_items >= 2, got t={t}, n_items={n_items}")
    rate = min(1.0, neg_logit_PM.shape[1] / (n_items - 1))
    return _weighted_bce(pos_logit_P, neg_logit_PM, t * (rate - 1) + 1, valid_PM)


def sampled_softmax(
    pos_logit_P: Tensor,
    neg_logit_PM: Tensor,
    *,
    pos_log_q_P: Tensor,
    neg_log_q: Tensor,
    correction: Correction,
    valid_PM: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the positive among itself and the negatives, whose logits are corrected for Q.

        L_p = log( 1 + sum_m v_pm exp(s'_pm - s'_p) ),    s' by `correction`:

        none       s'_p = s_p                 s'_pm = s_pm
        standard   s'_p = s_p - log Q(p)      s'_pm = s_pm - log Q(m)
        corrected  s'_p = s_p                 s'_pm = s_pm - log( n_p Q(m) / (1 - Q(p)) )

    "standard" (Yi et al. 2019; Bengio and Senécal 2008) treats the positive as if it had been drawn too. It
    was not: it is in the sum with certainty. "corrected" lets the negatives stand for the rest of the
    catalogue: drawn from Q without the positive, Q'(m) = Q(m) / (1 - Q(p)), the mean of exp(s_pm) / Q'(m)
    over n_p draws is an unbiased estimate of sum_{i != p} exp(s_i), so L_p estimates the full softmax; its
    gradient is that of -sg(1 - P_p) log( exp(s_p) / sum_m exp(s_pm) / Q'(m) ) with P_p the estimated
    probability of the positive (derived in docs/losses.md). Cost: O(P M).

    A positive with Q(p) = 0 has loss 0 under "standard", the limit of the formula. Where more than the
    positive is masked, the user's own items say, "corrected" is exact for the softmax without them if
    `pos_log_q_P` holds the log of all the masked probability.

    Args:
        pos_logit_P: s_p, (P,).
        neg_logit_PM: s_pm, (P, M).
        pos_log_q_P: log Q(p) of one draw, (P,); -inf for an item that is never drawn.
        neg_log_q: log Q(m) of one draw, (M,) or (P, M).
        correction: "none", "standard" or "corrected".
        valid_PM: v_pm, (P, M) bool; None counts all.

    Returns:
        L_p, (P,), float32 at least.

    Raises:
        InputError: another correction.

    References:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
        2019; Khrylchenko et al., "Correcting the LogQ Correction", RecSys 2025, arXiv:2507.09331.
    """
    margin_PM = _wide(neg_logit_PM) - _wide(pos_logit_P)[:, None]
    pos_log_q_P1, neg_log_q = _wide(pos_log_q_P)[:, None], _wide(neg_log_q)
    if correction == "standard":
        margin_PM = margin_PM - neg_log_q + pos_log_q_P1
    elif correction == "corrected":
        n_P1 = torch.full_like(pos_log_q_P1, neg_logit_PM.shape[1])
        if valid_PM is not None:
            n_P1 = valid_PM.sum(1, keepdim=True).clamp(min=1).to(n_P1.dtype)
        rest_P1 = torch.log(-torch.expm1(pos_log_q_P1))
        margin_PM = margin_PM - neg_log_q + (rest_P1 - n_P1.log())
    elif correction != "none":
        raise InputError(
            f"sampled_softmax.correction must be none, standard or corrected, got {correction!r}"
        )
    if valid_PM is not None:
        margin_PM = margin_PM.masked_fill(~valid_PM, -torch.inf)
    return log1p_sum_exp(margin_PM)


def log1p_sum_exp(margin_PM: Tensor) -> Tensor:
    """log(1 + sum_m exp(x_pm)), 0 with gradient 0 for a row of -inf. Shape (P,)."""
    top_P1 = margin_PM.detach().amax(1, keepdim=True).clamp_(min=0.0)
    sum_P = (margin_PM - top_P1).exp().sum(1)
    top_P = top_P1.squeeze(1)
    return top_P + torch.log1p(sum_P + torch.expm1(-top_P))


def _weighted_bce(
    pos_logit_P: Tensor, neg_logit_PM: Tensor, pos_weight: float, valid_PM: Tensor | None
) -> Tensor:
    neg_PM = _wide(neg_logit_PM)
    n_P: Tensor | int = neg_PM.shape[1]
    if valid_PM is not None:
        neg_PM = neg_PM.masked_fill(~valid_PM, -torch.inf)
        n_P = valid_PM.sum(1)
    total_P = pos_weight * logsigmoid(_wide(pos_logit_P)) + logsigmoid(-neg_PM).sum(1)
    return -total_P / (1 + n_P)


def _wide(x: Tensor) -> Tensor:
    """At least float32: sums of exponentials in half precision lose their last digits."""
    return x if x.dtype == torch.float64 else x.float()
