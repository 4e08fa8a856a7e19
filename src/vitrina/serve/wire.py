"""What goes over the wire, once: msgspec structs decode, encode and describe it in OpenAPI."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = int | str
"""Integer or string, as in the training log; `7` and `"7"` name the same user of an integer log."""

Text = Annotated[str, Meta(min_length=1)]


class Event(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that a user did to an item."""

    event_id: Annotated[str, Meta(min_length=1, description="Chosen by the sender; a repeat is stored once.")]
    user_id: Annotated[Id, Meta(description="Any id of the log's kind; new users are welcome.")]
    item_id: Annotated[Id, Meta(description="Unknown items are stored and come alive after retraining.")]
    ts: Annotated[
        int | str | None,
        Meta(description="UTC microseconds, or RFC 3339 text with a zone; left out: time of arrival."),
    ] = None
    event: Annotated[
        str | None, Meta(description="Name of the event; may be left out where the log has one kind.")
    ] = None
    value: Annotated[float | None, Meta(description="Rating, price, seconds watched; stored as it is.")] = (
        None
    )
    request_id: Annotated[
        str | None, Meta(description="request_id of the feed that led to this; joins feeds to outcomes.")
    ] = None


class EventBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Events, each judged by itself."""

    events: list[Event]


class RawBatch(msgspec.Struct, forbid_unknown_fields=True):
    """The same with events left undecoded, so that one bad event does not spoil the others."""

    events: list[msgspec.Raw]


class Rejected(msgspec.Struct):
    """An event that was not stored."""

    index: int
    reason: str


class Receipt(msgspec.Struct):
    """What became of a batch; the counts add up: accepted + len(rejected) = events sent."""

    accepted: Annotated[int, Meta(description="Stored by now, the duplicates among them.")]
    duplicates: Annotated[int, Meta(description="Accepted events that were stored before.")]
    unknown_items: Annotated[int, Meta(description="Accepted events whose item the model does not know.")]
    rejected: list[Rejected]


class Session(msgspec.Struct, forbid_unknown_fields=True):
    """What an anonymous visitor did, oldest first."""

    items: list[Id]
    k: Annotated[int, Meta(ge=1)] | None = None
    explain: bool = False


class Ranked(msgspec.Struct, omit_defaults=True):
    """One item of an answer."""

    item_id: Id
    rank: Annotated[int, Meta(description="From 1.")]
    score: Annotated[float, Meta(description="Comparable within one answer and source.")]
    source: Annotated[str, Meta(description="Candidate source that found it.")]
    title: str | None = None


class Dropped(msgspec.Struct, omit_defaults=True):
    """A candidate that did not make it."""

    item_id: Id
    score: float
    source: str
    reason: Annotated[str, Meta(description="Policy that removed it, or `below the cut`.")]
    title: str | None = None


class StageCount(msgspec.Struct):
    """One stage of the pipeline."""

    name: str
    n_candidates: Annotated[int, Meta(description="Candidates that stood after it.")]
    ms: float


class Answer(msgspec.Struct, omit_defaults=True):
    """A feed and how it came about."""

    request_id: str
    model: Annotated[str, Meta(description="Digest of the model that answered.")]
    known: Annotated[bool, Meta(description="False for a user with neither training history nor events.")]
    fallback: Annotated[bool, Meta(description="True if every item came from the fallback.")]
    n_history: Annotated[int, Meta(description="Events that shaped the feed.")]
    items: list[Ranked]
    stages: list[StageCount]
    failures: Annotated[dict[str, str], Meta(description="Parts that contributed nothing: name, reason.")]
    user_id: Id | UnsetType = UNSET
    unknown_items: Annotated[list[Id], Meta(description="Items of the history the model does not know.")] = []
    dropped: list[Dropped] | UnsetType = UNSET


class Neighbours(msgspec.Struct, omit_defaults=True):
    """Items similar to one."""

    item_id: Id
    model: str
    source: str
    items: list[Ranked]
    title: str | None = None


class Problem(msgspec.Struct):
    """An error (RFC 9457): what happened, in one sentence."""

    title: str
    status: int
    detail: str


class Health(msgspec.Struct):
    """Whether the server can answer."""

    status: str


STRUCTS = (EventBatch, Receipt, Session, Answer, Neighbours, Problem, Health)

encode = msgspec.json.Encoder().encode
decode_batch = msgspec.json.Decoder(RawBatch).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_session = msgspec.json.Decoder(Session).decode


def schemas() -> dict[str, Any]:
    """JSON schemas of every struct, for `components/schemas`."""
    _, components = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    return components
