"""What the tests of indexes share: small catalogues, an oracle, and every kind of index."""

import itertools

import numpy as np
import postgres
import pytest

from vitrina.ann import PAD, ExactIndex, FaissIndex, Jagged, PgVectorIndex, QdrantIndex

LOCAL = ["exact", "hnsw", "ivf_pq"]
KINDS = [*LOCAL, "pgvector", "qdrant"]
FLOOR = 0.95
_number = itertools.count()


@pytest.fixture(scope="session")
def pg_server():
    """Connection parameters of a PostgreSQL; skips where none can be started."""
    try:
        manager = postgres.running()
        parameters = manager.__enter__()
    except postgres.CannotStart as error:
        pytest.skip(f"no PostgreSQL: {error}")
    yield parameters
    manager.__exit__(None, None, None)


@pytest.fixture
def make_index(request, monkeypatch):
    """A function from the name of a kind to an index of that kind, not built."""

    monkeypatch.setattr("vitrina.ann.faiss_index.SCANNED_PER_STEP", 0.1)  # small catalogues reach the graph

    def new(kind, **params):
        if kind == "pgvector":
            parameters = request.getfixturevalue("pg_server")
            for name, value in (("PGHOST", "host"), ("PGUSER", "user"), ("PGDATABASE", "dbname")):
                monkeypatch.setenv(name, parameters[value])
            index = PgVectorIndex(**({"table": f"items_{next(_number)}"} | params))
            request.addfinalizer(index.close)
            return index
        if kind == "qdrant":
            index = QdrantIndex(**(params or {"location": ":memory:"}))
            request.addfinalizer(index.close)
            return index
        return ExactIndex(**params) if kind == "exact" else FaissIndex(kind=kind, **params)

    return new


def unit_vectors(n, dim=16, *, seed=0, n_groups=40):
    """Vectors of norm 1 around some centres."""
    rng, of_centres = np.random.default_rng(seed), np.random.default_rng(99)
    centre = of_centres.standard_normal((n_groups, dim))
    vectors = centre[rng.integers(0, n_groups, n)] + 0.7 * rng.standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def oracle(query_BD, items, *, k, exclude=None, allowed=None):
    """Lists by sorting; `items` is a dict from item_ix to (vector, bias)."""
    names = np.array(sorted(items), dtype=np.int64)
    vectors = np.array([items[i][0] for i in names.tolist()], np.float32).reshape(len(names), -1)
    bias = np.array([items[i][1] for i in names.tolist()], np.float32)
    lists, scores = [], []
    for b, query in enumerate(query_BD):
        score = vectors @ query + bias if len(names) else np.zeros(0, np.float32)
        ok = np.ones(len(names), bool)
        if allowed is not None:
            ok &= np.isin(names, np.flatnonzero(allowed))
        if exclude is not None:
            ok &= ~np.isin(names, exclude.of(b))
        at = np.flatnonzero(ok)
        at = at[np.lexsort((names[at], -score[at]))][:k]
        lists.append(names[at].tolist())
        scores.append(score[at])
    return lists, scores


def as_items(vectors, item_ix=None, bias=None):
    """The dict that `oracle` takes."""
    item_ix = range(len(vectors)) if item_ix is None else item_ix
    bias = np.zeros(len(vectors)) if bias is None else bias
    return {int(i): (v, b) for i, v, b in zip(item_ix, vectors, bias, strict=True)}


def as_lists(found):
    return [row[row != PAD].tolist() for row in found.item_ix]


def check_lists(found, items, query_BD, *, k, floor=FLOOR, **limits):
    """Lists are well formed, their scores true, within the limits, and mostly what the oracle lists."""
    best, best_scores = oracle(query_BD, items, k=k, **limits)
    assert len(found) == len(query_BD)
    hits = 0
    for b, row in enumerate(as_lists(found)):
        n = len(row)
        score = found.score[b]
        assert n == len(set(row)) == len(best[b])
        assert (found.item_ix[b, n:] == PAD).all()
        assert np.isneginf(score[n:]).all()
        np.testing.assert_allclose(
            score[:n], [items[i][0] @ query_BD[b] + items[i][1] for i in row], rtol=1e-4, atol=1e-5
        )
        order = [(-s, i) for s, i in zip(score[:n].tolist(), row, strict=True)]
        assert order == sorted(order)
        everything, _ = oracle(query_BD[b : b + 1], items, k=len(items), **_only(limits, b))
        assert set(row) <= set(everything[0])
        hits += sum(items[i][0] @ query_BD[b] + items[i][1] >= best_scores[b][-1] - 1e-5 for i in row)
    wanted = sum(map(len, best))
    assert hits >= floor * wanted, f"recall {hits / max(1, wanted):.3f}"


def _only(limits, b):
    exclude = limits.get("exclude")
    return limits if exclude is None else limits | {"exclude": exclude.span(b, b + 1)}


def sets_of(*sets):
    """Jagged of lists."""
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])]).astype(np.int64)
    return Jagged(offsets, np.array([i for one in sets for i in one], np.int32))
