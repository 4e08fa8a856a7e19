"""Vector and list search. Here: exact top-k."""

from vitrina.ann.topk import PAD, Jagged, TopK, empty_lists, top_k

__all__ = ["PAD", "Jagged", "TopK", "empty_lists", "top_k"]
