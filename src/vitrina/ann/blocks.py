"""Cut a range into blocks and work on them in a few threads. The kernels release the GIL.

Plain threads rather than numba's `parallel=True`: its default threading layer may not be entered from several
threads at once, and a server does just that.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numba


def spans(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds [lo, hi) that cover range(n) in steps of `size`."""
    size = max(1, size)
    for lo in range(0, n, size):
        yield lo, min(n, lo + size)


def in_threads(work: Callable[[int, int], object], n: int, size: int) -> None:
    """Call `work(lo, hi)` for blocks that cover range(n), in as many threads as numba may use.

    The number of threads follows NUMBA_NUM_THREADS and `numba.set_num_threads`. Work that fits in one block
    runs in the calling thread. An error raised by any block is raised here.
    """
    blocks = list(spans(n, size))
    n_threads = min(numba.get_num_threads(), len(blocks))
    if n_threads <= 1:
        for lo, hi in blocks:
            work(lo, hi)
        return
    with ThreadPoolExecutor(n_threads, thread_name_prefix="blocks") as pool:
        for done in [pool.submit(work, lo, hi) for lo, hi in blocks]:
            done.result()
