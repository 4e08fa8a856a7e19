"""What share of the best possible NDCG@10 each classical model reaches in worlds whose truth is known.

`python -m benchmarks known_truth` writes benchmarks/known_truth.json and the table in docs/datasets.md.
Models learn from what happened before 90 % of the time and are asked for the next event of users then. The
tuned parameters are the best of 16 settings (Optuna, the spaces of `vitrina tune`, the first as it comes) at
80 % of the time, asked of other users; for models with a seed the value is the mean over three.
"""

import datetime
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from benchmarks import harness
from vitrina.ann import Jagged
from vitrina.candidates import CANDIDATES, NEEDS_TORCH
from vitrina.datasets import World
from vitrina.log import Histories
from vitrina.recipes.build import parameters
from vitrina.recipes.config import ModelConfig
from vitrina.recipes.settings import space, start
from vitrina.recipes.spaces import suggest

ROWS = harness.HERE / "known_truth.json"
PAGE = harness.ROOT / "docs" / "datasets.md"
BEGIN, END = "<!-- known truth:start -->", "<!-- known truth:end -->"
K, N_TRIALS, N_SEEDS, N_USERS = 10, 16, 3, 400
CLASSICAL = [name for name in CANDIDATES if name not in NEEDS_TORCH]

WORLDS: dict[str, Callable[[], World]] = {
    "steady": lambda: World(
        n_users=800, n_items=400, n_events=80_000, days=60, seed=11, n_topics=8, n_slots=2,
        drift_days=100_000, half_life_days=100_000, frac_old_items=1.0, frac_late_users=0.0, p_repeat=0.0,
    ),
    "lively": lambda: World(n_users=1_500, n_items=1_500, n_events=150_000, days=90, seed=0),
}  # fmt: skip
VIEWS = [("steady", "new"), ("lively", "any"), ("lively", "new")]
"""World and which next event is asked for: any, or one on an item that the user had not taken."""


@dataclass
class Moment:
    """A moment of a world: what happened before it, and who is asked about the next event."""

    world: World
    at_s: float
    target: str
    train: Histories
    users: list[int]

    def share(self, model: Any) -> float:
        """Expected NDCG of a fitted model's lists over that of the best lists."""
        queries = self.train.of(pl.Series(self.users))
        exclude = Jagged(queries.offsets, queries.item_ix) if self.target == "new" else None
        top = model.retrieve(queries, k=K, exclude=exclude)
        lists = pl.DataFrame(
            {
                "query_id": np.repeat(self.users, top.item_ix.shape[1]),
                "item_id": queries.items.take(top.item_ix.ravel()),
                "rank": np.tile(np.arange(1, top.item_ix.shape[1] + 1), len(self.users)),
            }
        ).drop_nulls()
        found = self.world.expected(lists, self.at_s, ks=(K,), target=self.target)
        best = self.world.optimal(self.users, self.at_s, ks=(K,), target=self.target)
        return float(found["ndcg"].sum() / best["ndcg"].sum())


def moment(world: World, frac: float, target: str, *, every: int) -> Moment:
    at_s = frac * world.days * 86_400
    block = world.simulate(np.arange(world.n_users))
    user = np.repeat(np.arange(world.n_users), world.ground.counts)
    early = block.ts_s < at_s
    frame = pl.DataFrame(
        {
            "user_id": world.user_ids[user[early]],
            "item_id": world.item_ids[block.item[early]],
            "ts": pl.Series(world.ground.ts_us(block.ts_s[early])).cast(pl.Datetime("us", "UTC")),
        }
    )
    train = Histories.from_frame(frame)
    users = train.query_ids.to_list()[every::2][:N_USERS]
    return Moment(world, at_s, target, train, users)


def fitted_share(kind: str, params: dict[str, Any], asked: Moment) -> float:
    cls = CANDIDATES[kind]
    seeds = range(N_SEEDS) if "seed" in parameters(cls) else [None]
    shares = []
    for seed in seeds:
        given = params if seed is None else params | {"seed": seed}
        shares.append(asked.share(cls(**given).fit(asked.train)))
    return float(np.mean(shares))


def tuned(kind: str, asked: Moment) -> dict[str, Any]:
    """The best parameters of a few trials at an earlier moment."""
    import optuna

    model = ModelConfig(kind=kind)
    if not space(model):
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=6)
        )
    study.enqueue_trial(start(model))
    study.optimize(
        lambda trial: asked.share(CANDIDATES[kind](**suggest(trial, space(model))).fit(asked.train)), N_TRIALS
    )
    found: dict[str, Any] = study.best_params
    return found


def main() -> None:
    rows = []
    for name, target in VIEWS:
        world = WORLDS[name]()
        early, late = moment(world, 0.8, target, every=0), moment(world, 0.9, target, every=1)
        best = world.optimal(late.users, late.at_s, ks=(K,), target=target)["ndcg"].mean()
        for kind in CLASSICAL:
            params = tuned(kind, early)
            row = {
                "world": name,
                "target": target,
                "model": kind,
                "as_it_comes": fitted_share(kind, {}, late),
                "tuned": fitted_share(kind, params, late) if params else None,
                "params": params,
                "best_ndcg": best,
                "n_users": len(late.users),
                "date": datetime.date.today().isoformat(),
            }
            rows.append(row)
            print(f"   {name}, {target}: {kind} {row['as_it_comes']:.3f} {row['tuned']} {params}", flush=True)
    ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    write_table(rows)


def write_table(rows: list[dict[str, Any]]) -> None:
    """The table of docs/datasets.md."""
    cell = {(row["world"], row["target"], row["model"]): row for row in rows}
    words = {"new": "a new item", "any": "any next event"}
    head = [f"{world}, {words[target]}" for world, target in VIEWS]
    lines = ["| model | " + " | ".join(head) + " |", "|---|" + "---:|" * len(VIEWS)]
    order = sorted(CLASSICAL, key=lambda kind: -_best(cell[(*VIEWS[1], kind)]))
    for kind in order:
        lines.append(f"| {kind} | " + " | ".join(_cell(cell[(*view, kind)]) for view in VIEWS) + " |")
    best = ", ".join(
        f"{title} {cell[(*view, CLASSICAL[0])]['best_ndcg']:.4f}"
        for title, view in zip(head, VIEWS, strict=True)
    )
    lines.append(f"\nThe best expected NDCG@{K} itself: {best}. Measured {rows[0]['date']}.")
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)


def _best(row: dict[str, Any]) -> float:
    return max(row["as_it_comes"], row["tuned"] or 0.0)


def _cell(row: dict[str, Any]) -> str:
    if row["tuned"] is None:
        return f"{row['as_it_comes']:.2f}"
    return f"{row['as_it_comes']:.2f}, {row['tuned']:.2f}"


if __name__ == "__main__":
    main()
