"""The parts of faiss that `FaissIndex` uses: two structures are built, searched, written and opened.

Both hold compressed vectors only: what they find is scored again from the float32 vectors beside them. faiss
runs in the calling thread alone (its OpenMP is held at one thread); blocks of queries are spread over threads
here.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vitrina.errors import ArtifactError, ConfigError
from vitrina.schema import ByteArray, FloatArray, IntArray

POINTS_PER_CELL = 39
"""Fewer training vectors per centroid than this make faiss warn that its clusters are poor."""


def import_faiss() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "FaissIndex needs faiss, which is not installed; pip install 'vitrina[faiss]'"
        ) from error
    return faiss


@contextmanager
def faiss_threads(n: int) -> Iterator[Any]:
    """The module, with so many OpenMP threads for the calling thread; what was set comes back at the end."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def build_hnsw(vector_ND: FloatArray, *, n_links: int, ef_construction: int, n_threads: int) -> Any:
    """A graph (Malkov, Yashunin, IEEE TPAMI 2020) of exact vectors that keeps 8 bits per dimension.

    One thread gives the same graph every time; more insert in an order that varies.
    """
    with faiss_threads(n_threads) as faiss:
        n_dims = vector_ND.shape[1]
        exact = faiss.IndexHNSWFlat(n_dims, n_links, faiss.METRIC_INNER_PRODUCT)
        exact.hnsw.efConstruction = ef_construction
        exact.add(vector_ND)
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        graph = faiss.IndexHNSWSQ(n_dims, eight_bits, n_links, faiss.METRIC_INNER_PRODUCT)
        graph.train(vector_ND)
        graph.storage.add(vector_ND)
        graph.hnsw, graph.ntotal = exact.hnsw, exact.ntotal
    return graph


def build_ivf_pq(
    vector_ND: FloatArray, *, n_cells: int, dims_per_code: int, n_threads: int, seed: int
) -> Any:
    """Cells of spherical k-means whose 4-bit product codes are scanned in registers.

    Sources: Jégou, Douze, Schmid, IEEE TPAMI 2011 (cells and codes); André, Kermarrec, Le Scouarnec, VLDB
    2015 (the scan). Dimensions are padded with zeros to a multiple of dims_per_code.
    """
    with faiss_threads(n_threads) as faiss:
        padded = pad(vector_ND, dims_per_code)
        spec = f"IVF{n_cells},PQ{padded.shape[1] // dims_per_code}x4fs"
        codes = faiss.index_factory(padded.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
        codes.cp.seed = codes.pq.cp.seed = seed
        codes.train(padded)
        codes.add(padded)
    return codes


def pad(vector_ND: FloatArray, to: int) -> FloatArray:
    """Vectors with zeros appended until their dimension is a multiple of `to`."""
    missing = -vector_ND.shape[1] % to
    return np.pad(vector_ND, ((0, 0), (0, missing))) if missing else vector_ND


def best_cells(n_items: int) -> int:
    """Cells for so many items: 2.5 sqrt(N), with enough items in each to place its centre."""
    return max(1, min(int(2.5 * math.sqrt(n_items)), n_items // POINTS_PER_CELL))


def find(structure: Any, query_BD: FloatArray, n: int, *, width: int, chosen: ByteArray | None) -> IntArray:
    """The n nearest rows of each query by compressed vectors, -1 where fewer were met. Shape (B, n).

    Args:
        structure: what a builder here returned.
        query_BD: (B, D), padded as the structure was.
        n: how many.
        width: how far it looks: ef of a graph, cells of an inverted file.
        chosen: bit i of byte i // 8 says whether row i may be found; None means all.
    """
    with faiss_threads(1) as faiss:
        limits = {} if chosen is None else {"sel": faiss.IDSelectorBitmap(chosen)}
        if isinstance(structure, faiss.IndexHNSW):
            params = faiss.SearchParametersHNSW(efSearch=max(width, n), **limits)
        else:
            params = faiss.SearchParametersIVF(nprobe=min(width, structure.nlist), **limits)
        _, place_BC = structure.search(query_BD, n, params=params)
    return np.asarray(place_BC, dtype=np.int32)


def write(structure: Any, file: Path) -> None:
    """Write a structure to a file."""
    import_faiss().write_index(structure, str(file))


def open_file(file: Path, *, mapped: bool) -> Any:
    """A structure from a file that `write` made, read or mapped.

    Raises:
        ArtifactError: faiss cannot make sense of it.
    """
    faiss = import_faiss()
    try:
        return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise ArtifactError(f"{file} cannot be read by faiss ({error}); build the index again") from error
