"""Exact search among vectors in memory: the yardstick, and the right choice for small catalogues."""

from dataclasses import dataclass

from vitrina.ann.local import LocalIndex


@dataclass(kw_only=True, eq=False)
class ExactIndex(LocalIndex):
    """All products, none missed; see `vitrina.ann.index` for what the scores are.

    Cost of a search: B I D multiply-adds, at the speed of a matrix product for batches and of memory for one
    query. Memory: the vectors. Use when: I is up to about 100 thousand, norms or biases differ widely, or
    queries come in large batches. See also: FaissIndex for one query at a time among more items.

    Example:
        >>> index = ExactIndex().build(np.eye(3, dtype=np.float32), bias=np.array([0.0, 0.5, 0.0]))
        >>> index.search(np.array([[1, 0.8, 0]]), k=2).item_ix
        array([[1, 0]], dtype=int32)
        >>> index.add([7], [[2, 0, 0]])
        >>> index.search(np.array([[1, 0.8, 0]]), k=2).item_ix
        array([[7, 1]], dtype=int32)
    """
