"""What the pages show: cards, histories, funnels. Plain values; the templates only lay them out."""

import datetime
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from vitrina.feed import Feed
from vitrina.serve import wire
from vitrina.serve.service import FALLBACK, History, Service

N_HUES = 12
N_PATTERNS = 4
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Tile:
    """Stands in for a picture: a monogram on a colour that the item id decides."""

    letters: str
    hue: int
    pattern: int

    @classmethod
    def of(cls, item_id: int | str, title: str | None) -> "Tile":
        """Letters of the first two words of the title, else of the id."""
        words = WORD.findall(title or str(item_id)) or ["?"]
        letters = words[0][0] + words[1][0] if len(words) > 1 else words[0][:2]
        digest = zlib.crc32(str(item_id).encode("utf-8", "replace"))
        return cls(letters.upper(), digest % N_HUES, digest // N_HUES % N_PATTERNS)


@dataclass(frozen=True)
class Card:
    """One item on a page."""

    item_id: int | str
    title: str
    tile: Tile
    rank: int = 0
    score: float = 0.0
    share: int = 0
    """Score relative to the best of the list, percent."""
    source: str = ""
    change: str = ""
    """`new`, `+3` or `-1` against the feed before."""
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One stage of the funnel."""

    name: str
    kind: str
    n: int
    share: int
    ms: float


@dataclass
class Bench:
    """The whole feed page."""

    user: str | None
    """None for a visitor."""
    history: list[Card]
    n_history: int
    n_trained: int
    cards: list[Card]
    funnel: list[Bar]
    ms: float
    dropped: list[wire.Dropped]
    reasons: list[tuple[str, int]]
    failures: dict[str, str]
    known: bool
    fallback: bool
    unknown_items: list[int | str] = field(default_factory=list)
    said: str = ""
    """A sentence about what just happened."""


def card(service: Service, item_ix: int, note: str = "") -> Card:
    """An item by itself."""
    item_id, title = service.item_ids[item_ix], service.title(item_ix)
    return Card(item_id, readable(item_id, title), Tile.of(item_id, title), note=note)


def ranked_cards(items: Sequence[wire.Ranked], was: Sequence[str] = ()) -> list[Card]:
    """A feed as cards, with how each item moved since the feed before."""
    before = {item_id: rank for rank, item_id in enumerate(was, start=1)}
    best = max((abs(item.score) for item in items), default=0.0) or 1.0
    return [
        Card(
            item_id=item.item_id,
            title=readable(item.item_id, item.title),
            tile=Tile.of(item.item_id, item.title),
            rank=item.rank,
            score=item.score,
            share=round(100 * max(0.0, item.score) / best),
            source=item.source.removeprefix(FALLBACK),
            change=_change(before, str(item.item_id), item.rank),
            note="fallback" if item.source.startswith(FALLBACK) else "",
        )
        for item in items
    ]


def bench(service: Service, history: History, feed: Feed, *, user: str | None, was: Sequence[str]) -> Bench:
    """The feed page of one history."""
    answer = service.answer(history, feed, explain=True)
    dropped = list(answer.dropped) if isinstance(answer.dropped, list) else []
    latest = range(len(history.item_ix) - 1, max(-1, len(history.item_ix) - 61), -1)
    stamped = user is not None
    rows = [
        card(service, int(history.item_ix[at]), day(int(history.ts[at])) if stamped else "") for at in latest
    ]
    return Bench(
        user=user,
        history=rows,
        n_history=len(history.item_ix),
        n_trained=history.n_trained,
        cards=ranked_cards(answer.items, was),
        funnel=funnel(answer.stages),
        ms=max((stage.ms for stage in answer.stages if stage.name.startswith("source:")), default=0.0)
        + sum(stage.ms for stage in answer.stages if not stage.name.startswith("source:")),
        dropped=sorted(
            (msgspec.structs.replace(one, title=readable(one.item_id, one.title)) for one in dropped),
            key=lambda one: one.reason == "below the cut",
        ),
        reasons=Counter(one.reason for one in dropped).most_common(),
        failures=answer.failures,
        known=answer.known,
        fallback=answer.fallback,
        unknown_items=history.unknown_items,
    )


def readable(item_id: int | str, title: str | None) -> str:
    """A title for people: one that shouts is lowered, one that is missing names the item."""
    if not title:
        return f"Item {item_id}"
    shouted = sum(letter.isupper() for letter in title) > sum(letter.islower() for letter in title) + 3
    return title.capitalize() if shouted else title


def funnel(stages: Sequence[wire.StageCount]) -> list[Bar]:
    """Stages with the share of the largest, so that their bars can be compared."""
    most = max((stage.n_candidates for stage in stages), default=0) or 1
    bars = []
    for stage in stages:
        kind, _, name = stage.name.partition(":")
        share = max(1, round(100 * stage.n_candidates / most)) if stage.n_candidates else 0
        bars.append(Bar(name or kind, kind, stage.n_candidates, share, stage.ms))
    return bars


def short(score: float) -> str:
    """A score in three digits: 0.0325, 12.5, 1,490."""
    return f"{score:,.0f}" if abs(score) >= 100 else f"{score:.3g}"


def day(ts: int) -> str:
    """A time as a date, for people."""
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        return (epoch + datetime.timedelta(microseconds=ts)).strftime("%d %b %Y")
    except OverflowError:
        return str(ts)


def spark(values: Sequence[float], width: int = 120, height: int = 28) -> str:
    """Points of an SVG polyline through the values."""
    if len(values) < 2:
        return ""
    top = max(values) or 1.0
    step = width / (len(values) - 1)
    return " ".join(
        f"{at * step:.1f},{height - 2 - value / top * (height - 4):.1f}" for at, value in enumerate(values)
    )


def _change(before: dict[str, int], item_id: str, rank: int) -> str:
    if not before:
        return ""
    if item_id not in before:
        return "new"
    moved = before[item_id] - rank
    return f"{moved:+d}" if moved else ""
