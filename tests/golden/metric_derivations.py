"""Accuracy metrics by hand: our definition in plain Python, and what turns it into another library's.

Nothing here imports vitrina: it is the second opinion. Each change is the whole difference that its name
says; a library is a set of changes for each metric, the same for all worked lists.
"""

from math import log2
from typing import Any

CHANGES = {
    "idcg of k": "the ideal list has k hits, however few targets there are",
    "map over targets": "average precision is divided by all targets, also beyond k",
    "joined": "list and targets are joined: a duplicate counts each time, in hits and in targets",
    "each place": "every place that holds a target is a hit, a repeated item too",
    "targets as given": "a repeated target counts each time in the ideal list and in the divisor",
    "list without repeats": "the input cannot repeat an item, so what follows a repeat moves up",
    "no targets is 0": "a user without a target is included, with 0",
    "ties as given": "equal scores keep the order of the list",
    "ties averaged": "tied items share the mean gain of their places",
    "all items ranked": "items outside the list are ranked behind it, all tied",
    "no cut": "average precision is summed over every distinct score, not over k places",
    "over the list": "precision is divided by the length of the list",
}

_RECTOOLS = {"joined", "ties as given"}
_REPLAY = {"no targets is 0", "ties as given"}
_REPLAY_PLACES = {"each place", "targets as given", *_REPLAY}
_RANX = {"list without repeats", "no targets is 0", "ties as given"}
_SKLEARN = {"list without repeats", "no targets is 0"}
PEERS: dict[str, dict[str, set[str]]] = {
    "rectools": {
        "ndcg": {"idcg of k", *_RECTOOLS},
        "ndcg, divide_by_achievable": _RECTOOLS,
        "recall": _RECTOOLS,
        "hitrate": _RECTOOLS,
        "precision": _RECTOOLS,
        "map": {"map over targets", *_RECTOOLS},
        "mrr": _RECTOOLS,
    },
    "replay": {
        "ndcg": _REPLAY_PLACES,
        "recall": _REPLAY,
        "hitrate": _REPLAY,
        "precision": _REPLAY,
        "map": _REPLAY_PLACES,
        "mrr": _REPLAY,
    },
    "ranx": {
        "ndcg": _RANX,
        "recall": _RANX,
        "hitrate": _RANX,
        "precision": _RANX,
        "map": {"map over targets", *_RANX},
        "mrr": _RANX,
    },
    "sklearn": {
        "ndcg": {"ties averaged", "all items ranked", *_SKLEARN},
        "recall": {"ties as given", *_SKLEARN},
        "precision": {"over the list", "ties as given", *_SKLEARN},
        "map": {"no cut", "all items ranked", *_SKLEARN},
    },
}
"""Library -> metric -> changes."""


def derive(metric: str, case: dict[str, Any], n_items: int, changes: set[str] | None = None) -> float:
    """Mean over users of one metric; without changes, as we define it."""
    values = [_user(metric, user, case["k"], n_items, changes or set()) for user in case["users"]]
    kept = [value for value in values if value is not None]
    return sum(kept) / len(kept)


def active(metric: str, case: dict[str, Any], n_items: int, changes: set[str]) -> list[str]:
    """A least set of changes that gives the same value for this list, in the order of CHANGES."""
    target = derive(metric, case, n_items, changes)
    kept = set(changes)
    for change in reversed(CHANGES):
        if change in kept and abs(derive(metric, case, n_items, kept - {change}) - target) < 1e-12:
            kept.remove(change)
    return [change for change in CHANGES if change in kept]


def _user(metric: str, user: dict[str, Any], k: int, n_items: int, changes: set[str]) -> float | None:
    metric = metric.split(",")[0]
    truth = user["truth"] if changes & {"joined", "targets as given"} else list(dict.fromkeys(user["truth"]))
    if not truth:
        return 0.0 if "no targets is 0" in changes else None
    gains, n_listed = _gains(user, set(truth) if "joined" not in changes else truth, k, n_items, changes)
    n_targets = len(truth)
    if "joined" in changes:
        n_targets = sum(max(1, user["list"].count(t)) for t in truth)
    discount = [1 / log2(rank + 1) for rank in range(1, max(k, n_targets, len(gains)) + 1)]
    hits = sum(gains[:k])
    first = next((place for place, gain in enumerate(gains[:k]) if gain), None)
    if metric == "ndcg":
        n_ideal = k if "idcg of k" in changes else min(n_targets, k)
        return sum(g * d for g, d in zip(gains[:k], discount, strict=False)) / sum(discount[:n_ideal])
    if metric == "map":
        if "no cut" in changes:
            return _area(user, truth, n_items, changes)
        divisor = n_targets if "map over targets" in changes else min(n_targets, k)
        return sum(sum(gains[: r + 1]) / (r + 1) for r in range(min(k, len(gains))) if gains[r]) / divisor
    if metric == "recall":
        return hits / n_targets
    if metric == "precision":
        return hits / (n_listed if "over the list" in changes and n_listed else k)
    if metric == "hitrate":
        return float(hits > 0)
    return 0.0 if first is None else 1 / (first + 1)


def _gains(
    user: dict[str, Any], truth: Any, k: int, n_items: int, changes: set[str]
) -> tuple[list[float], int]:
    """Gain of each place, and how many of the first k places are filled."""
    if "ties averaged" in changes:
        gains = []
        for group in _groups(user, n_items, changes):
            gains += [sum(i in truth for i in group) / len(group)] * len(group)
        return gains, min(k, len(user["list"]))
    items, scores = _ranked(user, changes)
    gains = []
    for at, i in enumerate(items):
        again = i in items[:at] and not changes & {"each place", "joined"}
        n_met = truth.count(i) if "joined" in changes else int(i in truth)
        gains.append(0.0 if again else float(n_met))
    if scores and "ties as given" not in changes:
        gains = _sunk(gains, scores)
    return gains, min(k, len(items))


def _ranked(user: dict[str, Any], changes: set[str]) -> tuple[list[int], list[float]]:
    items, scores = user["list"], user.get("scores", [])
    if "list without repeats" in changes:
        items = list(dict.fromkeys(items))
    return items, scores


def _sunk(gains: list[float], scores: list[float]) -> list[float]:
    """Hits of a run of equal scores go to its end; a run of two or more that ends the list has none."""
    out: list[float] = []
    for score in dict.fromkeys(scores):
        run = [g for g, s in zip(gains, scores, strict=True) if s == score]
        is_open = len(run) > 1 and scores[-1] == score
        out += [0.0] * len(run) if is_open else sorted(run)
    return out


def _groups(user: dict[str, Any], n_items: int, changes: set[str]) -> list[list[int]]:
    """Items of equal score, best first; where all are ranked, those outside the list together at the end."""
    items, scores = _ranked(user, changes)
    scores = scores or [float(-place) for place in range(len(items))]
    groups = [
        [i for i, s in zip(items, scores, strict=True) if s == score] for score in dict.fromkeys(scores)
    ]
    if "all items ranked" in changes:
        groups.append([i for i in range(n_items + 1) if i not in items])  # one number beyond: the cold target
    return groups


def _area(user: dict[str, Any], truth: list[int], n_items: int, changes: set[str]) -> float:
    """Sum over distinct scores of (recall gained) x (precision so far)."""
    total, n_seen, n_hit = 0.0, 0, 0
    for group in _groups(user, n_items, changes):
        found = sum(i in truth for i in group)
        n_seen, n_hit = n_seen + len(group), n_hit + found
        total += found / len(truth) * n_hit / n_seen
    return total
