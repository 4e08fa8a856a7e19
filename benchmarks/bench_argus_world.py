"""ARGUS on a world with feedback and logged impressions, against its ablations and SASRec.

What is reached is a share of the best expected NDCG@10 of the next event, which the world knows.
"""

import json

from benchmarks.harness import HERE, OURS, Row, record, run

SCRIPT = str(HERE / "scripts" / "argus_world.py")
WORLD = {"n_users": 500, "n_items": 500, "n_events": 40_000, "days": 60.0, "seed": 0, "p_recommended": 0.5}
SHARED = {"embedding_dim": 64, "max_len": 50, "lr": 0.002, "batch_size": 32, "n_epochs": 6, "loss": "softmax"}
ARGUS = SHARED | {"hidden_dim": 64, "n_layers": 2, "refusals": ["dislike"], "tuning_lr": 0.0005}
MODELS = {
    "ARGUS": ("ARGUS", ARGUS),
    "ARGUS, pre-training only": ("ARGUS", ARGUS | {"n_tuning_epochs": 0}),
    "ARGUS, next item only": ("ARGUS", ARGUS | {"n_tuning_epochs": 0, "feedback_weight": 0.0}),
    "SASRec": ("SASRec", SHARED | {"n_layers": 2, "n_heads": 2}),
    "MostPop": ("MostPop", {}),
    "OwnHistory": ("OwnHistory", {}),
}


def main() -> None:
    found = {}
    for name, (kind, params) in MODELS.items():
        asked = json.dumps({"kind": kind, "params": params, "world": WORLD})
        found[name] = run([OURS, SCRIPT, asked], threads=1)
        print(f"   {name}: {found[name].wall_s:.0f} s, {found[name].printed}", flush=True)
    share = {name: one.printed["any_ndcg@10_share"] for name, one in found.items()}
    record(
        Row(
            name="argus_world",
            what="40,000 events with feedback and impressions, share of the best NDCG@10 of any next event",
            ours=share["ARGUS"],
            peer="next item only (ours)",
            theirs=share["ARGUS, next item only"],
            ratio=share["ARGUS"] / share["ARGUS, next item only"],
            unit="share",
            target="above next-item-only and SASRec",
            quality={
                name: {key: value for key, value in one.printed.items() if key.endswith("_share")}
                for name, one in found.items()
            },
            extra={
                name: {"cpu_seconds": one.printed["cpu_seconds"], "peak_mb": one.peak_mb}
                for name, one in found.items()
            }
            | {"world": WORLD},
        )
    )


if __name__ == "__main__":
    main()
