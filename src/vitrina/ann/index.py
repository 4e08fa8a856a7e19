"""What every index is: vectors in, ranked lists out, wherever the vectors live.

    score of item i for query q  =  <q, v_i> + bias_i

v_i is the vector exactly as it was given and bias_i the number given with it (0 if none), summed in float32.
An approximate index may miss items; what it lists, it scores by this formula, and ranks as `top_k` does:
score descending, ties by smaller item_ix. Approximate indexes find candidates by <q, v_i> alone and see the
bias when they score them again, so they are for vectors of equal norm and a bias that is small beside the
spread of the products: with norms or biases that differ widely they miss what matters most, and every build
measures whether they do.
"""

import os
from typing import Any, Protocol, Self

from vitrina.ann.topk import Jagged, TopK
from vitrina.schema import BoolArray, FloatArray, IntArray


class Index(Protocol):
    """What `ExactIndex`, `FaissIndex`, `PgVectorIndex` and `QdrantIndex` have in common.

    Items are numbered by item_ix: whole numbers in [0, 2^31), not necessarily consecutive. Searches may run
    in any number of threads while one thread changes the index; a search sees all of a change or nothing of
    it.
    """

    def build(
        self,
        vector_ID: FloatArray,
        item_ix: IntArray | None = None,
        *,
        bias: FloatArray | None = None,
        queries: FloatArray | None = None,
    ) -> Self:
        """Replace all that is held.

        Args:
            vector_ID: (I, D); no NaN, no infinity.
            item_ix: (I,), distinct; None means 0, 1, ... I - 1.
            bias: (I,), added to the product; None means 0.
            queries: (n, D), real ones, to measure recall with; None takes vectors of items, which are
                easier to answer than those of a user tower.

        Raises:
            InputError: a shape, a number or an item breaks these rules.
        """
        ...

    def search(
        self,
        query_BD: FloatArray,
        *,
        k: int,
        exclude: Jagged | None = None,
        allowed: BoolArray | None = None,
    ) -> TopK:
        """The k best items of each query, in lists at most k wide, padded where fewer may be listed.

        Args:
            query_BD: (B, D).
            k: length of a list.
            exclude: items that may not enter each query's list; unknown ones are ignored.
            allowed: (n,), entry i says whether item_ix i may be listed; items from n on may not.

        Raises:
            InputError: a shape or a number breaks these rules.
        """
        ...

    def add(self, item_ix: IntArray, vector_ND: FloatArray, *, bias: FloatArray | None = None) -> None:
        """Put items, seen by every search that begins afterwards; those already there are replaced.

        Raises:
            InputError: as for `build`; nothing is added then.
        """
        ...

    def remove(self, item_ix: IntArray) -> int:
        """Take items out; returns how many of them were there. Unknown ones are no error."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `load` needs to a folder, in one step for whoever reads it.

        Raises:
            ArtifactError: the disk refuses; what was saved there before stays.
        """
        ...

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The index that `save` wrote.

        Raises:
            ArtifactError: the folder is missing, corrupted, of another version or of another class.
        """
        ...

    def __len__(self) -> int:
        """Items held."""
        ...

    def params(self) -> dict[str, Any]:
        """Constructor parameters by name."""
        ...
