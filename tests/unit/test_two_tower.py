"""Two towers: what they learn, and how items that nobody took yet are served from their metadata."""

import numpy as np
import polars as pl
import pytest
import torch

from vitrina.candidates.item_features import encode, learn
from vitrina.candidates.popularity import MostPop
from vitrina.candidates.two_tower import TwoTower
from vitrina.errors import ConfigError, InputError
from vitrina.ids import Ids
from vitrina.log import Catalogue, Histories
from vitrina.pipeline import Pipeline, Source

SMALL = {"embedding_dim": 16, "max_len": 20, "batch_size": 32, "lr": 0.01, "n_negatives": 32, "n_epochs": 8}


@pytest.fixture(autouse=True)
def _one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


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
    learnt = learn(items, {}, 1000)
    assert {name: how["kind"] for name, how in learnt["columns"].items()} == {
        "brand": "category", "title": "text", "price": "number", "content": "vector",
    }  # fmt: skip
    found = encode(items, Ids(pl.Series([1, 2, 3, 4])), learnt)
    assert np.diff(found.offsets).tolist() == [3, 1, 1, 0]
    brand_1, shoe_2, brand_3 = found.token[0], found.token[3], found.token[4]
    assert brand_1 == brand_3
    assert shoe_2 in found.token[1:3]
    assert found.weight.tolist() == pytest.approx([1, 2**-0.5, 2**-0.5, 1, 1])
    assert found.dense.tolist() == [[-1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 2], [0, 1, 0, 0]]


def test_what_does_not_fit_is_refused(shop):
    _, items, _ = shop
    with pytest.raises(ConfigError, match="columns has 'colour'"):
        learn(items, {"colour": "category"}, 10)
    with pytest.raises(InputError, match="more than once"):
        learn(pl.concat([items, items]), {}, 10)
    with pytest.raises(InputError, match="lacks the column 'price'"):
        encode(items.drop("price"), Ids(items["item_id"]), learn(items, {}, 10))
    with pytest.raises(ConfigError, match="p_no_id must be in"):
        TwoTower(p_no_id=1.0)
