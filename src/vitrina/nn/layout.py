"""How jagged histories become rows of tokens: windows of a history, padded rows, packed rows.

    history  a b c d e f g      windows of 3 transitions, from the end:  d e f g | a b c d
    padded   [a b c d] [e f . .]        one window a row, padding at the right; blocks go through rows of like
                                        length together (`runs`), so that little of it is computed
    packed   [a b c d e f]              windows one after another; none sees another

Padding lies at the right, so causal attention needs no mask: a token never looks to its right. Positions are
counted from the newest token, which is always at position 0, so that a longer history moves nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitrina.errors import InputError
from vitrina.nn.shapes import TOKENS, rounded_up
from vitrina.schema import LongArray


class Windows(NamedTuple):
    """Runs of rows of a jagged array, none crossing the end of a history."""

    start: LongArray
    """(W,), first row."""
    stop: LongArray
    """(W,), row after the last."""

    @property
    def lengths(self) -> LongArray:
        """Rows of each window. Shape (W,)."""
        return self.stop - self.start


def cut_windows(offsets: LongArray, max_len: int, *, every: bool = True) -> Windows:
    """Windows of at most `max_len` transitions of each history, from its end backwards.

    Neighbouring windows share one row, so that each transition from a row to the next lies in one window; a
    history of fewer than two rows has none.

    Args:
        offsets: (U + 1,), where each history starts.
        max_len: transitions of a window, one less than its rows.
        every: False keeps only the latest window of each history.
    """
    n_steps = np.maximum(np.diff(offsets) - 1, 0)
    n_windows = -(-n_steps // max_len)
    if not every:
        n_windows = np.minimum(n_windows, 1)
    user = np.repeat(np.arange(len(n_steps)), n_windows)
    back = np.arange(len(user)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    stop = offsets[1:][user] - back * max_len
    return Windows(np.maximum(stop - max_len - 1, offsets[:-1][user]), stop)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch stand and which of them see one another."""

    valid_BT: Tensor
    """bool, False for padding."""
    position_BT: Tensor
    """long, tokens between this one and the newest of its history."""
    segment_BT: Tensor | None = None
    """long, history of each token of a packed row, -1 for padding; None where a row is one history."""
    ts_BT: Tensor | None = None
    """long, seconds; for blocks that know time."""
    asked_BT: Tensor | None = None
    """long, seconds; when what follows each token is asked for; None where that is not told."""
    person_B: Tensor | None = None
    """long, row of each history's person in a table of people; for towers that know them."""

    def rows(self, part: slice) -> "Layout":
        """Of some rows."""
        return self._each(lambda tensor: tensor[part])

    def first(self, n_tokens: int) -> "Layout":
        """Of the first tokens of each row."""
        return self._each(lambda tensor: tensor[:, :n_tokens] if tensor.ndim > 1 else tensor)

    def to(self, device: torch.device) -> "Layout":
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        more = (self.segment_BT, self.ts_BT, self.asked_BT, self.person_B)
        return Layout(
            change(self.valid_BT),
            change(self.position_BT),
            *(None if tensor is None else change(tensor) for tensor in more),
        )

    def causal_mask(self) -> Tensor | None:
        """(B, 1, T, T), True where a token (row) sees another (column); None for plain causal attention.

        Padding of a packed row sees padding alone, so that no row of the mask is empty.
        """
        if self.segment_BT is None:
            return None
        same_BTT = self.segment_BT[:, :, None] == self.segment_BT[:, None, :]
        return torch.tril(same_BTT)[:, None]

    def is_causal(self, mask: Tensor) -> bool:
        """Whether a mask is `causal_mask`, where that is one."""
        causal = self.causal_mask()
        return causal is not None and torch.equal(mask, causal)

    def mutual_mask(self) -> Tensor:
        """(B, 1, T or 1, T), True where a token (row) sees another (column), earlier or later."""
        if self.segment_BT is None:
            return self.valid_BT[:, None, None, :]
        return (self.segment_BT[:, :, None] == self.segment_BT[:, None, :])[:, None]


class Rows(NamedTuple):
    """Tokens of a batch with their layout; `take` reads any array that lies beside the items."""

    row_BT: LongArray
    """Row of the jagged arrays behind each token; 0 for padding."""
    layout: Layout

    def take(self, values: np.ndarray, pad: int) -> Tensor:
        """Values of the rows, `pad` for padding. Shape (B, T), long."""
        taken = torch.from_numpy(values[self.row_BT].astype(np.int64))
        return taken.masked_fill_(~self.layout.valid_BT, pad)


def pad(windows: Windows, longest: int | None = None) -> Rows:
    """One window a row, padding at the right.

    T is the longest window; with `longest`, what any window has at most, rounded up as far as that (see
    `vitrina.nn.shapes`).
    """
    lengths = windows.lengths
    n_tokens = int(lengths.max(initial=1))
    if longest is not None:
        n_tokens = max(n_tokens, min(rounded_up(n_tokens, TOKENS), longest))
    at_T = np.arange(n_tokens)
    valid_BT = at_T < lengths[:, None]
    row_BT = np.where(valid_BT, windows.start[:, None] + at_T, 0)
    position_BT = np.maximum(lengths[:, None] - 1 - at_T, 0)
    return Rows(row_BT, Layout(torch.from_numpy(valid_BT), torch.from_numpy(position_BT)))


def pack(windows: Windows, n_tokens: int) -> Rows:
    """Windows one after another in rows of `n_tokens`, the longest first, each where it fits most tightly.

    Cost: O(W (log W + log n_tokens)) and what the result holds; at most 11/9 of the fewest rows possible and
    4 more (best fit decreasing; Johnson, Demers, Ullman, Garey and Graham, SIAM J. Comput. 3(4), 1974).

    Raises:
        InputError: a window is longer than a row.
    """
    lengths = windows.lengths
    if len(lengths) and lengths.max() > n_tokens:
        raise InputError(
            f"a window of {lengths.max()} tokens does not fit a row of {n_tokens}; raise n_tokens"
        )
    row_W, at_W, n_rows = _best_fit(lengths, n_tokens)
    window_N = np.repeat(np.arange(len(lengths)), lengths)
    within_N = np.arange(len(window_N)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    to_N = row_W[window_N] * n_tokens + at_W[window_N] + within_N
    shape = (n_rows, n_tokens)
    row_BT, position_BT, segment_BT = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
    row_BT.reshape(-1)[to_N] = windows.start[window_N] + within_N
    position_BT.reshape(-1)[to_N] = lengths[window_N] - 1 - within_N
    segment_BT.reshape(-1)[to_N] = window_N
    segment = torch.from_numpy(segment_BT)
    return Rows(row_BT, Layout(segment >= 0, torch.from_numpy(position_BT), segment))


def _best_fit(lengths: LongArray, n_tokens: int) -> tuple[LongArray, LongArray, int]:
    """Row of each window, where in it the window starts, and how many rows there are."""
    row_W, at_W, n_rows = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64), 0
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    order = np.argsort(-lengths, kind="stable")
    for w, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[at]
        else:
            room, row, n_rows = n_tokens, n_rows, n_rows + 1
        row_W[w], at_W[w] = row, n_tokens - room
        left = room - length
        if left and left not in with_room:
            insort(rooms, left)
        if left:
            with_room.setdefault(left, []).append(row)
    return row_W, at_W, n_rows


def batches(windows: Windows, batch_size: int, *, rng: np.random.Generator) -> Iterator[Windows]:
    """Every window once, `batch_size` at a time as drawn, the longest of each batch first.

    Which windows share a batch is left to chance: a step over windows of one length follows what holds for
    that length, and models that were trained so rank worse (docs/negative_results.md).
    """
    order = rng.permutation(len(windows.start))
    for lo in range(0, len(order), batch_size):
        some = order[lo : lo + batch_size]
        some = some[np.argsort(-windows.lengths[some], kind="stable")]
        yield Windows(windows.start[some], windows.stop[some])


ROWS_OF_A_RUN = {"cpu": 32, "cuda": 256}
"""Rows that are cut to one length: more leave more padding, fewer make products small."""


def runs(layout: Layout, blocks: nn.ModuleList) -> list[tuple[slice, int]]:
    """Rows to take through blocks together, and the tokens that the longest of them has, rounded up.

    Rows come sorted by length, so the runs hold little padding although windows of all lengths share a batch;
    what comes out is the same. All rows are one run where blocks are split among processes, which must call
    each of them equally often.
    """
    n_rows, n_tokens = layout.valid_BT.shape
    if any(hasattr(block, "unshard") for block in blocks):
        return [(slice(0, n_rows), n_tokens)]
    length_B, step = layout.valid_BT.sum(1).tolist(), ROWS_OF_A_RUN.get(layout.valid_BT.device.type, 256)
    longest = [max(1, *length_B[lo : lo + step]) for lo in range(0, n_rows, step)]
    cut, lo = [], 0
    for n, equal in groupby(min(n_tokens, rounded_up(n, TOKENS)) for n in longest):
        hi = min(n_rows, lo + step * len(list(equal)))
        cut.append((slice(lo, hi), n))
        lo = hi
    return cut or [(slice(0, 0), n_tokens)]


def joined(parts: list[Tensor], n_tokens: int) -> Tensor:
    """What was found for each of `runs`, one under another, zeros where one is shorter. Shape (B, T, ...)."""
    if len(parts) == 1 and parts[0].shape[1] == n_tokens:
        return parts[0]
    short = [n_tokens - part.shape[1] for part in parts]
    return torch.cat([F.pad(part, (0, 0, 0, n)) for part, n in zip(parts, short, strict=True)])
