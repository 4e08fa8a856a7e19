"""SASRec training against RecTools and RePlay on MovieLens 1M, each user's last rating held out.

The same width, blocks, heads, feed-forward width, dropout, batch and number of epochs; every library trains
on the latest 200 transitions of each user with a softmax over the whole catalogue. Runs take turns, each
turn with a seed of its own.
Throughput counts windows (one a user) and targets (transitions) by CPU seconds of the training loop, which
vary less than wall seconds on a machine that others use; both are kept. RePlay runs as `from_params` builds
it, and with its length buckets beside.

    SASREC_TRAIN_EPOCHS, SASREC_TRAIN_SEEDS, SASREC_TRAIN_USERS, SASREC_TRAIN_ONLY    a shorter measurement
    SASREC_TRAIN_THREADS    threads of every run, 2; 1 where others use the machine
"""

import json
import os
from typing import Any

import numpy as np

from benchmarks.data import WORK, ratings_folder
from benchmarks.harness import OURS, Measured, Row, in_turn, median, peer_python, record

SCRIPT = "benchmarks/scripts/sasrec_train_run.py"
SAME = {
    "dim": 64,
    "n_layers": 2,
    "n_heads": 2,
    "max_len": 200,
    "dropout": 0.2,
    "lr": 1e-3,
    "batch_size": 128,
}
PEERS = {"rectools": "RecTools 0.19.0", "replay": "RePlay 0.22.0"}
FIGURES = (
    "windows_per_s",
    "windows_per_cpu_s",
    "targets_per_s",
    "targets_per_cpu_s",
    "prep_s",
    "fit_s",
    "fit_cpu_s",
    "train_s",
    "train_cpu_s",
    "warm_mb",
    "peak_mb",
)
N_EPOCHS = int(os.environ.get("SASREC_TRAIN_EPOCHS", "10"))
SEEDS = [int(seed) for seed in os.environ.get("SASREC_TRAIN_SEEDS", "0,1,2").split(",")]
THREADS = int(os.environ.get("SASREC_TRAIN_THREADS", "2"))
N_USERS = int(os.environ["SASREC_TRAIN_USERS"]) if "SASREC_TRAIN_USERS" in os.environ else None
"""The first users alone, for a short measurement; None takes all."""


def write_log() -> None:
    """Users and items of five ratings or more, ties in the order of the file, each last row held out."""
    fields = (ratings_folder() / "ratings.dat").read_text().replace("::", " ").split()
    user, item, _, ts = np.array(fields, dtype=np.int64).reshape(-1, 4).T
    enough = (np.bincount(user)[user] >= 5) & (np.bincount(item)[item] >= 5)
    user, item, ts = user[enough], item[enough], ts[enough]
    order = np.lexsort((ts, user))
    _, user = np.unique(user[order], return_inverse=True)
    items, item = np.unique(item[order], return_inverse=True)
    ends = np.cumsum(np.bincount(user))
    is_last = np.zeros(len(user), bool)
    is_last[ends - 1] = True
    n_users = np.arange(len(ends) + 1)
    WORK.mkdir(exist_ok=True)
    partial = WORK / f".ml1m_loo-{os.getpid()}.npz"
    np.savez(
        partial,
        n_items=len(items),
        offsets=np.concatenate([[0], ends]) - n_users,
        item_ix=item[~is_last].astype(np.int32),
        ts=ts[order][~is_last],
        test_offsets=n_users,
        test_item_ix=item[is_last].astype(np.int32),
    )
    partial.rename(WORK / "ml1m_loo.npz")


def commands(n_epochs: int, seed: int) -> dict[str, list[str]]:
    """One command a library and precision."""

    def argv(python: str, library: str, precision: str, **more: Any) -> list[str]:
        asked = SAME | {"library": library, "precision": precision, "n_epochs": n_epochs}
        asked |= {"n_users": N_USERS, "seed": seed} | more
        return [python, SCRIPT, json.dumps(asked)]

    rectools, replay = peer_python("rectools_torch"), peer_python("replay_torch")
    every = {
        "ours bf16": argv(OURS, "ours", "bf16"),
        "ours float32": argv(OURS, "ours", "float32"),
        "rectools float32": argv(rectools, "rectools", "float32"),
        "replay float32": argv(replay, "replay", "float32"),
        "rectools bf16": argv(rectools, "rectools", "bf16"),
        "replay bf16": argv(replay, "replay", "bf16"),
        "replay float32 buckets": argv(replay, "replay", "float32", bucket_size=32),
    }
    only = os.environ.get("SASREC_TRAIN_ONLY")
    return every if only is None else {name: every[name] for name in only.split(",")}


def main() -> None:
    """Measure, and record a row for each precision of ours."""
    write_log()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits is no work done
    load = os.getloadavg()
    runs: dict[str, list[Measured]] = {}
    for seed in SEEDS:
        for name, some in in_turn(commands(N_EPOCHS, seed), repeats=1, threads=THREADS).items():
            runs.setdefault(name, []).extend(some)
    for precision in ("bf16", "float32"):
        if f"ours {precision}" in runs:
            record(row(runs, precision, load))


def row(runs: dict[str, list[Measured]], precision: str, load: tuple[float, float, float]) -> Row:
    """Ours in one precision against the fastest peer, whatever precision that runs in."""
    speed = {name: median(some, "targets_per_cpu_s") for name, some in runs.items()}
    peers = [name for name in runs if not name.startswith("ours")]
    fastest, ours = max(peers, key=lambda name: speed[name]), f"ours {precision}"
    of_users = "all users" if N_USERS is None else f"first {N_USERS} users"
    least_mb = min(median(runs[name], "peak_mb") for name in peers)
    return Row(
        name="sasrec_train",
        what=f"ML-1M, {of_users}, {N_EPOCHS} epochs, {precision}, {THREADS} threads, seeds "
        f"{', '.join(map(str, SEEDS))}; "
        f"the fastest peer is {fastest}",
        ours=speed[ours],
        peer=PEERS[fastest.split()[0]],
        theirs=speed[fastest],
        ratio=speed[ours] / speed[fastest],
        unit="targets / CPU s",
        target=">= 3x the faster, equal or better NDCG, peak memory <= 0.7x",
        quality={name: {"ndcg@10": [one.printed["ndcg@10"] for one in some]} for name, some in runs.items()},
        extra={name: {of: median(some, of) for of in FIGURES} for name, some in runs.items()}
        | {
            "wall_ratio": median(runs[ours], "targets_per_s")
            / max(median(runs[name], "targets_per_s") for name in peers),
            "memory_ratio": median(runs[ours], "peak_mb") / median(runs[fastest], "peak_mb"),
            "memory_ratio_to_least": median(runs[ours], "peak_mb") / least_mb,
            "repeats": len(SEEDS),
            "load_before": [round(one, 1) for one in load],
            "load_after": [round(one, 1) for one in os.getloadavg()],
            "same": SAME | {"n_epochs": N_EPOCHS, "n_users": N_USERS, "threads": THREADS},
        },
    )


if __name__ == "__main__":
    main()
