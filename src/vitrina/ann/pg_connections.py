"""Connections to PostgreSQL that threads take and give back, and SQL in which every name is quoted."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from vitrina.errors import ConfigError, NotFittedError, StateError

Made = TypeVar("Made")
OLDEST_PGVECTOR = (0, 8)
"""The first with hnsw.iterative_scan."""


def import_psycopg() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(
            "PgVectorIndex needs psycopg 3, which is not installed; pip install 'vitrina[pgvector]'"
        ) from error
    return psycopg


def sql(text: str, *names: str | int) -> Any:
    """SQL with each {} filled by a quoted name, and each {:d} by a whole number."""
    quoting = import_psycopg().sql
    filled = [quoting.Literal(name) if isinstance(name, int) else quoting.Identifier(name) for name in names]
    return quoting.SQL(text.replace("{:d}", "{}")).format(*filled)


def not_there(table: str) -> NotFittedError:
    """The error of a table that was never built."""
    return NotFittedError(
        f"table {table!r} is not there or holds no vectors; call PgVectorIndex.build(...) first"
    )


class Connections:
    """As many connections as threads have ever used at once; each is used by one thread at a time."""

    def __init__(self, dsn: str) -> None:
        self._free: list[Any] = []
        self._guard = threading.Lock()
        self._dsn, self._psycopg = dsn, import_psycopg()

    def run(self, work: Callable[[Any], Made], *, pooled: bool = True) -> Made:
        """What `work` makes with a connection.

        A connection that was opened earlier may have been cut since; then the work is done again with a new
        one, so it must be safe to repeat. With `pooled=False` it is done once, with a new connection.

        Raises:
            StateError: the server cannot be reached, or refuses.
            NotFittedError: a table is not there.
        """
        errors = self._psycopg.errors
        while True:
            connection, is_new = self._take(pooled=pooled)
            try:
                made = work(connection)
            except errors.UndefinedTable as error:
                self._give(connection)
                raise NotFittedError(f"{_first_line(error)}; call PgVectorIndex.build(...) first") from error
            except self._psycopg.OperationalError as error:
                connection.close()
                if is_new:
                    raise StateError(f"PostgreSQL broke off ({_first_line(error)}); see its log") from error
                continue
            except self._psycopg.Error as error:
                self._give(connection)
                raise StateError(f"PostgreSQL refused ({_first_line(error)}); see its log") from error
            except BaseException:
                connection.close()
                raise
            self._give(connection)
            return made

    def close(self) -> None:
        """Close those that are not in use."""
        with self._guard:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def __del__(self) -> None:
        self.close()

    def _take(self, *, pooled: bool) -> tuple[Any, bool]:
        with self._guard:
            if pooled and self._free:
                return self._free.pop(), False
        return self._open(), True

    def _give(self, connection: Any) -> None:
        if connection.closed:
            return
        with self._guard:
            self._free.append(connection)

    def _open(self) -> Any:
        """A new connection to a server that has pgvector."""
        try:
            connection = self._psycopg.connect(self._dsn, autocommit=True)
        except self._psycopg.OperationalError as error:
            raise StateError(
                f"PostgreSQL cannot be reached ({_first_line(error)}); check the dsn, or PGHOST and its kin"
            ) from error
        try:
            connection.execute("set client_min_messages = warning")
            connection.execute("set plan_cache_mode = force_custom_plan")
            _check_pgvector(connection, self._psycopg)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_pgvector(connection: Any, psycopg: Any) -> None:
    """Make sure that the extension is there and new enough."""
    ask = "select extversion from pg_extension where extname = 'vector'"
    row = connection.execute(ask).fetchone()
    if row is None:
        try:
            connection.execute("create extension if not exists vector")
        except psycopg.Error as error:
            raise StateError(
                f"PostgreSQL has no pgvector and would not create it ({_first_line(error)}); "
                "install it and run: create extension vector"
            ) from error
        row = connection.execute(ask).fetchone()
    version = tuple(int(part) for part in row[0].split(".")[:2])
    if version < OLDEST_PGVECTOR:
        raise StateError(
            f"pgvector is {row[0]}, 0.8 or later is needed; update it and run: alter extension vector update"
        )


def _first_line(error: Exception) -> str:
    """What the server said, without the context that follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
