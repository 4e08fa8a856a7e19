"""ARGUS in a world with feedback, contexts and logged impressions, against its ablations and SASRec.

What is reached is a share of the best expected NDCG@10 of the next event that is played in full, which the
world (`vitrina.testing.feed_world`) knows. Three draws of the world, each with its own seed of training;
intervals are of the differences over the users of all draws together, paired.
"""

import json

import numpy as np

from benchmarks.harness import HERE, OURS, Row, record, run
from vitrina.metrics import Measured, paired_bootstrap

SCRIPT = str(HERE / "scripts" / "argus_world.py")
SEEDS = (0, 1, 2)
SHARED = {
    "embedding_dim": 32,
    "max_len": 80,
    "lr": 0.003,
    "batch_size": 16,
    "n_epochs": 25,
    "loss": "softmax",
}
ARGUS = SHARED | {
    "hidden_dim": 32,
    "n_layers": 2,
    "refusals": ["skip", "feed skip"],
    "feed_events": ["feed full", "feed like", "feed skip"],
    "request_time": True,
    "p_no_context": 0.1,
    "n_tuning_epochs": 3,
    "tuning_lr": 0.001,
    "pair_weight": 0.2,
}
SASREC = SHARED | {"n_layers": 2, "n_heads": 2}
MODELS = {
    "ARGUS": ("ARGUS", ARGUS, "log"),
    "ARGUS, next item only": ("ARGUS", ARGUS | {"n_tuning_epochs": 0, "feedback_weight": 0.0}, "log"),
    "SASRec": ("SASRec", SASREC, "all"),
    "MostPop": ("MostPop", {}, "all"),
}
OURS_NAME, RIVALS = "ARGUS", [name for name in MODELS if name != "ARGUS"]


def asked(seed: int) -> str:
    models = {
        name: (kind, params if kind == "MostPop" else params | {"seed": seed}, which)
        for name, (kind, params, which) in MODELS.items()
    }
    return json.dumps({"seed": seed, "models": models})


def pooled(found: list[dict], *path: str) -> np.ndarray:
    """Values of the users of all seeds."""
    return np.concatenate([_at(one, path) for one in found])


def _at(one: dict, path: tuple[str, ...]) -> list[float]:
    for name in path:
        one = one[name]
    return one


def measured(ndcg: np.ndarray, best: np.ndarray) -> Measured:
    """A ratio of means, so that its bootstrap is that of the share."""
    return Measured(("share",), ndcg[:, None], best[:, None], {}, np.ones(len(best), bool))


def main() -> None:
    printed = []
    for seed in SEEDS:
        printed.append(run([OURS, SCRIPT, asked(seed)], threads=1).printed)
        print(f"   seed {seed} done", flush=True)
    quality: dict[str, dict] = {}
    for target in ("full", "any", "alone"):
        best = pooled(printed, "best", target)
        ndcg = {name: pooled(printed, "models", name, "ndcg", target) for name in MODELS}
        ndcg["best without the hour"] = pooled(printed, "blind", target)
        ours = measured(ndcg[OURS_NAME], best)
        for name, own in ndcg.items():
            entry = quality.setdefault(name, {})
            entry[target] = round(float(own.sum() / best.sum()), 4)
            if name in MODELS:
                entry[f"{target}_seeds"] = [
                    round(float(np.sum(one["models"][name]["ndcg"][target]) / np.sum(one["best"][target])), 4)
                    for one in printed
                ]
            if name in RIVALS:
                paired = paired_bootstrap(ours, measured(own, best))
                low, high = float(paired.low[0]), float(paired.high[0])
                entry[f"{target}_argus_minus"] = [round(ours.means[0] - own.sum() / best.sum(), 4), low, high]
    cpu_s = {
        name: round(float(np.median([one["models"][name]["cpu_seconds"] for one in printed])), 1)
        for name in MODELS
    }
    record(
        Row(
            name="argus_world",
            what="feed_world, 3 seeds: share of the best NDCG@10 of the next event that is played in full",
            ours=quality["ARGUS"]["full"],
            peer="SASRec (ours)",
            theirs=quality["SASRec"]["full"],
            ratio=quality["ARGUS"]["full"] / quality["SASRec"]["full"],
            unit="share",
            target="above next-item-only and SASRec",
            quality=quality,
            extra={
                "cpu_seconds": cpu_s,
                "peak_mb": max(one["peak_mb"] for one in printed),
                "events": printed[0]["kinds"],
                "params": ARGUS,
            },
        )
    )


if __name__ == "__main__":
    main()
