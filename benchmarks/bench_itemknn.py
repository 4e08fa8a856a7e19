"""ItemKNN, cosine with 100 neighbours: fit and 100 items for every user, against implicit.

implicit counts an item among its own neighbours, ours does not, hence 99.
"""

import json

from benchmarks.harness import HERE, OURS, Row, in_turn, median, peer_python, record

SCRIPT = str(HERE / "scripts" / "item_models_run.py")
PEER = "implicit 0.7.3"


def asked(library: str, model: str, data: str, **params: object) -> str:
    return json.dumps({"library": library, "model": model, "data": data, "params": params})


def main() -> None:
    peer = peer_python("implicit")
    for data, what, repeats in (("ml1m", "ML-1M", 5), ("synthetic", "20 M events, 138 k users", 1)):
        commands = {
            "ours": [OURS, SCRIPT, asked("ours", "itemknn", data, n_neighbors=99)],
            "theirs": [peer, SCRIPT, asked("implicit", "itemknn", data, K=100)],
        }
        runs = in_turn(commands, repeats=repeats)
        ours, theirs = (median(runs[name], "cpu_seconds") for name in ("ours", "theirs"))
        metrics = ("ndcg@10", "recall@100")
        record(
            Row(
                name="itemknn",
                what=f"fit + top-100 of all users, {what}",
                ours=ours,
                peer=PEER,
                theirs=theirs,
                ratio=ours / theirs,
                unit="CPU s",
                target="<= 0.5x, quality not below",
                quality={name: {m: median(runs[name], m) for m in metrics} for name in runs},
                extra={
                    name: {
                        m: median(runs[name], m) for m in ("fit_cpu_s", "list_cpu_s", "seconds", "peak_mb")
                    }
                    for name in runs
                },
            )
        )


if __name__ == "__main__":
    main()
