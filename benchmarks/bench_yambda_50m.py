"""A log of Yambda-50M's size: from raw Parquet to the leaderboard of all classical models, 2 cores."""

from benchmarks import harness
from vitrina.datasets import World


def main() -> None:
    folder = harness.WORK / "yambda_50m"
    if not (folder / "world.json").exists():
        rows = World.yambda_50m(seed=50).write(folder, schema="yambda")
        print(f"   wrote {rows}", flush=True)
    script = str(harness.HERE / "scripts" / "yambda_50m.py")
    once = harness.run([harness.OURS, script, str(folder), str(harness.WORK / "yambda_50m_work")])
    printed = once.printed
    harness.record(
        harness.Row(
            name="yambda_50m",
            what="46 M listens, 10 k users, 934 k items: raw Parquet -> leaderboard, Yambda's protocol",
            ours=once.wall_s / 60,
            peer="-",
            theirs=None,
            ratio=None,
            unit="minutes",
            target="under 45 minutes and 8 GB",
            quality={"peak_gb": round(once.peak_mb / 1024, 2), "ndcg@100": printed["ndcg@100"]},
            extra={
                "cpu_minutes": round(once.cpu_s / 60, 1),
                **{name: printed[name] for name in ("n_train", "n_users", "n_items", "left_out")},
            },
        )
    )
