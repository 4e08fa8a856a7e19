"""Approximate search with faiss: a graph or cells find candidates, the float32 vectors rank them.

    candidates  the n nearest by compressed vectors, n = overfetch max(k, 100) + items excluded there
    lists       their exact scores <q, v_i> + bias_i (`vitrina.ann.rescore`)

Effort. At every build the efforts below are tried in turn on a sample of queries until one reaches
`target_recall` of the exact lists; if even the last stays under `min_recall`, the structure is thrown away, a
warning says so, and the index searches exactly. Give `queries` to `build` where queries are not like items: a
graph over items can be right for items and wrong for users.

    hnsw    width = ef         150, 200, 256, ... 2048   overfetch 1.5
    ivf_pq  width = cells     1, 8, 12, 16, ... n_cells   overfetch 3, 8 or 20, in the order of their cost

Filters. faiss skips what is not allowed (a bitmap made for the call). Where so few rows are allowed that
scoring them all is cheaper, that is done; lists that come out short though more could be listed are made
again exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vitrina.ann import faiss_parts
from vitrina.ann.blocks import in_threads
from vitrina.ann.generations import Generation
from vitrina.ann.local import LocalIndex, Searcher
from vitrina.ann.recall import MIN_RECALL, K, Recall, measure, passes, places_by_product, sample_queries
from vitrina.ann.rescore import rescored
from vitrina.ann.rows import Rows, no_rows
from vitrina.ann.topk import Jagged, TopK
from vitrina.errors import ConfigError
from vitrina.schema import BoolArray, FloatArray, IntArray

MIN_ITEMS = 1_000
"""Fewer items are searched exactly: faster, and k-means has too few points."""
FILE = "structure.faiss"
BLOCK_QUERIES = {"hnsw": 16, "ivf_pq": 1024}
"""Queries of a call to faiss: cells are scanned for many queries together, a graph for each by itself."""
CODES_PER_CANDIDATE = 20
"""Scoring a candidate exactly, from anywhere in memory, costs as much as scanning so many codes in a row."""
CODES_PER_ROW = 5
"""The same for rows in rising order, as a filter leaves them."""
SCANNED_PER_STEP = 16
"""Rows that are scored one after another in the time of one step of a graph, which scores its many links."""
Kind = Literal["hnsw", "ivf_pq"]


class Effort(NamedTuple):
    """How hard a search tries."""

    width: int
    """ef, or cells looked into."""
    overfetch: float
    """Candidates over k."""


@dataclass(kw_only=True, eq=False)
class FaissIndex(LocalIndex):
    """HNSW or IVF-PQ over an immutable base, with exact scores; formulas in `vitrina.ann.faiss_index`.

    Cost, 200 thousand items of 128 dimensions: docs/ann.md. Memory: the vectors (mapped from disk after
    `load`), and for "hnsw" D + 10 n_links bytes an item, for "ivf_pq" D / (2 dims_per_code) + 8. Use when: I
    is above about 100 thousand, norms are equal (unit vectors), and the build log says that recall is good.
    See also: ExactIndex for anything else; PgVectorIndex and QdrantIndex for many servers.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.standard_normal((3000, 16)).astype(np.float32)
        >>> vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        >>> index = FaissIndex().build(vectors)
        >>> index.search(vectors[5:6], k=1).item_ix
        array([[5]], dtype=int32)
        >>> index.recall_.mean > 0.95
        True
    """

    kind: Kind = "ivf_pq"
    """"ivf_pq": cells with product codes; "hnsw": a graph, slower to build, for queries like items."""
    target_recall: float = 0.99
    """Recall at which a build stops raising the effort."""
    min_recall: float = MIN_RECALL
    """Recall below which the structure is refused and search is exact; 0 refuses nothing."""
    n_links: int = 16
    """"hnsw": links of a node (twice as many at the bottom)."""
    ef_construction: int = 128
    """"hnsw": candidates looked at for the links of a new node."""
    n_cells: int | None = None
    """"ivf_pq": cells; None means 2.5 sqrt(I)."""
    dims_per_code: int = 1
    """"ivf_pq": dimensions behind one code of 4 bits."""
    n_threads: int = 1
    """Threads of a build. More build faster, but not the same graph every time."""
    seed: int = 0
    """Of k-means, and of the sample that recall is measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in BLOCK_QUERIES:
            raise ConfigError(f"FaissIndex.kind must be 'hnsw' or 'ivf_pq', got {self.kind!r}")
        for name in ("n_links", "ef_construction", "dims_per_code", "n_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"FaissIndex.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("target_recall", "min_recall"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"FaissIndex.{name} must be in [0, 1], got {getattr(self, name)}")
        faiss_parts.import_faiss()

    @property
    def effort_(self) -> Effort | None:
        """What the last build settled on; None where search is exact."""
        searcher = self._now().searcher
        return None if searcher is None else searcher.effort

    def _make(self, rows: Rows, sample: FloatArray | None) -> tuple[Searcher | None, Recall | None]:
        if len(rows) < MIN_ITEMS:
            return None, None
        structure = self._structure(rows.vector_ND)
        asked = sample_queries(rows, sample, seed=self.seed)
        for effort in self._efforts(structure):
            searcher = FaissSearcher(structure, self.kind, self.dims_per_code, effort)
            recall = measure(_search(searcher, rows), rows, asked, real=sample is not None)
            if recall.mean >= self.target_recall:
                break
        name = f"FaissIndex({self.kind}, {len(rows)} items, width {searcher.effort.width})"
        return (searcher if passes(recall, min_recall=self.min_recall, name=name) else None), recall

    def _structure(self, vector_ND: FloatArray) -> Any:
        if self.kind == "hnsw":
            return faiss_parts.build_hnsw(
                vector_ND,
                n_links=self.n_links,
                ef_construction=self.ef_construction,
                n_threads=self.n_threads,
            )
        return faiss_parts.build_ivf_pq(
            vector_ND,
            n_cells=self.n_cells or faiss_parts.best_cells(len(vector_ND)),
            dims_per_code=self.dims_per_code,
            n_threads=self.n_threads,
            seed=self.seed,
        )

    def _efforts(self, structure: Any) -> list[Effort]:
        """From the cheapest to the dearest."""
        if self.kind == "hnsw":
            return [Effort(width, 1.5) for width in (150, 200, 256, 384, 512, 768, 1024, 1536, 2048)]
        steps = {1, structure.nlist, *(2**n for n in range(3, 20)), *(3 * 2**n for n in range(2, 19))}
        widths = [width for width in steps if width <= structure.nlist]
        per_cell = structure.ntotal / structure.nlist
        return sorted(
            (Effort(width, overfetch) for width in widths for overfetch in (3.0, 8.0, 20.0)),
            key=lambda effort: effort.width * per_cell + CODES_PER_CANDIDATE * K * effort.overfetch,
        )

    def _open(self, saved: Generation, about: Any, base: Rows, mapped: bool) -> Searcher:
        structure = faiss_parts.open_file(saved.file(FILE), mapped=mapped)
        if structure.ntotal != len(base):
            raise ValueError(f"{FILE} has {structure.ntotal} rows for {len(base)} items")
        return FaissSearcher(structure, self.kind, self.dims_per_code, Effort(*about["effort"]))


@dataclass(frozen=True, eq=False)
class FaissSearcher:
    """A structure of faiss and how hard to search it."""

    structure: Any
    kind: Kind
    dims_per_code: int
    effort: Effort

    def candidates(
        self, query_BD: FloatArray, base: Rows, *, k: int, exclude: Jagged | None, mask: BoolArray | None
    ) -> tuple[IntArray, bool]:
        """See `Searcher`."""
        n_allowed = len(base) if mask is None else int(np.count_nonzero(mask))
        width = self._width(n_allowed / max(1, len(base)), k)
        if self._scanning_is_cheaper(n_allowed, len(base), width):
            return places_by_product(query_BD, base, k=k, exclude=exclude, mask=mask), True
        n_excluded = np.zeros(len(query_BD), np.int64) if exclude is None else np.diff(exclude.offsets)
        needed = round(self.effort.overfetch * max(k, K))
        most = min(n_allowed, needed + int(n_excluded.max()))
        chosen = None if mask is None else np.packbits(mask, bitorder="little")
        padded_BD = query_BD if self.kind == "hnsw" else faiss_parts.pad(query_BD, self.dims_per_code)
        place_BC = np.full((len(query_BD), most), -1, np.int32)

        def work(lo: int, hi: int) -> None:
            n = min(most, needed + int(n_excluded[lo:hi].max()))
            found = faiss_parts.find(self.structure, padded_BD[lo:hi], n, width=round(width), chosen=chosen)
            place_BC[lo:hi, :n] = found

        in_threads(work, len(query_BD), BLOCK_QUERIES[self.kind])
        return place_BC, False

    def save(self, folder: Path) -> dict[str, Any]:
        """See `Searcher`."""
        faiss_parts.write(self.structure, folder / FILE)
        return {"effort": list(self.effort)}

    def _width(self, frac_allowed: float, k: int) -> float:
        """How far to look for the k best of a share of the rows: as far as for the k / share best of all."""
        return self.effort.width * max(1.0, k / K / max(frac_allowed, 1e-9))

    def _scanning_is_cheaper(self, n_allowed: int, n_base: int, width: float) -> bool:
        """Whether scoring every allowed row costs less than looking for the best of them."""
        if self.kind == "hnsw":
            return n_allowed <= SCANNED_PER_STEP * width
        n_scanned = min(1.0, width / self.structure.nlist) * n_base
        return bool(n_allowed * CODES_PER_ROW <= n_scanned)


def _search(searcher: FaissSearcher, rows: Rows) -> Callable[[FloatArray, int], TopK]:
    """What a searcher would answer, alone over rows."""

    def search(query_BD: FloatArray, k: int) -> TopK:
        place_BC, _ = searcher.candidates(query_BD, rows, k=k, exclude=None, mask=None)
        return rescored(query_BD, place_BC, rows, no_rows(rows.n_dims), k=k)

    return search
