"""How often each id of a stream occurred: exact counts while ids are few, a count-min sketch beyond.

Notation                                                                             shape
    C       counters: one row a hash function, C[j, h_j(x)] counts id x              (depth, width)
    f       true count of an id;  f^ = min_j C[j, h_j(x)] its estimate
    N       total of all counts

width = ceil(e / eps), depth = ceil(ln(1 / delta)); then f <= f^ always, and f^ <= f + eps N with probability
at least 1 - delta (Cormode and Muthukrishnan, J. Algorithms 2005). Conservative update (Estan and Varghese,
SIGCOMM 2002) raises only the counters that must rise, C[j, h_j(x)] <- max(C[j, h_j(x)], f^ + v): the same
bounds, a smaller error. The error is a share of N for every id, so it is the rare ids whose estimates are
poor: below 100 M ids exact counts are better.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

from vitrina import artifact
from vitrina.errors import ArtifactError, ConfigError, InputError
from vitrina.log.rowhash import HashArray, mix, text_hash
from vitrina.schema import LongArray

CounterArray = npt.NDArray[np.uint32]
IdValues = pl.Series | npt.NDArray[np.integer] | Iterable[int] | Iterable[str]

_TOP = np.uint64(2**32 - 1)


@dataclass(kw_only=True, eq=False)
class CountMin:
    """A count-min sketch of 64-bit keys: 4 depth width bytes, whatever the number of keys."""

    eps: float = 1e-6
    """Error as a share of the total."""
    delta: float = 1e-3
    """Probability that the error of one estimate is larger."""
    conservative: bool = True
    """Raise only the counters that must rise; False adds to all."""
    seed: int = 0
    """Draws the hash functions."""
    counters: CounterArray = field(init=False, repr=False)
    """C, (depth, width). Counters stop at 2^32 - 1."""
    total: int = field(default=0, init=False)
    """N."""

    def __post_init__(self) -> None:
        for name in ("eps", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"CountMin.{name} must be between 0 and 1, got {getattr(self, name)}")
        self.counters = np.zeros(
            (math.ceil(math.log(1 / self.delta)), math.ceil(math.e / self.eps)), np.uint32
        )

    @property
    def _salts(self) -> HashArray:
        return np.random.default_rng(self.seed).integers(0, 2**64, len(self.counters), dtype=np.uint64)

    def update(self, keys: HashArray, counts: LongArray) -> None:
        """Count distinct keys, each `counts` times."""
        add = _add_conservative if self.conservative else _add_plain
        add(self.counters, self._salts, keys, counts)
        self.total += int(counts.sum())

    def estimate(self, keys: HashArray) -> LongArray:
        """f^ of each key. Shape (n,)."""
        out = np.empty(len(keys), dtype=np.int64)
        _estimate(self.counters, self._salts, keys, out)
        return out

    def merge(self, other: "CountMin") -> "CountMin":
        """Sketch of both streams: an upper bound, looser than one sketch of both if conservative.

        Raises:
            InputError: the two have other shapes or hash functions.
        """
        if (self.counters.shape, self.seed) != (other.counters.shape, other.seed):
            raise InputError("sketches of other eps, delta or seed cannot be merged; make them with the same")
        both = CountMin(eps=self.eps, delta=self.delta, conservative=self.conservative, seed=self.seed)
        summed = self.counters.astype(np.uint64) + other.counters
        both.counters = np.minimum(summed, _TOP).astype(np.uint32)
        both.total = self.total + other.total
        return both

    def halve(self) -> None:
        """Every counter becomes floor(c / 2), so f^ stays at or above the count halved the same way."""
        self.counters >>= np.uint32(1)
        self.total //= 2


@dataclass(kw_only=True, eq=False)
class Frequencies:
    """Counts of integer or text ids: exact up to `max_exact` distinct ones, then a `CountMin` sketch.

    Text is counted by a 64-bit hash, so two texts are taken for one with probability n^2 / 2^65.

    Example:
        >>> seen = Frequencies()
        >>> seen.update(["a", "b", "a"])
        >>> seen.estimate(["a", "b", "c"]).tolist(), seen.total
        ([2, 1, 0], 3)
    """

    max_exact: int = 1_000_000
    """Distinct ids that are counted exactly, 16 bytes each; 0 sketches from the start."""
    eps: float = 1e-6
    """See `CountMin`."""
    delta: float = 1e-3
    """See `CountMin`."""
    conservative: bool = True
    """See `CountMin`."""
    seed: int = 0
    """See `CountMin`."""
    sketch: CountMin | None = field(default=None, init=False, repr=False)
    """The sketch, once there is one."""
    _keys: HashArray = field(init=False, repr=False)
    _counts: LongArray = field(init=False, repr=False)
    _is_text: bool | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._keys, self._counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        if self.max_exact < 0:
            raise ConfigError(f"Frequencies.max_exact must be >= 0, got {self.max_exact}")
        if self.max_exact == 0:
            self.sketch = self._new_sketch()

    @property
    def is_exact(self) -> bool:
        """Whether estimates are exact."""
        return self.sketch is None

    @property
    def total(self) -> int:
        """N: sum of all counts."""
        return int(self._counts.sum()) if self.sketch is None else self.sketch.total

    @property
    def error_bound(self) -> float:
        """What an estimate exceeds by with probability at most delta: eps N; 0 while exact."""
        return 0.0 if self.sketch is None else self.eps * self.sketch.total

    def update(self, ids: IdValues, counts: npt.ArrayLike | None = None) -> None:
        """Count some ids.

        Args:
            ids: any order, may repeat.
            counts: how often each; None counts each once.

        Raises:
            InputError: a count is negative or fractional, or text and integers are mixed.
        """
        keys = self._as_keys(ids)
        if counts is None:
            keys, added = np.unique(keys, return_counts=True)
            self._add(keys, added.astype(np.int64))
            return
        given = np.asarray(counts)
        if given.shape != keys.shape or given.dtype.kind not in "iu" or (given < 0).any():
            raise InputError(f"counts must be {len(keys)} whole numbers >= 0, one an id, got {given!r:.80}")
        keys, inverse = np.unique(keys, return_inverse=True)
        added = np.zeros(len(keys), np.int64)
        np.add.at(added, inverse, given.astype(np.int64))
        self._add(keys, added)

    def estimate(self, ids: IdValues) -> LongArray:
        """Count of each id, never below the true one; 0 or more for an id never seen. Shape (n,)."""
        keys = self._as_keys(ids)
        if self.sketch is not None:
            return self.sketch.estimate(keys)
        if not len(self._keys):
            return np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._counts[at], 0)

    def merge(self, other: "Frequencies") -> "Frequencies":
        """Counts of both streams: exact where both are and fit, an upper bound else.

        Raises:
            InputError: one counts text and the other integers, or their sketches have other parameters.
        """
        if None not in (self._is_text, other._is_text) and self._is_text != other._is_text:
            raise InputError("counts of text ids and of integer ids cannot be merged")
        both = Frequencies(
            max_exact=max(self.max_exact, other.max_exact) if self.is_exact and other.is_exact else 0,
            eps=self.eps,
            delta=self.delta,
            conservative=self.conservative,
            seed=self.seed,
        )
        both._is_text = self._is_text if self._is_text is not None else other._is_text
        sketches = [one.sketch for one in (self, other) if one.sketch is not None]
        if both.sketch is not None:
            for sketch in sketches:
                both.sketch = both.sketch.merge(sketch)
        for one in (self, other):
            both._add(one._keys, one._counts)
        return both

    def halve(self) -> None:
        """Every count becomes floor(count / 2); ids at 0 are forgotten. Call it once a half-life."""
        if self.sketch is not None:
            self.sketch.halve()
        self._counts //= 2
        self._keys, self._counts = self._keys[self._counts > 0], self._counts[self._counts > 0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder, atomically.

        Raises:
            ArtifactError: the disk refuses.
        """
        state: dict[str, Any] = {
            "is_text": self._is_text,
            "keys": self._keys.view(np.int64),
            "counts": self._counts,
        }
        if self.sketch is not None:
            state |= {"counters": self.sketch.counters, "total": self.sketch.total}
        params = {name: getattr(self, name) for name in ("max_exact", "eps", "delta", "conservative", "seed")}
        artifact.save(artifact.Saved(kind="Frequencies", params=params, state=state), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Frequencies":
        """Read a folder that `save` wrote.

        Raises:
            ArtifactError: it is missing, half-written, corrupted or holds something else.
        """
        saved = artifact.load(path)
        if saved.kind != cls.__name__:
            raise ArtifactError(
                f"{os.fspath(path)} holds a {saved.kind}, not Frequencies; give another folder"
            )
        loaded = cls(**saved.params)
        loaded._is_text = saved.state["is_text"]
        loaded._keys, loaded._counts = saved.state["keys"].view(np.uint64), saved.state["counts"]
        if "counters" in saved.state:
            loaded.sketch = loaded.sketch or loaded._new_sketch()
            loaded.sketch.counters, loaded.sketch.total = saved.state["counters"], saved.state["total"]
        return loaded

    def _add(self, keys: HashArray, counts: LongArray) -> None:
        if self.sketch is None:
            merged, inverse = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
            summed = np.zeros(len(merged), np.int64)
            np.add.at(summed, inverse, np.concatenate([self._counts, counts]))
            self._keys, self._counts = merged, summed
            if len(merged) <= self.max_exact:
                return
            self.sketch = self._new_sketch()
            keys, counts = merged, summed
            self._keys, self._counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self.sketch.update(keys, counts)

    def _new_sketch(self) -> CountMin:
        return CountMin(eps=self.eps, delta=self.delta, conservative=self.conservative, seed=self.seed)

    def _as_keys(self, ids: IdValues) -> HashArray:
        if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
            series = pl.Series(ids)
        else:
            series = ids if isinstance(ids, pl.Series) else pl.Series(list(ids))
        if series.null_count() or not (
            len(series) == 0 or series.dtype.is_integer() or series.dtype == pl.String
        ):
            raise InputError(f"ids to count must be integers or text without nulls, got {series.dtype}")
        if not len(series):
            return np.zeros(0, np.uint64)
        is_text = series.dtype == pl.String
        if self._is_text is not None and self._is_text != is_text:
            raise InputError(f"ids were {'text' if self._is_text else 'integers'} before; give the same kind")
        self._is_text = is_text
        return text_hash(series) if is_text else series.cast(pl.Int64).to_numpy().view(np.uint64)


@numba.njit(inline="always")
def _column(key, salt, width):  # type: ignore[no-untyped-def]
    return ((mix(key ^ salt) >> np.uint64(32)) * np.uint64(width)) >> np.uint64(32)


@numba.njit(cache=True, nogil=True)
def _add_conservative(counters, salts, keys, counts):  # type: ignore[no-untyped-def]
    depth, width = counters.shape
    columns = np.empty(depth, dtype=np.int64)
    for at in range(len(keys)):
        least = np.uint64(0xFFFFFFFF)
        for row in range(depth):
            columns[row] = _column(keys[at], salts[row], width)
            least = min(least, np.uint64(counters[row, columns[row]]))
        raised = min(least + np.uint64(counts[at]), np.uint64(0xFFFFFFFF))
        for row in range(depth):
            counters[row, columns[row]] = max(np.uint64(counters[row, columns[row]]), raised)


@numba.njit(cache=True, nogil=True)
def _add_plain(counters, salts, keys, counts):  # type: ignore[no-untyped-def]
    depth, width = counters.shape
    for at in range(len(keys)):
        for row in range(depth):
            column = _column(keys[at], salts[row], width)
            summed = np.uint64(counters[row, column]) + np.uint64(counts[at])
            counters[row, column] = min(summed, np.uint64(0xFFFFFFFF))


@numba.njit(cache=True, nogil=True)
def _estimate(counters, salts, keys, out):  # type: ignore[no-untyped-def]
    depth, width = counters.shape
    for at in range(len(keys)):
        least = np.uint64(0xFFFFFFFF)
        for row in range(depth):
            least = min(least, np.uint64(counters[row, _column(keys[at], salts[row], width)]))
        out[at] = least
