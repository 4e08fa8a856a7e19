"""A log in an object store, read over S3's protocol and over plain HTTP, as from disk."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from object_store import KEY_ID, REGION, SECRET, object_store, signature

from vitrina.errors import LogError
from vitrina.log import scan_log
from vitrina.recipes import inspection

DAY = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)


Asked = list[tuple[str, str, int]]


def events(n_rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    at = pl.Series("ts", DAY.timestamp() * 1e6 + rng.integers(0, 30 * 86_400_000_000, n_rows))
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 50, n_rows),
            "item_id": [f"i{at}" for at in rng.integers(0, 90, n_rows)],
            "ts": at.cast(pl.Int64).cast(pl.Datetime("us", "UTC")),
        }
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Asked]]:
    """One server for all tests: polars keeps its client of a store for as long as the process lives."""
    root = tmp_path_factory.mktemp("store")
    with object_store(root) as (address, asked):
        yield root, address, asked


@pytest.fixture
def bucket(server: tuple[Path, str, Asked], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket that no other test has asked for, and the environment that opens it."""
    root, address, asked = server
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    asked.clear()
    made = root / f"bucket-{len(list(root.iterdir()))}"
    made.mkdir()
    return made


def url(place: Path) -> str:
    """The URL of an object."""
    bucket = next(part for part in place.parents if part.name.startswith("bucket-"))
    return f"s3://{bucket.name}/{place.relative_to(bucket)}"


def test_the_signature_is_that_of_the_published_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """GET Object of the page "Signature Calculations: Transferring Payload in a Single Chunk"."""
    monkeypatch.setattr("object_store.REGION", "us-east-1")
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
    }
    found = signature("GET", "/test.txt", [], headers, "20130524", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    assert found == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_a_parquet_in_a_store_is_the_log_on_disk_and_is_read_in_ranges(
    bucket: Path, server: tuple[Path, str, Asked]
) -> None:
    file = bucket / "log.parquet"
    events(200_000, 0).write_parquet(file, row_group_size=20_000)
    assert scan_log(url(file)).digest == scan_log(file).digest
    sizes = [size for _, _, size in server[2]]
    assert sizes
    assert max(sizes) < file.stat().st_size


def test_a_folder_and_a_pattern_in_a_store_are_all_their_files(bucket: Path) -> None:
    for at in range(5):
        (bucket / "days" / f"day={at}").mkdir(parents=True)
        events(300, at).write_parquet(bucket / "days" / f"day={at}" / "part.parquet")
    on_disk = scan_log(bucket / "days", duplicates="keep")
    assert on_disk.n_rows() == 1_500
    assert scan_log(url(bucket / "days") + "/", duplicates="keep").digest == on_disk.digest
    pattern = url(bucket / "days") + "/**/*.parquet"
    assert scan_log(pattern, duplicates="keep").digest == on_disk.digest


def test_rows_of_a_store_are_set_aside_with_their_place(bucket: Path, tmp_path: Path) -> None:
    file = bucket / "log.parquet"
    spoilt = pl.when(pl.int_range(100) != 41).then("user_id")
    events(100, 1).with_columns(user_id=spoilt).write_parquet(file)
    with pytest.raises(LogError, match=rf"null_user_id: row 41 of {url(file)}"):
        scan_log(url(file))
    aside = tmp_path / "aside.parquet"
    log = scan_log(url(file), mode="quarantine", quarantine_path=aside)
    assert log.report.set_aside == {"null_user_id": 1}
    assert pl.read_parquet(aside).select("file", "row").rows() == [(url(file), 41)]


def test_csv_in_a_store_is_the_log_on_disk(bucket: Path) -> None:
    file = bucket / "log.csv"
    events(3_000, 2).write_csv(file)
    assert scan_log(url(file)).digest == scan_log(file).digest


def test_ndjson_in_a_store_is_the_log_on_disk_faults_and_all(bucket: Path, tmp_path: Path) -> None:
    (bucket / "days").mkdir()
    files = [bucket / "days" / f"{at}.ndjson" for at in range(3)]
    for at, file in enumerate(files):
        events(1_000, at).write_ndjson(file)
    files[1].write_bytes(files[1].read_bytes()[:-9])
    asides = [tmp_path / "disk.parquet", tmp_path / "store.parquet"]
    places = [str(bucket / "days" / "*.ndjson"), url(bucket / "days" / "*.ndjson")]
    found = [
        scan_log(place, mode="quarantine", quarantine_path=aside, duplicates="keep")
        for place, aside in zip(places, asides, strict=True)
    ]
    assert found[0].digest == found[1].digest
    assert pl.read_parquet(asides[1]).select("file", "row", "reason").rows() == [
        (url(files[1]), 999, "line_not_a_json_object")
    ]
    with pytest.raises(LogError, match=rf"line_not_a_json_object: row 999 of {url(files[1])}"):
        scan_log(url(files[1]))


def test_a_log_over_plain_http_is_the_log_on_disk(server: tuple[Path, str, Asked]) -> None:
    root, address, _ = server
    (root / "public").mkdir()
    file = root / "public" / "log.parquet"
    events(2_000, 3).write_parquet(file)
    assert scan_log(f"{address}/public/log.parquet").digest == scan_log(file).digest


def test_a_configuration_names_a_store_and_the_environment_opens_it(bucket: Path, tmp_path: Path) -> None:
    events(2_000, 4).write_parquet(bucket / "log.parquet")
    config = tmp_path / "run.toml"
    config.write_text(f'[data]\npath = "{url(bucket / "log.parquet")}"\n')
    assert inspection.inspect(str(config))["rows"] == 2_000


def test_what_a_store_lacks_or_refuses_is_one_sentence(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LogError) as caught:
        scan_log(url(bucket / "none.parquet"))
    assert str(caught.value).startswith(f"{url(bucket / 'none.parquet')} does not exist")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    other = bucket.with_name(bucket.name + "-locked")
    other.mkdir()
    events(50, 5).write_parquet(other / "log.parquet")
    with pytest.raises(LogError) as caught:
        scan_log(f"s3://{other.name}/log.parquet")
    assert str(caught.value).startswith(f"s3://{other.name}/log.parquet was refused by the store (")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    assert "\n" not in str(caught.value)
