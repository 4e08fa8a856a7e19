"""Vector and list search: exact top-k of scores, products and sparse products, and indexes of vectors.

The functions are arithmetic on arrays. An `Index` keeps vectors and changes with the catalogue; `build_index`
picks one, and `load_index` opens whatever was saved.
"""

from vitrina.ann.choose import INDEXES, build_index, load_index
from vitrina.ann.exact import ExactIndex
from vitrina.ann.faiss_index import FaissIndex
from vitrina.ann.index import Index
from vitrina.ann.pgvector import PgVectorIndex
from vitrina.ann.products import top_k_products
from vitrina.ann.qdrant import QdrantIndex
from vitrina.ann.recall import Recall
from vitrina.ann.sparse import top_k_sparse
from vitrina.ann.topk import PAD, Jagged, TopK, empty_lists, top_k

__all__ = [
    "INDEXES",
    "PAD",
    "ExactIndex",
    "FaissIndex",
    "Index",
    "Jagged",
    "PgVectorIndex",
    "QdrantIndex",
    "Recall",
    "TopK",
    "build_index",
    "empty_lists",
    "load_index",
    "top_k",
    "top_k_products",
    "top_k_sparse",
]
