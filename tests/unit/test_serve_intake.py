"""What is refused before it reaches the state, and the sentence the sender reads."""

import json

import msgspec
import polars as pl
import pytest

from vitrina.errors import ConfigError
from vitrina.ids import Ids
from vitrina.serve.intake import Intake, Refused, canonical
from vitrina.serve.settings import Settings
from vitrina.serve.state import State

NOW = 1_700_000_000_000_000
FIRST = 1_600_000_000_000_000
HOUR = 3_600_000_000


@pytest.fixture
def state(tmp_path):
    opened = State(tmp_path / "events.db")
    yield opened
    opened.close()


@pytest.fixture
def intake(state):
    return Intake(
        state=state,
        users=Ids(pl.Series([1, 2, 3])),
        items=Ids(pl.Series(["a", "b"])),
        event_names=("buy", "view"),
        first_ts=FIRST,
        settings=Settings(extra_events=("impression",), max_id_length=40),
    )


def good(**more):
    return {"event_id": "e1", "user_id": 1, "item_id": "a", "event": "buy", "ts": NOW - HOUR} | more


def row(intake, content):
    encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
    return intake.row(msgspec.Raw(encoded), NOW)


def without(name):
    return {key: value for key, value in good().items() if key != name}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (without("event_id"), "event_id"),
        (without("user_id"), "user_id"),
        (without("item_id"), "item_id"),
        (without("event"), "event is missing; this log has: buy, view, impression"),
        (good(event="by"), "event 'by' is unknown; this log has: buy, view, impression"),
        (good(event_id=""), "event_id"),
        (good(event_id=7), "Expected `str`, got `int`"),
        (good(event_id="x" * 41), "event_id has 41 characters, at most 40"),
        (good(item_id="x" * 10_000), "item_id has 10000 characters"),
        (good(item_id=""), "item_id is empty"),
        (good(item_id=None), "item_id"),
        (good(item_id=True), "Expected `int | str`, got `bool`"),
        (good(item_id=1.5), "Expected `int | str`, got `float`"),
        (good(item_id=["a"]), "Expected `int | str`, got `array`"),
        (good(item_id="a\u0000"), "control character"),
        (good(item_id="a\u2028b"), "control character"),
        (good(user_id="ann"), "user_id 'ann' is not a 64-bit integer"),
        (good(user_id="007"), "user_id '007' is not a 64-bit integer"),
        (good(user_id="--7"), "not a 64-bit integer"),
        (good(user_id="٣"), "not a 64-bit integer"),
        (good(user_id=2**63), "not a 64-bit integer"),
        (good(user_id=10**30), "not a 64-bit integer"),
        (good(timestamp=1), "unknown field `timestamp`"),
        (good(ts=NOW // 1_000_000), "looks like seconds; give UTC microseconds"),
        (good(ts=NOW // 1_000), "looks like milliseconds"),
        (good(ts=NOW * 1_000), "looks like nanoseconds"),
        (good(ts=NOW // 86_400_000_000), "looks like days"),
        (good(ts=NOW + HOUR), "in the future; the server's clock says 2023-11-14T22:13:20"),
        (good(ts="2023-11-14T23:33:20Z"), "in the future"),
        (good(ts=FIRST - 1), "before the training log begins, 2020-09-13T12:26:40"),
        (good(ts=10**40), "is in the future"),
        (good(ts=-(10**30)), "before the training log begins"),
        (good(ts="2023-11-14 20:00:00"), "names no time zone"),
        (good(ts="yesterday"), "neither an integer nor RFC 3339"),
        (good(ts="0001-01-01T00:00:00+14:00"), "before the training log begins"),
        (good(ts=1.5), "ts"),
        (good(value="7"), "value"),
        (good(request_id="\u0007"), "request_id"),
        (b'{"event_id": "e1", "value": NaN}', "expected form"),
        (b'{"event_id": "e1", "user_id": 1, "item_id": "a", "value": 1e999}', "expected form|finite"),
        (b'{"event_id": "\\ud800", "user_id": 1, "item_id": "a"}', "expected form"),
        (b'{"event_id": "\xff", "user_id": 1, "item_id": "a"}', "expected form"),
        (b"[]", "expected form"),
        (b"7", "expected form"),
        (b"null", "expected form"),
        (b"[" * 100_000 + b"]" * 100_000, "expected form"),
    ],
)
def test_a_bad_event_is_refused_with_a_reason(intake, content, sentence):
    with pytest.raises(Refused, match=sentence) as told:
        row(intake, content)
    assert len(str(told.value)) < 300


def test_a_good_event_is_kept_as_sent(intake):
    kept = row(intake, good(user_id="-3", value=2.5, request_id="r", ts="2023-11-14T21:13:20+01:00"))
    assert kept[:7] == ("e1", "-3", "a", "buy", NOW - 2 * HOUR, 2.5, "r")
    assert not kept.stamped
    stamped = row(intake, without("ts"))
    assert (stamped.ts, stamped.stamped) == (NOW, True)
    assert row(intake, good(event="impression")).event == "impression"
    assert row(intake, good(item_id=5)).item_id == "5"
    assert row(intake, good(ts=NOW + 299_000_000)).ts == NOW + 299_000_000


def test_the_counts_of_a_receipt_add_up_and_rejections_keep_their_places(intake, state):
    events = [good(), good(event="no"), good(item_id="c", event_id="e2"), good(), good(item_id="b"), 5]
    receipt = intake.store([msgspec.Raw(json.dumps(one).encode()) for one in events], NOW)
    assert (receipt.accepted, receipt.duplicates, receipt.unknown_items) == (3, 1, 1)
    assert [one.index for one in receipt.rejected] == [1, 4, 5]
    assert receipt.accepted + len(receipt.rejected) == len(events)
    assert state.counts()["events"] == receipt.accepted - receipt.duplicates


def test_ids_of_either_kind_have_one_spelling():
    integers, texts = Ids(pl.Series([7])), Ids(pl.Series(["7"]))
    assert (
        canonical(7, integers)
        == canonical("7", integers)
        == canonical("7", texts)
        == canonical(7, texts)
        == "7"
    )
    assert canonical("-0", integers) == "0"
    assert canonical("+7", integers) is None
    assert canonical("", integers) is None
    assert canonical("07", texts) == "07"


@pytest.mark.parametrize(
    "wrong",
    [{"max_k": 0}, {"default_k": 600}, {"clock": "moon"}, {"durable": "no"}, {"n_threads": 0}, {"tail": 0}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        Settings(**wrong)
