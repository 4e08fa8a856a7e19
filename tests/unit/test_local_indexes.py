"""Indexes in this process: any history of changes, compaction, folders on disk, the gate, faiss."""

import json
import logging
import mmap
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexes import LOCAL, as_items, as_lists, check_lists, oracle, sets_of, unit_vectors

from vitrina.ann import (
    ExactIndex,
    FaissIndex,
    PgVectorIndex,
    QdrantIndex,
    build_index,
    generations,
    load_index,
)
from vitrina.ann import recall as recalls
from vitrina.ann.rows import checked
from vitrina.errors import ArtifactError, ConfigError

N = 1100
each_local = pytest.mark.parametrize("kind", LOCAL)
each_faiss = pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])


def new(kind, **params):
    return ExactIndex(**params) if kind == "exact" else FaissIndex(kind=kind, **params)


@pytest.fixture(scope="module", autouse=True)
def small_catalogues_reach_the_graph():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrina.ann.faiss_index.SCANNED_PER_STEP", 0.1)
        yield


@pytest.fixture(scope="module")
def whole_catalogue(tmp_path_factory):
    """Vectors of small whole numbers, whose products are exact, and a folder of each kind of index."""
    vectors = np.random.default_rng(0).integers(-3, 4, (N, 6)).astype(np.float32)
    folder = tmp_path_factory.mktemp("indexes")
    for kind in LOCAL:
        new(kind).build(vectors).save(folder / kind)
    return vectors, folder


changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(0, N + 40), min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, N + 40), min_size=1, max_size=300)),
        st.tuples(st.just("compact"), st.just([])),
        st.tuples(st.just("reload"), st.just([])),
    ),
    max_size=8,
)


@each_local
@settings(max_examples=12, deadline=None)
@given(steps=changes, seed=st.integers(0, 2**31))
def test_any_history_of_changes(kind, steps, seed, whole_catalogue, tmp_path_factory):
    """After any changes the index answers as one that was built from what is left."""
    vectors, folder = whole_catalogue
    rng, items = np.random.default_rng(seed), as_items(vectors)
    index = load_index(folder / kind)
    for step, names in steps:
        if step == "add":
            added, bias = rng.integers(-3, 4, (len(names), 6)), rng.integers(-2, 3, len(names))
            index.add(names, added, bias=bias)
            items |= as_items(added.astype(np.float32), names, bias)
        elif step == "remove":
            assert index.remove(names) == len(items.keys() & set(names))
            items = {i: pair for i, pair in items.items() if i not in names}
        elif step == "compact":
            index.compact()
        else:
            path = tmp_path_factory.mktemp("history") / "index"
            index.save(path)
            index = load_index(path)
    assert len(index) == len(items)
    query = rng.integers(-3, 4, (4, 6)).astype(np.float32)
    limits = {
        "exclude": sets_of(*rng.integers(0, N + 40, (4, 30)).tolist()),
        "allowed": rng.random(N + 20) < 0.7,
    }
    found = index.search(query, k=12, **limits)
    if kind == "exact":
        lists, scores = oracle(query, items, k=12, **limits)
        assert as_lists(found) == lists
        for b in range(4):
            np.testing.assert_array_equal(found.score[b, : len(lists[b])], scores[b])
    else:  # ties are everywhere here, so what is found is judged by its score
        check_lists(found, items, query, k=12, floor=0.9, **limits)


@each_local
def test_changes_made_while_a_base_is_built_are_kept(kind, monkeypatch):
    vectors, queries = unit_vectors(N), unit_vectors(5, seed=1)
    index = new(kind).build(vectors)
    index.add([2_000, 2_001, 2_002], queries[:3])
    made = type(index)._make

    def slowly(self, rows, sample):
        self.remove([2_001, 4])
        self.add([2_002, 5, 2_003, 4], -np.vstack([queries[:3], queries[3:4]]))
        self.remove([2_003])
        return made(self, rows, sample)

    monkeypatch.setattr(type(index), "_make", slowly)
    index.compact()
    monkeypatch.undo()
    items = as_items(vectors) | as_items(queries[:3], [2_000, 2_001, 2_002])
    items |= as_items(-queries[[0, 1, 3]], [2_002, 5, 4])
    del items[2_001]
    assert len(index) == len(items)
    check_lists(index.search(queries, k=30), items, queries, k=30)
    assert len(index._state.delta) == 3
    index.compact()
    assert len(index._state.delta) == 0
    assert index._state.n_dead == 0
    check_lists(index.search(queries, k=30), items, queries, k=30)


def test_compaction_is_asked_for_when_changes_pile_up(monkeypatch):
    monkeypatch.setattr("vitrina.ann.local.COMPACT_FROM", 5)
    index = ExactIndex().build(unit_vectors(100))
    index.remove(np.arange(10))
    assert not index.needs_compacting
    index.add([200], unit_vectors(1))
    assert index.needs_compacting
    index.compact()
    assert not index.needs_compacting
    assert len(index) == 91


@each_local
def test_a_reader_keeps_what_it_opened_and_the_next_sees_what_was_saved(kind, tmp_path):
    """Two builds take turns in one folder; whoever opens it gets one of them, whole."""
    path, queries = tmp_path / "index", unit_vectors(4, seed=1)
    builds = [new(kind).build(unit_vectors(N, seed=seed), queries=queries) for seed in (3, 4)]
    answers = [as_lists(index.search(queries, k=10)) for index in builds]
    assert answers[0] != answers[1]
    builds[0].save(path)
    first = load_index(path)
    seen, errors, stop = [], [], threading.Event()

    def read():
        try:
            while not stop.is_set():
                seen.append(answers.index(as_lists(load_index(path).search(queries, k=10))))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(1, 13):
        builds[turn % 2].save(path)
    stop.set()
    thread.join()
    assert not errors, errors[0]
    assert set(seen) <= {0, 1}
    assert as_lists(first.search(queries, k=10)) == answers[0]  # its files are deleted by now
    assert as_lists(load_index(path).search(queries, k=10)) == answers[0]
    assert len(list(path.glob("gen-*"))) == generations.KEPT


def test_a_generation_that_is_deleted_under_a_reader_is_looked_for_again(tmp_path, monkeypatch):
    index, path = ExactIndex().build(unit_vectors(30)), tmp_path / "index"
    index.save(path)
    index.remove([0])
    opened = generations.Generation.array
    once = []

    def late(self, name, dtype, *, mapped):
        if not once:
            once.append(index.save(path))
            index.save(path)
        return opened(self, name, dtype, mapped=mapped)

    monkeypatch.setattr(generations.Generation, "array", late)
    assert len(ExactIndex.load(path)) == 29


def _latest(path):
    return path / (path / "CURRENT").read_text()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda p: (p / "CURRENT").unlink(), "holds no index"),
        (lambda p: (p / "CURRENT").write_text("../../etc"), "do not trust this folder"),
        (lambda p: (p / "CURRENT").write_text("gen-00000009"), "half-copied"),
        (lambda p: (_latest(p) / "vector.npy").unlink(), "vector.npy is missing"),
        (lambda p: (_latest(p) / "structure.faiss").unlink(), "structure.faiss is missing"),
        (lambda p: (_latest(p) / "manifest.json").write_text("{"), "is not JSON"),
        (lambda p: (_latest(p) / "manifest.json").write_text("{}"), "not of format 1"),
        (lambda p: (_latest(p) / "manifest.json").write_text('{"format": 1}'), "lacks what `save` writes"),
        (lambda p: _flip(_latest(p) / "vector.npy", 5_000), "does not match its SHA-256"),
        (lambda p: _flip(_latest(p) / "structure.faiss", 5_000), "does not match its SHA-256"),
        (lambda p: _flip(_latest(p) / "alive.npy", 200), "does not match its SHA-256"),
        (lambda p: _cut(_latest(p) / "vector.npy"), "does not match its SHA-256"),
        (lambda p: _replace(_latest(p), "item_ix", np.arange(N, dtype=np.int64)), "holds int64, not int32"),
        (
            lambda p: _replace(_latest(p), "item_ix", np.arange(N, dtype=np.int32)[::-1]),
            "do not fit together",
        ),
        (lambda p: _replace(_latest(p), "item_ix", np.arange(9, dtype=np.int32)), "do not fit together"),
        (lambda p: _replace(_latest(p), "alive", np.ones(9, bool)), "do not fit together"),
        (lambda p: _replace(_latest(p), "bias", np.array([{}] * N)), "is not an array"),
        (lambda p: _retell(_latest(p), files={}), "does not list item_ix.npy"),
        (lambda p: _retell(_latest(p), kind="Evil"), "'Evil', which is none of"),
        (lambda p: _retell(_latest(p), params={"depth": 3}), "cannot be read"),
        (lambda p: _retell(_latest(p), searcher={"effort": [1]}), "cannot be read"),
        (lambda p: _retell(_latest(p), files={"item_ix.npy": 3}), "lacks what `save` writes"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(spoil, sentence, tmp_path):
    path = tmp_path / "index"
    FaissIndex().build(unit_vectors(N)).save(path)
    spoil(path)
    with pytest.raises(ArtifactError, match=sentence) as caught:
        load_index(path)
    assert "\n" not in str(caught.value)


def _flip(file, at):
    content = bytearray(file.read_bytes())
    content[min(at, len(content) - 1)] ^= 0x55
    file.write_bytes(content)


def _cut(file):
    file.write_bytes(file.read_bytes()[:-8])


def _replace(folder, name, array):
    """Another array, with a manifest that vouches for it: only the checks of content can tell."""
    np.save(folder / f"{name}.npy", array, allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    file = folder / f"{name}.npy"
    manifest["files"][file.name] = {
        "bytes": file.stat().st_size,
        "sha256": generations.artifact.file_digest(file),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _retell(folder, **values):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | values))


def test_nothing_but_an_index_is_ever_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    index = ExactIndex().build(unit_vectors(5))
    with pytest.raises(ArtifactError, match="not an index"):
        index.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ArtifactError, match="holds no index"):
        load_index(tmp_path)
    with pytest.raises(ArtifactError, match="holds no index"):
        load_index(tmp_path / "nowhere")


@each_faiss
def test_a_mapped_index_opens_without_reading_its_vectors(kind, tmp_path):
    vectors, queries = unit_vectors(N), unit_vectors(3, seed=1)
    index = new(kind).build(vectors)
    index.save(tmp_path / "index")
    before = as_lists(index.search(queries, k=10))
    for how in ({"verify": False}, {"mapped": False}, {}):
        loaded = FaissIndex.load(tmp_path / "index", **how)
        assert as_lists(loaded.search(queries, k=10)) == before
        assert loaded.effort_ == index.effort_
        assert _is_mapped(loaded._state.base.vector_ND) == how.get("mapped", True)
        loaded.add([5], queries[:1])
        assert as_lists(loaded.search(queries[:1], k=1)) == [[5]]


def _is_mapped(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


@each_faiss
def test_equal_builds_are_equal_and_leave_threads_alone(kind, tmp_path):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(2)
    vectors = unit_vectors(N)
    for name in ("a", "b"):
        index = new(kind).build(vectors)
        index.search(vectors[:3], k=5)
        index.save(tmp_path / name)
    assert faiss.omp_get_max_threads() == 2
    a, b = (_latest(tmp_path / name) / "structure.faiss" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def defeat(n=40_000, dim=8):
    """Vectors whose norms differ by a factor of a hundred, and queries, for a graph of two links a node."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, dim)) * rng.lognormal(0, 1.2, (n, 1))
    return vectors.astype(np.float32), rng.standard_normal((40, dim)).astype(np.float32)


POOR = {"kind": "hnsw", "n_links": 2, "ef_construction": 4}


def test_an_index_that_misses_too_much_is_refused_and_says_so(caplog, tmp_path):
    vectors, queries = defeat()
    with caplog.at_level(logging.INFO, "vitrina.ann"):
        index = FaissIndex(**POOR).build(vectors, queries=queries)
    assert index.recall_.mean < 0.5
    assert index.recall_.n_queries == 40
    assert index.effort_ is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"finds {index.recall_.mean:.3f} of the exact top 100 (40 given queries), below" in record.message
    best = as_lists(ExactIndex().build(vectors).search(queries, k=10))
    assert as_lists(index.search(queries, k=10)) == best
    index.save(tmp_path / "index")
    loaded = load_index(tmp_path / "index")
    assert loaded.recall_ == index.recall_
    assert as_lists(loaded.search(queries, k=10)) == best
    caplog.clear()
    with caplog.at_level(logging.INFO, "vitrina.ann"):
        kept = FaissIndex(**POOR, min_recall=0).build(vectors, queries=queries)
    assert kept.effort_ is not None
    assert as_lists(kept.search(queries, k=10)) != best
    assert caplog.records[0].levelname == "INFO"


def test_compaction_measures_again_with_the_same_queries(caplog):
    """Catalogues change: what was fine is refused when what the index now holds defeats it."""
    vectors, queries = defeat()
    index = FaissIndex(**POOR, target_recall=0.5, min_recall=0.5).build(unit_vectors(N, 8), queries=queries)
    assert index.effort_ is not None
    index.add(np.arange(10_000, 50_000), vectors)
    index.compact()
    assert index.effort_ is None
    assert index.recall_.real_queries
    assert "it is refused" in caplog.text
    assert len(index) == N + len(vectors)


def test_recall_counts_ties_and_what_is_missing():
    rows = checked(np.array([[4.0], [3], [2], [2], [2], [1]]))
    ask = np.array([[1.0]], np.float32)

    def measured(*lists):
        found = [recalls.TopK(np.array([row], np.int32), np.zeros((1, 3), np.float32)) for row in lists]
        return [recalls.measure(lambda *_, f=f: f, rows, ask, k=3, real=True).mean for f in found]

    assert measured([0, 1, 2], [0, 1, 4], [1, 4, 0], [0, 1, 5], [0, 5, -1], [-1, -1, -1]) == pytest.approx(
        [1, 1, 1, 2 / 3, 1 / 3, 0]
    )


def test_lists_that_faiss_leaves_short_are_completed_exactly(monkeypatch):
    """A graph with unreachable nodes, or cells that are empty, must not cost anybody a place."""
    vectors, queries = unit_vectors(N), unit_vectors(4, seed=1)
    index = FaissIndex().build(vectors)

    def first_three(structure, query_BD, n, **_):
        return np.where(np.arange(n) < 3, np.arange(n), -1)[None].repeat(len(query_BD), axis=0)

    monkeypatch.setattr("vitrina.ann.faiss_parts.find", first_three)
    check_lists(index.search(queries, k=20), as_items(vectors), queries, k=20, floor=1)


def test_long_lists_and_selective_filters_reach_faiss_itself(monkeypatch):
    """With scanning forbidden, faiss answers under filters too, and for more places than it was tuned on."""
    monkeypatch.setattr("vitrina.ann.faiss_index.FaissSearcher._scanning_is_cheaper", lambda *_: False)
    vectors, queries = unit_vectors(3 * N), unit_vectors(6, seed=1)
    allowed = np.random.default_rng(0).random(3 * N) < 0.2
    for kind in ("hnsw", "ivf_pq"):
        index = new(kind).build(vectors)
        check_lists(index.search(queries, k=500), as_items(vectors), queries, k=500)
        exclude = sets_of(*np.random.default_rng(1).integers(0, 3 * N, (6, 200)).tolist())
        limits = {"allowed": allowed, "exclude": exclude}
        check_lists(index.search(queries, k=50, **limits), as_items(vectors), queries, k=50, **limits)


def test_the_choice_of_an_index(caplog):
    vectors, queries = unit_vectors(N), unit_vectors(5, seed=1)
    assert isinstance(build_index(vectors), ExactIndex)
    with caplog.at_level(logging.INFO, "vitrina.ann"):
        index = build_index(vectors, exact_up_to=N - 1, bias=np.zeros(N), queries=queries)
    assert isinstance(index, FaissIndex)
    assert "5 given queries" in caplog.text
    check_lists(index.search(queries, k=10), as_items(vectors), queries, k=10)


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("faiss", FaissIndex, "faiss"),
        ("psycopg", PgVectorIndex, "pgvector"),
        ("qdrant_client", lambda: QdrantIndex(location=":memory:"), "qdrant"),
    ],
)
def test_a_missing_extra_is_named(module, call, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"not installed; pip install 'vitrina\[{extra}\]'"):
        call()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"kind": "lsh"}, "kind must be 'hnsw' or 'ivf_pq', got 'lsh'"),
        ({"n_links": 0}, "n_links must be >= 1, got 0"),
        ({"min_recall": 1.5}, r"min_recall must be in \[0, 1\], got 1.5"),
    ],
)
def test_parameters_out_of_range(params, sentence):
    with pytest.raises(ConfigError, match=sentence):
        FaissIndex(**params)


@pytest.mark.parametrize(("kind", "n_allowed", "scans"), [("hnsw", 2_000, True), ("hnsw", 40_000, False)])
def test_few_allowed_rows_are_scanned_and_many_are_not(kind, n_allowed, scans, monkeypatch):
    """The rule itself, at the size it is for: 40,000 rows of a graph with ef 150."""
    monkeypatch.setattr("vitrina.ann.faiss_index.SCANNED_PER_STEP", 16)
    vectors, queries = defeat()
    index = FaissIndex(**POOR, target_recall=0, min_recall=0).build(vectors, queries=queries)
    allowed = np.arange(len(vectors)) < n_allowed
    best = as_lists(ExactIndex().build(vectors).search(queries, k=10, allowed=allowed))
    assert (as_lists(index.search(queries, k=10, allowed=allowed)) == best) == scans
