"""Vectors and queries for the benchmark of indexes, made once and kept under .bench/ann/: `ann_data.py NAME`.

clustered   200 k unit vectors of 128 dimensions around 2,000 centres of Zipf sizes in a space of 32, with a
            little noise in all 128; queries are drawn as the items are
factors     item vectors of ImplicitALS (128) trained on 10 M events of a synthetic world of 200 k items, as
            unit vectors; queries are vectors of 4,000 users, also unit
raw         the same without normalising: norms from 0 to 4
gaussian    independent normal coordinates, as unit vectors: nothing to hold on to, the worst case
"""

import sys
from pathlib import Path

import numpy as np
from benchmarks.data import WORK

N_ITEMS, N_DIMS, N_QUERIES = 200_000, 128, 4_000
NAMES = ("clustered", "factors", "raw", "gaussian")


def vectors(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Items and queries. Shapes (I, D), (Q, D)."""
    file = WORK / "ann" / f"{name}.npz"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        if name in ("factors", "raw"):
            _make_factors(file.parent)
        else:
            item_ID, query_QD = {"clustered": _clustered, "gaussian": _gaussian}[name]()
            np.savez(file, item=item_ID, query=query_QD)
    with np.load(file) as stored:
        return stored["item"], stored["query"]


def _unit(array: np.ndarray) -> np.ndarray:
    return (array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _clustered() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    axes, centres = rng.standard_normal((32, N_DIMS)) / np.sqrt(32), rng.standard_normal((2_000, 32))
    share = np.arange(1, 2_001) ** -0.8

    def draw(n: int) -> np.ndarray:
        of = rng.choice(2_000, n, p=share / share.sum())
        inner = centres[of] + 0.6 * rng.standard_normal((n, 32))
        return _unit(inner @ axes + 0.02 * rng.standard_normal((n, N_DIMS)))

    return draw(N_ITEMS), draw(N_QUERIES)


def _gaussian() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    return _unit(rng.standard_normal((N_ITEMS, N_DIMS))), _unit(rng.standard_normal((N_QUERIES, N_DIMS)))


def _make_factors(folder: Path) -> None:
    import polars as pl

    from vitrina.candidates import ImplicitALS
    from vitrina.datasets import World
    from vitrina.ids import Ids
    from vitrina.log import Histories

    n_users = 60_000
    world = World(n_users=n_users, n_items=N_ITEMS, n_events=10_000_000, seed=3)
    item_ix = world.simulate(np.arange(n_users)).item.astype(np.int32)
    log = Histories(
        user_ids=Ids(pl.Series(np.arange(n_users))),
        items=Ids(pl.Series(np.arange(N_ITEMS))),
        offsets=np.concatenate([[0], np.cumsum(world.ground.counts)]).astype(np.int64),
        item_ix=item_ix,
        ts=np.arange(len(item_ix)),
        event=np.zeros(len(item_ix), np.uint8),
    )
    model = ImplicitALS(embedding_dim=N_DIMS, n_epochs=5, unobserved_weight=0.003, reg=0.003).fit(log)
    asked = np.random.default_rng(0).choice(n_users, N_QUERIES, replace=False)
    query_QD = model.embed(log)[asked]
    np.savez(folder / "raw.npz", item=model.item_emb_, query=query_QD)
    np.savez(folder / "factors.npz", item=_unit(model.item_emb_), query=_unit(query_QD))


if __name__ == "__main__":
    items, queries = vectors(sys.argv[1])
    norms = np.linalg.norm(items, axis=1)
    print(sys.argv[1], items.shape, queries.shape, np.percentile(norms, [1, 50, 99, 100]).round(3).tolist())
