"""Peak memory and time of full cross-entropy at 1 M items, against the plain form.

The plain form makes the matrix of logits, its softmax and its gradient: at 1 M items and 4,096 positions each
takes 16 GB, more than the machine has. It is measured at 25 k and 50 k items, and the line
through the two is continued to 1 M. Time is CPU time of one thread: it does not depend on what else runs.
"""

import torch

from benchmarks.harness import HERE, OURS, Measured, Row, in_turn, median, record

SCRIPT = str(HERE / "scripts" / "ce_memory_run.py")
SMALL, MIDDLE, LARGE = 25_000, 50_000, 1_000_000
TARGET_MB = 3072


def continued(small: float, middle: float) -> float:
    """The value at LARGE of the line through the two."""
    return middle + (LARGE - MIDDLE) * (middle - small) / (MIDDLE - SMALL)


def peak_mb(one: Measured) -> float:
    return one.peak_mb


def compare(precision: str) -> None:
    cases = [("plain", SMALL), ("plain", MIDDLE), ("ours", MIDDLE), ("ours", LARGE)]
    commands = {f"{form} {n}": [OURS, SCRIPT, form, str(n), precision] for form, n in cases}
    runs = in_turn(commands, repeats=3, threads=1)
    peer = f"torch {torch.__version__.split('+')[0]} cross_entropy"
    losses = {name: one[0].printed["loss"] for name, one in runs.items()}
    for what, unit, read in (("peak memory", "MB", peak_mb), ("time", "CPU s", "cpu_seconds")):
        value = {name: median(one, read) for name, one in runs.items()}  # type: ignore[arg-type]
        line = continued(value[f"plain {SMALL}"], value[f"plain {MIDDLE}"])
        for n, theirs, how in (
            (MIDDLE, value[f"plain {MIDDLE}"], ""),
            (LARGE, line, ", continued by a line"),
        ):
            ours = value[f"ours {n}"]
            bounded = n == LARGE and unit == "MB"
            record(
                Row(
                    name="ce_memory",
                    what=f"{what}, {n // 1000:,} k items, 4,096 positions, d = 64, both passes, {precision}",
                    ours=round(ours, 3),
                    peer=peer + how,
                    theirs=round(theirs, 3),
                    ratio=round(ours / theirs, 4),
                    unit=unit,
                    target=f"<= {TARGET_MB:,} MB" if bounded else "-",
                    quality={"loss": losses[f"ours {n}"]}
                    | ({"loss of the plain form": losses[f"plain {n}"]} if n == MIDDLE else {}),
                    extra={
                        name: [read(r) if callable(read) else r.printed[read] for r in one]
                        for name, one in runs.items()
                    },
                )
            )


def main() -> None:
    for precision in ("float32", "bfloat16"):
        compare(precision)


if __name__ == "__main__":
    main()
