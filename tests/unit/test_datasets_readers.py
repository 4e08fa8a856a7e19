"""Each reader on files in the official form, and on real files where this machine has them."""

import datetime as dt
import gzip
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina import datasets
from vitrina.datasets.dataset import Counts, check_counts
from vitrina.errors import InputError
from vitrina.log import Columns

UTC = dt.UTC
LOCAL = Path(os.environ.get("VITRINA_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def local(name: str) -> Path:
    folder = LOCAL / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine; set VITRINA_DATA to the folder of local data")
    return folder


def rows(dataset: datasets.Dataset) -> list[dict]:
    return dataset.events.collect().to_dicts()


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


# --- counts -------------------------------------------------------------------


def test_counts_that_match_are_official_and_silent() -> None:
    assert check_counts(Counts(3, 2, 1), Counts(3, 2), name="x", on_mismatch="raise") == "official"


def test_fewer_rows_are_a_subset_and_say_so_in_one_sentence() -> None:
    with pytest.warns(
        datasets.DatasetWarning, match=r"x here has 2 rows, .* 3 rows.* subset of the official"
    ):
        assert check_counts(Counts(2), Counts(3), name="x", on_mismatch="warn") == "subset"


def test_more_rows_than_published_differ() -> None:
    with pytest.warns(datasets.DatasetWarning, match="not the official data"):
        assert check_counts(Counts(4, 1), Counts(3, 2), name="x", on_mismatch="warn") == "differs"


def test_a_mismatch_raises_where_asked() -> None:
    with pytest.raises(InputError, match="3 rows"):
        check_counts(Counts(2), Counts(3), name="x", on_mismatch="raise")


def test_nothing_published_is_unchecked() -> None:
    assert check_counts(Counts(2), Counts(), name="x", on_mismatch="raise") == "unchecked"


def test_a_missing_folder_and_a_missing_file_name_the_official_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a folder.*grouplens\.org"):
        datasets.movielens(tmp_path / "none")
    put(tmp_path / "readme.txt", "hello")
    with pytest.raises(InputError, match=r"holds none of .*there is: readme\.txt.*grouplens\.org"):
        datasets.movielens(tmp_path)


# --- MovieLens ----------------------------------------------------------------


def test_movielens_100k_form(tmp_path: Path) -> None:
    put(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t4\t891717742\n")
    film = "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/x|" + "|".join(["0"] * 5 + ["1"] + ["0"] * 13)
    put(
        tmp_path / "u.item",
        film + "\n302|Misérables, Les (1995)|||x|" + "|".join(["0"] * 19) + "\n",
        "iso-8859-1",
    )
    assert datasets.movielens(tmp_path, on_mismatch="ignore").users.is_empty()
    put(tmp_path / "u.user", "302|24|M|technician|85711\n196|53|F|other|94043\n")
    made = datasets.movielens(tmp_path, on_mismatch="ignore")
    assert made.users.to_dicts() == [
        {"user_id": 196, "age": 53, "gender": "F", "occupation": "other"},
        {"user_id": 302, "age": 24, "gender": "M", "occupation": "technician"},
    ]
    assert rows(made)[0] == {
        "user_id": 196,
        "item_id": 242,
        "ts": dt.datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC),
        "event": "rating",
        "value": 3.0,
    }
    assert made.items.to_dicts() == [
        {"item_id": 242, "title": "Kolya", "year": 1996, "genres": "Comedy"},
        {"item_id": 302, "title": "Misérables, Les", "year": 1995, "genres": None},
    ]
    assert made.name == "movielens-100k"


def test_movielens_1m_form_with_colons_in_a_title(tmp_path: Path) -> None:
    put(tmp_path / "ratings.dat", "1::1193::5::978300760\n2::260::4::978302109\n")
    put(
        tmp_path / "movies.dat",
        "260::Star Wars: Episode IV - A New Hope (1977)::Action|Sci-Fi\n",
        "iso-8859-1",
    )
    put(tmp_path / "users.dat", "1::F::1::10::48067\n")
    with pytest.warns(datasets.DatasetWarning, match="subset"):
        made = datasets.movielens(tmp_path)
    assert made.users.rows() == [(1, 1, "F", "10")]
    assert [(r["user_id"], r["item_id"], r["value"]) for r in rows(made)] == [(1, 1193, 5.0), (2, 260, 4.0)]
    assert made.items["title"].to_list() == ["Star Wars: Episode IV - A New Hope"]
    assert made.outcome == "subset"


@pytest.mark.parametrize("version", ["latest-small", "20m", "25m", "32m"])
def test_movielens_csv_form(tmp_path: Path, version: str) -> None:
    folder = tmp_path / f"ml-{version}"
    put(folder / "ratings.csv", "userId,movieId,rating,timestamp\n1,296,3.5,1147880044\n")
    put(folder / "movies.csv", 'movieId,title,genres\n296,"American, The (1995)",(no genres listed)\n')
    made = datasets.movielens(tmp_path if version == "20m" else folder, on_mismatch="ignore")
    assert made.name == f"movielens-{version}"
    assert rows(made)[0]["value"] == 3.5
    assert made.items.to_dicts() == [{"item_id": 296, "title": "American, The", "year": 1995, "genres": None}]


def test_an_unknown_movielens_csv_asks_for_its_version(tmp_path: Path) -> None:
    put(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,296,3.5,1147880044\n")
    with pytest.raises(InputError, match="version="):
        datasets.movielens(tmp_path)


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_local_movielens_has_the_official_counts(name: str) -> None:
    made = datasets.movielens(local(name), on_mismatch="raise")
    assert made.outcome == "official"
    assert made.log.n_rows() == made.official.rows
    assert made.items["item_id"].is_unique().all()
    assert set(made.events.select("item_id").collect()["item_id"]) <= set(made.items["item_id"])


# --- Amazon -------------------------------------------------------------------

USER, ASIN, SECOND = "A39HTATAQ9V7YF", "B00001TZXX", 1369699200


def test_amazon_ratings_of_2014_and_2018_differ_in_column_order(tmp_path: Path) -> None:
    old = put(tmp_path / "ratings_Beauty.csv", f"{USER},{ASIN},5.0,{SECOND}\n")
    new = put(tmp_path / "Luxury_Beauty.csv", f"{ASIN},{USER},5.0,{SECOND}\n")
    expected = {
        "user_id": USER,
        "item_id": ASIN,
        "ts": dt.datetime(2013, 5, 28, tzinfo=UTC),
        "event": "rating",
        "value": 5.0,
    }
    assert rows(datasets.amazon(old, year=2014)) == [expected]
    assert rows(datasets.amazon(new, year=2018)) == [expected]
    with pytest.raises(InputError, match="pass year=2018"):
        datasets.amazon(new, year=2014)
    with pytest.raises(InputError, match="pass year=2014"):
        datasets.amazon(old, year=2018)


@pytest.mark.parametrize("year", [2014, 2018])
@pytest.mark.parametrize("packed", [False, True])
def test_amazon_five_core_reviews_are_counted(tmp_path: Path, year: int, packed: bool) -> None:
    review = {
        "reviewerID": USER,
        "asin": ASIN,
        "reviewText": 'fine, "really"',
        "helpful": [0, 0],
        "overall": 4.0,
        "unixReviewTime": SECOND,
    }
    text = json.dumps(review) + "\n" + json.dumps(review | {"asin": "B00001TZYY", "overall": 1}) + "\n"
    file = tmp_path / ("reviews_Beauty_5.json" if year == 2014 else "Appliances_5.json")
    if packed:
        file = file.with_name(file.name + ".gz")
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    with pytest.warns(datasets.DatasetWarning, match="subset"):
        made = datasets.amazon(file, year=year)
    assert [(r["item_id"], r["value"]) for r in rows(made)] == [(ASIN, 4.0), ("B00001TZYY", 1.0)]
    assert made.official.rows == (198_502 if year == 2014 else 2_277)


def test_amazon_of_2023_has_milliseconds_and_parents(tmp_path: Path) -> None:
    ms = 1588687728923
    text = f"user_id,parent_asin,rating,timestamp\nAGKHLEW2SOWHNMFQIJGBECAF7INQ,{ASIN},5.0,{ms}\n"
    table = datasets.amazon(put(tmp_path / "All_Beauty.csv", text), year=2023)
    review = {
        "rating": 5.0,
        "title": "x",
        "text": "y",
        "images": [],
        "asin": "B0CHILD123",
        "parent_asin": ASIN,
        "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
        "timestamp": ms,
        "verified_purchase": True,
    }
    reviews = datasets.amazon(put(tmp_path / "All_Beauty.jsonl", json.dumps(review) + "\n"), year=2023)
    assert rows(table) == rows(reviews)
    assert rows(table)[0]["ts"] == dt.datetime(2020, 5, 5, 14, 8, 48, 923000, tzinfo=UTC)
    assert table.outcome == "unchecked"


def test_a_missing_amazon_file_names_the_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"amazon-reviews-2023\.github\.io"):
        datasets.amazon(tmp_path / "x.csv", year=2023)


def test_local_amazon_beauty_has_the_official_counts() -> None:
    made = datasets.amazon_beauty_derived(local("amazon-beauty-5core"), on_mismatch="raise")
    assert made.outcome == "official"
    assert made.log.n_rows() == 198_502
    first, last = made.log.time_range()
    assert (first, last) == (1_023_840_000_000_000, 1_406_073_600_000_000)
    assert made.items["title"].null_count() == 1  # one product has no keywords


# --- sessions -----------------------------------------------------------------


def test_retailrocket_events_and_last_category(tmp_path: Path) -> None:
    put(
        tmp_path / "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
        "1433222276276,599528,transaction,356475,4000\n",
    )
    put(
        tmp_path / "item_properties_part1.csv",
        ""
        "timestamp,itemid,property,value\n1435460400000,355908,categoryid,1338\n1433041200000,355908,categoryid,7\n"
        "1441508400000,206783,888,1116713 960601 n277.200\n",
    )
    with pytest.warns(datasets.DatasetWarning, match="subset"):
        made = datasets.retailrocket(tmp_path)
    assert rows(made)[0] == {
        "user_id": 257597,
        "item_id": 355908,
        "ts": dt.datetime(2015, 6, 2, 5, 2, 12, 117000, tzinfo=UTC),
        "event": "view",
        "transaction_id": None,
    }
    assert rows(made)[1]["transaction_id"] == 4000
    assert made.items.to_dicts() == [{"item_id": 355908, "category": "1338"}]
    assert made.log.event_names == ("transaction", "view")


def test_yoochoose_clicks_and_buys(tmp_path: Path) -> None:
    put(
        tmp_path / "yoochoose-clicks.dat",
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n",
    )
    put(tmp_path / "yoochoose-buys.dat", "420374,2014-04-06T18:44:58.314Z,214537888,12462,2\n")
    clicks = datasets.yoochoose(tmp_path, on_mismatch="ignore")
    assert rows(clicks)[0] == {
        "user_id": 1,
        "item_id": 214536502,
        "ts": dt.datetime(2014, 4, 7, 10, 51, 9, 277000, tzinfo=UTC),
        "event": "click",
        "category": "0",
    }
    buys = datasets.yoochoose(tmp_path, part="buys", on_mismatch="ignore")
    assert rows(buys)[0]["value"] == 24924.0
    with pytest.raises(InputError, match="'clicks' or 'buys'"):
        datasets.yoochoose(tmp_path, part="carts")


def test_local_yoochoose_sample_has_its_counts() -> None:
    made = datasets.yoochoose_sample(local("yoochoose-100k"), on_mismatch="raise")
    assert made.outcome == "official"
    parts = made.events.group_by("part").len().collect()
    assert parts["len"].sum() == 83_846
    assert made.log.report.set_aside == {"duplicate": 1}


# --- KuaiRand -----------------------------------------------------------------

KUAI_HEAD = (
    ""
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def test_kuairand_standard_and_random_logs(tmp_path: Path) -> None:
    data = tmp_path / "KuaiRand-Pure" / "data"
    put(
        data / "log_standard_4_08_to_4_21_pure.csv",
        KUAI_HEAD + "0,4,20220408,2100,1649423430000,1,0,0,0,0,0,1,6000,12000,0,0,0,0,1\n",
    )
    put(
        data / "log_standard_4_22_to_5_08_pure.csv",
        KUAI_HEAD + "0,5,20220422,100,1650560430000,0,0,0,0,0,0,0,0,0,0,0,0,0,1\n",
    )
    put(
        data / "log_random_4_22_to_5_08_pure.csv",
        KUAI_HEAD + "0,6,20220422,100,1650560431000,0,0,0,0,0,1,0,0,9000,0,0,0,1,1\n",
    )
    made = datasets.kuairand(data.parent, on_mismatch="ignore")
    got = rows(made)
    assert made.name == "kuairand-pure-standard"
    assert [(r["item_id"], r["event"], r["value"], r["organic"]) for r in got] == [
        (4, "click", 0.5, False),
        (5, "impression", None, False),
    ]
    assert got[0]["ts"] == dt.datetime(2022, 4, 8, 13, 10, 30, tzinfo=UTC)
    shuffled = datasets.kuairand(data, log="random", on_mismatch="ignore")
    assert [(r["item_id"], r["is_rand"], r["is_hate"]) for r in rows(shuffled)] == [(6, 1, 1)]
    with pytest.warns(datasets.DatasetWarning, match="1,436,609"):
        datasets.kuairand(data)


# --- T-ECD ----------------------------------------------------------------------


def test_tecd_takes_the_day_from_the_file_name(tmp_path: Path) -> None:
    root = tmp_path / "dataset" / "small"
    events = root / "marketplace" / "events"
    events.mkdir(parents=True)
    for day in (1082, 1083):
        pl.DataFrame(
            {
                "timestamp": pl.Series([3_600_000_000], dtype=pl.Duration("us")),
                "user_id": pl.Series([7], dtype=pl.UInt64),
                "item_id": ["fmcg_1"],
                "subdomain": ["catalog"],
                "action_type": ["VIEW" if day == 1082 else "view"],
                "os": ["ios"],
            }
        ).write_parquet(events / f"{day:05d}.pq")
    pl.DataFrame(
        {"item_id": ["fmcg_1"], "brand_id": [3], "category": ["tea"], "embedding": [[0.0, 1.0]]}
    ).write_parquet(root / "marketplace" / "items.pq")
    made = datasets.tecd(root)
    assert [(r["ts"], r["event"], r["day"]) for r in rows(made)] == [
        (dt.datetime(1970, 1, 1, 1, tzinfo=UTC) + dt.timedelta(days=1082), "view", 1082),
        (dt.datetime(1970, 1, 1, 1, tzinfo=UTC) + dt.timedelta(days=1083), "view", 1083),
    ]
    assert made.items.columns == ["item_id", "brand_id", "category"]
    assert not made.log.wall_clock
    assert len(rows(datasets.tecd(root, days=(1083, 1083)))) == 1
    with pytest.raises(InputError, match=r"01082\.\.01083"):
        datasets.tecd(root, days=(1, 2))


def test_tecd_payments_are_of_brands_and_may_count_from_day_zero(tmp_path: Path) -> None:
    folder = tmp_path / "payments" / "events"
    folder.mkdir(parents=True)
    pl.DataFrame(
        {
            "timestamp": pl.Series([3 * 86_400_000_000 + 5], dtype=pl.Int64),
            "user_id": [7],
            "brand_id": [12],
            "price": [9.5],
            "transaction_hash": [1],
        }
    ).write_parquet(folder / "00003.pq")
    got = rows(datasets.tecd(tmp_path, domain="payments"))
    assert (got[0]["item_id"], got[0]["value"], got[0]["event"]) == (12, 9.5, "payment")
    assert got[0]["ts"] == dt.datetime(1970, 1, 4, 0, 0, 0, 5, tzinfo=UTC)


# --- Yambda -------------------------------------------------------------------

REACTION = {"uid": pl.UInt32, "timestamp": pl.UInt32, "item_id": pl.UInt32, "is_organic": pl.UInt8}
LISTEN = REACTION | {"played_ratio_pct": pl.UInt16, "track_length_seconds": pl.UInt32}


def yambda_folder(root: Path) -> Path:
    flat, sequential = root / "flat" / "50m", root / "sequential" / "50m"
    flat.mkdir(parents=True)
    sequential.mkdir(parents=True)
    listens = pl.DataFrame(
        {
            "uid": [100, 100, 200],
            "timestamp": [0, 25_999_995, 40],
            "item_id": [11, 12, 11],
            "is_organic": [1, 0, 1],
            "played_ratio_pct": [100, 49, 50],
            "track_length_seconds": [180, 200, 180],
        },
        schema=LISTEN,
    )
    listens.write_parquet(flat / "listens.parquet", compression="lz4")
    listens.group_by("uid", maintain_order=True).agg(pl.exclude("uid")).write_parquet(
        sequential / "listens.parquet"
    )
    plural = {"timestamp": "timestamps", "item_id": "item_ids"}
    for at, name in enumerate(["likes", "dislikes", "unlikes", "undislikes"]):
        frame = pl.DataFrame(
            {"uid": [100], "timestamp": [50 + 5 * at], "item_id": [11], "is_organic": [1]}, schema=REACTION
        )
        frame.write_parquet(flat / f"{name}.parquet")
        lists = frame.group_by("uid", maintain_order=True).agg(pl.exclude("uid"))
        lists.rename(plural).write_parquet(sequential / f"{name}.parquet")
    pl.DataFrame({"artist_id": [5, 4, 9], "item_id": [11, 11, 12]}).cast(pl.UInt32).write_parquet(
        root / "artist_item_mapping.parquet"
    )
    pl.DataFrame({"album_id": [70], "item_id": [11]}).cast(pl.UInt32).write_parquet(
        root / "album_item_mapping.parquet"
    )
    return root


def test_yambda_flat_listens(tmp_path: Path) -> None:
    folder = yambda_folder(tmp_path)
    with pytest.warns(datasets.DatasetWarning, match="46,467,212"):
        made = datasets.yambda(folder)
    got = rows(made)
    assert got[1] == {
        "user_id": 100,
        "item_id": 12,
        "ts": dt.datetime(1970, 1, 1, tzinfo=UTC) + dt.timedelta(seconds=25_999_995),
        "event": "listen",
        "value": 0.49,
        "organic": False,
        "track_length_seconds": 200,
    }
    assert made.found == Counts(3, 2, 2)
    assert not made.log.wall_clock
    assert made.items.to_dicts() == [
        {"item_id": 11, "author": 4, "album": 70},
        {"item_id": 12, "author": 9, "album": None},
    ]


def test_listen_plus_keeps_half_played_and_counts_the_rest(tmp_path: Path) -> None:
    made = datasets.yambda(yambda_folder(tmp_path), listen_plus=True, on_mismatch="ignore")
    assert [r["value"] for r in rows(made)] == [1.0, 0.5]
    assert made.dropped == {"listen of less than 50 %": 1}


@pytest.mark.parametrize("part", ["listens", "likes", "dislikes", "unlikes", "undislikes", "multi_event"])
def test_sequential_and_flat_yambda_say_the_same(tmp_path: Path, part: str) -> None:
    folder = yambda_folder(tmp_path)
    flat, lists = (
        datasets.yambda(folder, part=part, layout=layout, on_mismatch="ignore").events.collect()
        for layout in ("flat", "sequential")
    )
    assert flat.equals(lists)
    assert len(flat) == {"listens": 3, "multi_event": 7}.get(part, 1)


def test_yambda_multi_event_prefers_its_file(tmp_path: Path) -> None:
    folder = yambda_folder(tmp_path)
    kinds = pl.Enum(["listen", "dislike", "like", "undislike", "unlike"])
    joined = pl.DataFrame(
        {
            "uid": [100, 100],
            "timestamp": [0, 50],
            "item_id": [11, 11],
            "is_organic": [1, 1],
            "played_ratio_pct": [100, None],
            "track_length_seconds": [180, None],
            "event_type": pl.Series(["listen", "like"], dtype=kinds),
        },
        schema_overrides=LISTEN,
    )
    joined.write_parquet(folder / "flat" / "50m" / "multi_event.parquet")
    made = datasets.yambda(folder, part="multi_event", listen_plus=True, on_mismatch="ignore")
    assert [(r["event"], r["value"]) for r in rows(made)] == [("listen", 1.0), ("like", None)]
    assert made.log.event_names == ("like", "listen")


def test_yambda_embeddings_come_as_a_matrix(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    pl.DataFrame(
        {
            "item_id": pl.Series([3, 1, 2], dtype=pl.UInt32),
            "embed": vectors,
            "normalized_embed": (vectors / 2).tolist(),
        }
    ).write_parquet(tmp_path / "embeddings.parquet")
    ids, matrix = datasets.yambda_embeddings(tmp_path, item_ids=pl.Series([3, 2, 99]))
    assert ids.tolist() == [2, 3]
    assert np.array_equal(matrix, vectors[[2, 0]] / 2)
    ids, matrix = datasets.yambda_embeddings(tmp_path, normalized=False)
    assert np.array_equal(matrix, vectors[[1, 2, 0]])


def test_yambda_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"listens\.parquet is not there.*huggingface"):
        datasets.yambda(tmp_path)
    with pytest.raises(InputError, match=r"embeddings\.parquet is not there"):
        datasets.yambda_embeddings(tmp_path)
    with pytest.raises(InputError, match="part must be one of listens"):
        datasets.yambda(tmp_path, part="skips")


# --- anything else ------------------------------------------------------------


def test_generic_reads_what_scan_log_reads(tmp_path: Path) -> None:
    put(
        tmp_path / "log.csv",
        "who,what,when\na,x,2024-05-01T10:00:00Z\na,x,2024-05-01T10:00:00Z\nb,y,2024-05-02T10:00:00Z\n",
    )
    made = datasets.generic(
        tmp_path / "log.csv",
        Columns(user_id="who", item_id="what", ts="when"),
        items=pl.DataFrame({"item_id": ["x"]}),
    )
    assert made.name == "log"
    assert made.log.n_rows() == 2
    assert made.dropped == {"duplicate": 1}
    assert made.found.rows == 3
