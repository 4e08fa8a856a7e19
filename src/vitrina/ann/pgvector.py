"""Vectors in PostgreSQL with the pgvector extension (0.8 or later): one table, one HNSW index, SQL filters.

    table   item_ix integer primary key, vector vector(D) not null, bias real not null
    index   hnsw (vector vector_ip_ops)
    comment on the table: which build it is

    select item_ix, score from (
        select item_ix, bias - (vector <#> q) as score from table      -- <#> is minus the inner product
        where <limits> order by vector <#> q limit max(ef_search, overfetch k)
    ) order by score desc, item_ix limit k

Limits are sent as arrays of items, and the scan of the index goes on until enough rows have passed them
(hnsw.iterative_scan) or hnsw.max_scan_tuples were read; a list that comes out short is asked for again
without the index, exactly. All queries of a search are answered from one snapshot. Every value is a parameter
and every name is quoted: no text of a caller becomes SQL.
"""

import datetime as dt
import os
import platform
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

import numpy as np

from vitrina.ann import generations
from vitrina.ann.pg_connections import Connections, import_psycopg, not_there, sql
from vitrina.ann.pg_copy import send
from vitrina.ann.recall import MIN_RECALL, Recall, measure, passes, sample_queries
from vitrina.ann.rows import Rows, checked, checked_items, checked_limits, checked_queries
from vitrina.ann.topk import Jagged, TopK, empty_lists
from vitrina.errors import ArtifactError, ConfigError, InputError
from vitrina.schema import BoolArray, FloatArray, IntArray

Made = TypeVar("Made")
MAX_DIMS = 2000
"""Dimensions of a `vector` that pgvector can index (its README, "HNSW")."""
MAX_EF = 1000
"""Largest hnsw.ef_search."""
LONGEST_NAME = 48
"""Bytes of a table name: PostgreSQL keeps 63, and other names are made from it."""

NEAR = """
select item_ix, score from (
    select item_ix, bias - (vector <#> %s::vector) as score from {} {limits}
    order by vector <#> %s::vector limit %s
) as near order by score desc, item_ix limit %s"""
EXACT = """
select item_ix, bias - (vector <#> %s::vector) as score from {} {limits}
order by score desc, item_ix limit %s"""
HELD = "select obj_description(to_regclass(%s), 'pg_class')"


@dataclass(kw_only=True, eq=False)
class PgVectorIndex:
    """An index that several servers share, in a database that is often there already.

    A build fills a table beside the one in use, indexes it, measures it and puts it in place, in one
    transaction: searches see the old table or the new one. Additions and removals are rows: every server sees
    them at once. An index that was built or loaded refuses a table that another build has taken since; one
    that was only named follows whatever is there.
    Cost of a search: a few round trips and what PostgreSQL takes; docs/ann.md has measurements.
    Use when: several servers must agree on the items. See also: FaissIndex, many times faster in one process.
    """

    dsn: str = field(default="", repr=False)
    """Connection string of libpq; "" leaves all to the environment (PGHOST, PGUSER ...). Never saved."""
    table: str = "vitrina_items"
    """Name of the table, in the first schema of the connection's search_path."""
    n_links: int = 16
    """m of the HNSW index."""
    ef_construction: int = 64
    """Candidates looked at for the links of a new node."""
    ef_search: int = 400
    """Candidates of a search, 1 to 1,000; more where more are fetched."""
    overfetch: float = 2.0
    """Rows fetched over k, from which the bias picks."""
    min_recall: float = MIN_RECALL
    """Recall below which a build drops the HNSW index, so that the server searches exactly; 0 never."""
    build_memory_mb: int = 512
    """maintenance_work_mem of a build; the graph is built many times slower where it does not fit."""
    seed: int = 0
    """Of the sample that recall is measured on."""

    def __post_init__(self) -> None:
        if not 0 < len(self.table.encode()) <= LONGEST_NAME or {"\0", "%"} & {*self.table}:
            raise ConfigError(
                f"PgVectorIndex.table must have 1 to {LONGEST_NAME} bytes, none of them % or NUL, "
                f"got {self.table!r}"
            )
        if not (self.overfetch >= 1 and 1 <= self.ef_search <= MAX_EF):
            raise ConfigError(
                f"PgVectorIndex needs overfetch >= 1 and ef_search in [1, {MAX_EF}], "
                f"got {self.overfetch} and {self.ef_search}"
            )
        self._server = Connections(self.dsn)
        self._n_dims: int | None = None
        self._builds: list[str] = []  # those of this index, which are all that it answers from
        self.recall_: Recall | None = None

    def params(self) -> dict[str, Any]:
        """Constructor parameters by name, without the connection string, which may hold a password."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "dsn"}

    def build(
        self,
        vector_ID: FloatArray,
        item_ix: IntArray | None = None,
        *,
        bias: FloatArray | None = None,
        queries: FloatArray | None = None,
    ) -> Self:
        """Replace the table; see `Index.build`.

        Raises:
            StateError: the server cannot be reached, lacks pgvector, or refuses; the old table stays.
        """
        rows = checked(vector_ID, item_ix, bias)
        if rows.n_dims > MAX_DIMS:
            raise InputError(f"pgvector indexes up to {MAX_DIMS} dimensions, got {rows.n_dims}; use fewer")
        self.recall_ = self._server.run(
            lambda connection: self._build(connection, rows, queries), pooled=False
        )
        self._n_dims = rows.n_dims
        return self

    def search(
        self,
        query_BD: FloatArray,
        *,
        k: int,
        exclude: Jagged | None = None,
        allowed: BoolArray | None = None,
    ) -> TopK:
        """The k best items of each query, in lists k wide; see `Index.search`.

        Raises:
            ArtifactError: another build has taken the table; so do `add`, `remove` and `len`.
        """
        query_BD = checked_queries(query_BD, self._dims(query_BD), owner="the table")
        exclude, allowed = checked_limits(len(query_BD), k, exclude, allowed)
        if not k or not len(query_BD):
            return empty_lists(len(query_BD), k)
        return self._run(
            lambda to: self._lists(to, self.table, query_BD, k, exclude, allowed), one_snapshot=True
        )

    def add(self, item_ix: IntArray, vector_ND: FloatArray, *, bias: FloatArray | None = None) -> None:
        """Put items; see `Index.add`."""
        rows = checked(
            vector_ND, checked_items(item_ix), bias, n_dims=self._dims(vector_ND), owner="the table"
        )
        put = sql(
            "insert into {} (item_ix, vector, bias) values (%s, %s::vector, %s) "
            "on conflict (item_ix) do update set vector = excluded.vector, bias = excluded.bias",
            self.table,
        )
        values = [
            (item, _text(vector), bias)
            for item, vector, bias in zip(
                rows.item_ix.tolist(), rows.vector_ND, rows.bias.tolist(), strict=True
            )
        ]

        def work(connection: Any) -> None:
            with connection.cursor() as cursor:
                cursor.executemany(put, values)

        self._run(work)

    def remove(self, item_ix: IntArray) -> int:
        """Take items out; see `Index.remove`."""
        gone = sql("delete from {} where item_ix = any(%s::integer[])", self.table)
        items = checked_items(item_ix).tolist()
        return int(self._run(lambda to: to.execute(gone, (items,)).rowcount))

    def __len__(self) -> int:
        count = sql("select count(*) from {}", self.table)
        return int(self._run(lambda to: to.execute(count).fetchone()[0]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters, not the rows: they stay in PostgreSQL."""
        recall = None if self.recall_ is None else asdict(self.recall_)
        about = {"kind": "PgVectorIndex", "params": self.params(), "recall": recall, "builds": self._builds}
        with generations.writing(path, about):
            pass

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, dsn: str = "") -> Self:
        """An index on the table that was saved.

        Args:
            path: folder that `save` wrote.
            dsn: connection string; "" leaves all to the environment.

        Raises:
            ArtifactError: the folder is missing, corrupted, of another version or of another class, or the
                table holds another build.
            NotFittedError: the table is not there.
        """
        about = generations.read(path, lambda saved: saved.about, verify=True)
        if about["kind"] != cls.__name__:
            raise ArtifactError(f"{path} holds a {about['kind']}, not a {cls.__name__}; use `load_index`")
        try:
            index = cls(dsn=dsn, **about["params"])
            index.recall_ = None if about["recall"] is None else Recall(**about["recall"])
            index._builds = list(about["builds"])
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); save the index again") from error
        index._dims()
        index._server.run(index._check_build)
        return index

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._server.close()

    def _dims(self, given: Any = None) -> int:
        """D of the table; asked once, and again if a caller's differs and any build will do."""
        differs = given is not None and np.shape(given)[1:] != (self._n_dims,)
        if self._n_dims is None or (differs and not self._builds):
            ask = "select atttypmod from pg_attribute where attrelid = to_regclass(%s) and attname = 'vector'"
            row = self._server.run(lambda to: to.execute(ask, (self._quoted(to),)).fetchone())
            if row is None:
                raise not_there(self.table)
            self._n_dims = int(row[0])
        return self._n_dims

    def _run(self, work: Callable[[Any], Made], *, one_snapshot: bool = False) -> Made:
        """What `work` makes of the table in one transaction, in which no build can take the table's place.

        The lock comes first: a snapshot that is older than the table would see it empty.
        """

        def locked(connection: Any) -> Made:
            with connection.pipeline() if one_snapshot else nullcontext(), connection.transaction():
                if one_snapshot:
                    connection.execute("set transaction isolation level repeatable read")
                connection.execute(sql("lock table {} in access share mode", self.table))
                self._check_build(connection)
                return work(connection)

        return self._server.run(locked)

    def _check_build(self, connection: Any) -> None:
        """Make sure that the table is of a build of this index; one that was only named takes any."""
        if not self._builds:
            return
        (held,) = connection.execute(HELD, (self._quoted(connection),)).fetchone()
        if held not in self._builds:
            raise ArtifactError(
                f"table {self.table!r} holds another build ({held or 'which says nothing of itself'}); "
                "give each source a table of its own, or build it again"
            )

    def _quoted(self, connection: Any) -> str:
        return str(sql("{}", self.table).as_string(connection))

    def _build(self, connection: Any, rows: Rows, queries: FloatArray | None) -> Recall | None:
        """A new table in the place of the old one, in one transaction."""
        new, recall = f"{self.table}_next", None
        with connection.transaction():
            do = connection.execute
            do("select pg_advisory_xact_lock(hashtext(%s))", (self.table,))
            do("select set_config('maintenance_work_mem', %s, true)", (f"{self.build_memory_mb}MB",))
            do(sql("drop table if exists {}", new))
            do(
                sql(
                    "create table {} (item_ix integer, vector vector({:d}) not null, bias real not null, "
                    "constraint {} primary key (item_ix))",
                    new,
                    rows.n_dims,
                    f"{new}_pkey",
                )
            )
            with connection.cursor().copy(sql("copy {} from stdin (format binary)", new)) as copy:
                send(copy, rows)
            do(
                sql(
                    "create index {} on {} using hnsw (vector vector_ip_ops) "
                    "with (m = {:d}, ef_construction = {:d})",
                    f"{new}_hnsw",
                    new,
                    self.n_links,
                    self.ef_construction,
                )
            )
            do(sql("analyze {}", new))
            kept = ["_pkey"]
            if len(rows):
                recall = measure(
                    lambda query_BD, k: self._lists(connection, new, query_BD, k, None, None),
                    rows,
                    sample_queries(rows, queries, seed=self.seed),
                    real=queries is not None,
                )
            if recall is None or passes(
                recall, min_recall=self.min_recall, name=f"PgVectorIndex({self.table})"
            ):
                kept.append("_hnsw")
            else:
                do(sql("drop index {}", f"{new}_hnsw"))
            build = _new_build()
            do(sql("comment on table {} is ", new) + import_psycopg().sql.Literal(build))
            self._builds.append(build)  # before others can see it
            do(sql("drop table if exists {}", self.table))
            do(sql("alter table {} rename to {}", new, self.table))
            for suffix in kept:
                do(sql("alter index {} rename to {}", f"{new}{suffix}", f"{self.table}{suffix}"))
        return recall

    def _lists(
        self,
        connection: Any,
        table: str,
        query_BD: FloatArray,
        k: int,
        exclude: Jagged | None,
        allowed: BoolArray | None,
    ) -> TopK:
        """Lists of a table; short ones are asked for again, exactly."""
        lists, n = empty_lists(len(query_BD), k), max(self.ef_search, round(self.overfetch * k))
        where, limits = _limits(exclude, allowed)
        near, exact = (
            sql(NEAR.replace("{limits}", where), table),
            sql(EXACT.replace("{limits}", where), table),
        )
        texts = [_text(query_D) for query_D in query_BD]
        with connection.transaction():
            _set(connection, "hnsw.ef_search", str(min(MAX_EF, n)))
            _set(connection, "hnsw.iterative_scan", "relaxed_order")
            with connection.pipeline():
                asked = [
                    connection.execute(near, (text, *limits(b), text, n, k)) for b, text in enumerate(texts)
                ]
                rows_B = [cursor.fetchall() for cursor in asked]
            short = [b for b, rows in enumerate(rows_B) if len(rows) < k]
            for b in short:
                rows_B[b] = connection.execute(exact, (texts[b], *limits(b), k)).fetchall()
        for b, rows in enumerate(rows_B):
            if rows:
                lists.item_ix[b, : len(rows)], lists.score[b, : len(rows)] = zip(*rows, strict=True)
        return lists


def _new_build() -> str:
    """A name that no other build has, and that tells people of it."""
    return f"of {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC by {platform.node()}, {secrets.token_hex(8)}"


def _limits(exclude: Jagged | None, allowed: BoolArray | None) -> tuple[str, Callable[[int], list[Any]]]:
    """A condition in SQL, of constants and placeholders alone, and its values for each query."""
    conditions: list[str] = []
    shared: list[Any] = []
    if allowed is not None:
        yes = np.flatnonzero(allowed)
        if 2 * len(yes) <= len(allowed):
            conditions.append("item_ix = any(%s::integer[])")
            shared = [yes.tolist()]
        else:
            conditions += ["item_ix < %s", "item_ix <> all(%s::integer[])"]
            shared = [len(allowed), np.flatnonzero(~allowed).tolist()]
    if exclude is not None:
        conditions.append("item_ix <> all(%s::integer[])")

    def values(b: int) -> list[Any]:
        return shared if exclude is None else [*shared, exclude.of(b).tolist()]

    return ("where " + " and ".join(conditions) if conditions else ""), values


def _set(connection: Any, name: str, value: str) -> None:
    """A setting until the end of the transaction."""
    connection.execute("select set_config(%s, %s, true)", (name, value))


def _text(vector_D: FloatArray) -> str:
    """A vector as pgvector reads it: digits enough that the same float32 comes back."""
    return "[" + ",".join(map(str, vector_D.tolist())) + "]"
