"""Histories as rows of tokens: windows, padding, packing, batches."""

import itertools
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import vitrina.nn.layout  # noqa: E402
from vitrina.errors import InputError  # noqa: E402
from vitrina.nn.blocks import TransformerBlock, through  # noqa: E402
from vitrina.nn.layout import Rows, Windows, batches, cut_windows, pack, pad, runs  # noqa: E402
from vitrina.nn.next_item import batch_of  # noqa: E402
from vitrina.nn.shapes import TOKENS  # noqa: E402

lengths_of_histories = st.lists(st.integers(0, 23), max_size=12)


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def windows_of(lengths: list[int]) -> Windows:
    """Windows of these lengths, one after another from row 3."""
    offsets = offsets_of(lengths) + 3
    return Windows(offsets[:-1], offsets[1:])


def tokens(rows: Rows) -> list[tuple[int, int]]:
    """(row of the log, position) of every token, sorted."""
    valid = rows.layout.valid_BT.numpy()
    return sorted(
        zip(rows.row_BT[valid].tolist(), rows.layout.position_BT.numpy()[valid].tolist(), strict=True)
    )


@settings(deadline=None, max_examples=60)
@given(lengths_of_histories, st.integers(1, 9))
def test_windows_cover_every_transition_once(lengths, max_len) -> None:
    offsets = offsets_of(lengths)
    windows = cut_windows(offsets, max_len)
    covered = [t for lo, hi in zip(*windows, strict=True) for t in range(lo, hi - 1)]
    expected = [t for lo, hi in itertools.pairwise(offsets) for t in range(lo, hi - 1)]
    assert sorted(covered) == expected
    assert (windows.lengths >= 2).all()
    assert (windows.lengths <= max_len + 1).all()


@settings(deadline=None, max_examples=60)
@given(lengths_of_histories, st.integers(1, 9))
def test_the_last_windows_end_where_histories_end(lengths, max_len) -> None:
    offsets = offsets_of(lengths)
    windows = cut_windows(offsets, max_len, every=False)
    long = np.flatnonzero(np.asarray(lengths, np.int64) >= 2)
    np.testing.assert_array_equal(windows.stop, offsets[1:][long])
    np.testing.assert_array_equal(
        windows.lengths, np.minimum(np.asarray(lengths, np.int64)[long], max_len + 1)
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(9, 20))
def test_padded_and_packed_rows_hold_the_same_tokens(lengths, n_tokens) -> None:
    windows = windows_of(lengths)
    padded, packed = pad(windows), pack(windows, n_tokens)
    assert tokens(padded) == tokens(packed)
    assert len(packed.row_BT) <= len(padded.row_BT)
    assert len(packed.row_BT) >= -(-sum(lengths) // n_tokens)
    segments = packed.layout.segment_BT
    for w, length in enumerate(lengths):
        rows, at = np.nonzero(segments.numpy() == w)
        assert len(set(rows)) == 1
        np.testing.assert_array_equal(at, at[0] + np.arange(length))
        np.testing.assert_array_equal(packed.row_BT[rows, at], np.arange(windows.start[w], windows.stop[w]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(9, 20))
def test_a_packed_token_sees_its_own_past_alone(lengths, n_tokens) -> None:
    packed = pack(windows_of(lengths), n_tokens)
    mask = packed.layout.causal_mask()[:, 0]
    row_of = torch.from_numpy(packed.row_BT)
    for b, t in np.argwhere(packed.layout.valid_BT.numpy()):
        seen = mask[b, t].nonzero()[:, 0]
        window = packed.layout.segment_BT[b, t]
        assert (packed.layout.segment_BT[b, seen] == window).all()
        first = row_of[b][packed.layout.segment_BT[b] == window].min()
        assert row_of[b, seen].tolist() == list(range(int(first), int(row_of[b, t]) + 1))
    assert mask.any(-1).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 11))
def test_batches_hold_every_window_once_the_longest_first(lengths, batch_size) -> None:
    windows = windows_of(lengths)
    drawn = list(batches(windows, batch_size, rng=np.random.default_rng(0)))
    assert len(drawn) == -(-len(lengths) // batch_size)
    assert all(1 <= len(some.start) <= batch_size for some in drawn)
    assert all((np.diff(some.lengths) <= 0).all() for some in drawn)
    pairs = [pair for some in drawn for pair in zip(some.start.tolist(), some.stop.tolist(), strict=True)]
    assert sorted(pairs) == sorted(zip(windows.start.tolist(), windows.stop.tolist(), strict=True))


def test_batches_are_a_function_of_the_seed() -> None:
    windows = windows_of([3, 1, 4, 1, 5, 9, 2, 6] * 5)
    first, again, other = (
        [some.start.tolist() for some in batches(windows, 4, rng=np.random.default_rng(seed))]
        for seed in ([7, 0], [7, 0], [7, 1])
    )
    assert first == again
    assert first != other


def test_the_lengths_of_a_batch_are_those_of_a_draw_among_all() -> None:
    """The mean of 50 lengths drawn without replacement varies as the hypergeometric law has it."""
    lengths = np.repeat([2, 10], 500)
    means = [
        some.lengths.mean()
        for epoch in range(40)
        for some in batches(windows_of(lengths.tolist()), 50, rng=np.random.default_rng(epoch))
    ]
    expected = 4.0 * (1 / 50 * (1000 - 50) / (1000 - 1)) ** 0.5
    assert len(means) == 800
    assert np.std(means) == pytest.approx(expected, rel=0.1)  # 4 standard errors of a deviation


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=120), st.sampled_from([70, 80]))
def test_runs_hold_every_row_once_cut_behind_its_last_token(lengths, longest) -> None:
    layout = pad(windows_of(sorted(lengths, reverse=True)), longest).layout
    cut = runs(layout, torch.nn.ModuleList())
    assert [row for rows, _ in cut for row in range(rows.start, rows.stop)] == list(range(len(lengths)))
    for rows, n_tokens in cut:
        assert not layout.valid_BT[rows, n_tokens:].any()
    assert len({n_tokens for _, n_tokens in cut}) == len(cut)
    n_computed = sum((rows.stop - rows.start) * n_tokens for rows, n_tokens in cut)
    assert n_computed <= layout.valid_BT.numel()


def test_blocks_give_the_same_in_runs_as_in_one_batch(monkeypatch) -> None:
    """Values and gradients, causal and both ways, padded and packed."""
    torch.manual_seed(0)
    lengths = sorted(np.random.default_rng(0).integers(1, 50, 100).tolist(), reverse=True)
    blocks = torch.nn.ModuleList(TransformerBlock(8, 2, ffn_dim=16, dropout=0.0) for _ in range(2)).double()
    padded, packed = pad(windows_of(lengths), 50).layout, pack(windows_of(lengths), 50).layout
    assert len(runs(padded, blocks)) == 4
    for layout, causal in itertools.product((padded, packed), (True, False)):
        x_BTD = torch.randn(*layout.valid_BT.shape, 8, dtype=torch.float64) * layout.valid_BT[..., None]
        found = []
        for rows_of_a_run in (32, 10_000):
            monkeypatch.setitem(vitrina.nn.layout.ROWS_OF_A_RUN, "cpu", rows_of_a_run)
            x = x_BTD.clone().requires_grad_()
            states = through(blocks, x, layout, causal=causal)[layout.valid_BT]
            found.append((states, *torch.autograd.grad(states.square().sum(), [x, *blocks.parameters()])))
        for in_runs, at_once in zip(*found, strict=True):
            torch.testing.assert_close(in_runs, at_once, rtol=1e-9, atol=1e-9)


def test_blocks_that_are_split_among_processes_are_called_once() -> None:
    layout = pad(windows_of([40] * 40 + [3] * 40)).layout
    block = torch.nn.Linear(1, 1)
    assert len(runs(layout, torch.nn.ModuleList([block]))) == 2
    block.unshard = lambda: None
    assert runs(layout, torch.nn.ModuleList([block])) == [(slice(0, 80), 40)]


def test_inputs_and_targets_are_shifted_by_one() -> None:
    item_ix = np.array([9, 9, 9, 5, 6, 7, 8, 4, 3], dtype=np.int32)
    ts = np.arange(9) * 1_500_000
    batch = batch_of(Windows(np.array([3, 7]), np.array([7, 9])), item_ix, ts, 10)
    assert batch.item_BT.tolist() == [[5, 6, 7], [4, 10, 10]]
    assert batch.target_BT.tolist() == [[6, 7, 8], [3, 10, 10]]
    assert batch.layout.position_BT.tolist() == [[2, 1, 0], [0, 0, 0]]
    assert batch.layout.ts_BT.tolist() == [[4, 6, 7], [10, 0, 0]]
    second = batch.rows(slice(1, 2))
    assert second.item_BT.tolist() == [[4, 10, 10]]
    assert second.layout.ts_BT.tolist() == [[10, 0, 0]]


def test_rows_of_a_packed_layout_keep_their_segments() -> None:
    layout = pack(windows_of([3, 3, 3]), 4).layout
    assert layout.rows(slice(1, 3)).segment_BT.tolist() == layout.segment_BT[1:3].tolist()


class Counted(np.ndarray):
    """An array that counts the elements that are read out of it."""

    read = 0

    def __getitem__(self, key):
        taken = np.asarray(self)[key]
        Counted.read += taken.size
        return taken

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("arithmetic on the whole log")

    def __array_function__(self, *args, **kwargs):
        raise AssertionError("a function of the whole log")


def test_a_batch_reads_its_own_rows_alone() -> None:
    item_ix = np.zeros(1_000_000, np.int32).view(Counted)
    ts = np.zeros(1_000_000, np.int64).view(Counted)
    Counted.read = 0
    batch_of(Windows(np.array([5, 900_000]), np.array([10, 900_003])), item_ix, ts, 3)
    assert Counted.read == 3 * 2 * 4  # inputs, targets and times; 2 windows of at most 4 tokens


def test_a_window_longer_than_a_row_is_refused() -> None:
    with pytest.raises(InputError, match="a window of 6 tokens does not fit a row of 5; raise n_tokens"):
        pack(windows_of([2, 6]), 5)


def test_no_window_gives_no_row() -> None:
    assert pack(windows_of([]), 5).row_BT.shape == (0, 5)
    assert pad(windows_of([])).row_BT.shape == (0, 1)
    assert list(batches(windows_of([]), 4, rng=np.random.default_rng(0))) == []
    assert runs(pad(windows_of([])).layout, torch.nn.ModuleList()) == [(slice(0, 0), 1)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=9), st.sampled_from([70, 79, 80, 500]))
def test_rows_are_padded_to_few_lengths_and_never_past_the_longest(lengths, longest) -> None:
    windows = windows_of(lengths)
    exact, padded = pad(windows), pad(windows, longest)
    assert tokens(exact) == tokens(padded)
    n_tokens = padded.row_BT.shape[1]
    assert max(lengths) <= n_tokens <= longest
    assert n_tokens % TOKENS == 0 or n_tokens == longest
    assert n_tokens - max(lengths) < TOKENS


def test_packing_looks_once_for_each_window_among_no_more_rooms_than_a_row_has_tokens(monkeypatch) -> None:
    n_rooms = []

    def counted(rooms: list[int], length: int) -> int:
        n_rooms.append(len(rooms))
        return bisect_left(rooms, length)

    monkeypatch.setattr(vitrina.nn.layout, "bisect_left", counted)
    pack(windows_of(np.random.default_rng(0).integers(1, 200, 8_000).tolist()), 256)
    assert len(n_rooms) == 8_000
    assert max(n_rooms) <= 256
