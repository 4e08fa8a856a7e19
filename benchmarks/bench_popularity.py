"""Do norms of popular items grow under a cosine loss with separate tables, and what does logQ change?

One next-item model on MovieLens 100K and Amazon Beauty, cosine logits at temperature 0.07, negatives in the
batch, without and with the two corrections; and without correction where the items read and scored share
their table. Norms after every epoch, and the lists that the same vectors give by inner product and by cosine.
A row is a mean over three seeds; each run's figures are in its `extra`. About nine minutes of one core.
"""

import json
from collections.abc import Sequence
from statistics import mean, stdev

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


SEEDS = (0, 1, 2)


def main(names: Sequence[str] = tuple(DATA), kinds: Sequence[str] = tuple(KINDS)) -> None:
    """Each log, kind and seed once, on one thread."""
    for data in names:
        for kind in kinds:
            params = SHARED | DATA[data] | KINDS[kind]
            runs = []
            for seed in SEEDS:
                asked = {"data": data, "seed": seed, "params": params}
                runs.append(run([OURS, SCRIPT, json.dumps(asked)], threads=1).printed)
            of_seeds = [one["count_norm"] for one in runs]
            record(
                Row(
                    name="popularity",
                    what=f"{data}: {kind}",
                    ours=mean(of_seeds),
                    peer="-",
                    theirs=None,
                    ratio=None,
                    unit="Spearman of count and norm",
                    target="effect shown or refuted",
                    quality={
                        f"ndcg@10 by {one['serving']}": mean(r["servings"][at]["ndcg"] for r in runs)
                        for at, one in enumerate(runs[0]["servings"])
                    },
                    extra={"sd_seeds": stdev(of_seeds), "params": params, "runs": runs},
                )
            )
