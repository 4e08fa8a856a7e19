"""Fit one factor model of one library and print seconds, memory and quality. Runs in ours or a peer's Python.

    python benchmarks/scripts/factors_run.py '{"library": "implicit", "model": "als", "data": "ml1m", ...}'

The clock runs around `fit` alone: ours starts from histories, peers from the matrix they ask for. Kernels
that compile at first use are compiled before, on a log of a few rows. Lists are made for the first 20,000
users, by each library's own call where it has one.
"""

import json
import resource
import sys
import time
from typing import Any

import numpy as np
from benchmarks import data as benchmark_data
from benchmarks.data import Data
from scipy import sparse

N_LISTS = 20_000
K = 100


def first_users(data: Data, n: int) -> Data:
    """The same data, first n users only."""
    n = min(n, data.n_users)
    end, test_end = data.offsets[n], data.test_offsets[n]
    return Data(
        n_items=data.n_items,
        offsets=data.offsets[: n + 1],
        item_ix=data.item_ix[:end],
        ts=data.ts[:end],
        test_offsets=data.test_offsets[: n + 1],
        test_item_ix=data.test_item_ix[:test_end],
    )


def matrix(data: Data) -> sparse.csr_matrix:
    """Users by items, ones, as the peers ask for it."""
    X = sparse.csr_matrix(
        (np.ones(len(data.item_ix), np.float32), data.item_ix, data.offsets),
        shape=(data.n_users, data.n_items),
    )
    X.sort_indices()
    return X


def ours(model: str, data: Data, params: dict[str, Any]) -> tuple[Any, Any]:
    """Fit and list functions of Vitrina."""
    from vitrina.ann import Jagged
    from vitrina.candidates import BPR, ImplicitALS

    kind = {"als": ImplicitALS, "bpr": BPR}[model]
    tiny = benchmark_data.histories(first_users(data, 3))
    kind(**{**params, "n_epochs": 1}).fit(tiny).retrieve(tiny, k=3)
    estimator, histories = kind(**params), benchmark_data.histories(data)
    asked = benchmark_data.histories(first_users(data, N_LISTS))

    def lists() -> np.ndarray:
        return estimator.retrieve(asked, k=K, exclude=Jagged(asked.offsets, asked.item_ix)).item_ix

    return lambda: estimator.fit(histories), lists


def implicit(model: str, data: Data, params: dict[str, Any]) -> tuple[Any, Any]:
    """Fit and list functions of implicit, BLAS on one thread as its documentation asks."""
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, "blas")
    kind = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}[model]
    estimator, X = kind(random_state=0, num_threads=2, **params), matrix(data)
    n = min(N_LISTS, data.n_users)
    return (
        lambda: estimator.fit(X, show_progress=False),
        lambda: estimator.recommend(np.arange(n), X[:n], N=K, filter_already_liked_items=True)[0],
    )


def cornac(model: str, data: Data, params: dict[str, Any]) -> tuple[Any, Any]:
    """Fit function of Cornac; lists from its factors, since it recommends user by user."""
    from collections import OrderedDict

    from cornac.data import Dataset
    from cornac.models import BPR

    assert model == "bpr"
    rows = data.user_ix.astype(int), data.item_ix.astype(int), np.ones(len(data.item_ix))
    users, items = (OrderedDict((n, n) for n in range(size)) for size in (data.n_users, data.n_items))
    train = Dataset(data.n_users, data.n_items, users, items, rows)
    estimator = BPR(num_threads=2, seed=0, verbose=False, **params)

    def lists() -> np.ndarray:
        n, X = min(N_LISTS, data.n_users), matrix(data)
        out = np.full((n, K), -1)
        for lo in range(0, n, 1000):
            hi = min(n, lo + 1000)
            score = estimator.u_factors[lo:hi] @ estimator.i_factors.T + estimator.i_biases
            score[X[lo:hi].nonzero()] = -np.inf
            top = np.argpartition(-score, K, axis=1)[:, :K]
            out[lo:hi] = np.take_along_axis(top, np.argsort(-np.take_along_axis(score, top, 1), axis=1), 1)
        return out

    return lambda: estimator.fit(train), lists


def main() -> None:
    """Fit, list, print one JSON line."""
    asked = json.loads(sys.argv[1])
    data = getattr(benchmark_data, asked["data"])()
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fit, lists = globals()[asked["library"]](asked["model"], data, asked["params"])
    wall, cpu = time.perf_counter(), time.process_time()
    fit()
    fit_s, fit_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    after_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = time.perf_counter(), time.process_time()
    item_BK = lists()
    figures = {
        "seconds": round(fit_s, 3),
        "cpu_seconds": round(fit_cpu_s, 3),
        "lists_cpu_seconds": round(time.process_time() - cpu, 3),
        "data_mb": round(before_mb),
        "peak_mb": round(after_mb),
    }
    print(json.dumps(figures | benchmark_data.quality(first_users(data, N_LISTS), item_BK)))


main()
