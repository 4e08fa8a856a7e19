"""Two towers: what they learn, and how items that nobody took yet are served from their metadata."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from vitrina.ann import ExactIndex
from vitrina.candidates import next_item
from vitrina.candidates.popularity import MostPop
from vitrina.candidates.table_features import common, encode, learn
from vitrina.candidates.two_tower import TwoTower
from vitrina.errors import ConfigError, InputError
from vitrina.ids import Ids
from vitrina.log import Catalogue, Histories
from vitrina.nn.layout import Windows, pack, pad
from vitrina.nn.towers import Towers
from vitrina.pipeline import Pipeline, Source

SMALL = {"embedding_dim": 16, "max_len": 20, "batch_size": 32, "lr": 0.01, "n_negatives": 32, "n_epochs": 8}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shop() -> tuple[Histories, pl.DataFrame, np.ndarray]:
    """128 users who take items of one of four brands; each fourth item was never taken."""
    rng = np.random.default_rng(0)
    brand = np.arange(80) // 4 % 4
    taken = np.flatnonzero(np.arange(80) % 4 != 3)
    user = np.repeat(np.arange(128), 16)
    own = [rng.choice(taken[brand[taken] == u % 4]) for u in user]
    frame = pl.DataFrame(
        {
            "user_id": user,
            "item_id": own,
            "ts": pl.Series(np.arange(len(user)) * 1_000_000).cast(pl.Datetime("us", "UTC")),
        }
    )
    items = pl.DataFrame(
        {
            "item_id": np.arange(80),
            "brand": [f"brand{b}" for b in brand],
            "title": [f"thing number {i}" for i in range(80)],
            "price": rng.random(80),
        }
    )
    return Histories.from_frame(frame), items, np.arange(128) % 4


def share_of_own_brand(model: TwoTower, train: Histories, taste: np.ndarray) -> tuple[float, float]:
    """Share of the own brand among the five best never-taken items, and of those among the 15 best of all."""
    ids = model.items_.values.to_numpy()
    fresh = ids % 4 == 3
    lists = model.retrieve(train, k=5, allowed=fresh)
    own = (ids[lists.item_ix] // 4 % 4 == taste[:, None]).mean()
    return own, fresh[model.retrieve(train, k=20).item_ix].mean()


def test_items_of_a_wide_vocabulary_are_served_from_their_metadata(shop):
    train, items, taste = shop
    wide = train.reindex(Ids(items["item_id"]))
    model = TwoTower(**SMALL, p_no_id=0.5).fit(wide, items)
    own, fresh = share_of_own_brand(model, wide, taste)
    assert own > 0.9
    assert fresh > 0.05
    blind = TwoTower(**SMALL).fit(wide)
    assert share_of_own_brand(blind, wide, taste)[0] < 0.5


def test_items_added_after_the_fit_are_served_as_if_they_had_been_known(shop):
    train, items, taste = shop
    model = TwoTower(**SMALL, p_no_id=0.5).fit(train, items)
    old, before = model.items_, model.item_emb_.copy()
    assert len(old) == 60
    model.extend(items)
    assert len(model.items_) == 80
    assert np.allclose(model.item_emb_[model.items_.ix(old.values)], before, atol=1e-6)
    assert share_of_own_brand(model, train, taste)[0] > 0.9


def test_an_extended_model_serves_in_a_pipeline_and_from_a_folder(shop, tmp_path):
    train, items, _ = shop
    model = TwoTower(**SMALL).fit(train, items).extend(items)
    wide = train.reindex(model.items_)
    pipeline = Pipeline(sources=[Source(generator=model)], fallback=MostPop().fit(wide))
    pipeline.bind(Catalogue.of(wide, items), int(train.ts.max()))
    asked = train.rows(np.arange(6, dtype=np.int32))
    first = pipeline.recommend(asked, k=30).frame()
    assert (first["item_id"] % 4 == 3).any()
    pipeline.save(tmp_path / "p")
    again = Pipeline.load(tmp_path / "p").recommend(asked, k=30).frame()
    assert first["item_id"].equals(again["item_id"])


def test_a_pipeline_hands_metadata_to_those_who_read_it(shop):
    train, items, _ = shop
    model = TwoTower(**{**SMALL, "n_epochs": 1})
    Pipeline(sources=[Source(generator=model)], fallback=MostPop()).fit(train, items)
    assert set(model.learnt_["columns"]) == {"brand", "title", "price"}
    assert len(model.items_) == 60


def test_a_history_of_an_item_outside_the_vocabulary_is_counted_or_served_from_its_metadata(shop):
    train, items, _ = shop
    everything = Ids(pl.concat([train.items.values, items["item_id"]]))
    (new,) = items["item_id"].filter(~items["item_id"].is_in(train.items.values.to_list())).head(1)
    asked, _ = Histories.from_lists(everything, [[new]])

    def feed_of(rows):
        source = Source(generator=TwoTower(**{**SMALL, "n_epochs": 1}))
        return Pipeline(sources=[source], fallback=MostPop()).fit(rows, items).recommend(asked, k=3)

    left_out, served = feed_of(train), feed_of(train.reindex(everything))
    assert set(left_out.frame()["source"]) == {"fallback:MostPop"}
    assert left_out.unread()["n_rows"].to_list() == [1]
    assert set(served.frame()["source"]) == {"TwoTower"}
    assert served.unread().is_empty()


@pytest.mark.parametrize("n_layers", [0, 1])
def test_the_user_tower_sees_no_later_item(n_layers, shop):
    train, items, _ = shop
    model = TwoTower(**{**SMALL, "n_epochs": 1}, n_layers=n_layers, dropout=0.0).fit(train, items)
    asked = train.rows(np.arange(3, dtype=np.int32))
    short = asked.only(np.tile(np.arange(16) < 9, 3))
    item_BT, layout = model._asked(asked, np.arange(3, dtype=np.int32))
    with torch.inference_mode():
        whole = model._encoder(item_BT, layout)[:, 8]
    whole = torch.nn.functional.normalize(whole, dim=-1).numpy()
    assert np.allclose(whole, model.embed(short), atol=1e-5)


# --- features -----------------------------------------------------------------------------------------------


def test_features_by_kind():
    items = pl.DataFrame(
        {
            "item_id": [1, 2, 3],
            "brand": ["a", None, "a"],
            "title": ["red shoe", "Shoe", None],
            "price": [1.0, 3.0, None],
            "content": [[1.0, 0.0], None, [0.0, 2.0]],
        }
    )
    learnt = learn(items, {})
    assert {name: how["kind"] for name, how in learnt["columns"].items()} == {
        "brand": "category", "title": "text", "price": "number", "content": "vector",
    }  # fmt: skip
    found = encode(items, Ids(pl.Series([1, 2, 3, 4])), learnt)
    assert np.diff(found.offsets).tolist() == [3, 1, 1, 0]
    brand_1, shoe_2, brand_3 = found.token[0], found.token[3], found.token[4]
    assert brand_1 == brand_3
    assert shoe_2 in found.token[1:3]
    assert found.weight.tolist() == pytest.approx([1, 2**-0.5, 2**-0.5, 1, 1])
    assert found.number.tolist() == [[-1, 0], [1, 0], [0, 1], [0, 1]]
    assert found.content.tolist() == [[1, 0], [0, 0], [0, 2], [0, 0]]


def test_what_does_not_fit_is_refused(shop):
    _, items, _ = shop
    with pytest.raises(ConfigError, match="columns has 'colour'"):
        learn(items, {"colour": "category"})
    with pytest.raises(InputError, match="more than once"):
        learn(pl.concat([items, items]), {})
    with pytest.raises(InputError, match="lacks the column 'price'"):
        encode(items.drop("price"), Ids(items["item_id"]), learn(items, {}))
    with pytest.raises(ConfigError, match="p_no_id and p_nobody must be in"):
        TwoTower(p_no_id=1.0)


def test_words_that_name_one_item_are_not_read(shop, tmp_path):
    train, items, _ = shop
    model = TwoTower(**{**SMALL, "n_epochs": 1}).fit(train, items)
    described = encode(items, Ids(items["item_id"]), learn(items, {}))
    assert len(np.unique(described.token)) == 80 + 2 + 4  # numbers, "thing", "number", brands
    assert np.array_equal(model.words_, common(described, 5))
    assert len(model.words_) == 2 + 4
    assert np.array_equal(np.diff(model.features_["offsets"]), np.full(60, 3))
    model.extend(items)
    assert np.array_equal(np.diff(model.features_["offsets"]), np.full(80, 3))
    model.save(tmp_path / "m")
    assert np.array_equal(TwoTower.load(tmp_path / "m").words_, model.words_)
    every = TwoTower(**{**SMALL, "n_epochs": 1}, min_count=1).fit(train, items)
    assert len(every.words_) == 60 + 2 + 4, "numbers of items never taken are no words of the training"
    assert common(described, 81).tolist() == []


# --- people -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def towns() -> tuple[Histories, pl.DataFrame]:
    """Everybody begins with the same three items; what follows is the taste of their town."""
    rng = np.random.default_rng(3)
    frames = []
    for user in range(120):
        own = 10 + user % 4 * 10 + rng.permutation(10)[:6]
        items = [*rng.permutation(3).tolist(), *own.tolist()]
        ts = pl.Series(np.arange(len(items)) * 1_000_000).cast(pl.Datetime("us", "UTC"))
        frames.append(pl.DataFrame({"user_id": [f"u{user:03d}"] * len(items), "item_id": items, "ts": ts}))
    people = pl.DataFrame(
        {
            "user_id": [f"u{user:03d}" for user in range(140)],
            "town": [f"town{user % 4}" for user in range(140)],
            "age": [None if user % 7 == 0 else 20.0 + user % 40 for user in range(140)],
        }
    )
    return Histories.from_frame(pl.concat(frames)), people


def share_of_own_town(model: TwoTower, user_ids: list[str], train: Histories) -> float:
    """Among the items of all towns, those of the own one among the first five, after the common three."""
    asked = Histories.from_frame(
        pl.DataFrame(
            {
                "user_id": np.repeat(user_ids, 3),
                "item_id": np.tile([0, 1, 2], len(user_ids)),
                "ts": pl.Series(np.tile([1, 2, 3], len(user_ids))).cast(pl.Datetime("us", "UTC")),
            }
        ),
        items=train.items,
    )
    ids = model.items_.values.to_numpy()
    lists = model.retrieve(asked, k=5, allowed=ids >= 10)
    town = np.array([int(user[1:]) % 4 for user in asked.query_ids])
    return float((ids[lists.item_ix] // 10 - 1 == town[:, None]).mean())


def test_what_is_known_of_a_person_decides_what_their_history_leaves_open(towns, tmp_path):
    train, people = towns
    model = TwoTower(**{**SMALL, "n_epochs": 25}).fit(train, users=people)
    known = [f"u{user:03d}" for user in range(40)]
    later = [f"u{user:03d}" for user in range(120, 140)]
    nobody = [f"x{user:03d}" for user in range(40)]
    assert share_of_own_town(model, known, train) > 0.9
    assert share_of_own_town(model, later, train) > 0.9
    assert share_of_own_town(model, nobody, train) < 0.5
    assert share_of_own_town(TwoTower(**SMALL).fit(train), known, train) < 0.5
    model.save(tmp_path / "m")
    assert share_of_own_town(TwoTower.load(tmp_path / "m"), later, train) > 0.9
    items = pl.Series([0, 1, 2])
    sessions, _ = Histories.from_lists(train.items, [items.to_list()] * 3)
    emb_BD = model.embed(sessions)
    assert np.allclose(emb_BD[0], emb_BD[1:], atol=1e-6), "sessions are nobody's, whatever numbers they have"


def test_a_pipeline_hands_the_users_table_to_those_who_read_it_and_saves_it_with_them(towns, tmp_path):
    train, people = towns
    pipeline = Pipeline(sources=[Source(generator=TwoTower(**SMALL), index=ExactIndex())], fallback=MostPop())
    pipeline.fit(train, users=people)
    asked = train.of(pl.Series(["u001", "u002", "stranger"]))
    first = pipeline.recommend(asked, k=10)
    assert set(first.frame().filter(query_id="stranger")["source"]) == {"fallback:MostPop"}
    pipeline.save(tmp_path / "p")
    again = Pipeline.load(tmp_path / "p")
    assert (again.recommend(asked, k=10).item_ix == first.item_ix).all()
    assert set(again.sources[0].generator.people_learnt_["columns"]) == {"town", "age"}


def test_people_with_whole_numbers_for_ids_are_not_taken_for_the_sessions_of_a_batch():
    rng = np.random.default_rng(0)
    ts = pl.Series(np.arange(200) * 1_000_000).cast(pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({"user_id": np.arange(200) % 20, "item_id": rng.integers(0, 9, 200), "ts": ts})
    people = pl.DataFrame({"user_id": np.arange(20), "town": [f"t{u % 2}" for u in range(20)]})
    train = Histories.from_frame(frame)
    model = TwoTower(**SMALL).fit(train, users=people)
    sessions, _ = Histories.from_lists(train.items, [[1, 2]] * 5)
    assert np.allclose(model.embed(sessions)[0], model.embed(sessions)[1:], atol=1e-6)
    as_people = replace(sessions, anonymous=False)
    assert not np.allclose(model.embed(as_people)[0], model.embed(as_people)[1:], atol=1e-3)
    assert np.allclose(model.embed(sessions.rows(np.arange(5)).last(2)), model.embed(sessions), atol=1e-6)


def test_a_stopped_training_with_people_is_gone_on_with_and_another_table_is_not(towns, tmp_path):
    from vitrina.nn.session import session

    train, people = towns
    with session(folder=tmp_path / "a"):
        whole = TwoTower(**SMALL).fit(train, users=people)
    model = TwoTower(**SMALL)
    model.fit(train, users=people)
    assert all(np.array_equal(model.weights_[name], whole.weights_[name]) for name in whole.weights_)
    other = TwoTower(**SMALL).fit(train, users=people.with_columns(town=pl.lit("one")))
    assert not np.array_equal(other.item_emb_, whole.item_emb_)


# --- bad input ----------------------------------------------------------------------------------------------


def test_a_nan_in_a_number_column_counts_as_missing_and_spoils_nothing(shop):
    train, items, _ = shop
    price = items["price"].to_list()
    price[0], price[1], price[2] = float("nan"), float("inf"), None
    odd = items.with_columns(price=pl.Series(price, dtype=pl.Float64))
    found = encode(odd, Ids(items["item_id"]), learn(odd, {}))
    assert found.number[:3].tolist() == [[0, 1]] * 3
    assert np.isfinite(found.number).all()
    model = TwoTower(**{**SMALL, "n_epochs": 1}).fit(train, odd)
    assert np.isfinite(model.item_emb_).all()
    nothing = items.with_columns(price=pl.lit(float("nan")))
    assert encode(nothing, Ids(items["item_id"]), learn(nothing, {})).number[:, 1].all()


def test_vectors_that_do_not_fit_are_refused_with_the_column_and_the_item(shop):
    train, items, _ = shop
    even = items.with_columns(content=pl.Series([[1.0, float(i)] for i in range(80)]))
    ragged = items.with_columns(content=pl.Series([[1.0] * (2 + i % 2) for i in range(80)]))
    with pytest.raises(InputError, match="vectors of 'content' have 2 to 3 numbers; give one length"):
        TwoTower(**SMALL).fit(train, ragged)
    broken = even.with_columns(
        content=pl.Series([[1.0, float("nan")] if i == 4 else [1.0, 2.0] for i in range(80)])
    )
    with pytest.raises(InputError, match=r"the vector 'content' of 4 \(and of 0 more\) has a null, NaN"):
        TwoTower(**SMALL).fit(train, broken)
    model = TwoTower(**{**SMALL, "n_epochs": 1}).fit(train, even)
    assert model._encoder.about_item.content is not None
    with pytest.raises(InputError, match="vectors of 'content' must have 2 numbers"):
        model.extend(ragged)
    longer = even.with_columns(content=pl.Series([[1.0, 2.0, 3.0] for _ in range(80)]))
    with pytest.raises(InputError, match="vectors of 'content' must have 2 numbers"):
        model.extend(longer)
    assert len(model.extend(even).items_) == 80


def test_given_vectors_alone_carry_new_items(shop):
    train, items, taste = shop
    brand = np.arange(80) // 4 % 4
    content = np.eye(4, dtype=np.float32)[brand] + 0.05 * np.random.default_rng(0).standard_normal((80, 4))
    vectors = items.select("item_id").with_columns(content=pl.Series(content.tolist()))
    wide = train.reindex(Ids(items["item_id"]))
    model = TwoTower(**SMALL, p_no_id=0.5).fit(wide, vectors)
    assert share_of_own_brand(model, wide, taste)[0] > 0.9


def test_users_tables_that_do_not_fit_are_refused(towns):
    train, people = towns
    with pytest.raises(InputError, match="the users table needs a column user_id, it has: who"):
        TwoTower(**SMALL).fit(train, users=people.select(who="user_id"))
    with pytest.raises(InputError, match="the users table has 'u000' more than once"):
        TwoTower(**SMALL).fit(train, users=pl.concat([people, people]).sort("user_id"))
    with pytest.raises(ConfigError, match="columns are named, 'town' the first, but the users table is not"):
        TwoTower(**SMALL, user_columns={"town": "category"}).fit(train)
    with pytest.raises(ConfigError, match="columns has 'city'"):
        TwoTower(**SMALL, user_columns={"city": "category"}).fit(train, users=people)


def test_one_item_and_nobody(shop):
    _, items, _ = shop
    ts = pl.Series([1, 2]).cast(pl.Datetime("us", "UTC"))
    train = Histories.from_frame(pl.DataFrame({"user_id": [1, 1], "item_id": [5, 5], "ts": ts}))
    model = TwoTower(**{**SMALL, "n_epochs": 1}).fit(train, items)
    assert model.retrieve(train, k=5).item_ix.tolist() == [[0]]
    assert len(model.extend(items).items_) == 80
    lists = model.retrieve(Histories.from_lists(model.items_, [[], [7]])[0], k=5)
    assert (lists.item_ix[0] == -1).all()
    assert (lists.item_ix[1] >= 0).all()


@pytest.mark.parametrize("negatives", ["uniform", "mixed"])
def test_an_item_that_nobody_took_is_no_negative(negatives, shop):
    train, items, _ = shop
    wide = train.reindex(Ids(pl.Series(np.arange(80))))
    model = TwoTower(embedding_dim=8, n_epochs=1, n_negatives=500, negatives=negatives, min_count=2)
    model.fit(wide, items=items)
    model._aims = model._aims_of(wide)
    objective = model._objective(wide)
    drawn = torch.cat([objective.draw(torch.zeros(9, dtype=torch.int64)).item_ix for _ in range(20)])
    assert sorted(set(drawn.tolist())) == [i for i in range(80) if i % 4 != 3]


def test_items_known_from_the_start_are_served_like_items_added_later(shop):
    """With a whole softmax too: as negatives they would learn that they are new, and come last."""
    train, items, taste = shop
    ids, items = np.arange(80), items.select("item_id", "brand")
    place = []
    for seed in range(3):
        params = {
            "embedding_dim": 16,
            "n_epochs": 4,
            "lr": 0.01,
            "min_count": 2,
            "loss": "softmax",
            "seed": seed,
        }
        model = TwoTower(**params).fit(train.reindex(Ids(pl.Series(ids))), items=items)
        ranked = ids[model.retrieve(train, k=80).item_ix]
        place.append(np.nonzero((ranked % 4 == 3) & (ranked // 4 % 4 == taste[:, None]))[1].mean())
    assert np.mean(place) < 7.5  # of 20 of the own brand; as negatives 8.3, added later 4.0


def test_what_is_new_to_the_part_that_a_validation_trains_on_has_no_vector_of_its_own(monkeypatch):
    rng = np.random.default_rng(0)
    lists = [[*rng.integers(0, 30, 6).tolist(), *rng.integers(30, 40, 2).tolist()] for _ in range(60)]
    train, _ = Histories.from_lists(Ids(pl.Series(range(40))), lists)
    train = replace(train, ts=np.tile(np.arange(8), 60) * 1_000_000)
    items = pl.DataFrame({"item_id": np.arange(40), "kind": [f"kind{i % 5}" for i in range(40)]})
    params = {"validation": "time", "frac_validation": 0.25, "n_epochs": 1, "max_len": 8, "min_count": 1}
    had, validate = [], TwoTower._validate

    def heard(model, objective, held):
        had.append(objective.encoder.has_id_I.numpy().copy())
        return validate(model, objective, held)

    monkeypatch.setattr(TwoTower, "_validate", heard)
    model = TwoTower(**params).fit(train, items=items)
    assert had[0][:30].all()
    assert not had[0][30:].any()
    assert model.has_id_.all()  # trained anew on everything


def test_ties_are_put_in_a_new_order_with_a_users_table_too(towns, monkeypatch):
    train, users = towns
    calls, shuffled = [], next_item.ties_shuffled
    monkeypatch.setattr(next_item, "ties_shuffled", lambda *given: calls.append(1) or shuffled(*given))
    TwoTower(n_epochs=3, shuffle_ties=True, embedding_dim=8, n_negatives=8).fit(train, users=users)
    assert len(calls) == 3


def test_a_date_is_the_same_number_in_every_unit():
    dates = pl.datetime_range(
        pl.datetime(2020, 1, 1), pl.datetime(2020, 3, 1), "1d", time_unit="us", eager=True
    )
    table = pl.DataFrame({"item_id": np.arange(len(dates)), "since": dates})
    learnt = learn(table, {})
    ids = Ids(table["item_id"])
    wanted = encode(table, ids, learnt).number
    assert np.ptp(wanted) > 1
    for dtype in (pl.Datetime("ms"), pl.Datetime("ns"), pl.Date):
        np.testing.assert_allclose(
            encode(table.with_columns(pl.col("since").cast(dtype)), ids, learnt).number, wanted
        )


NOTHING_KNOWN = {
    "offsets": np.zeros(10, np.int64),
    "token": np.zeros(0, np.int64),
    "weight": np.zeros(0, np.float32),
    "number": np.zeros((9, 0), np.float32),
    "content": np.zeros((9, 0), np.float32),
}
SHAPE = {"n_buckets": 4, "embedding_dim": 8, "n_heads": 2, "dropout": 0.0, "p_no_id": 0.0, "p_nobody": 0.0}


@pytest.mark.parametrize(("n_layers", "people"), [(0, None), (0, NOTHING_KNOWN), (1, NOTHING_KNOWN)])
def test_towers_refuse_packed_rows_whose_histories_would_share_a_mean_or_a_person(n_layers, people):
    towers = Towers(NOTHING_KNOWN, people, np.ones(9, bool), n_layers=n_layers, **SHAPE)
    rows = pack(Windows(np.array([0, 4]), np.array([4, 9])), 9)
    with pytest.raises(InputError, match=f"towers of {n_layers} blocks.* cannot read packed rows; pad them"):
        towers(rows.take(np.arange(9), 9), rows.layout)


def test_towers_with_blocks_read_packed_rows_as_padded_ones():
    torch.manual_seed(0)
    towers = Towers(NOTHING_KNOWN, None, np.ones(9, bool), n_layers=1, **SHAPE).eval()
    windows, found = Windows(np.array([0, 4]), np.array([4, 9])), []
    for rows in (pack(windows, 9), pad(windows)):
        state_BTD = towers(rows.take(np.arange(9), 9), rows.layout)
        valid_BT = rows.layout.valid_BT
        found.append(state_BTD[valid_BT][np.argsort(rows.row_BT[valid_BT.numpy()])])
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
