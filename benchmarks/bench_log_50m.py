"""50 M rows of Parquet -> checked, split, histories on disk; against the same steps in streaming polars."""

import shutil

import polars

from benchmarks.harness import HERE, OURS, WORK, Row, in_turn, median, record, run

N_ROWS = 50_000_000
CUT_US = 1_700_000_000_000_000 + 270 * 86_400 * 10**6
"""Day 270 of 300."""


def main() -> None:
    """Write the input once, then three interleaved runs of each."""
    source, out = WORK / "log_50m.parquet", WORK / "log_50m_out"
    if not source.exists():
        print("   writing the input", flush=True)
        run([OURS, str(HERE / "scripts" / "log_50m_input.py"), str(source), str(N_ROWS)])
    scripts = {"vitrina": "log_50m_ours.py", "polars": "log_50m_hand.py"}
    try:
        runs = in_turn(
            {
                name: [OURS, str(HERE / "scripts" / script), str(source), str(out / name), str(CUT_US)]
                for name, script in scripts.items()
            }
        )
    finally:
        shutil.rmtree(out, ignore_errors=True)
    ours, hand = runs["vitrina"], runs["polars"]
    for part in ("rows", "train", "test"):
        if ours[0].printed[part] != hand[0].printed[part]:
            raise AssertionError(f"{part} differ: {ours[0].printed[part]} and {hand[0].printed[part]}")
    peer = f"streaming polars {polars.__version__} by hand"
    seconds, theirs = median(ours, "seconds"), median(hand, "seconds")
    cpu, their_cpu = median(ours, "cpu_seconds"), median(hand, "cpu_seconds")
    peak, their_peak = median(ours, lambda one: one.peak_mb), median(hand, lambda one: one.peak_mb)
    shapes = {part: ours[0].printed[part][:3] for part in ("train", "test")}
    same = {"rows, users and lengths": "equal", "users, items, rows": shapes}
    by_step = {"ours": ours[-1].printed["cpu_by_step"], "theirs": hand[-1].printed["cpu_by_step"]}
    rows = [
        ("wall time", seconds, theirs, "s", "<= 1.3x", {"cpu_by_step": by_step}),
        ("CPU time", cpu, their_cpu, "CPU-s", "<= 1.3x", {}),
        ("peak memory", peak, their_peak, "MB", "<= 1024 MB", {}),
    ]
    for what, mine, other, unit, target, extra in rows:
        record(
            Row(
                name="log_50m",
                what=f"{N_ROWS // 10**6} M rows checked, split, histories on disk: {what}",
                ours=mine,
                peer=peer,
                theirs=other,
                ratio=mine / other,
                unit=unit,
                target=target,
                quality=same,
                extra=extra,
            )
        )


if __name__ == "__main__":
    main()
