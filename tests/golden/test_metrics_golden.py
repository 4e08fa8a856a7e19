"""The golden table: our values against derivations, other libraries' against the stated differences."""

import json
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metric_derivations import CHANGES, PEERS, active, derive

from vitrina.metrics import Context, TargetLists, compute, one_hot

HERE = Path(__file__).parent
WORLD = json.loads((HERE / "metrics_worked_lists.json").read_text())
GOLDEN = json.loads((HERE / "metrics_golden.json").read_text())
METRICS = ("ndcg", "recall", "hitrate", "precision", "map", "mrr")
LISTS = {case["name"]: case for case in WORLD["lists"]}
DOCS = HERE.parents[1] / "docs" / "conventions.md"


def padded(users: list[dict[str, Any]], field: str, pad: float) -> np.ndarray:
    width = max(len(user["list"]) for user in users)
    return np.array([user[field] + [pad] * (width - len(user[field])) for user in users])


def ours(case: dict[str, Any]) -> dict[str, float]:
    users = case["users"]
    scores = padded(users, "scores", -np.inf) if "scores" in users[0] else None
    truth = TargetLists.of([user["truth"] for user in users])
    asked = [f"{metric}@{case['k']}" for metric in METRICS]
    found = compute(asked, padded(users, "list", -1), truth, score_BK=scores).values
    return {name.partition("@")[0]: value for name, value in found.items()}


@pytest.mark.parametrize("name", LISTS)
def test_our_value_of_a_worked_list_is_the_derived_one(name):
    for metric, value in ours(LISTS[name]).items():
        assert value == pytest.approx(derive(metric, LISTS[name], WORLD["n_items"]), abs=1e-12), metric


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("peer", PEERS)
def test_the_stated_differences_turn_our_definition_into_the_peers_value(peer, name):
    theirs = GOLDEN[peer]["lists"][name]
    assert theirs.keys() == PEERS[peer].keys()
    for metric, value in theirs.items():
        derived = derive(metric, LISTS[name], WORLD["n_items"], PEERS[peer][metric])
        assert value == pytest.approx(derived, abs=1e-9), metric


def test_every_stated_difference_is_seen_in_some_worked_list():
    seen = {
        change
        for peer, metrics in PEERS.items()
        for metric, changes in metrics.items()
        for case in LISTS.values()
        for change in active(metric, case, WORLD["n_items"], changes)
    }
    assert seen == set(CHANGES)


def test_worked_lists_have_the_values_of_hand_arithmetic():
    two_of_three = ours(LISTS["two of three found"])  # [3, 1, 7, 2, 9] for {1, 2, 5}: hits at 2 and 4
    assert two_of_three["ndcg"] == pytest.approx((1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / 2))
    assert two_of_three["map"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert (two_of_three["recall"], two_of_three["precision"]) == pytest.approx((2 / 3, 2 / 5))
    assert two_of_three["mrr"] == 0.5
    short = ours(LISTS["three returned, all hits, five wanted"])
    ideal = [1 / log2(r + 1) for r in range(1, 6)]
    assert short["ndcg"] == pytest.approx(sum(ideal[:3]) / sum(ideal))
    assert short["ndcg"] == pytest.approx(0.7227265726)
    many = ours(LISTS["more targets than places"])  # [4, 9, 5] for five targets: hits at 1 and 3
    assert many["map"] == pytest.approx((1 + 2 / 3) / 3)
    assert many["recall"] == pytest.approx(2 / 5)
    assert ours(LISTS["a cold target"])["recall"] == 0.5
    assert set(ours(LISTS["all scores equal"]).values()) == {0.0}
    assert ours(LISTS["one of two users without a list"])["hitrate"] == 0.5
    assert ours(LISTS["one of two users without a target"])["hitrate"] == 1.0


def test_beyond_accuracy_values_differ_from_the_peers_by_the_stated_formula():
    shown = WORLD["shown"]
    users, train, k, n_items = shown["users"], shown["train"], shown["k"], WORLD["n_items"]
    lists = [user["list"] for user in users]
    n_users = np.array([sum(i in items for items in train) for i in range(n_items)])
    category = np.array(shown["category"])
    context = Context(n_items, n_users, one_hot(category.astype(np.int32)))
    truth = TargetLists.of([user["truth"] for user in users])
    names = [f"{label}@{k}" for label in ("coverage", "gini", "novelty", "ild", "poplift")]
    value = compute(names, padded(users, "list", -1), truth, context).values

    def mean(of):
        return np.mean([of(items) for items in lists])

    assert value["coverage@3"] == pytest.approx(5 / 12)
    assert GOLDEN["rectools"]["shown"]["coverage"] == pytest.approx(5 / 12)
    assert GOLDEN["replay"]["shown"]["coverage"] == pytest.approx(
        5 / 12
    )  # over the items of train: here, all

    p = (n_users + 1) / (n_users.sum() + n_items)
    assert value["novelty@3"] == pytest.approx(mean(lambda items: np.mean(-np.log2(p[items]))))
    share = n_users / len(train)  # unsmoothed share of users
    assert GOLDEN["rectools"]["shown"]["novelty"] == pytest.approx(
        mean(lambda items: np.mean(-np.log2(share[items])))
    )
    assert GOLDEN["replay"]["shown"]["novelty"] == pytest.approx(
        mean(lambda items: sum(-np.log2(share[items]) / np.log2(len(train))) / k)
    )

    def ild(items):
        pairs = [(i, j) for i in items for j in items if i < j]
        return np.mean([category[i] != category[j] for i, j in pairs])

    assert value["ild@3"] == pytest.approx(mean(ild))
    assert GOLDEN["rectools"]["shown"]["ild"] == pytest.approx(mean(ild))
    assert GOLDEN["replay"]["shown"]["ild"] == pytest.approx(
        mean(lambda items: len(set(category[items])) / k)
    )

    shown_count = mean(lambda items: n_users[items].mean())
    taken_count = np.mean([n_users[user["truth"]].mean() for user in users])
    assert value["poplift@3"] == pytest.approx(shown_count / taken_count)
    assert GOLDEN["rectools"]["shown"]["poplift"] == pytest.approx(shown_count)  # the numerator alone

    exposure = sorted(np.bincount(np.concatenate(lists), minlength=n_items))
    differences = sum(abs(a - b) for a in exposure for b in exposure)
    assert value["gini@3"] == pytest.approx(differences / (2 * n_items * sum(exposure)))


def golden_table() -> str:
    """The table of docs/conventions.md."""
    letters = {change: chr(ord("a") + at) for at, change in enumerate(CHANGES)}
    columns = [("RecTools", "rectools"), ("RePlay", "replay"), ("ranx", "ranx"), ("scikit-learn", "sklearn")]
    head = [f"{title} {GOLDEN[peer]['version']}" for title, peer in columns]
    rows = [f"| list | metric | Vitrina | {' | '.join(head)} |", f"|---|---|---|{'---|' * len(columns)}"]
    for name, case in LISTS.items():
        for metric, value in ours(case).items():
            cells = []
            for _, peer in columns:
                theirs = GOLDEN[peer]["lists"][name].get(metric)
                changes = PEERS[peer].get(metric, set())
                if theirs is None:
                    cells.append("-")
                elif abs(theirs - value) < 1e-9:
                    cells.append(f"{theirs:.4f}")
                else:
                    why = "".join(letters[c] for c in active(metric, case, WORLD["n_items"], changes))
                    cells.append(f"**{theirs:.4f}** {why}")
            rows.append(f"| {name} | {metric}@{case['k']} | {value:.4f} | {' | '.join(cells)} |")
    reasons = [f"- **{letters[change]}** ({change}): {why}" for change, why in CHANGES.items()]
    return "\n".join([*rows, "", *reasons])


def test_the_docs_show_the_golden_table():
    table = golden_table()
    assert table in DOCS.read_text(), f"docs/conventions.md must hold this table:\n{table}"
