"""Rows on their way into a table of PostgreSQL."""

from typing import Any

import numpy as np

from vitrina.ann.rows import Rows

ROWS_A_COPY = 10_000
"""Rows sent at a time."""


def send(copy: Any, rows: Rows) -> None:
    """Rows in the binary format of COPY (PostgreSQL manual, "COPY") and of pgvector (vector_send)."""
    n_dims = rows.n_dims
    row = np.dtype(
        [
            ("n_fields", ">i2"),
            ("item_bytes", ">i4"),
            ("item", ">i4"),
            ("vector_bytes", ">i4"),
            ("n_dims", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f4", (n_dims,)),
            ("bias_bytes", ">i4"),
            ("bias", ">f4"),
        ]
    )
    copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    for lo in range(0, len(rows), ROWS_A_COPY):
        part = slice(lo, lo + ROWS_A_COPY)
        block = np.zeros(len(rows.item_ix[part]), row)
        block["n_fields"], block["item_bytes"], block["bias_bytes"] = 3, 4, 4
        block["vector_bytes"], block["n_dims"] = 4 + 4 * n_dims, n_dims
        block["item"], block["vector"], block["bias"] = (
            rows.item_ix[part],
            rows.vector_ND[part],
            rows.bias[part],
        )
        copy.write(block.tobytes())
    copy.write(b"\xff\xff")
