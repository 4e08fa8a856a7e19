"""Top-100 of 20 k items for 100 k users from factors, against the matrix product alone."""

from benchmarks.harness import HERE, OURS, Row, record, run


def main() -> None:
    for dim in (64, 128):
        measured = run([OURS, str(HERE / "scripts" / "topk_run.py"), str(dim), "3"]).printed
        print(f"   {measured}", flush=True)
        record(
            Row(
                name="topk",
                what=f"top-100 of 20 k items for 100 k users, {dim} factors",
                ours=measured["cpu_seconds"],
                peer="the bare product (numpy sgemm)",
                theirs=measured["product_cpu_s"],
                ratio=measured["ratio"],
                unit="CPU s",
                target="<= 1.5x",
                quality={"share of places equal to sorting": measured["same_as_sorting"]},
                extra={"wall s": [measured["seconds"], measured["product_s"]]},
            )
        )


if __name__ == "__main__":
    main()
