"""Losses against their definitions, the full softmax, and each other."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vitrina.errors import InputError
from vitrina.nn.full_softmax import _Rows
from vitrina.nn.losses import Correction, bce, full_softmax, full_softmax_mean, gbce, sampled_softmax
from vitrina.nn.shapes import REST

CORRECTIONS: tuple[Correction, ...] = ("none", "standard", "corrected")


@pytest.fixture(autouse=True)
def seeded(one_thread: None) -> None:
    torch.manual_seed(0)


def logits(n: int = 50, m: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    pos, neg = 3 * torch.randn(n, dtype=dtype), 3 * torch.randn(n, m, dtype=dtype)
    return pos.requires_grad_(), neg.requires_grad_()


def grads(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


# --- binary losses


def test_bce_is_the_mean_binary_cross_entropy_of_a_position() -> None:
    pos, neg = logits()
    all_logits = torch.cat([pos[:, None], neg], 1)
    labels = torch.zeros_like(all_logits)
    labels[:, 0] = 1
    plain = F.binary_cross_entropy_with_logits(all_logits, labels, reduction="none").mean(1)
    torch.testing.assert_close(bce(pos, neg), plain, rtol=1e-12, atol=1e-14)


def gbce_by_powers(pos: Tensor, neg: Tensor, n_items: int, t: float) -> Tensor:
    """The definition, letter by letter: sigma to the power beta, in float64."""
    m = neg.shape[1]
    a = m / (n_items - 1)
    beta = a * (t * (1 - 1 / a) + 1 / a)
    terms = torch.log(torch.sigmoid(pos) ** beta) + torch.log(1 - torch.sigmoid(neg)).sum(1)
    return -terms / (m + 1)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce_is_its_definition_and_float32_is_enough(t: float) -> None:
    pos, neg = logits(200)
    truth = gbce_by_powers(pos, neg, 1000, t)
    torch.testing.assert_close(gbce(pos, neg, n_items=1000, t=t), truth, rtol=1e-9, atol=0)
    single = gbce(pos.float(), neg.float(), n_items=1000, t=t)
    torch.testing.assert_close(single.double(), truth, rtol=1e-6, atol=0)


def test_gbce_is_finite_in_float32_where_the_power_is_not() -> None:
    """sigma(40)^beta is 1 and sigma(-200) is 0 in float32; the loss is neither 0 nor infinite."""
    pos = torch.tensor([40.0, -200.0], requires_grad=True)
    loss = gbce(pos, torch.full((2, 1), -100.0), n_items=101, t=0.75)
    beta = 0.75 * (0.01 - 1) + 1
    expected = [beta * 4.248354e-18 / 2, beta * 200 / 2]  # log1p(exp(-40)) = 4.248354e-18
    assert loss.tolist() == pytest.approx(expected, rel=1e-6)
    assert grads(loss.sum(), pos)[0].isfinite().all()


def test_gbce_without_calibration_is_bce_and_with_all_of_it_beta_is_the_share_drawn() -> None:
    pos, neg = logits()
    assert torch.equal(gbce(pos, neg, n_items=1000, t=0.0), bce(pos, neg))
    only_pos = torch.full_like(neg, -torch.inf)
    assert torch.allclose(gbce(pos, only_pos, n_items=71, t=1.0), 7 / 70 * bce(pos, only_pos), rtol=1e-12)


@pytest.mark.parametrize(("t", "minimum"), [(1.0, 0.01), (0.0, 0.01 / (0.01 + 0.99 * 0.1))])
def test_with_all_of_the_calibration_the_loss_is_least_at_the_true_probability(
    t: float, minimum: float
) -> None:
    """An item is next with probability .01; else it is the negative of one draw in ten (M = 10 of 100)."""
    f = torch.tensor([minimum], dtype=torch.float64).logit().requires_grad_()
    nowhere = torch.full((1, 10), -torch.inf, dtype=torch.float64)
    as_positive = gbce(f, nowhere, n_items=101, t=t)
    as_negative = gbce(-nowhere[:, 0], torch.cat([f[:, None], nowhere[:, 1:]], 1), n_items=101, t=t)
    slopes = [grads(loss.sum(), f)[0].item() for loss in (as_positive, as_negative)]
    assert slopes[1] > 1e-5
    assert 0.01 * slopes[0] + 0.99 * 0.1 * slopes[1] == pytest.approx(0, abs=1e-15)


def test_gbce_refuses_what_has_no_meaning() -> None:
    pos, neg = logits()
    with pytest.raises(InputError, match=r"t=1\.5"):
        gbce(pos, neg, n_items=1000, t=1.5)
    with pytest.raises(InputError, match="n_items=1"):
        gbce(pos, neg, n_items=1, t=0.5)


# --- masks


def loss_of(name: str, pos: Tensor, neg: Tensor, valid: Tensor | None) -> Tensor:
    if name == "bce":
        return bce(pos, neg, valid)
    if name == "gbce":
        return gbce(pos, neg, n_items=1000, t=0.75, valid_PM=valid)
    log_q = torch.linspace(-6, -2, neg.shape[1])
    pos_log_q = torch.full(pos.shape, -3.0)
    return sampled_softmax(
        pos,
        neg,
        pos_log_q_P=pos_log_q,
        neg_log_q=log_q,
        correction=name,
        valid_PM=valid,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", ["bce", "gbce", *CORRECTIONS])
def test_a_masked_negative_is_as_if_it_had_not_been_drawn(name: str) -> None:
    pos, neg = logits()
    valid = torch.ones(neg.shape, dtype=torch.bool)
    valid[:, [2, 5]] = False
    kept = valid[0]
    loss = loss_of(name, pos, neg, valid)
    if name in ("bce", "gbce"):
        n_drawn = {"bce": 1000, "gbce": 1 + round(999 * 5 / 7)}[name]  # beta counts what was drawn
        short = gbce(pos, neg[:, kept], n_items=n_drawn, t=0.75 if name == "gbce" else 0.0)
        torch.testing.assert_close(loss, short, rtol=2e-3 if name == "gbce" else 1e-12, atol=0)
    else:
        log_q = torch.linspace(-6, -2, 7)[kept]
        short = sampled_softmax(
            pos,
            neg[:, kept],
            pos_log_q_P=torch.full(pos.shape, -3.0),
            neg_log_q=log_q,
            correction=name,  # type: ignore[arg-type]
        )
        torch.testing.assert_close(loss, short, rtol=1e-6, atol=0)
    grad_neg = grads(loss.sum(), neg)[0]
    assert (grad_neg[:, ~kept] == 0).all()
    assert (grad_neg[:, kept] != 0).all()


@pytest.mark.parametrize("name", ["bce", "gbce", *CORRECTIONS])
@pytest.mark.parametrize("junk", [-torch.inf, 1e30])
def test_all_negatives_colliding_is_finite_whatever_they_hold(name: str, junk: float) -> None:
    pos = torch.tensor([2.0, -3.0], requires_grad=True)
    neg = torch.full((2, 4), junk, requires_grad=True)
    loss = loss_of(name, pos, neg, torch.zeros(2, 4, dtype=torch.bool))
    grad_pos, grad_neg = grads(loss.sum(), pos, neg)
    assert (grad_neg == 0).all()
    if name in ("bce", "gbce"):
        beta = 1.0 if name == "bce" else 0.75 * (4 / 999 - 1) + 1
        torch.testing.assert_close(loss, beta * F.softplus(-pos))
    else:
        assert (loss == 0).all()
        assert (grad_pos == 0).all()


def test_a_positive_that_fills_the_proposal_or_is_never_drawn_does_no_harm() -> None:
    pos, neg = logits(2, 3)
    args = {"neg_log_q": torch.full((3,), -2.0)}
    loss = sampled_softmax(
        pos,
        neg,
        pos_log_q_P=torch.tensor([-torch.inf, -1.0]),
        correction="standard",
        **args,  # type: ignore[arg-type]
    )
    assert loss[0] == 0
    assert loss[1] > 0
    assert all(g.isfinite().all() for g in grads(loss.sum(), pos, neg))
    loss = sampled_softmax(
        pos,
        neg,
        pos_log_q_P=torch.tensor([0.0, -torch.inf]),
        correction="corrected",
        **args,  # type: ignore[arg-type]
    )
    assert loss[0] == 0
    assert loss[1] > 0
    assert all(g.isfinite().all() for g in grads(loss.sum(), pos, neg))


def test_another_correction_is_refused() -> None:
    pos, neg = logits(2, 3)
    with pytest.raises(InputError, match="got 'half'"):
        sampled_softmax(pos, neg, pos_log_q_P=pos, neg_log_q=neg, correction="half")  # type: ignore[arg-type]


# --- the corrected softmax is the full one


def population(n_items: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits f (P, I), positives, and a draw in which item d occurs exactly N Q(d) times."""
    times = torch.randint(1, 6, (n_items,))
    drawn = torch.repeat_interleave(torch.arange(n_items), times)
    f = torch.randn(n_items, n_items, dtype=torch.float64) + 3 * torch.eye(n_items)
    return f.requires_grad_(), torch.arange(n_items), drawn, (times.double() / len(drawn)).log()


def on_population(correction: Correction, *, forget_n: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    f, positive, drawn, log_q = population()
    valid = drawn != positive[:, None]
    neg_log_q = log_q[drawn] - (valid.sum(1, keepdim=True).double().log() if forget_n else 0)
    loss = sampled_softmax(
        f[positive, positive],
        f[:, drawn],
        pos_log_q_P=log_q[positive],
        neg_log_q=neg_log_q,
        correction=correction,
        valid_PM=valid,
    )
    full = F.cross_entropy(f, positive, reduction="none")
    return [loss, *grads(loss.sum(), f)], [full, *grads(full.sum(), f)]


def test_drawn_in_their_exact_proportions_the_corrected_loss_is_the_full_softmax() -> None:
    """sum over n draws of e^f / (n Q') = sum over d of (n Q'(d)) e^f_d / (n Q'(d)): loss and gradient."""
    ours, full = on_population("corrected")
    for one, other in zip(ours, full, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_with_own_items_masked_it_is_the_full_softmax_without_them() -> None:
    """`pos_log_q_P` then holds the probability of all that is masked."""
    f, positive, drawn, log_q = population()
    allowed = torch.rand(f.shape) < 0.6
    allowed[:, :3] = True
    allowed[positive, positive] = True
    valid = allowed[:, drawn] & (drawn != positive[:, None])
    others = allowed.scatter(1, positive[:, None], value=False)
    masked_q = 1 - (log_q.exp() * others).sum(1)
    loss = sampled_softmax(
        f[positive, positive],
        f[:, drawn],
        pos_log_q_P=masked_q.log(),
        neg_log_q=log_q[drawn],
        correction="corrected",
        valid_PM=valid,
    )
    full = F.cross_entropy(f.masked_fill(~allowed, -torch.inf), positive, reduction="none")
    torch.testing.assert_close(loss, full, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("correction", ["none", "standard"])
def test_the_other_corrections_are_not(correction: Correction) -> None:
    ours, full = on_population(correction)
    assert (ours[1] - full[1]).norm() > 0.2 * full[1].norm()


def test_forgetting_the_number_of_negatives_is_noticed() -> None:
    ours, full = on_population("corrected", forget_n=True)
    assert (ours[1] - full[1]).norm() > 0.2 * full[1].norm()


def test_the_gradient_is_that_of_the_weighted_form() -> None:
    """-sg(1 - P_p) log( e^f_p / sum e^(f - log Q') ), P_p from the same draws: RecSys 2025."""
    pos, neg = logits(40, 9)
    log_q = torch.randn(9, dtype=torch.float64) - 4
    pos_log_q = -1 - 3 * torch.rand(40, dtype=torch.float64)
    rest = torch.log1p(-pos_log_q.exp())
    weighed = neg - log_q + rest[:, None]
    estimate = weighed.exp().mean(1)
    p = (pos.exp() / (pos.exp() + estimate)).detach()
    form = -(1 - p) * (pos - weighed.logsumexp(1))
    loss = sampled_softmax(pos, neg, pos_log_q_P=pos_log_q, neg_log_q=log_q, correction="corrected")
    for one, other in zip(grads(loss.sum(), pos, neg), grads(form.sum(), pos, neg), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_probabilities_of_a_draw_may_differ_by_position() -> None:
    pos, neg = logits()
    log_q = torch.randn(7, dtype=torch.float64)
    for correction in CORRECTIONS:
        args = {"pos_log_q_P": torch.full_like(pos, -2.0), "correction": correction}
        shared = sampled_softmax(pos, neg, neg_log_q=log_q, **args)  # type: ignore[arg-type]
        each = sampled_softmax(pos, neg, neg_log_q=log_q.expand(50, 7), **args)  # type: ignore[arg-type]
        assert torch.equal(shared, each)


def test_half_precision_logits_are_summed_in_float32() -> None:
    pos, neg = logits(8, 4000)
    loss = loss_of("corrected", pos.bfloat16(), neg.bfloat16(), None)
    assert loss.dtype == torch.float32
    exact = loss_of("corrected", pos.bfloat16().double(), neg.bfloat16().double(), None)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


# --- the full softmax in chunks


def catalogue(n: int = 23, n_items: int = 41, dim: int = 6) -> list[Tensor]:
    sizes = [(n, dim), (n_items, dim), (n_items,)]
    return [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("chunk", [1, 7, 23, None])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunks_give_the_loss_and_the_gradients_of_the_plain_form(chunk: int | None, with_bias: bool) -> None:
    h, E, bias = catalogue()
    b = bias if with_bias else None
    tau = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    target, w = torch.randint(41, (23,)), torch.rand(23, dtype=torch.float64)
    leaves = [h, E, tau, *([bias] if with_bias else [])]
    plain = F.cross_entropy(h / tau @ E.T + (bias if with_bias else 0), target, reduction="none")
    args = {"bias_I": b, "temperature": tau, "chunk_positions": chunk}
    each = full_softmax(h, E, target, **args)  # type: ignore[arg-type]
    torch.testing.assert_close(each, plain, rtol=1e-12, atol=1e-13)
    mean = full_softmax_mean(h, E, target, **args)  # type: ignore[arg-type]
    torch.testing.assert_close(mean, plain.mean(), rtol=1e-12, atol=1e-13)
    wanted = torch.autograd.grad((w * plain).sum(), leaves, retain_graph=True)
    for one, other in zip(grads((w * each).sum(), *leaves), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    for one, other in zip(grads(5 * mean, *leaves), grads(5 * plain.mean(), *leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 63, 64, 100, 300])
def test_chunks_hold_every_position_once_and_have_few_sizes(chunk: int) -> None:
    sizes = set()
    for n in range(1, 700):
        h, target = torch.zeros(n, 1), torch.zeros(n, dtype=torch.long)
        parts = _Rows.of(h, torch.zeros(2, 1), None, None, None, None, target, chunk=min(chunk, n)).chunks()
        assert [at.start for at in parts] == [0, *(at.stop for at in parts[:-1])]
        assert parts[-1].stop == n
        assert all(0 < at.stop - at.start <= chunk for at in parts)
        sizes |= {at.stop - at.start for at in parts if n >= chunk}
    assert len(sizes) <= 1 + chunk // REST + REST


def test_a_confident_model_keeps_its_small_loss_in_float32() -> None:
    """-log(1 - q) with q = 1e-9: 1 - q is 1 in float32."""
    h, E = torch.tensor([[20.72326584]], requires_grad=True), torch.tensor([[1.0], [0.0]])
    loss = full_softmax_mean(h, E, torch.tensor([0]))
    assert loss.item() == pytest.approx(1e-9, rel=1e-5)
    assert grads(loss, h)[0].item() == pytest.approx(-1e-9, rel=1e-5)


def test_a_hopeless_target_has_a_finite_loss() -> None:
    """Its probability, exp(-600), is 0 in float32."""
    h, E = torch.tensor([[300.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([1, 0])
    h.requires_grad_()
    for loss in (full_softmax(h, E, target).mean(), full_softmax_mean(h, E, target)):
        plain = F.cross_entropy(h @ E.T, target)
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(grads(loss, h), grads(plain, h))


def test_bfloat16_is_as_close_as_plain_autocast() -> None:
    h, E, b = (x.detach().float().requires_grad_() for x in catalogue(300, 500, 32))
    target = torch.randint(500, (300,))
    with torch.no_grad():
        target[:150] = (h @ E.T + b)[:150].argmax(1)  # half of the positions are confident
    exact = F.cross_entropy(h.double() @ E.double().T + b.double(), target)
    wanted = grads(exact, h, E, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = F.cross_entropy(F.linear(h, E, b.bfloat16()), target)
        forms = [full_softmax(h, E, target, bias_I=b).mean(), full_softmax_mean(h, E, target, bias_I=b)]
    plain_error = [(a - c).norm() / c.norm() for a, c in zip(grads(plain, h, E, b), wanted, strict=True)]
    for loss in forms:
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
        for got, right, error in zip(grads(loss, h, E, b), wanted, plain_error, strict=True):
            assert got.dtype == torch.float32
            assert 1e-4 < (got - right).norm() / right.norm() < 1.2 * error  # products did run in bfloat16


def test_no_gradient_is_made_where_none_is_asked() -> None:
    h, E, _ = (x.detach() for x in catalogue())
    target = torch.randint(41, (23,))
    assert not full_softmax_mean(h, E, target).requires_grad
    E.requires_grad_()
    assert grads(full_softmax_mean(h, E, target), E)[0].abs().sum() > 0


def test_no_positions_and_a_catalogue_of_one_item() -> None:
    h, E, _ = catalogue(0, 5)
    loss = full_softmax_mean(h, E, torch.empty(0, dtype=torch.int64))
    assert loss == 0
    assert (grads(loss, E)[0] == 0).all()
    assert full_softmax(h, E, torch.empty(0, dtype=torch.int64)).shape == (0,)
    h, E, _ = catalogue(3, 1)
    loss = full_softmax_mean(h, E, torch.zeros(3, dtype=torch.int64))
    assert loss == 0
    assert (grads(loss, E)[0] == 0).all()


def test_a_nan_reaches_the_loss() -> None:
    h, E, _ = catalogue()
    with torch.no_grad():
        h[3, 2] = torch.nan
    assert full_softmax_mean(h, E, torch.zeros(23, dtype=torch.int64)).isnan()


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    h, E, b = catalogue()
    target = torch.zeros(23, dtype=torch.int64)
    with pytest.raises(InputError, match=r"\(41, 5\)"):
        full_softmax(h, E[:, :5], target)
    with pytest.raises(InputError, match=r"\(22,\)"):
        full_softmax_mean(h, E, target[:22])
    with pytest.raises(InputError, match="each of 41 items"):
        full_softmax(h, E, target, bias_I=b[:3])
