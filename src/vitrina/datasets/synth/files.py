"""Writing a world: blocks of users are made in threads, in order, and go to Parquet in fixed row groups."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vitrina.datasets.synth.ground import Ground
from vitrina.datasets.synth.items import albums, authors, item_frame, track_lengths
from vitrina.datasets.synth.kernel import DISLIKE, LIKE, RECOMMENDED, UNDISLIKE, UNLIKE
from vitrina.schema import LongArray

ROW_GROUP = 1 << 20
"""Rows of a row group: the files do not depend on how the work was cut."""

EVENTS = ("take", "like", "dislike", "unlike", "undislike")
"""Events of Vitrina's schema; the last four are 1 + the kernel's kind of reaction."""

YAMBDA_FILES = {LIKE: "likes", DISLIKE: "dislikes", UNLIKE: "unlikes", UNDISLIKE: "undislikes"}
STEP_S = 5
"""Yambda's times are whole multiples of 5 s."""

Codes = npt.NDArray[np.uint32]
Columns = dict[str, Any]
"""Arrays of one length by name."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the work is cut and who is told."""

    n_threads: int
    rows_per_block: int
    progress: Callable[[int, int], None] | None


@dataclass(eq=False)
class Sheet:
    """One Parquet file that is written in full row groups; it gets its name when it is complete."""

    path: Path
    schema: pa.Schema
    plain: tuple[str, ...] = ()
    """Columns of many distinct values, for which no dictionary is tried."""
    compression: str = "lz4"
    rows: int = 0
    waiting: list[pa.Table] = field(default_factory=list)
    n_waiting: int = 0
    writer: pq.ParquetWriter = field(init=False)

    @property
    def partial(self) -> Path:
        """Name while it grows."""
        return self.path.with_name(f".{self.path.name}.partial")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        dictionary = [name for name in self.schema.names if name not in self.plain]
        self.writer = pq.ParquetWriter(
            self.partial, self.schema, compression=self.compression, use_dictionary=dictionary
        )
        return self

    def add(self, columns: Columns) -> None:
        """Append rows; whole row groups go to the disk."""
        arrays = [
            column
            if isinstance(column := columns[f.name], pa.Array)
            else pa.array(column, type=f.type, from_pandas=f.nullable)
            for f in self.schema
        ]
        self.waiting.append(pa.Table.from_arrays(arrays, schema=self.schema))
        self.n_waiting += len(arrays[0])
        while self.n_waiting >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _flush(self, n: int) -> None:
        table = pa.concat_tables(self.waiting)
        self.writer.write_table(table.slice(0, n).combine_chunks(), row_group_size=ROW_GROUP)
        self.waiting, self.n_waiting = [table.slice(n)], self.n_waiting - n
        self.rows += n

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.n_waiting:
                self._flush(self.n_waiting)
            self.writer.close()
            if kind is None:
                self.partial.replace(self.path)
        finally:
            self.partial.unlink(missing_ok=True)


def blocks(ground: Ground, plan: Plan, made: Callable[[LongArray], Any]) -> Iterator[Any]:
    """`made(users)` for blocks of users in order, a few ahead of the one that is used."""
    edges = _edges(ground.counts, plan.rows_per_block)
    done, total = 0, int(ground.counts.sum())
    ahead: deque[tuple[LongArray, Future[Any]]] = deque()
    with ThreadPoolExecutor(plan.n_threads) as pool:
        for first, end in edges:
            users = np.arange(first, end, dtype=np.int64)
            ahead.append((users, pool.submit(made, users)))
            if len(ahead) > plan.n_threads:
                users, future = ahead.popleft()
                yield future.result()
                done += int(ground.counts[users].sum())
                if plan.progress is not None:
                    plan.progress(done, total)
        while ahead:
            users, future = ahead.popleft()
            yield future.result()
            done += int(ground.counts[users].sum())
            if plan.progress is not None:
                plan.progress(done, total)


def _edges(counts: LongArray, rows_per_block: int) -> list[tuple[int, int]]:
    block = (np.cumsum(counts) - counts) // max(rows_per_block, 1)
    cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(counts)]
    return list(pairwise(cuts))


def write_vitrina(ground: Ground, folder: Path, plan: Plan, *, impressions: bool) -> dict[str, int]:
    """events.parquet, items.parquet and, if asked, impressions.parquet. Returns rows by file."""
    item_frame(ground).write_parquet(folder / "items.parquet")
    plain = ("item_id", "ts", "propensity")
    with contextlib.ExitStack() as stack:
        events = stack.enter_context(Sheet(folder / "events.parquet", EVENT_SCHEMA, plain, "zstd"))
        sheets = [events]
        if impressions:
            sheets.append(
                stack.enter_context(Sheet(folder / "impressions.parquet", VIEW_SCHEMA, plain, "zstd"))
            )
        for tables in blocks(ground, plan, lambda users: _vitrina(ground, users, impressions)):
            for sheet, columns in zip(sheets, tables, strict=True):
                sheet.add(columns)
    return {"items.parquet": len(ground.item_ids)} | {sheet.path.name: sheet.rows for sheet in sheets}


UTC_US = pa.timestamp("us", tz="UTC")
EVENT_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("ts", UTC_US, nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("value", pa.float32()),
        pa.field("organic", pa.bool_(), nullable=False),
        pa.field("propensity", pa.float32()),
    ]
)
VIEW_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("ts", UTC_US, nullable=False),
        pa.field("slate", pa.int32(), nullable=False),
        pa.field("position", pa.uint8(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("propensity", pa.float32(), nullable=False),
        pa.field("taken", pa.bool_(), nullable=False),
    ]
)


def _vitrina(ground: Ground, users: LongArray, impressions: bool) -> list[Columns]:
    """Events with reactions in their place, and what the feed showed, of a block of users."""
    block = ground.simulate(users, views=impressions)
    user = np.repeat(users, ground.counts[users])
    n, row = len(user), np.concatenate([np.arange(len(user)), block.reaction_row])
    ts_s = np.concatenate([block.ts_s, block.reaction_ts_s])
    order = np.lexsort((ts_s, user[row]))
    kind = np.concatenate([np.zeros(n, np.uint8), block.reaction_kind + 1])[order]
    row, ts_s, is_take = row[order], ts_s[order], kind == 0
    events = {
        "user_id": ground.user_ids[user[row]],
        "item_id": ground.item_ids[block.item[row]],
        "ts": ground.ts_us(ts_s),
        "event": pa.array(EVENTS).take(pa.array(kind)),
        "value": np.where(is_take, block.played_pct[row] / np.float32(100), np.float32(np.nan)),
        "organic": block.cause[row] < RECOMMENDED,
        "propensity": np.where(is_take, block.propensity[row], np.float32(np.nan)),
    }
    if not impressions:
        return [events]
    view_row = block.view_row
    ordinal = np.arange(len(view_row)) - np.searchsorted(view_row, view_row, side="left")
    views = {
        "user_id": ground.user_ids[user[view_row]],
        "ts": ground.ts_us(block.ts_s[view_row]),
        "slate": ordinal // ground.rules.slate_len,
        "position": block.view_position + 1,
        "item_id": ground.item_ids[block.view_item],
        "propensity": block.view_propensity,
        "taken": block.view_taken.astype(bool),
    }
    return [events, views]


REACTION_SCHEMA = pa.schema(
    [("uid", pa.uint32()), ("timestamp", pa.uint32()), ("item_id", pa.uint32()), ("is_organic", pa.uint8())]
)
LISTEN_SCHEMA = pa.schema(
    [*REACTION_SCHEMA, ("played_ratio_pct", pa.uint16()), ("track_length_seconds", pa.uint32())]
)


def write_yambda(ground: Ground, folder: Path, size: str, plan: Plan) -> dict[str, int]:
    """Yambda's flat files and mappings. Returns rows by file."""
    flat = folder / "flat" / size
    codes = (
        ground.user_ids.astype(np.uint32),
        ground.item_ids.astype(np.uint32),
        track_lengths(ground).astype(np.uint32),
    )
    plain = ("timestamp", "item_id")
    names = ["listens", *YAMBDA_FILES.values()]
    with contextlib.ExitStack() as stack:
        sheets = [
            stack.enter_context(
                Sheet(
                    flat / f"{name}.parquet", LISTEN_SCHEMA if name == "listens" else REACTION_SCHEMA, plain
                )
            )
            for name in names
        ]
        for tables in blocks(ground, plan, lambda users: _yambda(ground, users, *codes)):
            for sheet, columns in zip(sheets, tables, strict=True):
                sheet.add(columns)
    rows = {f"flat/{size}/{sheet.path.name}": sheet.rows for sheet in sheets}
    author = authors(ground)
    for name, group in (("artist", author), ("album", albums(ground, author))):
        table = pa.table(
            {f"{name}_id": group.astype(np.uint32), "item_id": ground.item_ids.astype(np.uint32)}
        ).sort_by("item_id")
        pq.write_table(table, folder / f"{name}_item_mapping.parquet", compression="lz4")
        rows[f"{name}_item_mapping.parquet"] = len(table)
    return rows


def _yambda(ground: Ground, users: LongArray, uid: Codes, item_id: Codes, length_s: Codes) -> list[Columns]:
    """Listens and the four kinds of reactions of a block of users, each by (uid, timestamp)."""
    block = ground.simulate(users, weigh=False)
    user = np.repeat(users, ground.counts[users])
    listens: Columns = {
        "uid": uid[user],
        "timestamp": _quantised(block.ts_s),
        "item_id": item_id[block.item],
        "is_organic": (block.cause < RECOMMENDED).astype(np.uint8),
        "played_ratio_pct": block.played_pct,
        "track_length_seconds": length_s[block.item],
    }
    tables = [listens]
    for kind in YAMBDA_FILES:
        mine = np.flatnonzero(block.reaction_kind == kind)
        mine = mine[np.lexsort((block.reaction_ts_s[mine], user[block.reaction_row[mine]]))]
        row = block.reaction_row[mine]
        given = kind in (LIKE, DISLIKE)
        organic = (block.cause[row] < RECOMMENDED) if given else np.ones(len(row), bool)
        tables.append(
            {
                "uid": uid[user[row]],
                "timestamp": _quantised(block.reaction_ts_s[mine]),
                "item_id": item_id[block.item[row]],
                "is_organic": organic.astype(np.uint8),
            }
        )
    return tables


def _quantised(ts_s: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (ts_s / STEP_S).astype(np.uint32) * np.uint32(STEP_S)
