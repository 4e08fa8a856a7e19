"""Write a log of many rows, in time order, sparse ids, items like 1 / rank: `log_50m_input.py FILE ROWS`."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N_USERS, N_ITEMS = 1_000_000, 900_000
START_US, SPAN_US = 1_700_000_000_000_000, 300 * 86_400 * 10**6
BLOCK = 1_000_000
EVENTS = pa.array(["view", "cart", "buy"])

path, n_rows = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
user_ids = rng.permutation(3 * N_USERS)[:N_USERS] + 10**6
item_ids = rng.permutation(5 * N_ITEMS)[:N_ITEMS] + 1
schema = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("ts", pa.timestamp("us", "UTC")),
        ("event", pa.string()),
    ]
)
path.parent.mkdir(parents=True, exist_ok=True)
partial = path.with_suffix(".partial")
n_blocks = n_rows // BLOCK
with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
    for block in range(n_blocks):
        user = np.minimum((rng.random(BLOCK) ** 2 * N_USERS).astype(np.int64), N_USERS - 1)
        item = np.minimum(np.exp(rng.random(BLOCK) * np.log(N_ITEMS)).astype(np.int64), N_ITEMS - 1)
        ts = START_US + np.sort(
            rng.integers(block * SPAN_US // n_blocks, (block + 1) * SPAN_US // n_blocks, BLOCK)
        )
        event = pa.DictionaryArray.from_arrays(
            rng.choice(3, BLOCK, p=[0.9, 0.07, 0.03]).astype(np.int8), EVENTS
        )
        columns = [
            user_ids[user],
            item_ids[item],
            pa.array(ts, schema.field("ts").type),
            event.cast(pa.string()),
        ]
        writer.write_table(pa.table(columns, schema=schema))
partial.rename(path)
print(json.dumps({"rows": n_blocks * BLOCK, "mb": path.stat().st_size / 1e6}))
