"""Models on one draw of `vitrina.testing.feed_world`: expected NDCG@10 of each user, beside the best.

python argus_world.py '{"seed": 0, "models": {"SASRec": ["SASRec", {"n_layers": 2}, "all"]}}'

The third entry says which events a model sees: "all" that people did, "full" without those that they skipped,
"log" with the impressions, too, which ARGUS alone can read.
"""

import json
import resource
import sys
import time
from typing import Any

import numpy as np
import torch

from vitrina.candidates import CANDIDATES
from vitrina.log import Histories
from vitrina.testing.feed_world import FeedWorld, feed_world

TARGETS = ("full", "any", "alone")
K = 10


def seen(histories: Histories, which: str) -> Histories:
    """The events that a model sees."""
    left_out = {"log": (), "all": ("impression",), "full": ("impression", "feed skip", "skip")}[which]
    codes = [code for code, name in enumerate(histories.event_names) if name in left_out]
    return histories.only(~np.isin(histories.event, codes))


def measured(world: FeedWorld, kind: str, params: dict[str, Any], which: str) -> dict[str, Any]:
    """One model, fitted and asked."""
    began = time.process_time()
    model = CANDIDATES[kind](**params).fit(seen(world.train, which))
    cpu_s = time.process_time() - began
    lists = model.retrieve(seen(world.asked, which), k=K)
    ndcg = {target: np.round(world.ndcg(lists, K, target), 6).tolist() for target in TARGETS}
    return {"cpu_seconds": cpu_s, "ndcg": ndcg}


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    world = feed_world(seed=asked["seed"])
    kinds = dict(zip(world.train.event_names, np.bincount(world.train.event).tolist(), strict=True))
    found: dict[str, Any] = {"kinds": kinds, "n_users": len(world.train), "models": {}}
    found["best"] = {target: world.best(K, target).tolist() for target in TARGETS}
    found["blind"] = {target: world.best(K, target, blind=True).tolist() for target in TARGETS}
    for name, (kind, params, which) in asked["models"].items():
        found["models"][name] = measured(world, kind, params, which)
        share = np.mean(found["models"][name]["ndcg"]["full"]) / np.mean(found["best"]["full"])
        print(f"{name}: {share:.3f}", file=sys.stderr, flush=True)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
