"""Fixtures of several files."""

from indexes import make_index, pg_server

__all__ = ["make_index", "pg_server"]
