"""Models that answer through an index of their vectors: what they would answer, but for what is measured."""

import datetime as dt
import json
import logging

import numpy as np
import polars as pl
import pytest

from vitrina.ann import PAD, ExactIndex, FaissIndex, Jagged
from vitrina.ann.faiss_index import Effort
from vitrina.candidates import CANDIDATES
from vitrina.candidates.als import ImplicitALS
from vitrina.candidates.itemknn import ItemKNN
from vitrina.candidates.popularity import MostPop
from vitrina.errors import ArtifactError, ConfigError
from vitrina.ids import Ids
from vitrina.log import Catalogue, Histories
from vitrina.pipeline import Pipeline, Source
from vitrina.policies import Block, Unseen
from vitrina.recipes import check, evaluate_run, loads, train_run
from vitrina.serve import open_service
from vitrina.testing.lists import same_lists, well_formed

SMALL = {"embedding_dim": 8, "max_len": 12, "n_epochs": 1, "batch_size": 16}
VECTORS = {
    "ImplicitALS": {"embedding_dim": 8},
    "BPR": {"embedding_dim": 8},
    "SASRec": SMALL,
    "GSASRec": SMALL,
    "ESASRec": SMALL,
    "HSTU": {**SMALL, "request_time": True},
    "GRU4Rec": {**SMALL, "hidden_dim": 12},
    "BERT4Rec": SMALL,
    "TwoTower": {**SMALL, "n_negatives": 16},
    "ARGUS": {**SMALL, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "n_tuning_epochs": 1},
}
POOR = {"kind": "hnsw", "n_links": 2, "ef_construction": 4}
"""A graph that leads nowhere."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch = pytest.importorskip("torch")
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def log_of(n_users: int, n_items: int, n_rows: int, *, events: bool = False, seed: int = 0) -> pl.DataFrame:
    """Users of five tastes, distinct times, ids that are text so that numbers cannot pass for ids."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), n_rows // n_users)
    item = (rng.integers(0, n_items // 5, len(user)) * 5 + user % 5) % n_items
    item[:n_items] = np.where(
        np.arange(min(n_items, len(user))) < n_items, np.arange(n_items)[: len(user)], 0
    )
    frame = pl.DataFrame(
        {
            "user_id": [f"u{u:05d}" for u in user],
            "item_id": [f"i{i:05d}" for i in item],
            "ts": pl.Series(rng.permutation(len(user)) * 1_000_000).cast(pl.Datetime("us", "UTC")),
        }
    )
    if not events:
        return frame
    kinds = rng.choice(["click", "impression"], len(user), p=[0.7, 0.3])
    return frame.with_columns(event=pl.Series(kinds))


@pytest.fixture(scope="module")
def train() -> Histories:
    return Histories.from_frame(log_of(40, 50, 480, events=True))


@pytest.fixture(scope="module")
def many() -> Histories:
    """Enough items for an approximate index."""
    return Histories.from_frame(log_of(1500, 3000, 30_000))


@pytest.fixture(scope="module")
def als(many) -> ImplicitALS:
    return ImplicitALS(embedding_dim=16, n_epochs=3).fit(many)


def indexed(model, index, train) -> Source:
    return Source(generator=model, index=index).build_index(train)


def seen_by(queries: Histories) -> Jagged:
    return Jagged(queries.offsets, queries.item_ix)


@pytest.mark.parametrize(
    ("name", "params"), [*VECTORS.items(), ("SASRec", {**SMALL, "cosine": True, "trend_days": 7.0})]
)
def test_through_an_exact_index_a_model_answers_what_it_answers_itself(name, params, train):
    model = CANDIDATES[name](**params).fit(train)
    source = indexed(model, ExactIndex(), train)
    asked = train.of(pl.Series(["u00003", "nobody", "u00017", "u00000"])).asked_at(10**12)
    exclude, allowed = seen_by(asked), np.arange(train.n_items) % 3 > 0
    for limits in ({}, {"exclude": exclude}, {"allowed": allowed}, {"exclude": exclude, "allowed": allowed}):
        for k in (5, 80):
            direct, through = model.retrieve(asked, k=k, **limits), source.retrieve(asked, k=k, **limits)
            assert well_formed(through, n_queries=4, k=k, n_items=train.n_items) is None
            assert same_lists(direct, through) is None
            assert (through.item_ix[1] == PAD).all()
            assert (through.item_ix[0] != PAD).any()
    only_shown = train.only(train.event == train.event_names.index("impression")).rows(np.arange(3))
    assert same_lists(model.retrieve(only_shown, k=5), source.retrieve(only_shown, k=5)) is None


def test_models_without_vectors_are_refused_before_any_fit():
    with pytest.raises(ConfigError, match="source ItemKNN has an index, but ItemKNN has no vectors"):
        Source(generator=ItemKNN(), index=ExactIndex())
    for name in CANDIDATES:
        if name not in VECTORS:
            with pytest.raises(ConfigError, match="no vectors"):
                Source(generator=CANDIDATES[name](), index=ExactIndex())


@pytest.mark.parametrize("kind", ["ivf_pq", "hnsw"])
def test_what_is_excluded_never_comes_out_of_an_approximate_index(kind, als, many, monkeypatch):
    monkeypatch.setattr("vitrina.ann.faiss_index.SCANNED_PER_STEP", 0.1)  # small catalogues reach the graph
    source = indexed(als, FaissIndex(kind=kind, min_recall=0.95), many)
    assert source.index.effort_ is not None
    asked = many.rows(np.arange(200, dtype=np.int32))
    allowed = np.arange(many.n_items) % 2 == 0
    found = source.retrieve(asked, k=100, exclude=seen_by(asked), allowed=allowed)
    assert (found.item_ix != PAD).all()
    assert allowed[found.item_ix].all()
    for b in range(200):
        assert not set(found.item_ix[b].tolist()) & set(seen_by(asked).of(b).tolist())
    exact = als.retrieve(asked, k=100, exclude=seen_by(asked), allowed=allowed)
    hits = [len(set(a) & set(b)) for a, b in zip(found.item_ix.tolist(), exact.item_ix.tolist(), strict=True)]
    assert np.mean(hits) >= 95


def test_policies_hold_and_the_measured_index_is_the_one_that_is_saved_and_served(many, tmp_path):
    source = Source(generator=ImplicitALS(embedding_dim=16, n_epochs=2), k=60, index=FaissIndex())
    blocked = ("i00000", "i00001", "i00002")
    policies = [Unseen(), Block(item_ids=blocked)]
    pipeline = Pipeline(sources=[source], policies=policies, fallback=MostPop()).fit(many)
    recall, asked = source.index.recall_, many.rows(np.arange(50, dtype=np.int32))
    assert recall.real_queries
    assert recall.n_queries == 200
    feed = pipeline.recommend(asked, k=30)
    taken = set(asked.frame().select("user_id", "item_id").iter_rows())
    shown = feed.frame()
    assert shown.height == 1500
    assert not taken & set(shown.select("query_id", "item_id").iter_rows())
    assert not shown["item_id"].is_in(blocked).any()
    pipeline.save(tmp_path / "p")
    loaded = Pipeline.load(tmp_path / "p")
    index = loaded.sources[0].index
    assert index.recall_ == recall
    assert index.effort_ == source.index.effort_
    assert _is_mapped(index._state.base.vector_ND)
    assert (loaded.recommend(asked, k=30).item_ix == feed.item_ix).all()
    assert (loaded.recommend(asked, k=30, live=True).item_ix == feed.item_ix).all()
    (note,) = loaded.notes
    assert note == pipeline.notes[0]
    assert f"FaissIndex, which finds {recall.mean:.4f} of the exact top 100, measured on 200 training" in note
    loaded.save(tmp_path / "p")  # over the files that it maps
    assert (Pipeline.load(tmp_path / "p").recommend(asked, k=30).item_ix == feed.item_ix).all()


def _is_mapped(array) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def test_an_index_that_misses_too_much_is_refused_and_exact_search_answers(als, many, caplog, monkeypatch):
    monkeypatch.setattr("vitrina.ann.faiss_index.FaissIndex._efforts", lambda *_: [Effort(1, 1.0)])
    with caplog.at_level(logging.INFO, "vitrina.ann"):
        source = indexed(als, FaissIndex(**POOR), many)
    assert source.index.recall_.mean < 0.99
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "refused and exact search answers" in record.message
    assert "below its floor of 0.99, so exact search answers" in source.note
    asked = many.rows(np.arange(20, dtype=np.int32))
    assert same_lists(als.retrieve(asked, k=30), source.retrieve(asked, k=30)) is None
    kept = indexed(als, FaissIndex(**POOR, min_recall=0.0), many)
    assert kept.index.effort_ is not None
    assert "answers through FaissIndex, which finds 0." in kept.note


def test_an_index_of_another_fit_is_never_asked(als, many, tmp_path):
    model = als.clone(n_epochs=1).fit(many)
    source = Source(generator=model, index=ExactIndex())
    pipeline = Pipeline(sources=[source])
    with pytest.raises(ConfigError, match="the index of source ImplicitALS is empty"):
        pipeline.bind(Catalogue.of(many), 0)
    source.build_index(many)
    pipeline.bind(Catalogue.of(many), 0).save(tmp_path / "p")
    model.fit(many.rows(np.arange(100, dtype=np.int32)))
    with pytest.raises(ConfigError, match="other vectors than its index; it was fitted again"):
        pipeline.bind(Catalogue.of(many), 0)
    model.save(tmp_path / "p" / "source-ImplicitALS")
    with pytest.raises(ArtifactError, match="is the index of another ImplicitALS; train it again"):
        Pipeline.load(tmp_path / "p")


@pytest.fixture(scope="module")
def shop() -> tuple[Histories, pl.DataFrame]:
    """40 of 50 items were taken; all have a taste in their metadata."""
    frame = log_of(40, 50, 480).filter(pl.col("item_id") < "i00040")
    items = pl.DataFrame(
        {"item_id": [f"i{i:05d}" for i in range(50)], "taste": [f"taste {i % 5}" for i in range(50)]}
    )
    return Histories.from_frame(frame), items


def test_items_that_came_later_are_found_in_the_delta_of_the_index(shop, tmp_path):
    train, items = shop
    two_tower = CANDIDATES["TwoTower"](**SMALL, n_negatives=16, p_no_id=0.5)
    source = Source(generator=two_tower, index=ExactIndex(), k=50)
    pipeline = Pipeline(sources=[source], policies=[Unseen()]).fit(train, items)
    two_tower.extend(items)
    wide = train.reindex(two_tower.items_)
    pipeline.bind(Catalogue.of(wide, items), pipeline.trained_until)
    assert len(two_tower.items_) == 50
    assert len(source.index._state.delta) == 10
    new = ~np.isin(wide.items.values.to_numpy(), train.items.values.to_numpy())
    asked = wide.rows(np.arange(30, dtype=np.int32))
    for limits in ({}, {"exclude": seen_by(asked)}, {"allowed": new}, {"allowed": ~new}):
        direct, through = two_tower.retrieve(asked, k=50, **limits), source.retrieve(asked, k=50, **limits)
        assert same_lists(direct, through) is None
    hidden = Jagged(
        np.arange(31, dtype=np.int64) * new.sum(), np.tile(np.flatnonzero(new), 30).astype(np.int32)
    )
    assert not new[source.retrieve(asked, k=20, exclude=hidden).item_ix].any()
    first = pipeline.recommend(asked, k=20)
    assert first.frame()["item_id"].is_in(items["item_id"].filter(pl.Series(new))).any()
    pipeline.save(tmp_path / "p")
    again = Pipeline.load(tmp_path / "p")
    assert (again.recommend(asked, k=20).item_ix == first.item_ix).all()
    assert len(again.sources[0].index._state.delta) == 10
    again.sources[0].index.compact()
    assert (again.recommend(asked, k=20).item_ix == first.item_ix).all()


def test_a_catalogue_of_one_item_answers_through_an_index():
    ts = pl.Series([1, 2, 3]).cast(pl.Datetime("us", "UTC"))
    train = Histories.from_frame(pl.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 7, 7], "ts": ts}))
    for name in ("ImplicitALS", "BPR", "SASRec", "TwoTower"):
        model = CANDIDATES[name](**VECTORS[name]).fit(train)
        source = indexed(model, FaissIndex(), train)
        assert source.retrieve(train, k=3).item_ix.tolist() == [[0], [0]]
        assert source.retrieve(train, k=3, exclude=seen_by(train)).item_ix[0].tolist() == [PAD]
        assert "searches its 1 vectors exactly" in source.note


def test_several_servers_share_an_index_in_postgres(train, make_index, tmp_path):
    model = ImplicitALS(embedding_dim=8).fit(train)
    source = Source(generator=model, index=make_index("pgvector"))
    pipeline = Pipeline(sources=[source], policies=[Unseen()]).fit(train)
    pipeline.save(tmp_path / "p")
    assert "recall" not in (tmp_path / "p" / "pipeline" / "manifest.json").read_text()
    loaded = Pipeline.load(tmp_path / "p")
    direct = Pipeline(sources=[Source(generator=model)], policies=[Unseen()]).bind(Catalogue.of(train), 0)
    feed = loaded.recommend(train, k=10)
    assert (feed.item_ix == direct.recommend(train, k=10).item_ix).mean() > 0.99
    loaded.sources[0].index.close()


@pytest.mark.parametrize("kind", ["pgvector", "qdrant"])
def test_a_source_never_answers_from_vectors_of_another(kind, train, make_index, tmp_path):
    params = {"pgvector": {"table": "both"}, "qdrant": {"path": str(tmp_path / "qdrant")}}[kind]

    def fitted(seed):
        index = make_index(kind, **params)
        source = Source(generator=ImplicitALS(embedding_dim=8, seed=seed), index=index)
        return Pipeline(sources=[source], fallback=MostPop()).fit(train)

    first = fitted(0)
    first.save(tmp_path / "p")
    if kind == "qdrant":
        first.sources[0].index.close()  # local mode locks its folder
    second = fitted(1)
    direct = Pipeline(sources=[Source(generator=second.sources[0].generator)])
    direct.bind(second.catalogue, second.trained_until)
    assert (second.recommend(train, k=5).item_ix == direct.recommend(train, k=5).item_ix).all()
    sentence = r"holds another build .*; give each source a .* of its own, or build it again"
    if kind == "pgvector":
        with pytest.raises(ArtifactError, match=sentence):
            first.recommend(train, k=5)
        live = first.recommend(train, k=5, live=True)
        assert "holds another build" in live.failures["ImplicitALS"]
        assert set(live.frame()["source"]) == {"fallback:MostPop"}
    else:
        second.sources[0].index.close()
    with pytest.raises(ArtifactError, match=sentence):
        Pipeline.load(tmp_path / "p")


def test_a_server_that_was_not_extended_answers_beside_one_that_was(shop, make_index, tmp_path):
    train, items = shop
    two_tower = CANDIDATES["TwoTower"](**SMALL, n_negatives=16)
    source = Source(generator=two_tower, index=make_index("pgvector"), k=50)
    pipeline = Pipeline(sources=[source]).fit(train, items)
    asked = train.rows(np.arange(30, dtype=np.int32))
    pipeline.save(tmp_path / "p")
    server = Pipeline.load(tmp_path / "p")
    before = server.recommend(asked, k=30)
    two_tower.extend(items)
    pipeline.bind(Catalogue.of(train.reindex(two_tower.items_), items), pipeline.trained_until)
    assert len(server.sources[0].index) == 50
    assert (server.recommend(asked, k=30).item_ix == before.item_ix).all()
    new = items["item_id"].filter(items["item_id"] >= "i00040")
    assert pipeline.recommend(asked, k=50).frame()["item_id"].is_in(new.to_list()).any()
    server.sources[0].index.close()


# --- from a configuration -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("indexed")
    start = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    frame = log_of(300, 1200, 9_000)
    days = np.random.default_rng(1).uniform(0, 50, frame.height)
    ts = [start + dt.timedelta(days=float(day)) for day in days]
    frame.with_columns(ts=pl.Series(ts)).write_parquet(made / "log.parquet")
    return made


def config_of(folder, **index):
    model = {"kind": "ImplicitALS", "params": {"embedding_dim": 8, "n_epochs": 2}, "index": index}
    return check(
        {
            "out": str(folder / "runs"),
            "data": {"path": str(folder / "log.parquet")},
            "split": {"last_days": 10},
            "evaluate": {"metrics": ["NDCG@10", "Recall@10"], "k": 20, "repeats": ["new_only"]},
            "models": [model, {"kind": "MostPop"}],
        }
    )


def test_a_run_states_the_recall_of_its_index_and_serves_the_index_it_states(folder):
    run = config_of(folder, kind="FaissIndex", min_recall=0.5)
    first = evaluate_run(run)
    (note,) = first.views["new_only"].notes()["ImplicitALS"]
    assert note.startswith("answers through FaissIndex, which finds ")
    assert (
        "FaissIndex"
        in json.loads((folder / "runs" / "run.json").read_text())["config"]["models"][0]["index"]["kind"]
    )
    again = evaluate_run(run)
    assert "ImplicitALS" in again.reused
    assert again.views["new_only"].notes() == first.views["new_only"].notes()
    assert again.leaderboard.equals(first.leaderboard)
    other = evaluate_run(config_of(folder, kind="ExactIndex"))
    assert "ImplicitALS" not in other.reused
    trained = train_run(run, model="ImplicitALS")
    (note,) = trained.card["pipeline"]["indexes"]
    assert f"- {note}" in (trained.folder / "card.md").read_text()
    service = open_service(trained.folder)
    try:
        assert service.pipeline.notes == (note,)
        assert service.recommend("u00004", k=10).items
    finally:
        service.state.close()


def test_a_repeated_run_never_measures_one_model_by_the_vectors_of_another(folder, make_index, tmp_path):
    index = {"kind": "PgVectorIndex", "table": make_index("pgvector").table}
    params = {"embedding_dim": 8, "n_epochs": 2}
    two = [
        {"name": f"seed {seed}", "kind": "ImplicitALS", "params": params | {"seed": seed}, "index": index}
        for seed in (0, 1)
    ]
    run = config_of(folder, kind="ExactIndex")
    run = check(run.model_dump(exclude_none=True) | {"out": str(tmp_path), "models": two})
    first = evaluate_run(run)
    again = evaluate_run(run)
    assert again.leaderboard.equals(first.leaderboard)
    assert "seed 0" not in again.reused  # its table was taken, so it is trained again


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('index = { kind = "Faiss" }', "there is no index 'Faiss' (did you mean 'FaissIndex'?)"),
        ('index = { kind = "FaissIndex", floor = 1 }', "FaissIndex has no parameter 'floor'"),
        ('index = { kind = "FaissIndex", min_recall = 2 }', "FaissIndex.min_recall must be in [0, 1], got 2"),
        ('index = { kind = "PgVectorIndex", dsn = "a" }', "PgVectorIndex.dsn may hold a password"),
    ],
)
def test_a_mistaken_index_is_found_before_any_data_is_read(text, said):
    with pytest.raises(ConfigError) as caught:
        loads(f'[data]\npath = "log.parquet"\n[[models]]\nkind = "ImplicitALS"\n{text}\n')
    assert said in str(caught.value)
    with pytest.raises(ConfigError, match="ItemKNN has no vectors"):
        loads('[data]\npath = "a.parquet"\n[[models]]\nkind = "ItemKNN"\nindex = { kind = "ExactIndex" }\n')


def test_vocabularies_of_both_ways_are_one(train):
    model = ImplicitALS(embedding_dim=8).fit(train)
    source = indexed(model, ExactIndex(), train)
    other = train.reindex(Ids(train.items.values[::2]))
    assert same_lists(model.retrieve(other, k=5), source.retrieve(other, k=5)) is None
