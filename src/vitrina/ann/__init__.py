"""Vector and list search. Here: exact top-k of dense scores, of inner products and of sparse products."""

from vitrina.ann.products import top_k_products
from vitrina.ann.sparse import top_k_sparse
from vitrina.ann.topk import PAD, Jagged, TopK, empty_lists, top_k

__all__ = ["PAD", "Jagged", "TopK", "empty_lists", "top_k", "top_k_products", "top_k_sparse"]
