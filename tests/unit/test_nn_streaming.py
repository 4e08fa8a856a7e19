"""Frequencies learned from a stream of batches."""

import pytest
import torch
from torch import Generator, Tensor

from vitrina.errors import ConfigError
from vitrina.nn.proposals import Proposal
from vitrina.nn.streaming import StreamingFrequency

N_ITEMS, BATCH = 500, 32
Q = 1 / torch.arange(1, N_ITEMS + 1, dtype=torch.float64)
Q /= Q.sum()


pytestmark = pytest.mark.usefixtures("one_thread")


def stream(n_steps: int, seed: int = 0) -> Tensor:
    draws = torch.multinomial(Q, n_steps * BATCH, replacement=True, generator=Generator().manual_seed(seed))
    return draws.view(n_steps, BATCH)


def after(n_steps: int, **params: float) -> StreamingFrequency:
    seen = StreamingFrequency(N_ITEMS, **{"n_buckets": 100_000, **params})  # type: ignore[arg-type]
    for batch in stream(n_steps):
        seen.update(batch)
    return seen


def test_estimates_are_the_probability_of_a_draw_within_their_standard_deviation() -> None:
    """Gaps between batches with the item are geometric, with variance (1 - p) / p^2."""
    seen = after(1500, rate=0.04)
    items = torch.arange(60)
    p = 1 - (1 - Q[items]) ** BATCH
    n_hits = 1500 * p
    std = (0.04 / 1.96 * (1 - p)).sqrt() + (1 - 0.04) ** n_hits * (100 * p - 1).abs()
    error = seen.p_in_batch(items).double() * (1 / p) - 1
    assert (error.abs() < 4.5 * std + 0.01).all()
    assert error[:30].abs().mean() < 1.5 * std[:30].mean() < 0.25
    log_error = seen.log_q(items[:30]).double() - Q[items[:30]].log()
    assert log_error.abs().mean() < 0.2


def test_without_conversion_the_probability_would_be_that_of_a_batch() -> None:
    seen, item = after(500, rate=0.02), torch.tensor([0])
    assert seen.p_in_batch(item).item() > 0.9
    assert seen.log_q(item).exp().item() == pytest.approx(Q[0].item(), rel=0.3)


def test_update_agrees_with_a_slow_twin() -> None:
    seen = after(50, rate=0.1, first_gap=7.0, n_hashes=1)
    last, gap = dict.fromkeys(range(N_ITEMS), 0), dict.fromkeys(range(N_ITEMS), 7.0)
    for step, batch in enumerate(stream(50).tolist(), start=1):
        for item in set(batch):
            gap[item] = 0.9 * gap[item] + 0.1 * (step - last[item])
            last[item] = step
    expected = [1 / max(1.0, gap[item]) for item in range(N_ITEMS)]
    found = seen.p_in_batch(torch.arange(N_ITEMS)).tolist()
    close = [one == pytest.approx(other, rel=1e-4) for one, other in zip(found, expected, strict=True)]
    assert sum(close) > 0.98 * N_ITEMS  # up to items that share a bucket of 100,000


def test_more_hash_functions_help_where_buckets_are_few() -> None:
    """Shared buckets have gaps that are too short, so frequencies that are too high."""
    items = torch.arange(50, 200)
    excess = {}
    for m in (1, 3):
        seen = after(600, n_buckets=400, n_hashes=m, rate=0.1, first_gap=50.0)
        excess[m] = (seen.log_q(items).double() - Q[items].log()).median().item()
    assert excess[1] > excess[3] > 0


def test_it_follows_a_drift() -> None:
    seen = after(500, rate=0.05)
    rare = torch.tensor([400])
    before = seen.log_q(rare).item()
    for batch in stream(100, seed=1):
        seen.draw(torch.cat([batch[1:], rare]), Generator())
    assert seen.log_q(rare).item() > before + 3


def test_it_is_a_proposal_and_resumes_exactly() -> None:
    seen: Proposal = after(20)
    assert isinstance(seen, StreamingFrequency)
    other = StreamingFrequency(N_ITEMS, 100_000)
    other.load_state_dict(seen.state_dict())
    batch = stream(1, seed=5)[0]
    one, two = seen.draw(batch, Generator()), other.draw(batch, Generator())
    assert torch.equal(one.log_q, two.log_q)
    assert torch.equal(one.item_ix, batch)
    assert one.log_q.isfinite().all()


def test_parameters_without_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 0, 10, 2 and 100"):
        StreamingFrequency(5, 10, rate=0)
