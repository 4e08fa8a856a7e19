"""Which index for how many items, and any saved index by its folder."""

import logging
import os

from vitrina.ann import generations
from vitrina.ann.exact import ExactIndex
from vitrina.ann.faiss_index import FaissIndex
from vitrina.ann.index import Index
from vitrina.ann.pgvector import PgVectorIndex
from vitrina.ann.qdrant import QdrantIndex
from vitrina.ann.recall import MIN_RECALL
from vitrina.errors import ArtifactError
from vitrina.schema import FloatArray, IntArray

logger = logging.getLogger("vitrina.ann")

EXACT_UP_TO = 100_000
"""Items that are searched exactly by default: about 5 ms a query of 128 dimensions on one core."""
INDEXES: dict[str, type[Index]] = {
    "ExactIndex": ExactIndex,
    "FaissIndex": FaissIndex,
    "PgVectorIndex": PgVectorIndex,
    "QdrantIndex": QdrantIndex,
}
"""Every index by its class name."""


def build_index(
    vector_ID: FloatArray,
    item_ix: IntArray | None = None,
    *,
    bias: FloatArray | None = None,
    queries: FloatArray | None = None,
    exact_up_to: int = EXACT_UP_TO,
    min_recall: float = MIN_RECALL,
) -> ExactIndex | FaissIndex:
    """An index of vectors: exact up to `exact_up_to` items, faiss above, exact again if that misses too much.

    Args:
        vector_ID: (I, D), as the model scores with them: <query, vector> + bias.
        item_ix: (I,); None means 0, 1, ... I - 1.
        bias: (I,), as popularity; None means 0.
        queries: (n, D), real queries to measure recall with; a few hundred do.
        exact_up_to: items that are searched exactly.
        min_recall: recall@100 below which the approximate structure is refused; a warning says so.

    Raises:
        InputError: a vector, a bias or an item breaks the rules of `Index.build`.
        ConfigError: faiss is needed and not installed.
    """
    if len(vector_ID) <= exact_up_to:
        return ExactIndex().build(vector_ID, item_ix, bias=bias, queries=queries)
    return FaissIndex(min_recall=min_recall).build(vector_ID, item_ix, bias=bias, queries=queries)


def load_index(path: str | os.PathLike[str]) -> Index:
    """The index that was saved to a folder, of whichever class.

    Raises:
        ArtifactError: the folder is missing, corrupted, of another version or of an unknown class.
    """
    kind = generations.read(path, lambda saved: saved.about["kind"], verify=False)
    if kind not in INDEXES:
        raise ArtifactError(
            f"{path} holds a {kind!r}, which is none of {', '.join(INDEXES)}; do not trust this folder"
        )
    return INDEXES[kind].load(path)
