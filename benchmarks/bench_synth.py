"""Rows a second of a synthetic log in Yambda's schema, written to disk: a fifth of Yambda-50M, all items."""

import os

from benchmarks.harness import HERE, OURS, WORK, Row, in_turn, median, record

SCALE = 0.2
TARGET = 1_000_000


def main() -> None:
    """Three interleaved runs of each schema, files written under .bench/ and removed."""
    script = str(HERE / "scripts" / "synth_write.py")
    runs = in_turn(
        {
            schema: [OURS, script, schema, str(WORK / f"synth-{schema}"), str(SCALE)]
            for schema in ("yambda", "vitrina")
        }
    )
    for schema, done in runs.items():
        last = done[-1].printed
        record(
            Row(
                name="synth",
                what=f"{last['rows']:,} rows in the schema {schema}"
                + (", impressions among them" if schema == "vitrina" else ""),
                ours=median(done, "rows_per_s"),
                peer="-",
                theirs=None,
                ratio=None,
                unit="rows/s",
                target=f">= {TARGET:,}" if schema == "yambda" else "-",
                extra={
                    "cpu_us_per_row": median(done, "cpu_us_per_row"),
                    "load_average": os.getloadavg()[1],
                    "peak_mb": median(done, lambda one: one.peak_mb),
                    "mb_written": last["mb"],
                    "rows_by_file": last["rows_by_file"],
                },
            )
        )


if __name__ == "__main__":
    main()
