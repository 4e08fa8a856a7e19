"""Tables of vectors: padding, hashing, content, and the optimiser for large ones."""

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from vitrina.errors import ConfigError, InputError
from vitrina.nn.embeddings import (
    ContentProjection,
    MultiHash,
    UnifiedEmbedding,
    hash_bucket,
    p_collision,
)
from vitrina.nn.encoder import INIT_STD, Encoder
from vitrina.nn.layout import Layout
from vitrina.nn.rowwise import RowwiseAdagrad
from vitrina.nn.tables import Hashed, read_table, start


@pytest.fixture(autouse=True)
def seeded(one_thread: None) -> None:
    torch.manual_seed(0)


# --- plain tables and padding


def train(module: nn.Module, ids: Tensor, optimizer: torch.optim.Optimizer, n_steps: int = 3) -> None:
    for _ in range(n_steps):
        optimizer.zero_grad()
        vectors = module({"a": ids, "b": ids}) if isinstance(module, UnifiedEmbedding) else module(ids)
        (vectors - 1).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(("optimizer", "sparse"), [("adamw", False), ("rowwise", False), ("rowwise", True)])
@pytest.mark.parametrize("kind", ["plain", "hash", "one hashed table", "unified", "content"])
def test_the_vector_of_padding_stays_zero(kind: str, optimizer: str, sparse: bool) -> None:
    module: nn.Module
    match kind:
        case "plain":
            module, padding = read_table(6, 4, n_extra=0), 6
            start(module, INIT_STD)
        case "content":
            module, padding = ContentProjection(torch.randn(6, 3), 4), 6
        case "unified":
            module, padding = UnifiedEmbedding({"a": 1, "b": 3}, 10, 4, sparse=sparse), -1
        case _:
            module, padding = MultiHash(10, 4, shared=kind != "hash", sparse=sparse), -1
    ids = torch.tensor([[padding, 0, 3], [5, padding, padding]])
    before = [x.detach().clone() for x in module.parameters()]
    if optimizer == "adamw":
        train(module, ids, torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.1))
    else:
        train(module, ids, RowwiseAdagrad(module.parameters(), lr=0.1))
    vectors = module({"a": ids, "b": ids}) if isinstance(module, UnifiedEmbedding) else module(ids)
    assert (vectors[ids == padding] == 0).all()
    assert (vectors[ids != padding] != 0).all()
    assert all((one != other).any() for one, other in zip(before, module.parameters(), strict=True))


def encoder(items: int | Hashed, *, tied: bool = True) -> Encoder:
    return Encoder(items, 4, 5, [], dropout=0.0, positions="none", tied=tied, final_norm=False)


@pytest.mark.parametrize("items", [6, Hashed(6, 20)])
def test_tied_tables_are_one_and_separate_ones_two(items: int | Hashed) -> None:
    tied, separate = encoder(items), encoder(items, tied=False)
    assert [len(table) for table in tied.tables()] == ([7] if items == 6 else [21])
    assert [len(table) for table in separate.tables()] == ([7, 6] if items == 6 else [21, 21])
    read, layout = torch.arange(6)[:, None], Layout(torch.ones(6, 1, dtype=torch.bool), torch.zeros(6, 1))
    for one, same in ((tied, True), (separate, False)):
        assert torch.equal(one.item_vectors(), one(read, layout)[:, 0]) == same
        assert torch.equal(one.vectors_of(read[:, 0]), one.item_vectors())


def test_vectors_begin_with_the_norm_that_is_promised() -> None:
    ids = torch.arange(4000)
    for module in (MultiHash(50_000, 64, n_hashes=2), MultiHash(50_000, 64, n_hashes=4, combine="concat")):
        assert module(ids).square().sum(-1).mean().item() == pytest.approx(1, rel=0.05)
    for items in (4000, Hashed(4000, 50_000)):
        assert encoder(items).item_vectors().std().item() == pytest.approx(INIT_STD, rel=0.05)


def test_sparse_gradients_hold_only_the_rows_looked_up() -> None:
    ids = torch.tensor([3, 3, 1])
    dense, sparse = MultiHash(1000, 4), MultiHash(1000, 4, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    for module in (dense, sparse):
        module(ids).square().sum().backward()
    grad = sparse.table.weight.grad
    assert grad is not None
    assert grad.is_sparse
    assert grad.coalesce().indices().squeeze(0).tolist() == dense.rows(ids).unique().tolist()
    assert torch.equal(grad.to_dense(), dense.table.weight.grad)  # type: ignore[arg-type]


# --- content


def test_content_is_projected_and_serves_new_items() -> None:
    content = torch.randn(6, 3)
    content[2] = 0
    items = ContentProjection(content, 4)
    ids = torch.tensor([0, 2, 6])
    torch.testing.assert_close(
        items(ids), torch.cat([content, torch.zeros(1, 3)])[ids] @ items.linear.weight.T
    )
    torch.testing.assert_close(items.project_all(), items(torch.arange(6)))
    assert not items(ids)[1:].any(), "no content adds nothing"
    torch.testing.assert_close(items.project(content[:2]), items(torch.arange(2)))


def test_content_is_neither_trained_nor_saved_with_the_parameters() -> None:
    projection = ContentProjection(torch.randn(6, 3), 4)
    assert [name for name, _ in projection.named_parameters()] == ["linear.weight"]
    assert set(projection.state_dict()) == {"linear.weight"}


def test_content_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        ContentProjection(torch.tensor([[1.0, torch.nan]]), 4)
    with pytest.raises(InputError, match="1 axes"):
        ContentProjection(torch.ones(5), 4)


# --- hash functions


def test_buckets_are_uniform_for_ids_in_a_row_and_far_apart() -> None:
    for ids in (torch.arange(50_000), torch.arange(50_000) * 2**44 - 2**62):
        for function in range(3):
            counts = torch.bincount(hash_bucket(ids, 0, function, 97), minlength=97)
            assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_functions_and_seeds_are_independent() -> None:
    ids = torch.arange(60_000)
    buckets = [hash_bucket(ids, seed, function, 20) for seed in (0, 1) for function in (0, 1)]
    for one, other in itertools.combinations(buckets, 2):
        counts = torch.bincount(one * 20 + other, minlength=400)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_buckets_are_those_of_a_twin_in_python() -> None:
    """Unsigned arithmetic on Python's integers against signed 64-bit tensors."""

    def mixed(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    assert mixed(0) == 0xE220A8397B1DCDAF  # the first output of splitmix64 seeded with 0
    ids = [0, 1, 7, 10**12, 2**63 - 1, -1, -(2**63)]
    for seed, function in ((0, 0), (5, 3)):
        salt = mixed((mixed(seed) + function) % 2**64)
        expected = [mixed((i + salt) % 2**64) % 2**63 % 1009 for i in ids]
        assert hash_bucket(torch.tensor(ids), seed, function, 1009).tolist() == expected


# --- collisions, counted against what the classes promise


def share_of_shared(rows: Tensor, *, of_all: Tensor | None = None) -> float:
    """Share of look-ups (N,) whose row occurs more than once (among `of_all`)."""
    counts = torch.bincount(rows if of_all is None else of_all)
    return float((counts[rows] > 1).double().mean())


def share_confused(rows_NK: Tensor) -> float:
    _, which, counts = torch.unique(rows_NK, dim=0, return_inverse=True, return_counts=True)
    return float((counts[which] > 1).double().mean())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_multi_hash_collides_as_often_as_it_says(shared: bool, combine: str) -> None:
    n, table = 20_000, MultiHash(300, 8, combine=combine, shared=shared)
    rows = table.rows(torch.arange(n))
    seen = rows.sort(1).values if shared and combine == "sum" else rows
    p = table.p_confused(n)
    assert 0.1 < p < 0.5
    assert share_confused(seen) == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    few = 200
    p = table.p_row_shared(few)
    assert 0.4 < p < 0.8
    shares = []
    for seed in range(40):
        one = MultiHash(300, 8, combine=combine, shared=shared, seed=seed).rows(torch.arange(few))
        shares.append(share_of_shared(one[:, 0], of_all=one.flatten()))
    spread = torch.tensor(shares).std().item() / len(shares) ** 0.5
    assert sum(shares) / len(shares) == pytest.approx(p, abs=4 * spread)


def test_two_hashes_tell_apart_what_one_does_not() -> None:
    assert MultiHash(1_000_000, 2).p_confused(10_000_000) == pytest.approx(1e-5, rel=1e-3)
    assert MultiHash(1_000_000, 2, n_hashes=1).p_confused(10_000_000) == pytest.approx(1 - 4.54e-5, rel=1e-6)


def test_unified_table_collides_as_often_as_it_says() -> None:
    n_values = {"item": 4000, "country": 40, "day": 7}
    unified = UnifiedEmbedding({"item": 2, "country": 1, "day": 1}, 500, 4)
    rows = {name: unified.rows(name, torch.arange(n)) for name, n in n_values.items()}
    p = unified.p_confused("item", n_values)
    assert p == pytest.approx(1 - (1 - 1 / 500**2) ** 3999)
    assert share_confused(rows["item"]) == pytest.approx(p, abs=5 * (2 * p / 4000) ** 0.5)
    few = {"item": 100, "country": 40, "day": 7}
    p = unified.p_row_shared("country", few)
    assert p == pytest.approx(1 - (1 - 1 / 500) ** 246)
    shares = []
    for seed in range(60):
        one = UnifiedEmbedding({"item": 2, "country": 1, "day": 1}, 500, 4, seed=seed)
        looked_up = {name: one.rows(name, torch.arange(n)).flatten() for name, n in few.items()}
        shares.append(share_of_shared(looked_up["country"], of_all=torch.cat(list(looked_up.values()))))
    spread = torch.tensor(shares).std().item() / len(shares) ** 0.5
    assert sum(shares) / len(shares) == pytest.approx(p, abs=4 * spread)


def test_features_have_functions_of_their_own_that_no_other_feature_moves() -> None:
    ids = torch.arange(1000)
    both = UnifiedEmbedding({"a": 2, "b": 1}, 500, 4)
    alone = UnifiedEmbedding({"b": 1}, 500, 4)
    assert torch.equal(both.rows("b", ids), alone.rows("b", ids))
    same = (both.rows("a", ids)[:, 0] == both.rows("b", ids)[:, 0]).double().mean()
    assert same < 0.02  # 1 / 500 by chance


def test_features_stand_side_by_side() -> None:
    unified = UnifiedEmbedding({"a": 2, "b": 1}, 500, 4)
    values = {"a": torch.tensor([[1, 2], [3, -1]]), "b": torch.tensor([[5, -1], [5, 6]])}
    vectors = unified(values)
    assert vectors.shape == (2, 2, unified.embedding_dim) == (2, 2, 12)
    assert torch.equal(vectors[..., :8], unified.lookup("a", values["a"]))
    assert torch.equal(vectors[0, 0, 8:], vectors[1, 0, 8:])
    with pytest.raises(InputError, match="no feature 'c'; there is: a, b"):
        unified.p_row_shared("c", {"a": 5})


def test_tables_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ConfigError, match="'mean'"):
        MultiHash(10, 4, combine="mean")
    with pytest.raises(ConfigError, match="multiple of n_hashes"):
        MultiHash(10, 5, combine="concat")
    with pytest.raises(ConfigError, match="at least 1 for each feature"):
        UnifiedEmbedding({"a": 0}, 10, 4)


def test_probability_of_a_collision_keeps_its_digits() -> None:
    assert p_collision(10, 1e-18) == pytest.approx(1e-17)
    assert p_collision(1, 1.0) == 1.0
    assert p_collision(0, 1.0) == 0.0
    assert p_collision(3, 0.5) == pytest.approx(0.875)


# --- row-wise Adagrad


def rowwise_by_loops(
    W: list[list[float]], steps: list[dict[int, list[float]]], lr: float
) -> list[list[float]]:
    W, sums = [list(row) for row in W], [0.0] * len(W)
    for step in steps:
        for v, g in step.items():
            sums[v] += sum(x * x for x in g) / len(g)
            W[v] = [w - lr * x / (sums[v] ** 0.5 + 1e-8) for w, x in zip(W[v], g, strict=True)]
    return W


@pytest.mark.parametrize("sparse", [False, True])
def test_rowwise_adagrad_agrees_with_a_slow_twin(sparse: bool) -> None:
    start = torch.randn(7, 3, dtype=torch.float64)
    table = nn.Parameter(start.clone())
    optimizer = RowwiseAdagrad([table], lr=0.3)
    steps = []
    for step in range(5):
        rows = torch.tensor([[0, 2, 2], [2, 6, 0], [1, 1, 1], [5, 0, 2], [6, 6, 3]])[step]
        values = torch.randn(3, 3, dtype=torch.float64)
        grad = torch.sparse_coo_tensor(rows[None], values, (7, 3), check_invariants=True)
        whole = grad.to_dense()
        steps.append({int(v): whole[v].tolist() for v in rows.unique()})
        table.grad = grad if sparse else whole
        optimizer.step()
    expected = torch.tensor(rowwise_by_loops(start.tolist(), steps, 0.3), dtype=torch.float64)
    torch.testing.assert_close(table.data, expected, rtol=1e-6, atol=1e-7)  # sums are in float32
    assert torch.equal(table.data[4], start[4]), "a row without a gradient stays"
    assert optimizer.state[table]["sum"].shape == (7,)


def test_rowwise_adagrad_resumes_exactly_and_takes_vectors_and_groups() -> None:
    def run(n_stops: int) -> Tensor:
        torch.manual_seed(3)
        table, bias = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(5))
        groups = [{"params": [table], "lr": 0.5}, {"params": [bias]}]
        optimizer = RowwiseAdagrad(groups, lr=0.1)
        for step in range(4):
            optimizer.zero_grad()
            (table.sum(1) * bias).square().sum().backward()
            optimizer.step()
            if step < n_stops:
                state = optimizer.state_dict()
                optimizer = RowwiseAdagrad([{"params": [table]}, {"params": [bias]}])
                optimizer.load_state_dict(state)
        return torch.cat([table.data.flatten(), bias.data])

    assert torch.equal(run(0), run(3))


def test_the_first_step_of_a_row_has_root_mean_square_lr() -> None:
    table = nn.Parameter(torch.zeros(2, 50))
    table.grad = torch.randn(2, 50) * torch.tensor([[1e-3], [1e3]])
    RowwiseAdagrad([table], lr=0.2).step()
    assert table.data.square().mean(1).sqrt().tolist() == pytest.approx([0.2, 0.2], rel=1e-4)


def test_a_closure_is_called_with_gradients_on() -> None:
    table = nn.Parameter(torch.ones(2, 2))

    def closure() -> float:
        loss = table.square().sum()
        loss.backward()
        return loss.item()

    assert RowwiseAdagrad([table]).step(closure) == 4.0
    assert (table < 1).all()


def test_rates_that_are_no_rates_are_refused() -> None:
    for bad in ({"lr": 0.0}, {"eps": -1.0}):
        with pytest.raises(ConfigError, match="RowwiseAdagrad"):
            RowwiseAdagrad([nn.Parameter(torch.ones(1))], **bad)
