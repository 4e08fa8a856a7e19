"""Fit one item-item model of one library, list 100 items for every user, print seconds, memory and quality.

    python benchmarks/scripts/item_models_run.py '{"library": "implicit", "model": "itemknn", "data": "ml1m"}'

Runs in ours or a peer's Python. The clock runs around `fit` and around the listing; the data object that each
library asks for is made before. Kernels that compile at first use are compiled before, on a few users.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks import data as benchmark_data
from benchmarks.data import Data
from scipy import sparse

K = 100
Steps = tuple[Callable[[], Any], Callable[[], np.ndarray]]


def matrix(data: Data) -> sparse.csr_matrix:
    """Users by items, ones."""
    X = sparse.csr_matrix(
        (np.ones(len(data.item_ix), np.float32), data.item_ix, data.offsets),
        shape=(data.n_users, data.n_items),
    )
    X.sort_indices()
    return X


def ours(model: str, data: Data, params: dict[str, Any]) -> Steps:
    from vitrina.ann import Jagged
    from vitrina.candidates import SANSA, Ease, ItemKNN

    kind = {"itemknn": ItemKNN, "ease": Ease, "sansa": SANSA}[model]
    histories = benchmark_data.histories(data)
    few = histories.rows(np.arange(40, dtype=np.int32))
    many = histories.rows(np.arange(600, dtype=np.int32))
    warm = kind(**params).fit(few)
    for queries in (few, many):
        warm.retrieve(queries, k=K, exclude=Jagged(queries.offsets, queries.item_ix))
    estimator, seen = kind(**params), Jagged(histories.offsets, histories.item_ix)
    return (
        lambda: estimator.fit(histories),
        lambda: estimator.retrieve(histories, k=K, exclude=seen).item_ix,
    )


def implicit(model: str, data: Data, params: dict[str, Any]) -> Steps:
    from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, "blas")
    kind = {"itemknn": CosineRecommender, "itemknn-bm25": BM25Recommender}[model]
    estimator, X = kind(num_threads=2, **params), matrix(data)
    users = np.arange(data.n_users)

    def lists() -> np.ndarray:
        item_ix, score = estimator.recommend(users, X, N=K, filter_already_liked_items=True)
        return np.where(score > 0, item_ix, -1)  # it fills short lists with seen items of score 0

    return lambda: estimator.fit(X, show_progress=False), lists


def rectools(model: str, data: Data, params: dict[str, Any]) -> Steps:
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import EASEModel

    assert model == "ease"
    frame = pd.DataFrame(
        {
            Columns.User: data.user_ix,
            Columns.Item: data.item_ix,
            Columns.Weight: np.float32(1.0),
            Columns.Datetime: pd.to_datetime(data.ts, unit="s"),
        }
    )
    dataset, estimator = Dataset.construct(frame), EASEModel(**params)
    users = np.arange(data.n_users)

    def lists() -> np.ndarray:
        reco = estimator.recommend(users=users, dataset=dataset, k=K, filter_viewed=True)
        item_BK = np.full((data.n_users, K), -1, np.int64)
        item_BK[reco[Columns.User], reco[Columns.Rank] - 1] = reco[Columns.Item]
        return item_BK

    return lambda: estimator.fit(dataset), lists


def lenskit(model: str, data: Data, params: dict[str, Any]) -> Steps:
    import pandas as pd
    from lenskit.batch import recommend
    from lenskit.data import from_interactions_df
    from lenskit.knn import EASEScorer
    from lenskit.pipeline import topn_pipeline

    assert model == "ease"
    frame = pd.DataFrame({"user_id": data.user_ix, "item_id": data.item_ix})
    dataset, pipeline = from_interactions_df(frame), topn_pipeline(EASEScorer(**params), n=K)

    def lists() -> np.ndarray:
        found = recommend(pipeline, np.arange(data.n_users), n_jobs=1)
        item_BK = np.full((data.n_users, K), -1, np.int64)
        for key, items in found.items():
            ids = np.asarray(items.ids())[:K]
            item_BK[key.user_id, : len(ids)] = ids
        return item_BK

    return lambda: pipeline.train(dataset), lists


LIBRARIES = {"ours": ours, "implicit": implicit, "rectools": rectools, "lenskit": lenskit}


def main() -> None:
    asked = json.loads(sys.argv[1])
    data = benchmark_data.ml1m() if asked["data"] == "ml1m" else benchmark_data.synthetic()
    fit, lists = LIBRARIES[asked["library"]](asked["model"], data, asked.get("params", {}))
    wall, cpu = time.perf_counter(), time.process_time()
    fit()
    fit_s, fit_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    item_BK = lists()
    list_s, list_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    printed = {
        "seconds": round(fit_s + list_s, 3),
        "cpu_seconds": round(fit_cpu_s + list_cpu_s, 3),
        "fit_cpu_s": round(fit_cpu_s, 3),
        "list_cpu_s": round(list_cpu_s, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **benchmark_data.quality(data, item_BK),
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
