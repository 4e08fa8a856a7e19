"""What indexes in this process share: a base that never changes, what changed since, folders on disk.

    search   candidates of the base  +  exact candidates of the delta  ->  one exact scoring  ->  lists
    add      a new delta with the rows in it (a copy: cost grows with the delta), old rows marked dead
    remove   marks in the base, rows out of the delta
    compact  base := all live items, built anew while searches and changes go on

A search costs J D multiply-adds more for a delta of J rows, so compact when `needs_compacting` says so.
"""

import os
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from vitrina.ann import generations
from vitrina.ann.generations import Generation
from vitrina.ann.recall import Recall, places_by_product, sample_queries
from vitrina.ann.rescore import rescored
from vitrina.ann.rows import Rows, checked, checked_items, checked_limits, checked_queries, frozen
from vitrina.ann.state import State, first_state
from vitrina.ann.topk import PAD, Jagged, TopK, empty_lists
from vitrina.errors import ArtifactError, NotFittedError
from vitrina.schema import BoolArray, FloatArray, IntArray

COMPACT_AT = 0.1
"""Share of a base that may be dead or in the delta before `needs_compacting`."""
COMPACT_FROM = 10_000
"""So many changes are always cheap."""


class Searcher(Protocol):
    """Finds candidates in a base that it was built from; it never changes."""

    def candidates(
        self, query_BD: FloatArray, base: Rows, *, k: int, exclude: Jagged | None, mask: BoolArray | None
    ) -> tuple[IntArray, bool]:
        """Places, distinct along a row, -1 for none, excluded ones maybe among them; and whether exact."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write files; returns JSON values for the manifest."""
        ...


@dataclass(kw_only=True, eq=False)
class LocalIndex:
    """Everything but how candidates are found in the base."""

    def __post_init__(self) -> None:
        self._state: State | None = None
        self._sample: FloatArray | None = None
        self._changing, self._building = threading.Lock(), threading.Lock()
        self.recall_: Recall | None = None

    def params(self) -> dict[str, Any]:
        """Constructor parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def build(
        self,
        vector_ID: FloatArray,
        item_ix: IntArray | None = None,
        *,
        bias: FloatArray | None = None,
        queries: FloatArray | None = None,
    ) -> Self:
        """Replace all that is held; see `Index.build`.

        Vectors that are float32, in C order and in the order of item_ix are kept, not copied: leave them be.
        """
        rows = checked(vector_ID, item_ix, bias)
        if queries is not None:
            queries = sample_queries(rows, queries, seed=0)
        with self._building:
            searcher, recall = self._make(rows, queries)
            with self._changing:
                self._state, self._sample, self.recall_ = first_state(rows, searcher), queries, recall
        return self

    def search(
        self,
        query_BD: FloatArray,
        *,
        k: int,
        exclude: Jagged | None = None,
        allowed: BoolArray | None = None,
    ) -> TopK:
        """The k best items of each query; see `Index.search`."""
        state = self._now()
        query_BD = checked_queries(query_BD, state.base.n_dims, owner=self._name)
        exclude, allowed = checked_limits(len(query_BD), k, exclude, allowed)
        k = min(k, len(state))
        if not k or not len(query_BD):
            return empty_lists(len(query_BD), k)
        mask = None if allowed is None else state.base.mask(allowed)
        if state.n_dead:
            mask = state.alive if mask is None else mask & state.alive
        lists, is_exact = _lists(state, state.searcher, query_BD, k, (exclude, allowed, mask))
        n_allowed = len(state) if allowed is None else _n_allowed(state, allowed, mask)
        short = np.flatnonzero(lists.lengths < min(k, n_allowed))
        if len(short) and not is_exact:
            limits = (None if exclude is None else exclude.take(short), allowed, mask)
            again, _ = _lists(state, None, query_BD[short], k, limits)
            lists.item_ix[short], lists.score[short] = again.item_ix, again.score
        return lists

    def add(self, item_ix: IntArray, vector_ND: FloatArray, *, bias: FloatArray | None = None) -> None:
        """Put items; see `Index.add`."""
        rows = checked(
            vector_ND, checked_items(item_ix), bias, n_dims=self._now().base.n_dims, owner=self._name
        )
        with self._changing:
            self._state = self._now().put(rows)

    def remove(self, item_ix: IntArray) -> int:
        """Take items out; see `Index.remove`."""
        items = np.unique(checked_items(item_ix))
        with self._changing:
            state = self._now()
            there = items[state.holds(items)]
            if len(there):
                self._state = state.without(there)
        return len(there)

    @property
    def needs_compacting(self) -> bool:
        """Whether additions and removals have become so many that searches pay for them."""
        state = self._now()
        changed = len(state.delta) + state.n_dead
        return changed > max(COMPACT_FROM, COMPACT_AT * len(state.base))

    def compact(self) -> None:
        """Build the base again from all live items, while searches and changes go on; nothing is lost."""
        with self._building:
            before = self._now()
            rows = before.live()
            searcher, recall = self._make(rows, self._sample)
            with self._changing:
                self._state, self.recall_ = self._now().onto(rows, searcher, before.clock), recall

    def __len__(self) -> int:
        return len(self._now())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the next generation of a folder; see `Index.save` and `vitrina.ann.generations`."""
        with self._building:
            state, recall, sample = self._now(), self.recall_, self._sample
            about: dict[str, Any] = {
                "kind": self._name,
                "params": self.params(),
                "clock": state.clock,
                "recall": None if recall is None else asdict(recall),
                "searcher": None,
            }
            with generations.writing(path, about) as folder:
                arrays = {
                    "item_ix": state.base.item_ix,
                    "vector": state.base.vector_ND,
                    "bias": state.base.bias,
                    "alive": state.alive,
                    "delta_item_ix": state.delta.item_ix,
                    "delta_vector": state.delta.vector_ND,
                    "delta_bias": state.delta.bias,
                    "delta_stamp": state.stamp,
                }
                if sample is not None:
                    arrays["sample"] = sample
                for name, array in arrays.items():
                    np.save(folder / f"{name}.npy", array, allow_pickle=False)
                if state.searcher is not None:
                    about["searcher"] = state.searcher.save(folder)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True, mapped: bool = True) -> Self:
        """The index that `save` wrote.

        Args:
            path: its folder.
            verify: check every file against its SHA-256, which reads all of them once; without it only sizes
                and types are checked and a mapped index opens in milliseconds.
            mapped: leave the base on disk, shared by all processes that map it, and read what searches touch.

        Raises:
            ArtifactError: the folder is missing, corrupted, of another version or of another class.
        """
        return generations.read(path, lambda saved: cls._opened(saved, mapped=mapped), verify=verify)

    @classmethod
    def _opened(cls, saved: Generation, *, mapped: bool) -> Self:
        """An index from one generation."""
        about = saved.about
        if about["kind"] != cls.__name__:
            raise ArtifactError(
                f"{saved.folder} holds a {about['kind']}, not a {cls.__name__}; use `load_index`"
            )
        base, delta = _rows(saved, "", mapped=mapped), _rows(saved, "delta_", mapped=False)
        alive = saved.array("alive", bool, mapped=False)
        stamp = saved.array("delta_stamp", np.int64, mapped=False)
        if alive.shape != (len(base),) or stamp.shape != (len(delta),) or delta.n_dims != base.n_dims:
            raise ArtifactError(f"{saved.folder} has arrays that do not fit together; build the index again")
        try:
            index = cls(**about["params"])
            searcher = (
                None if about["searcher"] is None else index._open(saved, about["searcher"], base, mapped)
            )
            recall = None if about["recall"] is None else Recall(**about["recall"])
            index._state = State(base, searcher, alive, delta, stamp, int(about["clock"]))
        except (TypeError, ValueError, KeyError) as error:
            raise ArtifactError(f"{saved.folder} cannot be read ({error}); build the index again") from error
        index.recall_ = recall
        if "sample.npy" in about["files"]:
            index._sample = saved.array("sample", np.float32, mapped=False)
        return index

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _now(self) -> State:
        if self._state is None:
            raise NotFittedError(
                f"{self._name} holds nothing yet; call {self._name}.build(...) or .load(...) first"
            )
        return self._state

    def _make(self, rows: Rows, sample: FloatArray | None) -> tuple[Searcher | None, Recall | None]:
        """What finds candidates among rows, and how well; None searches exactly."""
        return None, None

    def _open(self, saved: Generation, about: Any, base: Rows, mapped: bool) -> Searcher:
        """The searcher that was saved."""
        raise ArtifactError(f"{saved.folder} has a searcher that {self._name} never saves; do not trust it")


Limits = tuple[Jagged | None, BoolArray | None, BoolArray | None]
"""Items excluded from each list, items allowed in any, and places of the base that are alive and allowed."""


def _lists(
    state: State, searcher: Searcher | None, query_BD: FloatArray, k: int, limits: Limits
) -> tuple[TopK, bool]:
    """The lists of a moment, and whether none of the base was missed."""
    exclude, allowed, mask = limits
    if searcher is None:
        place_BC, is_exact = places_by_product(query_BD, state.base, k=k, exclude=exclude, mask=mask), True
    else:
        place_BC, is_exact = searcher.candidates(query_BD, state.base, k=k, exclude=exclude, mask=mask)
    if len(state.delta):
        new_mask = None if allowed is None else state.delta.mask(allowed)
        new = places_by_product(query_BD, state.delta, k=k, exclude=exclude, mask=new_mask)
        place_BC = np.hstack([place_BC, np.where(new < 0, np.int32(PAD), new + np.int32(len(state.base)))])
    return rescored(query_BD, place_BC, state.base, state.delta, k=k, exclude=exclude), is_exact


def _n_allowed(state: State, allowed: BoolArray, mask: BoolArray | None) -> int:
    """Items that a list may hold."""
    in_base = len(state.base) if mask is None else int(np.count_nonzero(mask))
    return in_base + int(np.count_nonzero(state.delta.mask(allowed)))


def _rows(saved: Generation, prefix: str, *, mapped: bool) -> Rows:
    """Rows that were saved, in the shapes and the order that they must have."""
    item_ix = saved.array(f"{prefix}item_ix", np.int32, mapped=mapped)
    vector_ND = saved.array(f"{prefix}vector", np.float32, mapped=mapped)
    bias = saved.array(f"{prefix}bias", np.float32, mapped=mapped)
    fits = vector_ND.ndim == 2 and item_ix.shape == bias.shape == vector_ND.shape[:1]
    if not fits or (np.diff(item_ix) <= 0).any():
        raise ArtifactError(f"{saved.folder} has arrays that do not fit together; build the index again")
    return Rows(*(frozen(array) for array in (item_ix, vector_ND, bias)))
