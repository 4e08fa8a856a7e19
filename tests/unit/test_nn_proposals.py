"""Proposals draw what they say they draw, and what is no negative is masked."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from vitrina.errors import ConfigError, InputError
from vitrina.log import Frequencies
from vitrina.nn.proposals import (
    CrossBatchMemory,
    InBatch,
    Mixed,
    Negatives,
    Proposal,
    Temperature,
    Uniform,
    Unigram,
    collisions,
)

COUNTS = np.array([400, 0, 90, 1, 30, 0, 250, 29, 100, 100])
Q = torch.from_numpy(COUNTS / COUNTS.sum())


pytestmark = pytest.mark.usefixtures("one_thread")


def batch(n: int, seed: int) -> Tensor:
    """Positives as they occur in training."""
    return torch.multinomial(Q, n, replacement=True, generator=Generator().manual_seed(seed))


PROPOSALS: dict[str, Proposal] = {
    "uniform": Uniform(10, 200),
    "uniform, each": Uniform(10, 5, shared=False),
    "unigram": Unigram(COUNTS, 200),
    "unigram, each": Unigram(COUNTS, 5, shared=False),
    "unigram, power .5": Unigram(COUNTS, 200, power=0.5),
    "unigram, power 0": Unigram(COUNTS, 200, power=0.0),
    "in batch": InBatch(COUNTS),
    "in batch, some": InBatch(COUNTS, 20),
    "mixed": Mixed(COUNTS, n_uniform=60),
    "mixed, some": Mixed(COUNTS, n_uniform=60, n_in_batch=25),
}


@pytest.mark.parametrize("name", list(PROPOSALS))
def test_items_are_drawn_as_often_as_log_q_says(name: str) -> None:
    proposal = PROPOSALS[name]
    generator, seen, n_draws = Generator().manual_seed(3), torch.zeros(10), 0
    for step in range(150):
        drawn = proposal.draw(batch(40, step), generator)
        assert drawn.log_q.shape == drawn.item_ix.shape
        assert torch.equal(drawn.log_q, proposal.log_q(drawn.item_ix))
        seen += torch.bincount(drawn.item_ix.flatten(), minlength=10)
        n_draws += drawn.item_ix.numel()
    q = proposal.log_q(torch.arange(10)).double().exp()
    if name in ("in batch", "in batch, some"):
        assert proposal.log_q(torch.tensor([1])).exp().item() == pytest.approx(1 / COUNTS.sum())
        q[torch.from_numpy(COUNTS == 0)] = 0
    assert q.sum() == pytest.approx(1, abs=1e-6)
    possible = q > 0
    assert (seen[~possible] == 0).all()
    expected = (q / q.sum() * n_draws)[possible].numpy()
    assert stats.chisquare(seen[possible].numpy(), expected).pvalue > 1e-3


def test_log_q_of_known_numbers() -> None:
    assert Uniform(8, 3).log_q(torch.tensor([5])).item() == pytest.approx(-np.log(8))
    assert Unigram(COUNTS, 3).log_q(torch.tensor([0, 1])).tolist() == pytest.approx([np.log(0.4), -np.inf])
    roots = np.sqrt(COUNTS)
    halved = Unigram(COUNTS, 3, power=0.5).log_q(torch.tensor([6]))
    assert halved.item() == pytest.approx(np.log(roots[6] / roots.sum()))
    mixed = Mixed(COUNTS, n_uniform=30, n_in_batch=10)
    expected = [np.log((10 * 0.4 + 30 / 10) / 40), np.log(30 / 10 / 40)]
    assert mixed.log_q(torch.tensor([0, 1])).tolist() == pytest.approx(expected)


def test_mixed_weighs_the_parts_by_the_batch_it_was_given() -> None:
    mixed = Mixed(COUNTS, n_uniform=30)
    with pytest.raises(InputError, match="call draw first"):
        mixed.log_q(torch.tensor([0]))
    for n in (10, 90):
        drawn = mixed.draw(batch(n, 0), Generator())
        assert len(drawn.item_ix) == n + 30
        assert mixed.log_q(torch.tensor([1])).exp().item() == pytest.approx(30 / 10 / (n + 30))


def test_in_batch_negatives_are_the_positives_or_some_of_them_once_each() -> None:
    positives = torch.arange(10).repeat_interleave(torch.tensor([3, 0, 1, 0, 2, 0, 4, 0, 1, 1]))
    assert torch.equal(InBatch(COUNTS).draw(positives, Generator()).item_ix, positives)
    assert torch.equal(InBatch(COUNTS, 50).draw(positives, Generator()).item_ix, positives)
    some = InBatch(COUNTS, 7).draw(positives, Generator().manual_seed(0)).item_ix
    assert len(some) == 7
    assert (torch.bincount(some, minlength=10) <= torch.bincount(positives, minlength=10)).all()


@pytest.mark.parametrize("name", list(PROPOSALS))
def test_the_generator_decides(name: str) -> None:
    proposal, positives = PROPOSALS[name], batch(40, 0)
    torch.manual_seed(0)
    first = proposal.draw(positives, Generator().manual_seed(5)).item_ix
    torch.manual_seed(1)
    again = proposal.draw(positives, Generator().manual_seed(5)).item_ix
    assert torch.equal(first, again)
    if name != "in batch":
        assert not torch.equal(first, proposal.draw(positives, Generator().manual_seed(6)).item_ix)


def test_shapes_are_shared_or_a_row_for_each_position() -> None:
    positives = batch(6, 0)
    for kind in (
        lambda shared: Uniform(10, 4, shared=shared),
        lambda shared: Unigram(COUNTS, 4, shared=shared),
    ):
        assert kind(True).draw(positives, Generator()).item_ix.shape == (4,)
        rows = kind(False).draw(positives, Generator()).item_ix
        assert rows.shape == (6, 4)
        assert rows.dtype == torch.int64


def test_alias_columns_hold_their_probabilities_exactly() -> None:
    counts = np.random.default_rng(0).zipf(1.3, 5000)
    proposal = Unigram(counts, 1)
    p = torch.zeros(5000, dtype=torch.float64).index_add_(0, proposal.alias_I, 1 - proposal.keep_I)
    p = (p + proposal.keep_I) / 5000
    torch.testing.assert_close(p.numpy(), counts / counts.sum(), rtol=1e-9, atol=1e-15)


def test_a_proposal_of_one_item_collides_with_it_everywhere() -> None:
    for proposal in (Uniform(1, 5), Unigram(np.array([7]), 5), InBatch(np.array([7]))):
        positives = torch.zeros(3, dtype=torch.int64)
        drawn = proposal.draw(positives, Generator())
        assert not collisions(drawn, positives).any()


@pytest.mark.parametrize("max_exact", [100, 0])
def test_a_unigram_of_frequencies_draws_as_they_estimate(max_exact: int) -> None:
    """Counted in two parts, exactly or by a sketch of one row of 7 counters, which 10 items share."""
    ids = [f"item {i}" for i in range(10)]
    seen = Frequencies(max_exact=max_exact, eps=0.4, delta=0.5)
    seen.update(ids, COUNTS // 2)
    seen.update(np.repeat(ids, COUNTS - COUNTS // 2).tolist())
    counts = seen.estimate(ids)
    assert (counts >= COUNTS).all()
    assert np.array_equal(counts, COUNTS) == (max_exact > 0)
    proposal = Unigram.of(seen, ids, 20_000, power=0.5)
    q = counts**0.5 / (counts**0.5).sum()
    np.testing.assert_allclose(proposal.log_q(torch.arange(10)).exp(), q, rtol=1e-5)
    drawn = proposal.draw(torch.zeros(1, dtype=torch.int64), Generator().manual_seed(0)).item_ix
    found = np.bincount(drawn, minlength=10)
    assert not found[q == 0].any()
    assert stats.chisquare(found[q > 0], 20_000 * q[q > 0]).pvalue > 1e-4


def test_a_unigram_of_frequencies_that_know_no_item_is_refused() -> None:
    with pytest.raises(InputError, match="not all 0"):
        Unigram.of(Frequencies(), [1, 2], 5)


@pytest.mark.parametrize("kind", [lambda c: Unigram(c, 3), InBatch, lambda c: Mixed(c, n_uniform=2)])
@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1], [[1, 2]]])
def test_counts_that_are_no_distribution_are_refused(kind: object, counts: list[int]) -> None:
    with pytest.raises(InputError, match="one count >= 0 for each item"):
        kind(np.array(counts))  # type: ignore[operator]


def test_drawing_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Uniform\.n must be at least 1, got 0"):
        Uniform(10, 0)
    with pytest.raises(ConfigError, match=r"InBatch\.n"):
        InBatch(COUNTS, 0)
    with pytest.raises(ConfigError, match=r"CrossBatchMemory\.size"):
        CrossBatchMemory(COUNTS, 0)


# --- cross-batch memory


def test_memory_is_first_in_first_out() -> None:
    memory, positives = CrossBatchMemory(COUNTS, 5), torch.tensor([8])
    assert memory.draw(positives, Generator()).item_ix.tolist() == [8]
    memory.push(torch.tensor([0, 2, 4]))
    assert memory.draw(positives, Generator()).item_ix.tolist() == [8, 0, 2, 4]
    memory.push(torch.tensor([6, 7, 9]))
    drawn = memory.draw(positives, Generator())
    assert drawn.item_ix.tolist() == [8, 2, 4, 6, 7, 9]
    torch.testing.assert_close(drawn.log_q.exp(), Q[drawn.item_ix].float())
    memory.push(torch.arange(10))
    assert memory.item_ix_K.tolist() == [5, 6, 7, 8, 9]


def test_memory_keeps_the_vectors_of_its_items_without_their_graph() -> None:
    memory, table = CrossBatchMemory(COUNTS, 4), torch.randn(10, 3, requires_grad=True)
    for items in (torch.tensor([0, 2, 4]), torch.tensor([6, 7])):
        memory.push(items, table[items])
    assert memory.vector_KD is not None
    assert not memory.vector_KD.requires_grad
    assert torch.equal(memory.vector_KD, table[memory.item_ix_K])


def test_memory_stays_empty_while_it_warms_up_and_resumes_exactly() -> None:
    memory = CrossBatchMemory(COUNTS, 4, warmup_steps=2)
    for step in range(3):
        assert len(memory.item_ix_K) == 0
        memory.push(torch.tensor([step]), torch.ones(1, 2))
    assert memory.item_ix_K.tolist() == [2]
    other = CrossBatchMemory(COUNTS, 4, warmup_steps=2)
    other.load_state_dict(memory.state_dict())
    for one in (memory, other):
        one.push(torch.tensor([7]), torch.zeros(1, 2))
    assert other.n_pushes == 4
    assert torch.equal(memory.item_ix_K, other.item_ix_K)
    assert torch.equal(memory.vector_KD, other.vector_KD)  # type: ignore[arg-type]


# --- collisions


def collisions_by_sets(item_ix: Tensor, positives: Tensor, own: list[set[int]] | None) -> Tensor:
    rows = item_ix.expand(len(positives), -1) if item_ix.ndim == 1 else item_ix
    valid = torch.ones(rows.shape, dtype=torch.bool)
    for p, row in enumerate(rows.tolist()):
        for m, item in enumerate(row):
            valid[p, m] = item != int(positives[p]) and not (own and item in own[p])
    return valid


def a_batch(shape: str, n_items: int = 30) -> tuple[Negatives, Tensor, Tensor]:
    """Negatives, positives and padded items of 9 users (-1 and n_items are padding)."""
    g = Generator().manual_seed(11)
    item_ix = torch.randint(n_items, (25,) if shape == "shared" else (40, 25), generator=g)
    own = torch.randint(-1, n_items + 1, (9, 8), generator=g)
    return Negatives(item_ix, torch.zeros(item_ix.shape)), torch.randint(n_items, (40,), generator=g), own


@pytest.mark.parametrize("shape", ["shared", "each"])
def test_negatives_that_equal_the_positive_are_masked(shape: str) -> None:
    negatives, positives, _ = a_batch(shape)
    valid = collisions(negatives, positives)
    assert torch.equal(valid, collisions_by_sets(negatives.item_ix, positives, None))
    assert not valid.all()


@pytest.mark.parametrize("shape", ["shared", "each"])
@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_the_users_own_items_are_masked(shape: str, layout: str) -> None:
    negatives, positives, own = a_batch(shape)
    row_P = torch.randint(9, (40,), generator=Generator().manual_seed(1))
    sets = [set(own[row].tolist()) for row in row_P.tolist()]
    lengths = torch.full((9,), 8)
    if layout == "jagged":
        lengths = torch.tensor([8, 0, 3, 1, 8, 0, 5, 2, 0])
        sets = [set(own[row, : lengths[row]].tolist()) for row in row_P.tolist()]
    offsets = torch.cat([torch.tensor([0]), lengths.cumsum(0)])
    values = torch.cat([row[:n] for row, n in zip(own, lengths, strict=True)])
    given = own if layout == "padded" else (offsets, values)
    valid = collisions(negatives, positives, given, row_P=row_P)
    assert torch.equal(valid, collisions_by_sets(negatives.item_ix, positives, sets))
    assert (valid != collisions(negatives, positives)).any()


def test_own_items_row_for_row() -> None:
    negatives, positives, own = a_batch("shared")
    valid = collisions(negatives, positives[:9], own)
    assert torch.equal(valid, collisions(negatives, positives[:9], own, row_P=torch.arange(9)))
    with pytest.raises(InputError, match="9 rows of own items for 40 positions"):
        collisions(negatives, positives, own)


@pytest.mark.parametrize("shape", ["shared", "each"])
def test_users_without_items_mask_nothing(shape: str) -> None:
    negatives, positives, _ = a_batch(shape)
    for nothing in (
        torch.full((40, 3), -1),
        (torch.zeros(41, dtype=torch.int64), torch.empty(0, dtype=torch.int64)),
    ):
        assert torch.equal(collisions(negatives, positives, nothing), collisions(negatives, positives))


# --- temperature


def test_temperature_is_fixed_or_learned_within_bounds() -> None:
    fixed = Temperature(0.05)
    assert fixed().item() == pytest.approx(0.05)
    assert list(fixed.parameters()) == []
    learned = Temperature(0.02, learned=True, low=0.01, high=100.0)
    optimizer = torch.optim.SGD(learned.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        learned().mul(100).backward()  # wants to fall without end
        optimizer.step()
    assert learned().item() == pytest.approx(0.01)
    optimizer.zero_grad()
    (-learned() * 100).backward()  # and is free to rise again
    optimizer.step()
    assert learned().item() == pytest.approx(0.01 * np.e, rel=1e-5)


def test_a_temperature_out_of_bounds_is_refused() -> None:
    for bad in (0.0, -1.0, 1000.0):
        with pytest.raises(ConfigError, match=r"Temperature\.init"):
            Temperature(bad)
