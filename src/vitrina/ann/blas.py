"""Keep BLAS at one thread while our own threads call it: one count for the whole process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import scipy.linalg  # noqa: F401  numba's np.dot calls the BLAS of scipy, which must be loaded to be found
from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_holders: list[Any] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS without threads of its own while any caller is inside; the last one out restores what was set."""
    with _lock:
        if not _holders:
            _holders.append(_controller().limit(limits=1, user_api="blas"))
        _holders.append(None)
    try:
        yield
    finally:
        with _lock:
            _holders.pop()
            if len(_holders) == 1:
                _holders.pop().restore_original_limits()


@cache
def _controller() -> ThreadpoolController:
    """Found once: looking through the loaded libraries takes milliseconds."""
    return ThreadpoolController()
