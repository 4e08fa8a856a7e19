"""Top-100 of 20 k items for 100 k users from factors, and the bare matrix product, in turn in one process.

The product is made in blocks of 512 users into one buffer, the fastest of the heights tried; nothing reads
the scores. Both use two threads: BLAS's own for the product, ours for blocks of users.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from vitrina.ann import top_k_products

N_USERS, N_ITEMS, K, BLOCK = 100_000, 20_000, 100, 512


def cpu_and_wall(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    dim, repeats = int(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(0)
    user_UD = rng.standard_normal((N_USERS, dim)).astype(np.float32)
    item_ID = rng.standard_normal((N_ITEMS, dim)).astype(np.float32)
    buffer = np.empty((BLOCK, N_ITEMS), np.float32)

    def product() -> None:
        for lo in range(0, N_USERS, BLOCK):
            block = user_UD[lo : lo + BLOCK]
            np.matmul(block, item_ID.T, out=buffer[: len(block)])

    few = top_k_products(user_UD[:600], item_ID, k=K)
    score = user_UD[:600] @ item_ID.T
    best = np.argsort(-score, axis=1, kind="stable")[:, :K]
    same = float((few.item_ix == best).mean())
    times = [
        [*cpu_and_wall(product), *cpu_and_wall(lambda: top_k_products(user_UD, item_ID, k=K))]
        for _ in range(repeats)
    ]
    middle = np.median(times, axis=0)
    ratio = float(np.median([b / a for a, _, b, _ in times]))
    printed = {
        "product_cpu_s": middle[0],
        "product_s": middle[1],
        "cpu_seconds": middle[2],
        "seconds": middle[3],
    }
    printed = {name: round(float(value), 3) for name, value in printed.items()}
    print(json.dumps({**printed, "ratio": round(ratio, 3), "same_as_sorting": same}))


if __name__ == "__main__":
    main()
