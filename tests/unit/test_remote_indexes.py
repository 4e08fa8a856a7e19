"""What only an index in a server can get wrong: names, connections, other servers, builds under readers."""

import logging
import threading

import numpy as np
import pytest
from indexes import as_items, as_lists, check_lists, unit_vectors

from vitrina.ann import PgVectorIndex, QdrantIndex, load_index
from vitrina.ann.pg_connections import sql
from vitrina.errors import ArtifactError, ConfigError, InputError, NotFittedError, StateError

N = 600


@pytest.fixture
def connect(pg_server):
    """A connection of the test's own."""
    import psycopg

    with psycopg.connect(**pg_server, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("table", ['x"; drop table prey; --', "Ünïcode käse {}", "select", "a.b"])
def test_a_table_name_is_a_name_and_nothing_else(table, make_index, connect):
    connect.execute("create table if not exists prey (id integer)")
    vectors = unit_vectors(50)
    index = make_index("pgvector", table=table)
    for _ in range(2):
        index.build(vectors)
        index.add([60], vectors[:1])
        assert index.remove([0]) == 1
        assert as_lists(index.search(vectors[:1], k=1)) == [[60]]
        assert len(index) == 50
    names = {row[0] for row in connect.execute("select relname from pg_class where relnamespace = 2200")}
    assert {"prey", table, f"{table}_pkey", f"{table}_hnsw"} <= names
    assert not any("_next" in name for name in names)


def test_searches_use_the_graph_unless_it_was_refused(make_index, connect, caplog):
    vectors, queries = unit_vectors(3000), unit_vectors(20, seed=1)
    index = make_index("pgvector", n_links=2, ef_construction=4, ef_search=1, overfetch=1, min_recall=0)
    with caplog.at_level(logging.INFO, "vitrina.ann"):
        index.build(vectors, queries=queries)
    plan = sql("explain select item_ix from {} order by vector <#> %s::vector limit 5", index.table)
    text = str(queries[0].tolist())
    assert f"{index.table}_hnsw" in str(connect.execute(plan, (text,)).fetchall())
    assert index.recall_.mean < 0.95
    strict = make_index("pgvector", table=index.table, n_links=2, ef_construction=4, ef_search=1, overfetch=1)
    strict.build(vectors, queries=queries)
    assert 0 < strict.recall_.mean < 0.95  # the levels of the graph are drawn anew at every build
    assert f"PgVectorIndex({index.table}) finds {strict.recall_.mean:.3f}" in caplog.messages[-1]
    assert "it is refused and exact search answers instead" in caplog.messages[-1]
    assert "_hnsw" not in str(connect.execute(plan, (text,)).fetchall())
    check_lists(strict.search(queries, k=50), as_items(vectors), queries, k=50, floor=1)


def test_filters_that_the_graph_would_starve_on_are_answered_exactly(make_index):
    """ef_search 10 and 1 % allowed: without going on, the graph would find nothing."""
    vectors, queries = unit_vectors(3000), unit_vectors(8, seed=1)
    index = make_index("pgvector", ef_search=10, overfetch=1, min_recall=0).build(vectors)
    allowed = np.zeros(3000, bool)
    allowed[np.random.default_rng(0).permutation(3000)[:30]] = True
    check_lists(
        index.search(queries, k=20, allowed=allowed),
        as_items(vectors),
        queries,
        k=20,
        allowed=allowed,
        floor=1,
    )


def test_servers_see_what_others_change(make_index):
    vectors, queries = unit_vectors(N), unit_vectors(4, seed=1)
    one = make_index("pgvector").build(vectors)
    other = PgVectorIndex(table=one.table)
    try:
        assert len(other) == N
        one.add([N], 2 * queries[:1])
        assert as_lists(other.search(queries[:1], k=1)) == [[N]]
        other.remove([N])
        check_lists(one.search(queries, k=9), as_items(vectors), queries, k=9)
        wider = unit_vectors(100, dim=24)
        one.build(wider)  # another model, of other dimensions
        check_lists(other.search(wider[:3], k=5), as_items(wider), wider[:3], k=5)
        with pytest.raises(InputError, match="the dimensions that the table holds"):
            other.search(queries, k=5)
    finally:
        other.close()


ANOTHER = r"holds another build \(.+\); give each source a .* of its own, or build it again"


@pytest.mark.parametrize("kind", ["pgvector", "qdrant"])
def test_an_index_never_answers_from_the_build_of_another(kind, make_index, tmp_path):
    vectors, wider = unit_vectors(60), unit_vectors(60, dim=24)
    params = {"pgvector": {}, "qdrant": {"path": str(tmp_path / "qdrant")}}[kind]
    index = make_index(kind, **params).build(vectors)
    index.save(tmp_path / "saved")
    others = make_index("pgvector", table=index.table) if kind == "pgvector" else _twin(index)
    for taken in (unit_vectors(60, seed=5), wider, vectors):
        others.build(taken)
        for call in (
            lambda: index.search(vectors[:3], k=2),
            lambda: index.add([70], vectors[:1]),
            lambda: index.remove([0]),
            lambda: len(index),
        ):
            with pytest.raises(ArtifactError, match=ANOTHER):
                call()
        check_lists(others.search(taken[:3], k=5), as_items(taken), taken[:3], k=5, floor=1)
    if kind == "qdrant":
        others.close()  # local mode locks its folder
    with pytest.raises(ArtifactError, match=ANOTHER):
        load_index(tmp_path / "saved")
    again = make_index(kind, **({"table": index.table} if kind == "pgvector" else params)).build(vectors)
    check_lists(again.search(vectors[:3], k=5), as_items(vectors), vectors[:3], k=5, floor=1)


def _twin(index):
    """An index of its own on the client of another, for local mode knows one client."""
    twin = QdrantIndex(location=":memory:", name=index.name)
    twin.close()
    twin._client = index._client
    return twin


def test_servers_that_share_a_build_see_what_its_owner_adds(make_index, tmp_path):
    vectors, queries = unit_vectors(N), unit_vectors(1, seed=1)
    owner = make_index("pgvector").build(vectors)
    owner.save(tmp_path / "saved")
    server = load_index(tmp_path / "saved")
    try:
        owner.add([N], 2 * queries)
        assert as_lists(server.search(queries, k=1)) == [[N]]
        server.add([N + 1], 3 * queries)
        assert as_lists(owner.search(queries, k=1)) == [[N + 1]]
        assert server.remove([N, N + 1]) == 2
        assert len(owner) == len(server) == N
    finally:
        server.close()


def test_all_queries_of_a_search_see_the_same_rows(make_index):
    """A statement each, with a snapshot each, half of a batch would miss what is added meanwhile."""
    vectors, query = unit_vectors(N), unit_vectors(1, seed=1)
    index = make_index("pgvector").build(vectors)
    queries = np.repeat(query, 100, axis=0)
    seen, errors, stop = [], [], threading.Event()

    def search():
        try:
            while not stop.is_set():
                seen.append({row[0] for row in as_lists(index.search(queries, k=5))})
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    while len(seen) < 12 and not errors:
        index.add([N], 3 * query)
        index.remove([N])
    stop.set()
    thread.join()
    assert not errors, errors[0]
    assert all(len(firsts) == 1 for firsts in seen)


def test_a_build_takes_the_place_of_a_table_under_its_readers(make_index):
    queries = unit_vectors(3, seed=1)
    builds = [unit_vectors(N, seed=3), unit_vectors(N, seed=4)]
    index = make_index("pgvector")
    answers = [as_lists(index.build(vectors).search(queries, k=10)) for vectors in builds]
    assert answers[0] != answers[1]
    seen, errors, stop = [], [], threading.Event()

    def read():
        try:
            while not stop.is_set():
                seen.append(answers.index(as_lists(index.search(queries, k=10))))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(4):
        index.build(builds[turn % 2])
    stop.set()
    thread.join()
    assert not errors, errors[0]
    assert set(seen) <= {0, 1}
    assert len(seen) > 1


def test_a_build_that_fails_leaves_the_table_as_it_was(make_index, monkeypatch):
    vectors = unit_vectors(50)
    index = make_index("pgvector").build(vectors)

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("vitrina.ann.pgvector.measure", broken)
    with pytest.raises(KeyboardInterrupt):
        index.build(vectors[:10])
    assert len(index) == 50


def test_connections_that_were_cut_are_replaced(make_index, connect):
    vectors = unit_vectors(50)
    index = make_index("pgvector").build(vectors)
    index.search(vectors[:1], k=1)
    connect.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    assert as_lists(index.search(vectors[:1], k=1)) == [[0]]
    connect.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    index.add([70], vectors[:1])
    assert len(index) == 51


def test_a_server_that_is_not_there_is_named():
    index = PgVectorIndex(dsn="host=/nowhere user=me password=hunter2")
    with pytest.raises(StateError, match="PostgreSQL cannot be reached") as caught:
        index.build(unit_vectors(3))
    assert "hunter2" not in str(caught.value) + repr(index) + str(index.params())
    with pytest.raises(StateError, match=r"Qdrant at http://127\.0\.0\.1:9 cannot be reached"):
        QdrantIndex(url="http://127.0.0.1:9").build(unit_vectors(3))


def test_a_table_that_vanishes_is_missed(make_index, connect):
    index = make_index("pgvector").build(unit_vectors(10))
    connect.execute(sql("drop table {}", index.table))
    with pytest.raises(NotFittedError, match=f'"{index.table}" does not exist; call PgVectorIndex.build'):
        index.search(unit_vectors(1), k=1)


def test_more_dimensions_than_pgvector_indexes_are_refused(make_index):
    with pytest.raises(InputError, match="up to 2000 dimensions, got 2001"):
        make_index("pgvector").build(np.zeros((2, 2001)))


@pytest.mark.parametrize(
    ("kind", "params", "sentence"),
    [
        (PgVectorIndex, {"table": ""}, r"1 to 48 bytes, .* got ''"),
        (PgVectorIndex, {"table": "a\0b"}, "none of them % or NUL"),
        (PgVectorIndex, {"table": "a%sb"}, "none of them % or NUL"),
        (PgVectorIndex, {"ef_search": 2000}, r"ef_search in \[1, 1000\]"),
        (QdrantIndex, {}, "exactly one of url, location and path, got 0"),
        (QdrantIndex, {"url": "http://x", "path": "y"}, "exactly one of url, location and path, got 2"),
        (QdrantIndex, {"location": ":memory:", "name": "a/b"}, "nor hold a slash, got 'a/b'"),
        (QdrantIndex, {"location": ":memory:", "overfetch": 0.5}, "overfetch >= 1"),
    ],
)
def test_parameters_out_of_range(kind, params, sentence):
    with pytest.raises(ConfigError, match=sentence):
        kind(**params)


def test_a_build_moves_the_alias_of_qdrant_and_leaves_one_collection(make_index):
    index, queries = make_index("qdrant"), unit_vectors(3, seed=1)
    for seed in (3, 4, 5):
        vectors = unit_vectors(60, seed=seed)
        index.build(vectors)
        check_lists(index.search(queries, k=9), as_items(vectors), queries, k=9, floor=1)
    (name,) = [one.name for one in index._client.get_collections().collections]
    assert name.startswith("vitrina_items__3__")
    wider = unit_vectors(60, dim=24)
    index.build(wider)
    check_lists(index.search(wider[:3], k=5), as_items(wider), wider[:3], k=5, floor=1)


def test_the_key_of_qdrant_is_never_saved():
    with pytest.warns(UserWarning, match="insecure"):
        index = QdrantIndex(url="http://localhost:6333", api_key="hunter2")
    assert "hunter2" not in repr(index) + str(index.params())
