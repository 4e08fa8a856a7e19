"""How far the expected gradient of a sampled softmax is from the full one, by Monte Carlo.

The setting: 2000 items, Q(i) proportional to 1 / i, 256 in-batch negatives, one positive. The states are
those of the table in docs/losses.md; run this file as a script to print it.
"""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vitrina.nn.losses import Correction, sampled_softmax
from vitrina.nn.proposals import Negatives, Unigram, collisions

N_ITEMS, N_NEGATIVES = 2000, 256
LOG_Q = torch.log(1 / torch.arange(1, N_ITEMS + 1, dtype=torch.float64))
LOG_Q = LOG_Q - LOG_Q.logsumexp(0)


class State(NamedTuple):
    popularity: float
    """Share of log Q in the logits."""
    spread: float
    """Standard deviation of the rest."""
    positive: int
    p_positive: float | None
    """Its probability under the full softmax; None leaves its logit as it is."""


STATES = {
    "start, tail positive": State(0.0, 0.1, 1500, None),
    "middle, P = .12, head positive": State(0.5, 1.0, 0, 0.12),
    "late, P = .98, head positive": State(0.5, 1.0, 0, 0.98),
    "late, P = .16, tail positive": State(0.5, 1.0, 1500, 0.16),
    "the same, logits unlike popularity": State(0.0, 2.0, 1500, 0.16),
}
FORMS: dict[str, tuple[Correction, bool]] = {
    "none": ("none", False),
    "standard": ("standard", False),
    "no log n": ("corrected", True),
    "corrected": ("corrected", False),
}


def logits_of(state: State) -> Tensor:
    torch.manual_seed(0)
    f = state.popularity * LOG_Q + state.spread * torch.randn(N_ITEMS, dtype=torch.float64)
    if state.p_positive is not None:
        others = torch.cat([f[: state.positive], f[state.positive + 1 :]]).logsumexp(0)
        f[state.positive] = others + math.log(state.p_positive / (1 - state.p_positive))
    return f


def full_gradient(f: Tensor, positive: int) -> Tensor:
    g = f.softmax(0)
    g[positive] -= 1
    return g


def sampled_gradient(f: Tensor, positive: int, form: str, n: int, repeats: int) -> tuple[Tensor, float]:
    """Mean gradient over draws, (I,), and the expected squared norm of its Monte Carlo error."""
    correction, forget_n = FORMS[form]
    proposal = Unigram(LOG_Q.exp(), n, shared=False)
    positive_R = torch.full((repeats,), positive)
    drawn = proposal.draw(positive_R, torch.Generator().manual_seed(1))
    log_q = LOG_Q[drawn.item_ix]
    valid = collisions(Negatives(drawn.item_ix, log_q), positive_R)
    if forget_n:
        log_q = log_q - valid.sum(1, keepdim=True).double().log()
    pos, neg = f[positive_R].requires_grad_(), f[drawn.item_ix].requires_grad_()
    loss = sampled_softmax(
        pos, neg, pos_log_q_P=LOG_Q[positive_R], neg_log_q=log_q, correction=correction, valid_PM=valid
    )
    grad_pos, grad_neg = torch.autograd.grad(loss.sum(), (pos, neg))
    mean = torch.zeros_like(f).index_add_(0, drawn.item_ix.flatten(), grad_neg.flatten() / repeats)
    mean[positive] += grad_pos.mean()
    # the squared norm of one draw's gradient, in which repeated items add up first
    ids, order = drawn.item_ix.sort(1)
    total = grad_neg.gather(1, order)
    last = torch.ones_like(ids, dtype=torch.bool)
    last[:, :-1] = ids[:, 1:] != ids[:, :-1]
    runs = total.flatten().cumsum(0)[last.flatten()]
    runs = torch.cat([runs[:1], runs.diff()])
    second_moment = (runs.square().sum() + grad_pos.square().sum()) / repeats
    return mean, float(second_moment - mean.square().sum()) / repeats


def relative_error(state: State, form: str, n: int = N_NEGATIVES, repeats: int = 800) -> tuple[float, float]:
    """Relative L2 bias of the expected gradient, the Monte Carlo error taken off, and the size of that."""
    f = logits_of(state)
    full = full_gradient(f, state.positive)
    mean, noise = sampled_gradient(f, state.positive, form, n, repeats)
    square = float((mean - full).square().sum()) - noise
    norm = float(full.norm())
    return math.sqrt(max(square, 0.0)) / norm, math.sqrt(noise) / norm


def predicted_error(state: State, form: str) -> float:
    """With sums over draws at their expectation, a form only gets the odds of the positive wrong.

    The full gradient is (1 - P) u, u the direction from the positive to the rest. "standard" has odds / (n
    Q(p)) in place of the odds P / (1 - P); without log n it is odds / (n (1 - Q(p))).
    """
    f, q = logits_of(state), float(LOG_Q[state.positive].exp())
    p = float(f.softmax(0)[state.positive])
    odds = p / (1 - p) / (N_NEGATIVES * (q if form == "standard" else 1 - q))
    return abs(1 / (1 + odds) / (1 - p) - 1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", list(STATES)[:4])
def test_the_corrected_gradient_is_the_full_one_in_expectation(name: str) -> None:
    error, noise = relative_error(STATES[name], "corrected")
    assert noise < 0.01
    assert error < 0.003 + 3 * noise


@pytest.mark.parametrize("name", list(STATES)[:4])
@pytest.mark.parametrize("form", ["standard", "no log n"])
def test_the_bias_of_the_other_forms_is_the_one_derived(name: str, form: str) -> None:
    error, noise = relative_error(STATES[name], form)
    assert error == pytest.approx(predicted_error(STATES[name], form), rel=0.02, abs=0.003 + 3 * noise)


def test_the_standard_bias_is_small_at_first_and_grows_with_confidence() -> None:
    start, middle, head, tail = (relative_error(state, "standard")[0] for state in list(STATES.values())[:4])
    assert start < 0.04
    assert 0.1 < middle < 0.2
    assert 12 < head < 25
    assert 0.7 < tail < 1.0


def test_without_correction_the_gradient_is_off_from_the_start() -> None:
    errors = [relative_error(state, "none")[0] for state in STATES.values()]
    assert min(errors) > 0.1


def test_the_sampled_loss_and_gradient_approach_the_full_ones_as_n_grows() -> None:
    """The loss is the log of an unbiased mean, the gradient a ratio of two: both are biased by O(1 / n)."""
    state = State(0.0, 1.0, 1500, 0.16)
    errors = [relative_error(state, "corrected", n, 200_000 // n) for n in (8, 64, 512)]
    assert all(noise < 0.02 for _, noise in errors)
    assert errors[0][0] > 4 * errors[1][0] > 8 * errors[2][0]
    assert errors[2][0] < 0.02
    f = logits_of(state)
    full = float(f.logsumexp(0) - f[state.positive])
    gaps = []
    for n in (8, 64, 512):
        positive_R = torch.full((200_000 // n,), state.positive)
        drawn = Unigram(LOG_Q.exp(), n, shared=False).draw(positive_R, torch.Generator().manual_seed(2))
        loss_R = sampled_softmax(
            f[positive_R],
            f[drawn.item_ix],
            pos_log_q_P=LOG_Q[positive_R],
            neg_log_q=LOG_Q[drawn.item_ix],
            correction="corrected",
            valid_PM=collisions(drawn, positive_R),
        )
        gaps.append(float(loss_R.mean()) - full)
        assert loss_R.std() / len(loss_R) ** 0.5 < 0.02
    assert gaps[0] < 3 * gaps[1] < 0  # Jensen: the expected log lies below the log of the expectation
    assert abs(gaps[2]) < 0.02


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| state | " + " | ".join(FORMS) + " |")
    for name, state in STATES.items():
        errors = [relative_error(state, form, repeats=20_000) for form in FORMS]
        print(f"| {name} | " + " | ".join(f"{error:.3f} ± {noise:.3f}" for error, noise in errors) + " |")
