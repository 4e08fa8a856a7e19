"""EASE, lambda 500, on ML-1M: fit and 100 items for every user, against RecTools and LensKit.

SANSA with 100 neighbours runs beside them: nearly the same lists without the dense inverse.
"""

from benchmarks.bench_itemknn import SCRIPT, asked
from benchmarks.harness import OURS, Row, in_turn, median, peer_python, record

PEERS = {"rectools": "RecTools 0.19.0", "lenskit": "LensKit 2025.8.1"}


def main() -> None:
    commands = {"ours": [OURS, SCRIPT, asked("ours", "ease", "ml1m", reg=500.0)]}
    for peer in PEERS:
        commands[peer] = [peer_python(peer), SCRIPT, asked(peer, "ease", "ml1m", regularization=500.0)]
    commands["sansa"] = [OURS, SCRIPT, asked("ours", "sansa", "ml1m", reg=500.0, n_neighbors=100)]
    slow = {"lenskit": commands.pop("lenskit")}
    runs = in_turn(commands, repeats=3) | in_turn(slow, repeats=1)  # LensKit takes minutes, once is enough
    seconds = {name: median(runs[name], "cpu_seconds") for name in runs}
    fastest = min(PEERS, key=lambda name: seconds[name])
    record(
        Row(
            name="ease",
            what="fit + top-100 of all users, ML-1M",
            ours=seconds["ours"],
            peer=PEERS[fastest],
            theirs=seconds[fastest],
            ratio=seconds["ours"] / seconds[fastest],
            unit="CPU s",
            target="<= 0.5x of the faster, quality not below",
            quality={
                name: {metric: median(runs[name], metric) for metric in ("ndcg@10", "recall@100")}
                for name in runs
            },
            extra={
                name: {m: median(runs[name], m) for m in ("fit_cpu_s", "list_cpu_s", "seconds", "peak_mb")}
                for name in runs
            },
        )
    )


if __name__ == "__main__":
    main()
