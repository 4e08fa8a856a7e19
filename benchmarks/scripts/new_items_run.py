"""Items that nobody had taken before the cut, ranked from what is known of them: `new_items_run.py DATA`.

    cut       80 % of the rows of the log lie before it; with `validation`, of the rows before that cut
    items     all of the training log and of the metadata; new ones have no row before the cut
    targets   new items that people with a history took after the cut
    tasks     "among new": the new items are ranked; "among all": everything, what a person has taken hidden

Arguments after DATA: Random, ContentKNN, TwoTower or "TwoTower without metadata"; a seed; a JSON object of
parameters of TwoTower; `test` or `validation`. Prints one JSON object with the recall of every person.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import polars as pl
from benchmarks.harness import LOCAL
from scipy import sparse

from vitrina import datasets, split
from vitrina.ann import Jagged, TopK, top_k
from vitrina.candidates import Random, TwoTower
from vitrina.candidates.table_features import encode, learn
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.metrics import Recall
from vitrina.schema import ITEM_ID

DATA = {
    "movietweetings-100k": lambda: datasets.load("movietweetings-100k"),
    "amazon-beauty": lambda: datasets.amazon_beauty_derived(LOCAL / "amazon-beauty-5core"),
}
COLUMNS = {
    "movietweetings-100k": {"genres": "text"},
    "amazon-beauty": {"title": "text", "attributes": "text"},
}
K_NEW, K_ALL = (10, 50), (50, 200)


class ContentKNN:
    """Mean of the words of what a person took, against the words of each item: cosine of TF-IDF.

    The words are those that TwoTower reads (hashed categories and words), and of each number column a word
    for its whole value.
    """

    def fit(self, train: Histories, items: pl.DataFrame, columns: dict[str, str]) -> "ContentKNN":
        numbers = [name for name, dtype in items.schema.items() if dtype.is_numeric() and name != ITEM_ID]
        words = items.with_columns(pl.col(name).round(0).cast(pl.Int64).cast(pl.String) for name in numbers)
        found = encode(words, train.items, learn(words, columns | dict.fromkeys(numbers, "category")))
        _, column = np.unique(found.token, return_inverse=True)
        X = sparse.csr_matrix((np.ones(len(column), np.float32), column, found.offsets))
        X.sum_duplicates()
        n_with = np.maximum(np.bincount(X.indices, minlength=X.shape[1]), 1)
        X = sparse.csr_matrix(X.multiply(np.log(train.n_items / n_with).astype(np.float32)))
        norm_I = np.sqrt(np.asarray(X.multiply(X).sum(axis=1))).ravel()
        self.X = sparse.diags(1 / np.maximum(norm_I, 1e-9)).astype(np.float32) @ X
        return self

    def retrieve(self, queries: Histories, *, k: int, exclude: Any = None, allowed: Any = None) -> TopK:
        wanted = queries.user_item() @ self.X
        return top_k(
            np.ascontiguousarray((wanted @ self.X.T).toarray()), k=k, exclude=exclude, allowed=allowed
        )


def model_of(name: str, seed: int, params: dict[str, Any]) -> Any:
    """An unfitted model."""
    if name == "Random":
        return Random(seed=seed)
    return ContentKNN() if name == "ContentKNN" else TwoTower(seed=seed, **params)


def main() -> None:
    data, name, seed, params, part = sys.argv[1:6]
    found = DATA[data]()
    cut = split.by_quantile(found.log, 0.8)
    if part == "validation":
        cut = split.by_quantile(cut.train, 0.8)
    taken = Ids(cut.train.frame.select(ITEM_ID).unique().collect()[ITEM_ID])
    wide = Ids(pl.concat([taken.values, found.items[ITEM_ID].cast(taken.values.dtype)]))
    train = cut.train.histories(items=wide)
    truth = cut.truth(train).distinct()
    is_new = train.item_counts() == 0
    truth = truth.only(np.append(is_new, np.zeros(len(truth.cold_items), bool))[truth.item_ix])
    truth = truth.users((truth.lengths > 0) & truth.is_warm)
    began = time.perf_counter()
    model = model_of(name, int(seed), json.loads(params))
    match name:
        case "Random":
            model.fit(train)
        case "TwoTower without metadata":
            model.fit(train)
        case "TwoTower":
            model.columns = COLUMNS[data]
            model.fit(train, found.items)
        case "ContentKNN":
            model.fit(train, found.items, COLUMNS[data])
    fit_s = time.perf_counter() - began
    queries = train.of(truth.user_ids.values)
    seen = Jagged(queries.offsets, queries.item_ix)
    among_new = model.retrieve(queries, k=max(K_NEW), allowed=is_new)
    among_all = model.retrieve(queries, k=max(K_ALL), exclude=seen)
    told = {f"among new@{k}": Recall(k).per_user(among_new.item_ix, truth.jagged) for k in K_NEW}
    told |= {f"among all@{k}": Recall(k).per_user(among_all.item_ix, truth.jagged) for k in K_ALL}
    print(
        json.dumps(
            {
                "recall": {task: np.round(values, 5).tolist() for task, values in told.items()},
                "new items": int(is_new.sum()),
                "new items taken": len(np.unique(truth.item_ix)),
                "people": len(truth),
                "targets": truth.n_targets,
                "rows": train.n_rows,
                "fit_s": round(fit_s, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
