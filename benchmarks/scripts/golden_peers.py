"""What one library says about the worked lists. In that library's environment: golden_peers.py NAME FILE.

Prints {"version": ..., "lists": {list name: {metric: value}}, "shown": {metric: value}}. Where a library
raises, the value is the text `raises: ...`.
"""

import contextlib
import importlib.metadata
import io
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

Case = dict[str, Any]


def scores_of(user: dict[str, Any]) -> list[float]:
    """The scores given, or descending ones."""
    return user.get("scores") or [float(len(user["list"]) - place) for place in range(len(user["list"]))]


def attempt(measure: Callable[[], float]) -> float | str:
    """A value, or what was raised."""
    try:
        value = float(measure())
    except Exception as error:
        return f"raises: {type(error).__name__}"
    return "NaN" if value != value else value


def rectools(world: dict[str, Any]) -> dict[str, Any]:
    import pandas as pd
    from rectools.metrics import (
        MAP,
        MRR,
        NDCG,
        AvgRecPopularity,
        CatalogCoverage,
        HitRate,
        IntraListDiversity,
        MeanInvUserFreq,
        Precision,
        Recall,
    )
    from rectools.metrics.distances import PairwiseHammingDistanceCalculator

    def frames(users: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
        reco = [(u, i, place + 1) for u, one in enumerate(users) for place, i in enumerate(one["list"])]
        took = [(u, i) for u, one in enumerate(users) for i in one["truth"]]
        return (
            pd.DataFrame(reco, columns=["user_id", "item_id", "rank"]).astype(int),
            pd.DataFrame(took, columns=["user_id", "item_id"]).astype(int),
        )

    def accuracy(case: Case) -> dict[str, float | str]:
        reco, took = frames(case["users"])
        k = case["k"]
        kinds = {"ndcg": NDCG(k=k), "ndcg, divide_by_achievable": NDCG(k=k, divide_by_achievable=True)}
        kinds |= {"recall": Recall(k=k), "hitrate": HitRate(k=k), "precision": Precision(k=k)}
        kinds |= {"map": MAP(k=k), "mrr": MRR(k=k)}
        return {name: attempt(lambda m=m: m.calc(reco, took)) for name, m in kinds.items()}

    shown = world["shown"]
    reco, _ = frames(shown["users"])
    k = shown["k"]
    train = pd.DataFrame(
        [(u, i) for u, items in enumerate(shown["train"]) for i in items], columns=["user_id", "item_id"]
    )
    features = pd.DataFrame({"item_id": range(world["n_items"]), "category": shown["category"]})
    distance = PairwiseHammingDistanceCalculator(features.set_index("item_id"))
    catalogue = list(range(world["n_items"]))
    return {
        "version": importlib.metadata.version("rectools"),
        "lists": {case["name"]: accuracy(case) for case in world["lists"]},
        "shown": {
            "coverage": attempt(lambda: CatalogCoverage(k=k, normalize=True).calc(reco, catalogue)),
            "novelty": attempt(lambda: MeanInvUserFreq(k=k).calc(reco, train)),
            "ild": attempt(lambda: IntraListDiversity(k=k, distance_calculator=distance).calc(reco)),
            "poplift": attempt(lambda: AvgRecPopularity(k=k).calc(reco, train)),
        },
    }


def replay(world: dict[str, Any]) -> dict[str, Any]:
    from replay.metrics import (
        MAP,
        MRR,
        NDCG,
        CategoricalDiversity,
        Coverage,
        HitRate,
        Precision,
        Recall,
        Surprisal,
    )

    def dicts(users: list[dict[str, Any]]) -> tuple[dict[int, Any], dict[int, Any]]:
        lists = {u: list(zip(one["list"], scores_of(one), strict=True)) for u, one in enumerate(users)}
        return lists, {u: one["truth"] for u, one in enumerate(users)}

    def accuracy(case: Case) -> dict[str, float | str]:
        lists, took = dicts(case["users"])
        kinds = {
            "ndcg": NDCG,
            "recall": Recall,
            "hitrate": HitRate,
            "precision": Precision,
            "map": MAP,
            "mrr": MRR,
        }
        return {
            name: attempt(lambda kind=kind: next(iter(kind(case["k"])(lists, took).values())))
            for name, kind in kinds.items()
        }

    shown = world["shown"]
    lists, _ = dicts(shown["users"])
    train = dict(enumerate(shown["train"]))
    k = shown["k"]
    categories = {u: [(shown["category"][i], s) for i, s in pairs] for u, pairs in lists.items()}
    return {
        "version": importlib.metadata.version("replay-rec"),
        "lists": {case["name"]: accuracy(case) for case in world["lists"]},
        "shown": {
            "coverage": attempt(lambda: next(iter(Coverage(k)(lists, train).values()))),
            "novelty": attempt(lambda: next(iter(Surprisal(k)(lists, train).values()))),
            "ild": attempt(lambda: next(iter(CategoricalDiversity(k)(categories).values()))),
        },
    }


def ranx(world: dict[str, Any]) -> dict[str, Any]:
    from ranx import Qrels, Run, evaluate

    def accuracy(case: Case) -> dict[str, float | str]:
        took = {f"u{u}": {f"i{i}": 1 for i in one["truth"]} for u, one in enumerate(case["users"])}
        lists = {
            f"u{u}": {f"i{i}": s for i, s in zip(one["list"], scores_of(one), strict=True)}
            for u, one in enumerate(case["users"])
        }
        kinds = {"ndcg": "ndcg", "recall": "recall", "hitrate": "hit_rate", "precision": "precision"}
        kinds |= {"map": "map", "mrr": "mrr"}
        return {
            name: attempt(lambda kind=kind: evaluate(Qrels(took), Run(lists), f"{kind}@{case['k']}"))
            for name, kind in kinds.items()
        }

    return {
        "version": importlib.metadata.version("ranx"),
        "lists": {case["name"]: accuracy(case) for case in world["lists"]},
        "shown": {},
    }


def sklearn(world: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from sklearn.metrics import average_precision_score, ndcg_score, precision_score, recall_score

    n_items = world["n_items"] + 1  # one number beyond the catalogue, for the cold target

    def accuracy(case: Case) -> dict[str, float | str]:
        k, shape = case["k"], (len(case["users"]), n_items)
        relevant, score, chosen = np.zeros(shape, int), np.zeros(shape), np.zeros(shape, int)
        for u, one in enumerate(case["users"]):
            relevant[u, one["truth"]] = 1
            for i, s in reversed(list(zip(one["list"], scores_of(one), strict=True))):
                score[u, i] = s
            chosen[u, one["list"][:k]] = 1
        return {
            "ndcg": attempt(lambda: ndcg_score(relevant, score, k=k)),
            "recall": attempt(lambda: recall_score(relevant, chosen, average="samples")),
            "precision": attempt(lambda: precision_score(relevant, chosen, average="samples")),
            "map": attempt(
                lambda: np.mean([average_precision_score(r, s) for r, s in zip(relevant, score, strict=True)])
            ),
        }

    return {
        "version": importlib.metadata.version("scikit-learn"),
        "lists": {case["name"]: accuracy(case) for case in world["lists"]},
        "shown": {},
    }


def main() -> None:
    name, path = sys.argv[1:]
    with open(path) as stream:
        world = json.load(stream)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        found = {"rectools": rectools, "replay": replay, "ranx": ranx, "sklearn": sklearn}[name](world)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
