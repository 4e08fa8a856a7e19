"""A malformed line of NDJSON is one row with a fault: set aside in quarantine mode, named in strict mode."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina.errors import LogError
from vitrina.log import Columns, EventLog, ndjson, scan_log

NOT_AN_OBJECT, OTHER_TYPES = ndjson.NOT_AN_OBJECT, ndjson.OTHER_TYPES


def line(at: int, **more: object) -> str:
    event = {"user_id": at % 5, "item_id": f"i{at}", "ts": f"2024-05-{at % 28 + 1:02d}T00:00:00Z"}
    return json.dumps(event | more, ensure_ascii=False)


def put(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_bytes(("\n".join(lines) + end).encode())
    return path


def quarantined(path: Path, **more: object) -> tuple[EventLog, pl.DataFrame]:
    aside = path.parent / "aside" / "aside.parquet"
    log = scan_log(path, mode="quarantine", quarantine_path=aside, **more)  # type: ignore[arg-type]
    return log, pl.read_parquet(aside)


BAD = {
    "words": "not json",
    "cut_short": line(3)[:-7],
    "a_list": "[1, 2]",
    "a_number": "5",
    "null": "null",
    "two_objects": line(3) + " " + line(4),
    "a_comma": line(3) + ",",
    "nan": line(3, value=float("nan")),
    "single_quotes": "{'user_id': 1}",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_line_is_set_aside_with_its_file_row_reason_and_text(kind: str, tmp_path: Path) -> None:
    path = put(tmp_path / "log.ndjson", [line(0), line(1), BAD[kind], line(2)])
    log, aside = quarantined(path)
    assert log.report.set_aside == {NOT_AN_OBJECT: 1}
    assert (log.report.rows_in, log.report.rows_kept, log.n_rows()) == (4, 3, 3)
    assert aside.select("file", "row", "reason", "line").rows() == [(str(path), 2, NOT_AN_OBJECT, BAD[kind])]
    assert log.frame.collect()["item_id"].to_list() == ["i0", "i1", "i2"]


@pytest.mark.parametrize("kind", BAD)
def test_strict_mode_names_the_file_and_the_row_of_a_malformed_line(kind: str, tmp_path: Path) -> None:
    path = put(tmp_path / "log.ndjson", [line(0), line(1), BAD[kind], line(2)])
    with pytest.raises(LogError) as caught:
        scan_log(path)
    assert f"{NOT_AN_OBJECT}: row 2 of {path} (" in str(caught.value)
    assert repr(BAD[kind][:60].strip()) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_a_last_line_cut_short_is_set_aside(packed: bool, tmp_path: Path) -> None:
    whole = "\n".join(line(at) for at in range(50)).encode()
    path = tmp_path / ("log.ndjson.gz" if packed else "log.ndjson")
    path.write_bytes(gzip.compress(whole[:-20]) if packed else whole[:-20])
    log, aside = quarantined(path)
    assert (log.n_rows(), aside["row"].to_list(), aside["reason"].to_list()) == (49, [49], [NOT_AN_OBJECT])
    with pytest.raises(LogError, match=rf"row 49 of {path}"):
        scan_log(path)


def test_bytes_that_are_not_utf8_are_a_malformed_line(tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(f"{line(0)}\n".encode() + line(1).encode().replace(b"i1", b"i\xc3") + b"\n")
    log, aside = quarantined(path)
    assert (log.n_rows(), aside["row"].to_list()) == (1, [1])


def test_rows_are_counted_within_their_file_and_blank_lines_are_none(tmp_path: Path) -> None:
    put(tmp_path / "a.ndjson", [line(0), "", "  \t", line(1)])
    put(tmp_path / "b.ndjson", [line(2), "", "oops", line(3)])
    log, aside = quarantined(tmp_path)
    assert log.n_rows() == 4
    assert aside.select("file", "row").rows() == [(str(tmp_path / "b.ndjson"), 1)]


def test_malformed_lines_stand_beside_rows_that_break_other_rules(tmp_path: Path) -> None:
    lines = ["oops", line(0), line(1, user_id=None), line(2), line(2), line(3)[:9]]
    log, aside = quarantined(put(tmp_path / "log.ndjson", lines))
    assert log.report.set_aside == {NOT_AN_OBJECT: 2, "null_user_id": 1, "duplicate": 1}
    told = aside.sort("row").select("row", "reason", "line").rows()
    assert told == [
        (0, NOT_AN_OBJECT, "oops"),
        (2, "null_user_id", None),
        (4, "duplicate", None),
        (5, NOT_AN_OBJECT, line(3)[:9]),
    ]


def test_a_malformed_line_is_not_taken_for_a_filtered_row(tmp_path: Path) -> None:
    path = put(tmp_path / "log.ndjson", [line(0), "oops", line(1)])
    log, aside = quarantined(path, filter=pl.col("item_id") != "i1")
    assert log.report.set_aside == {NOT_AN_OBJECT: 1, "filtered": 1}
    assert len(aside) == 1


def test_columns_that_are_not_used_may_change_their_type(tmp_path: Path) -> None:
    lines = [line(at, extra=at) for at in range(1_100)] + [line(7, extra={"a": [1]}), line(8, extra="x")]
    log, aside = quarantined(put(tmp_path / "log.ndjson", lines), duplicates="keep")
    assert (log.n_rows(), len(aside)) == (1_102, 0)


def test_a_context_column_of_another_type_is_set_aside_and_not_made_null(tmp_path: Path) -> None:
    lines = [line(at, price=at + 0.5) for at in range(1_100)] + [line(5, price="cheap")]
    path, columns = put(tmp_path / "log.ndjson", lines), Columns(context=("price",))
    log, aside = quarantined(path, columns=columns)
    assert log.report.set_aside == {OTHER_TYPES: 1}
    assert aside.select("row", "line").rows() == [(1_100, lines[-1])]
    assert log.frame.collect()["price"].null_count() == 0
    with pytest.raises(LogError, match=rf"{OTHER_TYPES}: row 1100 of {path}"):
        scan_log(path, columns)


def test_a_raw_column_called_line_keeps_its_name(tmp_path: Path) -> None:
    _, aside = quarantined(put(tmp_path / "log.ndjson", [line(0, line="x"), "oops", line(1, line="y")]))
    assert (aside["line"].to_list(), aside["__line"].to_list()) == ([None], ["oops"])


def test_a_file_without_one_object_says_what_it_begins_with(tmp_path: Path) -> None:
    path = put(tmp_path / "log.ndjson", [json.dumps([json.loads(line(0))], indent=1)])
    with pytest.raises(LogError, match=r"has no JSON object in its first 7 lines, the first being '\['"):
        scan_log(path)
    for empty in ("", "\n \n"):
        path.write_text(empty)
        with pytest.raises(LogError, match="is empty"):
            scan_log(path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + line(0).encode())
    assert scan_log(path).n_rows() == 1


def test_a_line_beyond_the_limit_is_cut_so_that_memory_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "PIECE_BYTES", 100)
    monkeypatch.setattr(ndjson, "MAX_LINE_BYTES", 1_000)
    path = put(tmp_path / "log.ndjson", [line(0), line(1, extra="x" * 5_000), line(2)])
    log, aside = quarantined(path)
    assert (log.n_rows(), aside["row"].to_list()) == (2, [1])
    assert 1_000 <= len(aside["line"][0]) <= 1_200


@pytest.mark.parametrize(("piece", "seed"), [(1_000, 0), (2_500, 1), (1 << 23, 2)])
def test_faults_are_those_of_every_line_alone_wherever_pieces_end(
    piece: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "PIECE_BYTES", piece)
    rng = np.random.default_rng(seed)
    lines = [line(at) for at in range(300)]
    for at in rng.choice(np.arange(1, 300), 40, replace=False):
        lines[at] = [*BAD.values(), "", lines[at] + "\r"][rng.integers(len(BAD) + 2)]
    counted = [one for one in lines if one.strip()]
    faulty = [at for at, one in enumerate(counted) if one in BAD.values()]
    log, aside = quarantined(put(tmp_path / "log.ndjson", lines, end=""), duplicates="keep")
    assert aside["row"].to_list() == faulty
    assert log.n_rows() == len(counted) - len(faulty)


def test_a_clean_file_reads_as_polars_reads_it(tmp_path: Path) -> None:
    path = put(tmp_path / "log.ndjson", [line(at, price=at / 8) for at in range(3_000)])
    columns = Columns(context=("price",))
    ours = scan_log(path, columns, duplicates="keep")
    theirs = EventLog.from_frame(pl.read_ndjson(path), columns, duplicates="keep")
    assert ours.digest == theirs.digest
    assert ours.frame.head(7).collect().equals(ours.frame.collect().head(7))
