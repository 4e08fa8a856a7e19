"""One contract for all indexes: exact, faiss (graph and cells), PostgreSQL, Qdrant."""

import math
import threading

import numpy as np
import pytest
from indexes import (
    KINDS,
    as_items,
    as_lists,
    check_lists,
    sets_of,
    unit_vectors,
)

from vitrina.ann import load_index
from vitrina.errors import ArtifactError, InputError, NotFittedError


def size(kind):
    """Items: enough that faiss is not passed by; few for the local mode of Qdrant, which is slow."""
    return 300 if kind == "qdrant" else 1100


each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_lists_are_those_of_exact_search(kind, make_index):
    n = size(kind)
    vectors, queries = unit_vectors(n), unit_vectors(30, seed=1)
    bias = np.random.default_rng(2).normal(0, 0.02, n).astype(np.float32)
    index = make_index(kind).build(vectors, bias=bias)
    assert len(index) == n
    check_lists(index.search(queries, k=20), as_items(vectors, bias=bias), queries, k=20)
    index.build(vectors, queries=queries)
    assert len(index) == n
    check_lists(index.search(queries, k=20), as_items(vectors), queries, k=20)
    assert as_lists(index.search(queries, k=5)) == [row[:5] for row in as_lists(index.search(queries, k=20))]
    one_by_one = [as_lists(index.search(queries[b : b + 1], k=20))[0] for b in range(10)]
    assert one_by_one == as_lists(index.search(queries[:10], k=20))


@each_kind
@pytest.mark.parametrize("share", [0.6, 0.05, 0.001, 0.0])
def test_filters(kind, share, make_index):
    n = size(kind)
    vectors, queries = unit_vectors(n), unit_vectors(12, seed=1)
    index = make_index(kind).build(vectors)
    allowed = np.zeros(n, bool)
    allowed[np.random.default_rng(3).permutation(n)[: math.ceil(share * n)]] = True
    found = index.search(queries, k=15, allowed=allowed)
    check_lists(found, as_items(vectors), queries, k=15, allowed=allowed)
    short = allowed[: n // 2]  # items beyond its end are not allowed
    found = index.search(queries, k=15, allowed=short)
    check_lists(found, as_items(vectors), queries, k=15, allowed=short)
    nearly_all = np.ones(n - 10, bool)
    found = index.search(queries, k=15, allowed=nearly_all)
    check_lists(found, as_items(vectors), queries, k=15, allowed=nearly_all)


@each_kind
def test_excluded_items_leave_room_for_others(kind, make_index):
    n = size(kind)
    vectors, queries = unit_vectors(n), unit_vectors(6, seed=1)
    index = make_index(kind).build(vectors)
    best = as_lists(index.search(queries, k=60))
    rng = np.random.default_rng(4)
    exclude = sets_of(
        best[0], [], best[2][::2], [99_999, *best[3][:1]], rng.permutation(n)[: 4 * n // 5].tolist(), range(n)
    )
    found = index.search(queries, k=20, exclude=exclude)
    check_lists(found, as_items(vectors), queries, k=20, exclude=exclude)
    assert as_lists(found)[5] == []
    allowed = rng.random(n) < 0.5
    found = index.search(queries, k=20, exclude=exclude, allowed=allowed)
    check_lists(found, as_items(vectors), queries, k=20, exclude=exclude, allowed=allowed)


@each_kind
def test_more_places_than_items(kind, make_index):
    vectors, queries = unit_vectors(30), unit_vectors(3, seed=1)
    index = make_index(kind).build(vectors)
    check_lists(index.search(queries, k=1000), as_items(vectors), queries, k=1000, floor=1)
    assert index.search(queries, k=0).item_ix.shape == (3, 0)
    assert len(index.search(queries[:0], k=5)) == 0
    one = make_index(kind).build(vectors[:1])
    assert as_lists(one.search(queries, k=3)) == [[0]] * 3


@each_kind
def test_removed_items_are_gone_at_once(kind, make_index):
    n = size(kind)
    vectors, queries = unit_vectors(n), unit_vectors(8, seed=1)
    index = make_index(kind).build(vectors)
    gone = sorted({i for row in as_lists(index.search(queries, k=10)) for i in row})
    assert index.remove(np.array([*gone, 5_000_000])) == len(gone)
    assert index.remove(np.array(gone)) == 0
    assert len(index) == n - len(gone)
    items = {i: pair for i, pair in as_items(vectors).items() if i not in gone}
    check_lists(index.search(queries, k=20), items, queries, k=20)


@each_kind
def test_added_items_are_seen_at_once(kind, make_index):
    n = size(kind)
    vectors, queries = unit_vectors(n), unit_vectors(8, seed=1)
    index = make_index(kind).build(vectors)
    new = np.array([4_000, 3_000, 7])  # two new items, one that replaces
    index.add(new, 2 * queries[:3], bias=np.array([0.0, 0.5, 0.25]))
    items = as_items(vectors) | as_items(2 * queries[:3], new, [0.0, 0.5, 0.25])
    assert len(index) == len(items)
    found = index.search(queries, k=20)
    check_lists(found, items, queries, k=20)
    assert [row[0] for row in as_lists(found)[:3]] == new.tolist()
    index.add(np.array([3_000]), -queries[1:2])  # replaced again, without a bias
    items |= as_items(-queries[1:2], [3_000])
    check_lists(index.search(queries, k=20), items, queries, k=20)
    assert index.remove(np.array([7, 3_000])) == 2
    items = {i: pair for i, pair in items.items() if i not in (7, 3_000)}
    allowed = np.arange(5_000) % 2 == 0
    check_lists(index.search(queries, k=20, allowed=allowed), items, queries, k=20, allowed=allowed)


@each_kind
def test_equal_scores_go_to_the_smaller_item(kind, make_index):
    n = size(kind)
    vectors = unit_vectors(n)
    vectors[[270, 30, 140, 31]] = vectors[250]
    index = make_index(kind).build(vectors)
    index.add(np.array([2, 9_000]), np.stack([vectors[250], vectors[250]]))
    found = index.search(vectors[250:251], k=7)
    assert as_lists(found) == [[2, 30, 31, 140, 250, 270, 9_000]]
    assert len(set(found.score[0].tolist())) == 1


@each_kind
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(kind, bad, make_index):
    vectors = unit_vectors(50).astype(np.float64)
    index = make_index(kind).build(vectors)
    before = index.search(vectors[:3], k=5)
    spoiled = vectors[:4].copy()
    spoiled[2, 1] = bad
    with pytest.raises(InputError, match=r"the vector of 13 holds a NaN or an infinity; "):
        index.add(np.array([10, 11, 13, 12]), spoiled)
    with pytest.raises(InputError, match=r"the bias of 51 .* NaN"):
        index.add(np.array([50, 51]), vectors[:2], bias=np.array([0, bad]))
    with pytest.raises(InputError, match=r"the query of 2 .* NaN"):
        index.search(spoiled, k=5)
    with pytest.raises(InputError, match=r"the vector of 0 \(and of 1 more\)"):
        index.build(np.where(np.arange(len(vectors)) < 2, bad, vectors.T).T)
    after = index.search(vectors[:3], k=5)
    np.testing.assert_array_equal(after.item_ix, before.item_ix)
    assert len(index) == 50


@each_kind
def test_shapes_and_numbers_that_do_not_fit_are_refused(kind, make_index):
    vectors = unit_vectors(20)
    index = make_index(kind).build(vectors)
    cases = [
        (lambda: index.search(vectors[:, :5], k=3), r"shape \(B, 16\).* got float32 of shape \(20, 5\)"),
        (lambda: index.search(vectors[0], k=3), r"shape \(B, 16\)"),
        (lambda: index.search(vectors, k=-1), "k must be >= 0, got -1"),
        (lambda: index.search(vectors, k=3, exclude=sets_of([1])), "21 rising bounds"),
        (lambda: index.search(vectors, k=3, allowed=np.arange(20)), "allowed must be booleans"),
        (lambda: index.add(np.array([30]), vectors[:1, :5]), "vectors have 5 dimensions but .* holds 16"),
        (lambda: index.add(np.array([30, 31]), vectors[:1]), "2 item_ix for 1 vectors"),
        (lambda: index.add(np.array([30, 30]), vectors[:2]), "item_ix 30 is given twice"),
        (lambda: index.add(np.array([-1]), vectors[:1]), "item_ix -1 is outside"),
        (lambda: index.add(np.array([2**31]), vectors[:1]), "item_ix 2147483648 is outside"),
        (lambda: index.add(np.array([1.5]), vectors[:1]), "whole numbers"),
        (lambda: index.add(np.array([30]), vectors[:1], bias=np.zeros(2)), r"bias has shape \(2,\) for 1"),
        (lambda: index.build(vectors, queries=vectors[:0]), "no query to measure"),
        (lambda: index.build(vectors, queries=vectors[:, :3]), r"shape \(B, 16\)"),
        (lambda: index.build(vectors[0]), r"shape \(N, D\)"),
        (lambda: index.build(vectors[:, :0]), "0 dimensions"),
        (lambda: index.remove(np.array([0.5])), "whole numbers"),
    ]
    for call, sentence in cases:
        with pytest.raises(InputError, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert len(index) == 20
    check_lists(index.search(vectors, k=3), as_items(vectors), vectors, k=3, floor=1)


@each_kind
def test_an_empty_index_grows(kind, make_index):
    vectors, queries = unit_vectors(40), unit_vectors(3, seed=1)
    index = make_index(kind).build(vectors[:0])
    assert len(index) == 0
    assert as_lists(index.search(queries, k=5)) == [[], [], []]
    assert index.remove(np.array([3])) == 0
    index.add(np.arange(40)[::-1], vectors)
    items = as_items(vectors, np.arange(40)[::-1])
    check_lists(index.search(queries, k=5), items, queries, k=5, floor=1)
    assert index.remove(np.arange(40)) == 40
    assert as_lists(index.search(queries, k=5)) == [[], [], []]


@each_kind
def test_item_numbers_need_not_be_consecutive_nor_sorted(kind, make_index):
    n = size(kind)
    vectors, queries = unit_vectors(n), unit_vectors(6, seed=1)
    names = np.random.default_rng(5).permutation(40 * n)[:n]
    index = make_index(kind).build(vectors, names)
    items = as_items(vectors, names)
    check_lists(index.search(queries, k=20), items, queries, k=20)
    allowed = np.random.default_rng(6).random(30 * n) < 0.5
    exclude = sets_of(*[names[:300].tolist()] * 6)
    found = index.search(queries, k=20, exclude=exclude, allowed=allowed)
    check_lists(found, items, queries, k=20, exclude=exclude, allowed=allowed)


@each_kind
def test_what_was_saved_is_loaded(kind, make_index, tmp_path):
    n = 60 if kind == "qdrant" else size(kind)  # its files are slow
    vectors, queries = unit_vectors(n), unit_vectors(9, seed=1)
    params = (
        {"path": str(tmp_path / "qdrant")} if kind == "qdrant" else {}
    )  # local mode that outlives the client
    index = make_index(kind, **params).build(vectors, bias=np.linspace(-0.01, 0.01, n))
    index.add(np.array([n, 3]), unit_vectors(2, seed=8))
    index.remove(np.array([5, 6]))
    before = index.search(queries, k=20)
    index.save(tmp_path / "saved")
    if kind == "qdrant":
        index.close()  # local mode locks its folder
    loaded = load_index(tmp_path / "saved")
    assert type(loaded) is type(index)
    assert loaded.params() == index.params()
    assert len(loaded) == n - 1
    after = loaded.search(queries, k=20)
    np.testing.assert_array_equal(after.item_ix, before.item_ix)
    np.testing.assert_array_equal(after.score, before.score)
    assert loaded.recall_ == index.recall_
    loaded.add(np.array([6]), vectors[6:7])
    assert len(loaded) == n
    if kind in ("pgvector", "qdrant"):
        loaded.close()
    other = "FaissIndex" if kind == "exact" else "ExactIndex"
    with pytest.raises(ArtifactError, match=f"not a {other}; use `load_index`"):
        type(make_index("exact" if kind != "exact" else "hnsw")).load(tmp_path / "saved")


@each_kind
def test_an_index_that_was_never_built_says_so(kind, make_index):
    index = make_index(kind)
    for call in (
        lambda: index.search(np.zeros((1, 3)), k=1),
        lambda: index.add([1], np.zeros((1, 3))),
        lambda: index.remove([1]),
        lambda: len(index),
    ):
        with pytest.raises(NotFittedError, match=r"build\("):
            call()


@each_kind
def test_searches_go_on_while_items_come_and_go(kind, make_index):
    """Items 2000 and 2001 are added and removed together: a search sees both or neither."""
    n = size(kind)
    vectors, query = unit_vectors(n), unit_vectors(1, seed=1)
    index = make_index(kind).build(vectors)
    pair = np.array([2_000, 2_001])
    seen, errors, stop = [], [], threading.Event()

    def search():
        try:
            while not stop.is_set():
                row = as_lists(index.search(query, k=10))[0]
                assert len(row) == 10
                seen.append(sum(i >= 2_000 for i in row))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(25):
        index.add(pair, np.vstack([query, query]) * 3)
        assert as_lists(index.search(query, k=10))[0][:2] == [2_000, 2_001]
        assert index.remove(pair) == 2
        assert as_lists(index.search(query, k=10))[0][0] < 2_000
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert set(seen) <= {0, 2}
    assert len(seen) > 2
