"""Histories built in buckets, on disk, and read back."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina.errors import ArtifactError, ConfigError, InputError
from vitrina.ids import Ids
from vitrina.log import EventLog, Histories
from vitrina.log.order import place_by_user, seed_key, sort_user_rows, time_order
from vitrina.schema import TS_DTYPE

T0 = 1_714_521_600_000_000


def events(n_rows: int = 3000, seed: int = 0, *, text: bool = False, optional: bool = True) -> pl.DataFrame:
    """Many ties in time, repeats of an item, one heavy user; of some rows nobody says if they are organic."""
    rng = np.random.default_rng(seed)
    user = np.where(rng.random(n_rows) < 0.3, 7, rng.integers(-50, 200, n_rows) ** 3)
    data = pl.DataFrame(
        {
            "user_id": user,
            "item_id": rng.integers(0, 80, n_rows) * 10**12,
            "ts": pl.Series(T0 + rng.integers(0, 60, n_rows) * 10**6).cast(TS_DTYPE),
            "event": rng.choice(["view", "buy", "like"], n_rows),
            "weight": rng.integers(0, 4, n_rows).astype(np.float32),
            "organic": pl.Series(rng.integers(0, 3, n_rows)).replace_strict({0: False, 1: True, 2: None}),
        }
    )
    if text:
        data = data.with_columns(
            pl.col("user_id").cast(pl.String) + "é", "é" + pl.col("item_id").cast(pl.String)
        )
    return data if optional else data.drop("weight", "organic")


def same(a: Histories, b: Histories) -> None:
    assert (a.user_ids, a.items, a.event_names) == (b.user_ids, b.items, b.event_names)
    for name in ("offsets", "item_ix", "ts", "event"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
    for name in ("weight", "organic"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert np.array_equal(one, other), name


def log_of(data: pl.DataFrame) -> EventLog:
    return EventLog.from_frame(data, duplicates="keep")


@pytest.mark.parametrize("n_buckets", [None, 1, 7, 100])
@pytest.mark.parametrize("text", [False, True])
def test_any_number_of_buckets_gives_what_the_frame_gives(tmp_path: Path, n_buckets: int, text: bool) -> None:
    data = events(text=text)
    plain = Histories.from_frame(data, seed=3)
    same(log_of(data).histories(n_buckets=n_buckets, seed=3), plain)
    same(log_of(data).histories(tmp_path / "h", n_buckets=n_buckets, seed=3), plain)


def test_histories_are_the_rows_of_each_user_in_time_order() -> None:
    """A slow twin: polars groups and sorts, ties are compared as sets."""
    data = events()
    histories = log_of(data).histories(n_buckets=5)
    back = histories.frame()
    order = ["user_id", "ts", "item_id", "event", "weight", "organic"]
    assert back.sort(order).equals(data.select(back.columns).sort(order))
    assert back["user_id"].is_sorted()
    assert (
        back.group_by("user_id", maintain_order=True).agg(pl.col("ts").diff().min())["ts"].drop_nulls().min()
        >= (pl.Series([0]).cast(pl.Duration("us"))[0])
    )


def test_shuffled_rows_and_split_files_give_the_same_histories(tmp_path: Path) -> None:
    data = events()
    whole = log_of(data).histories(seed=1)
    same(log_of(data.sample(fraction=1.0, shuffle=True, seed=9)).histories(seed=1, n_buckets=3), whole)


def test_the_seed_draws_ties_and_nothing_else() -> None:
    log = log_of(events())
    one, two = log.histories(seed=1), log.histories(seed=2)
    assert np.array_equal(one.ts, two.ts)
    assert not np.array_equal(one.item_ix, two.item_ix)
    same(log.histories(seed=1), one)


def test_ties_fall_either_way_evenly() -> None:
    n_users = 4000
    data = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), 2),
            "item_id": np.tile([0, 1], n_users),
            "ts": pl.Series(np.full(2 * n_users, T0)).cast(TS_DTYPE),
        }
    )
    first = log_of(data).histories(seed=0).item_ix[::2]
    assert abs(first.mean() - 0.5) < 5 * 0.5 / np.sqrt(n_users)  # five standard errors


def test_kernels_agree_with_numpys_sort() -> None:
    rng = np.random.default_rng(4)
    for n_rows, span in ((0, 1), (1, 1), (5000, 1), (5000, 40), (5000, 10**9)):
        user = rng.integers(0, 30, n_rows).astype(np.int32)
        ts, item = rng.integers(0, span, n_rows), rng.integers(0, 5, n_rows).astype(np.int32)
        event, organic = (rng.integers(0, 3, n_rows).astype(np.uint8) for _ in range(2))
        weight = rng.random(n_rows).round(1).astype(np.float32)
        expected = time_order(user, ts, item, 11, event, weight, organic)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=30))]).astype(np.int64)
        order = np.empty(n_rows, np.int32)
        place_by_user(user, offsets, order)
        sort_user_rows(offsets, 0, seed_key(11), order, ts, item, 3 * event + organic, weight)
        for column in (user, ts, item, event, organic, weight):
            assert np.array_equal(column[order], column[expected])


def test_items_outside_the_vocabulary_are_left_out_and_their_users_stay(tmp_path: Path) -> None:
    for text in (False, True):
        data = events(text=text)
        items = Ids(data["item_id"].unique().sort().gather_every(3))
        plain = Histories.from_frame(data, items=items)
        same(log_of(data).histories(items=items, n_buckets=4), plain)
        assert len(plain) == data["user_id"].n_unique()


def test_a_vocabulary_of_the_other_kind_is_translated() -> None:
    data = events()
    items = Ids(data["item_id"].unique().cast(pl.String))
    assert log_of(data).histories(items=items).n_rows == len(data)


def test_events_can_be_chosen() -> None:
    data = events()
    histories = log_of(data).histories(events=("view", "buy"))
    assert histories.event_names == ("buy", "view")
    same(histories, Histories.from_frame(data.filter(pl.col("event") != "like")))
    with pytest.raises(ConfigError, match="no event 'veiw'; it has: buy, like, view"):
        log_of(data).histories(events=("veiw",))


def test_a_log_without_weights_and_flags_has_none(tmp_path: Path) -> None:
    histories = log_of(events(optional=False)).histories(tmp_path / "h")
    assert (histories.weight, histories.organic) == (None, None)
    assert not {"weight.npy", "organic.npy"} & {file.name for file in (tmp_path / "h").iterdir()}


def test_flags_go_where_their_rows_go() -> None:
    data = events(200)
    rows = Histories.from_frame(data)
    assert rows.organic is not None
    unknown = data["organic"].null_count()
    assert [int((rows.organic == flag).sum()) for flag in (0, 1, 2)] == [
        (~data["organic"]).sum(),
        data["organic"].sum(),
        unknown,
    ]
    blocks = [block.organic for _, block in rows.blocks(max_users=3)]
    assert np.array_equal(np.concatenate(blocks), rows.organic)  # type: ignore[arg-type]
    by_item = dict(
        zip(zip(*data.select("user_id", "ts", "item_id"), strict=True), data["organic"], strict=True)
    )
    assert len(by_item) == len(data), "rows that could be mistaken for one another"
    for part in (rows.last(1), rows.only(rows.event == 1), rows.rows(np.array([3, -1, 0]))):
        told = part.frame().select("user_id", "ts", "item_id", "organic")
        assert all(by_item[user, ts, item] is flag for user, ts, item, flag in told.iter_rows())


def test_a_filtered_log_keeps_the_codes_of_its_events() -> None:
    log = log_of(events()).filter(pl.col("event") == "view")
    histories = log.histories()
    assert histories.event_names == ("buy", "like", "view")
    assert set(histories.event.tolist()) == {2}


@pytest.mark.parametrize("n_buckets", [0, 256])
def test_a_number_of_buckets_out_of_range_is_refused(n_buckets: int) -> None:
    with pytest.raises(ConfigError, match=f"n_buckets must be 1 to 255, got {n_buckets}"):
        log_of(events(10)).histories(n_buckets=n_buckets)


def test_saved_histories_open_as_they_were(tmp_path: Path) -> None:
    for text in (False, True):
        histories = Histories.from_frame(events(text=text))
        histories.save(tmp_path / "h")
        same(Histories.open(tmp_path / "h", verify=True), histories)


def test_opened_arrays_are_mapped_and_read_only(tmp_path: Path) -> None:
    histories = log_of(events()).histories(tmp_path / "h")
    assert isinstance(histories.item_ix.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        histories.item_ix[0] = 1


def test_opened_histories_do_what_others_do(tmp_path: Path) -> None:
    data = events()
    mapped, plain = log_of(data).histories(tmp_path / "h"), Histories.from_frame(data)
    assert (mapped.user_item() != plain.user_item()).nnz == 0
    same(mapped.last(2), plain.last(2))
    assert np.array_equal(mapped.item_counts(), plain.item_counts())


def test_an_empty_log_is_saved_and_opened(tmp_path: Path) -> None:
    empty = log_of(events().clear()).histories(tmp_path / "h")
    assert (len(empty), empty.n_rows, empty.n_items) == (0, 0, 0)
    same(Histories.open(tmp_path / "h", verify=True), empty)


def test_histories_of_queries_are_not_saved(tmp_path: Path) -> None:
    queries, _ = Histories.from_lists(Ids(pl.Series([1, 2])), [[1], [2]])
    with pytest.raises(InputError, match="no vocabulary of users"):
        queries.save(tmp_path / "h")


def test_a_new_build_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    log_of(events(100)).histories(tmp_path / "h")
    same(log_of(events(200)).histories(tmp_path / "h"), Histories.from_frame(events(200)))
    assert [file.name for file in tmp_path.iterdir()] == ["h"]
    assert sorted(file.name for file in (tmp_path / "h").iterdir()) == [
        "event.npy",
        "item_ix.npy",
        "items.parquet",
        "manifest.json",
        "offsets.npy",
        "organic.npy",
        "ts.npy",
        "users.parquet",
        "weight.npy",
    ]


def test_a_build_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log_of(events(100)).histories(tmp_path / "h")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitrina.log.store.ArrayFile.append", full)
    with pytest.raises(ArtifactError, match="could not be written"):
        log_of(events(200)).histories(tmp_path / "h")
    same(Histories.open(tmp_path / "h", verify=True), before)
    assert [file.name for file in tmp_path.iterdir()] == ["h"]


FILES = ["event.npy", "item_ix.npy", "items.parquet", "offsets.npy", "ts.npy", "users.parquet"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    log_of(events(100)).histories(tmp_path / "h")
    (tmp_path / "h" / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Histories.open(tmp_path / "h")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str) -> None:
    log_of(events(100)).histories(tmp_path / "h")
    file = tmp_path / "h" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=name):
        Histories.open(tmp_path / "h")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_by_verify(tmp_path: Path, name: str) -> None:
    log_of(events(100)).histories(tmp_path / "h")
    file = tmp_path / "h" / name
    content = bytearray(file.read_bytes())
    content[-30] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name} does not match its SHA-256"):
        Histories.open(tmp_path / "h", verify=True)


def test_offsets_that_do_not_fit_are_found_without_verify(tmp_path: Path) -> None:
    log_of(events(100)).histories(tmp_path / "h")
    file = tmp_path / "h" / "offsets.npy"
    offsets = np.load(file)
    offsets[1], offsets[2] = offsets[2] + 1, offsets[1]
    np.save(file, offsets)
    with pytest.raises(ArtifactError, match="do not fit together"):
        Histories.open(tmp_path / "h")


def test_a_pickled_array_is_never_loaded(tmp_path: Path) -> None:
    log_of(events(100)).histories(tmp_path / "h")
    folder = tmp_path / "h"
    np.save(folder / "event.npy", np.array([object()] * 100), allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["event.npy"]["bytes"] = (folder / "event.npy").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"event\.npy is no array"):
        Histories.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "is not of Histories format 1"),
        ({"kind": "Ease"}, "is not of Histories format 1"),
        ({"files": {}}, "lists other files"),
        ({"files": {"../../etc/passwd": {}}}, "lists other files"),
    ],
)
def test_another_manifest_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    log_of(events(100)).histories(tmp_path / "h")
    file = tmp_path / "h" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        Histories.open(tmp_path / "h")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json does not exist"):
        Histories.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not JSON"):
        Histories.open(tmp_path)


def test_the_time_of_a_request_goes_where_its_query_goes():
    frame = pl.DataFrame({"user_id": [1, 1, 2, 3], "item_id": [5, 6, 5, 7], "ts": [1, 2, 3, 4]})
    histories = Histories.from_frame(frame.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC"))))
    assert histories.asked_ts is None
    assert histories.asked_at(None) is histories
    asked = histories.asked_at(np.array([10, 20, 30]))
    assert asked.asked_at(99).asked_ts.tolist() == [10, 20, 30]
    assert histories.asked_at(99).asked_ts.tolist() == [99, 99, 99]
    assert asked.rows(np.array([2, -1, 0])).asked_ts.tolist() == [30, 0, 10]
    assert asked.last(1).asked_ts.tolist() == [10, 20, 30]
    assert asked.only(asked.item_ix > 0).asked_ts.tolist() == [10, 20, 30]
    assert asked.reindex(Ids(pl.Series([5, 6]))).asked_ts.tolist() == [10, 20, 30]
    assert [block.asked_ts.tolist() for _, block in asked.blocks(max_users=2)] == [[10, 20], [30]]
