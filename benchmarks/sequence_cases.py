"""What `bench_sequences` trains: which model on which log, with which parameters."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEST = json.loads((Path(__file__).parent / "leaderboards.json").read_text())
"""Parameters of the simple models, found on windows before the test (`make bench NAME=leaderboards`)."""

TITLES = {
    "ml1m_loo": "MovieLens 1M, the last row of each user held out",
    "beauty_loo": "Amazon Beauty 5-core, the last row of each user held out",
    "ml1m_time": "MovieLens 1M, the last tenth of the rows held out",
    "beauty_time": "Amazon Beauty 5-core, the last tenth of the rows held out",
    "retail_time": "Online Retail, the last 30 days held out",
}
TUNED = {"ml1m_time": "ml-1m", "beauty_time": "amazon-beauty", "retail_time": "online-retail"}
SIMPLE = ("MostPop", "PopularLastDays", "OwnHistory", "ItemKNN", "ImplicitALS", "Ease")


@dataclass(frozen=True)
class Case:
    """One model on one log."""

    table: str
    label: str
    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    choose: dict[str, Any] = field(default_factory=dict)
    """More parameters of a run, seed 0, whose best epoch is the number of epochs of all others."""
    row: str = ""
    """Name in results.jsonl, where there is a target."""
    target: tuple[float, float] | None = None
    """Hit rate and NDCG at 10 to reach."""
    seeds: tuple[int, ...] = (0,)
    disclosed: str = ""
    """What the model was told that the others were not."""
    group: str = "models"
    """"models", or "logq": compared among themselves, on a page section of their own."""

    @property
    def is_simple(self) -> bool:
        """Whether it learns no sequence."""
        return self.kind in SIMPLE


BEAUTY: dict[str, Any] = {"max_len": 50, "n_layers": 1, "embedding_dim": 128, "dropout": 0.5}
COSINE: dict[str, Any] = {"cosine": True, "temperature": 0.07}
ASKED: dict[str, Any] = {"request_time": True}
TOLD = "knows the time of the request"

LEAVE_ONE_OUT = [
    Case(
        "ml1m_loo",
        "SASRec, softmax, 50 epochs on all rows",
        "SASRec",
        {"n_epochs": 50},
        row="sasrec_ml1m_loo",
        target=(0.305, 0.178),
    ),
    Case(
        "ml1m_loo",
        "eSASRec, no correction, 80 epochs on all rows, rate falling to a tenth",
        "ESASRec",
        {"n_epochs": 80, "lr_decay": "cosine", "correction": "none"},
        row="esasrec_ml1m_loo",
        target=(0.313, 0.177),
    ),
    Case(
        "ml1m_loo",
        "HSTU, softmax, 53 epochs on all rows",
        "HSTU",
        {"n_epochs": 53, "loss": "softmax", **ASKED},
        row="hstu_ml1m_loo",
        target=(0.32, 0.187),
        disclosed=TOLD,
    ),
    Case(
        "beauty_loo",
        "SASRec, softmax, ties in a new order every epoch",
        "SASRec",
        {**BEAUTY, **COSINE, "temperature": 0.05, "shuffle_ties": True, "n_epochs": 60}
        | {"validation": "last", "patience": 5, "refit": True},
        row="sasrec_beauty_loo",
        target=(0.086, 0.050),
        seeds=(0, 1, 2),
    ),
    Case(
        "beauty_loo",
        "SASRec, BCE with one negative",
        "SASRec",
        {**BEAUTY, "embedding_dim": 64, "n_epochs": 200, "loss": "bce", "n_negatives": 1}
        | {"validation": "last", "patience": 10, "refit": True, "batch_size": 128},
        seeds=(0, 1, 2),
    ),
    *(Case(data, kind, kind) for data in ("ml1m_loo", "beauty_loo") for kind in SIMPLE),
]


def in_time(table: str, shared: dict[str, Any], choose: dict[str, Any], *, trend_days: float) -> list[Case]:
    """All models on one log under the split by time, three seeds each."""
    cosine = {**shared, **COSINE}
    blocks = {k: v for k, v in shared.items() if k not in ("n_layers", "dropout")}
    argus = {k: v for k, v in blocks.items() if k != "shuffle_ties"}
    plain = [
        ("SASRec", "SASRec", cosine, ""),
        ("SASRec, ties in the order of the log", "SASRec", {**cosine, "shuffle_ties": False}, ""),
        ("gSASRec", "GSASRec", cosine, ""),
        ("eSASRec", "ESASRec", cosine, ""),
        ("BERT4Rec", "BERT4Rec", cosine, ""),
        ("GRU4Rec", "GRU4Rec", cosine, ""),
        ("HSTU", "HSTU", shared, ""),
        ("HSTU, request time", "HSTU", {**shared, **ASKED}, TOLD),
        ("TwoTower", "TwoTower", blocks, ""),
        ("ARGUS, next item", "ARGUS", {**argus, "n_tuning_epochs": 0}, ""),
        ("SASRec, trend", "SASRec", {**cosine, "trend_days": trend_days}, ""),
        ("SASRec, trend, new targets", "SASRec", {**cosine, "trend_days": trend_days, "targets": "new"}, ""),
        ("HSTU, trend, new targets", "HSTU", {**shared, "trend_days": trend_days, "targets": "new"}, ""),
    ]
    if table != "retail_time":
        plain = [entry for entry in plain if not entry[0].endswith("new targets")]
    if not shared.get("shuffle_ties"):
        plain = [entry for entry in plain if not entry[0].startswith("SASRec, ties")]
    best = BEST[TUNED[table]]["best"]
    return [
        *(Case(table, kind, kind, best.get(kind, {})) for kind in SIMPLE),
        *(
            Case(table, label, kind, params, choose, seeds=(0, 1, 2), disclosed=told)
            for label, kind, params, told in plain
        ),
    ]


TIME: dict[str, Any] = {"validation": "time", "refit": False, "patience": 5, "n_epochs": 30}
RETAIL: dict[str, Any] = {
    "shuffle_ties": True,
    "max_len": 100,
    "windows": "last",
    "n_layers": 1,
    "batch_size": 64,
    "lr": 0.003,
    "embedding_dim": 64,
}
ML1M: dict[str, Any] = {"max_len": 50, "windows": "last", "n_layers": 2, "lr": 0.002, "embedding_dim": 64}
BEAUTY_TIME: dict[str, Any] = {
    "max_len": 50,
    "n_layers": 1,
    "embedding_dim": 64,
    "dropout": 0.3,
    "lr": 0.002,
    "shuffle_ties": True,
}


def log_q(table: str) -> list[Case]:
    """The same encoder under in-batch and mixed negatives, each with and without either correction."""
    shared = {
        "loss": "sampled_softmax",
        "n_negatives": 256,
        "tied": False,
        "max_len": 50,
        "windows": "last",
        "n_layers": 1,
        "embedding_dim": 64,
        "dropout": 0.3,
        "lr": 0.002,
        "validation": "last" if table.endswith("loo") else "time",
        "patience": 3,
        "refit": False,
        "n_epochs": 40,
    }
    return [
        Case(
            table,
            f"{negatives}, {correction}",
            "SASRec",
            {**shared, "negatives": negatives, "correction": correction},
            seeds=(0, 1, 2),
            group="logq",
        )
        for negatives in ("in_batch", "mixed")
        for correction in ("standard", "corrected")
    ]


CASES = [
    *LEAVE_ONE_OUT,
    *in_time("retail_time", RETAIL, TIME, trend_days=7.0),
    *in_time("ml1m_time", ML1M, TIME, trend_days=7.0),
    *(
        Case("ml1m_time", f"SASRec, {told}", "SASRec", {**ML1M, **COSINE, "n_epochs": n}, seeds=(0, 1, 2))
        for n, told in ((1, "1 epoch"), (20, "20 epochs"))
    ),
    *in_time("beauty_time", BEAUTY_TIME, TIME, trend_days=30.0),
    *(case for table in ("ml1m_loo", "ml1m_time", "beauty_loo", "beauty_time") for case in log_q(table)),
]
