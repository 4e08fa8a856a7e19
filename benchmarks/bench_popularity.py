"""Do norms of popular items grow under a cosine loss with separate tables, and what does logQ change?

One next-item model on MovieLens 100K and Amazon Beauty, cosine logits at temperature 0.07, negatives in the
batch, without and with the two corrections; and without correction where the items read and scored share
their table. Norms after every epoch, and the lists that the same vectors give by inner product and by cosine.
A row is one run of one seed; the figures are in its `extra`.
"""

import json
from collections.abc import Sequence

from benchmarks.harness import OURS, Row, record, run

SCRIPT = "benchmarks/scripts/popularity_run.py"
SHARED = {
    "n_layers": 1,
    "embedding_dim": 32,
    "max_len": 50,
    "lr": 0.005,
    "dropout": 0.2,
    "cosine": True,
    "temperature": 0.07,
    "loss": "sampled_softmax",
    "negatives": "in_batch",
    "n_negatives": 256,
}
DATA = {"ml100k": {"n_epochs": 15, "batch_size": 32}, "beauty": {"n_epochs": 8, "batch_size": 256}}
KINDS = {
    "none": {"correction": "none", "tied": False},
    "standard": {"correction": "standard", "tied": False},
    "corrected": {"correction": "corrected", "tied": False},
    "none, tied": {"correction": "none", "tied": True},
}


def main(names: Sequence[str] = tuple(DATA)) -> None:
    """Each log and kind once, on one thread."""
    for data in names:
        own = DATA[data]
        for kind, params in KINDS.items():
            asked = {"data": data, "seed": 0, "params": SHARED | own | params}
            found = run([OURS, SCRIPT, json.dumps(asked)], threads=1).printed
            record(
                Row(
                    name="popularity",
                    what=f"{data}: {kind}",
                    ours=found["count_norm"],
                    peer="-",
                    theirs=None,
                    ratio=None,
                    unit="Spearman of count and norm",
                    target="effect shown or refuted",
                    quality={
                        s["serving"]: {"ndcg@10": s["ndcg"], "recall@10": s["recall"]}
                        for s in found["servings"]
                    },
                    extra=found | {"params": asked["params"]},
                )
            )
