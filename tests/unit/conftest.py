"""Fixtures of several files."""

import pytest
from indexes import make_index, pg_server

__all__ = ["make_index", "pg_server"]


@pytest.fixture
def one_thread():
    """torch on one thread, where the numbers are the same at every run and small jobs are quicker."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
