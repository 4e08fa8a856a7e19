"""Vector and list search. Here: exact top-k of dense scores and of sparse products."""

from vitrina.ann.sparse import top_k_sparse
from vitrina.ann.topk import PAD, Jagged, TopK, empty_lists, top_k

__all__ = ["PAD", "Jagged", "TopK", "empty_lists", "top_k", "top_k_sparse"]
