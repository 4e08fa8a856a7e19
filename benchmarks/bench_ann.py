"""Top-100 of 200 k vectors of 128 dimensions: faiss behind `FaissIndex`, beside exact search."""

from benchmarks.harness import HERE, OURS, Row, record, run

CASES = (
    ("clustered", "ivf_pq"),
    ("clustered", "hnsw"),
    ("factors", "ivf_pq"),
    ("factors", "hnsw"),
    ("raw", "ivf_pq"),
    ("gaussian", "ivf_pq"),
)
ABOUT = {
    "clustered": "unit vectors around 2,000 centres in 32 dimensions",
    "factors": "unit ImplicitALS factors of a synthetic world, asked by users",
    "raw": "the same factors, norms as they are",
    "gaussian": "independent normal coordinates",
}


def main() -> None:
    for data, kind in CASES:
        local(data, kind)
    remote()


def local(data: str, kind: str) -> None:
    """One kind of `FaissIndex` on one set of vectors."""
    run([OURS, str(HERE / "scripts" / "ann_data.py"), data])
    measured = run([OURS, str(HERE / "scripts" / "ann_run.py"), data, kind]).printed
    print(f"   {measured}", flush=True)
    exact, index = measured["exact"], measured["index"]
    refused = {} if measured["effort"] else {"refused, exact answers: recall was": measured["gate"]}
    record(
        Row(
            name="ann",
            what=f"top-100 of 200 k x 128, one query at a time, {kind}; {ABOUT[data]}",
            ours=index["p50_ms"],
            peer="top_k_products (exact)",
            theirs=exact["p50_ms"],
            ratio=index["p50_ms"] / exact["p50_ms"],
            unit="ms",
            target="<= 0.1x with recall@100 >= .99",
            quality={
                "recall@100": measured["recall"],
                "ratio of CPU": round(index["cpu_ms"] / exact["cpu_ms"], 3),
                "the same, batch of 2,000": round(index["batch_cpu_ms"] / exact["batch_cpu_ms"], 3),
            }
            | refused,
            extra={name: value for name, value in measured.items() if name != "recall"},
        )
    )


def remote() -> None:
    """`PgVectorIndex` on a server of this machine."""
    measured = run([OURS, str(HERE / "scripts" / "ann_pgvector.py")]).printed
    record(
        Row(
            name="ann",
            what=f"top-100 of 100 k x 128, one query at a time, pgvector; {ABOUT['clustered']}",
            ours=measured["p50_ms"],
            peer="-",
            theirs=None,
            ratio=None,
            unit="ms",
            target="-",
            quality={"recall@100": measured["recall"]},
            extra=measured,
        )
    )


if __name__ == "__main__":
    main()
