"""By how much tuned iALS and EASE beat MostPop on MovieLens 1M, beside published figures.

Strong generalisation (Liang et al., WWW 2018, arXiv:1802.05814): ratings of 4 and 5, users with five or more;
10 % of the users are for tuning and 10 % for the test, nobody learns from them; 80 % of the items of such a
user, drawn at random, are shown to the model and the others are to be found; Recall@k is hits over
min(k, targets). Three draws of users; parameters by 15 trials each (Optuna) on the users for tuning.

Leave-one-out with 99 drawn negatives (He et al., WWW 2017): the last rating of each user, every rating being
an interaction, ranked among 99 items that the user never rated. For iALS with the parameters that its authors
published for this protocol (arXiv:2110.14037), mean over ten draws of negatives.

`python -m benchmarks margins`; MovieLens 1M is read from $VITRINA_DATA.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import polars as pl

from benchmarks import data, harness
from vitrina.ann import Jagged
from vitrina.candidates import Ease, ImplicitALS, MostPop
from vitrina.datasets import movielens
from vitrina.log import Histories

PUBLISHED_ML20M = {
    "MostPop": {"recall@20": 0.162, "recall@50": 0.235, "ndcg@100": 0.191},
    "Ease": {"recall@20": 0.391, "recall@50": 0.521, "ndcg@100": 0.420},
    "ImplicitALS": {"recall@20": 0.395, "recall@50": 0.532, "ndcg@100": 0.425},
}
"""MovieLens 20M, the same protocol: Steck, arXiv:1905.03375 and Rendle et al., arXiv:2110.14037."""
PUBLISHED_NCF = {"hitrate@10": 0.722, "ndcg@10": 0.445}
"""iALS on MovieLens 1M, leave-one-out with 99 negatives: Rendle et al., arXiv:2110.14037."""
EVENT = ("user_id", "item_id", "ts")
N_DRAWS, N_TRIALS, N_NEGATIVES, N_SAMPLES = 3, 15, 99, 10


def ratings() -> pl.DataFrame:
    log = movielens(data.ratings_folder(), on_mismatch="ignore").log
    return log.frame.select("user_id", "item_id", "ts", "value").collect()


@dataclass
class Asked:
    """Users who are shown in part: what the model sees of them and what it has to find."""

    shown: Histories
    targets: list[set[int]]
    """Positions in the vocabulary, for each user of `shown`."""

    @classmethod
    def of(cls, rows: pl.DataFrame, train: Histories, rng: np.random.Generator) -> "Asked":
        """80 % of the known items of each user are shown, the others are targets; both have at least one."""
        known = rows.filter(pl.col("item_id").is_in(train.items.values.implode()))
        known = known.with_columns(draw=pl.Series(rng.random(len(known))))
        known = known.filter(pl.len().over("user_id") >= 2)
        place = pl.col("draw").rank("ordinal").over("user_id")
        hidden = pl.max_horizontal(1, (0.2 * pl.len().over("user_id")).floor())
        cut = known.with_columns(is_target=place <= hidden)
        shown = Histories.from_frame(cut.filter(~pl.col("is_target")).select(*EVENT), items=train.items)
        hidden_of = dict(
            cut.filter("is_target")
            .group_by("user_id")
            .agg(pl.col("item_id"))
            .select("user_id", "item_id")
            .rows()
        )
        targets = [set(train.items.ix(hidden_of[user]).tolist()) for user in shown.query_ids]
        return cls(shown, targets)

    def quality(self, model: Any) -> dict[str, float]:
        """Means over users."""
        exclude = Jagged(self.shown.offsets, self.shown.item_ix)
        top = model.retrieve(self.shown, k=100, exclude=exclude)
        hit = np.array(
            [[i in want for i in row] for row, want in zip(top.item_ix, self.targets, strict=True)]
        )
        n = np.array([len(want) for want in self.targets])
        gain = 1 / np.log2(np.arange(2, 102))
        ideal = np.concatenate([[0.0], np.cumsum(gain)])[np.minimum(n, 100)]
        found = {f"recall@{k}": hit[:, :k].sum(1) / np.minimum(n, k) for k in (20, 50)}
        found["ndcg@100"] = (hit * gain).sum(1) / ideal
        return {name: float(values.mean()) for name, values in found.items()}


def draws(rows: pl.DataFrame) -> Iterator[tuple[Histories, Asked, Asked]]:
    """Training histories, users for tuning, users for the test."""
    liked = rows.filter(pl.col("value") >= 4)
    liked = liked.filter(pl.len().over("user_id") >= 5).sort("user_id", "item_id")
    users = liked["user_id"].unique(maintain_order=True).to_numpy()
    tenth = len(users) // 10
    for seed in range(N_DRAWS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(users)
        parts = [pl.Series(order[2 * tenth :]), pl.Series(order[:tenth]), pl.Series(order[tenth : 2 * tenth])]
        train, tuning, test = (liked.filter(pl.col("user_id").is_in(part.implode())) for part in parts)
        histories = Histories.from_frame(train.select(*EVENT))
        yield histories, Asked.of(tuning, histories, rng), Asked.of(test, histories, rng)


def tuned(make: Callable[[Any], Any], train: Histories, asked: Asked) -> dict[str, Any]:
    """The best of some trials on the users for tuning, by NDCG@100."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5)
    )
    study.optimize(lambda trial: asked.quality(make(trial).fit(train))["ndcg@100"], N_TRIALS)
    found: dict[str, Any] = study.best_params
    return found


def an_ease(trial: Any) -> Ease:
    return Ease(reg=trial.suggest_float("reg", 50, 5_000, log=True))


def an_als(trial: Any) -> ImplicitALS:
    return ImplicitALS(
        embedding_dim=trial.suggest_categorical("embedding_dim", [64, 128, 256]),
        reg=trial.suggest_float("reg", 1e-3, 3e-2, log=True),
        unobserved_weight=trial.suggest_float("unobserved_weight", 0.03, 1.0, log=True),
        n_epochs=trial.suggest_int("n_epochs", 6, 16),
    )


def strong_generalisation(rows: pl.DataFrame) -> None:
    found: dict[str, list[dict[str, float]]] = {"MostPop": [], "Ease": [], "ImplicitALS": []}
    params: dict[str, list[dict[str, Any]]] = {"Ease": [], "ImplicitALS": []}
    n_users = 0
    for train, tuning, test in draws(rows):
        n_users = len(test.shown)
        params["Ease"].append(tuned(an_ease, train, tuning))
        params["ImplicitALS"].append(tuned(an_als, train, tuning))
        found["MostPop"].append(test.quality(MostPop().fit(train)))
        found["Ease"].append(test.quality(Ease(**params["Ease"][-1]).fit(train)))
        found["ImplicitALS"].append(test.quality(ImplicitALS(**params["ImplicitALS"][-1]).fit(train)))
        print(
            f"   {len(train)} users to learn from, {n_users} asked",
            {n: v[-1] for n, v in found.items()},
            flush=True,
        )
    for model in ("Ease", "ImplicitALS"):
        for metric in ("ndcg@100", "recall@20", "recall@50"):
            each = [
                mine[metric] / pop[metric] for mine, pop in zip(found[model], found["MostPop"], strict=True)
            ]
            theirs = PUBLISHED_ML20M[model][metric] / PUBLISHED_ML20M["MostPop"][metric]
            harness.record(
                harness.Row(
                    name="margins",
                    what=f"ML-1M, strong generalisation: {metric} of {model} over that of MostPop",
                    ours=float(np.mean(each)),
                    peer="published, ML-20M",
                    theirs=theirs,
                    ratio=float(np.mean(each)) / theirs,
                    unit="times",
                    target="stated: ML-20M is not at hand",
                    quality={
                        model: float(np.mean([one[metric] for one in found[model]])),
                        "MostPop": float(np.mean([one[metric] for one in found["MostPop"]])),
                        "least, most of draws": f"{min(each):.3g}, {max(each):.3g}",
                    },
                    extra={"params": params[model], "n_users": n_users, "n_draws": N_DRAWS},
                )
            )


def leave_one_out(rows: pl.DataFrame) -> None:
    """The protocol of He et al., for the parameters of Rendle et al."""
    log = Histories.from_frame(rows.select(*EVENT))
    ends = log.offsets[1:] - 1
    target = np.asarray(log.item_ix)[ends]
    mask = np.ones(log.n_rows, dtype=bool)
    mask[ends] = False
    train = log.only(mask)
    model = ImplicitALS(
        embedding_dim=192, reg=0.007, unobserved_weight=0.3, n_epochs=12, solver="blocks", block_size=64
    ).fit(train)
    top = model.retrieve(train, k=train.n_items)
    rank = np.empty((len(train), train.n_items), dtype=np.int32)
    np.put_along_axis(
        rank, top.item_ix.astype(np.int64), np.arange(train.n_items, dtype=np.int32)[None], axis=1
    )
    pop = np.argsort(np.argsort(-np.bincount(train.item_ix, minlength=train.n_items), kind="stable"))
    seen = log.user_item().toarray() > 0
    found: dict[str, list[float]] = {
        "hitrate@10": [],
        "ndcg@10": [],
        "MostPop hitrate@10": [],
        "MostPop ndcg@10": [],
    }
    for seed in range(N_SAMPLES):
        draw = np.where(seen, np.inf, np.random.default_rng(seed).random(seen.shape))
        negative = np.argpartition(draw, N_NEGATIVES, axis=1)[:, :N_NEGATIVES]
        user = np.arange(len(train))
        for prefix, place in (("", rank), ("MostPop ", np.broadcast_to(pop, rank.shape))):
            better = (place[user[:, None], negative] < place[user, target][:, None]).sum(axis=1)
            found[f"{prefix}hitrate@10"].append(float((better < 10).mean()))
            found[f"{prefix}ndcg@10"].append(
                float(np.where(better < 10, 1 / np.log2(better + 2.0), 0.0).mean())
            )
    means = {name: float(np.mean(values)) for name, values in found.items()}
    for metric, theirs in PUBLISHED_NCF.items():
        harness.record(
            harness.Row(
                name="margins",
                what=f"ML-1M, leave-one-out, {N_NEGATIVES} negatives: {metric} of ImplicitALS as published",
                ours=means[metric],
                peer="published, ML-1M",
                theirs=theirs,
                ratio=means[metric] / theirs,
                unit=metric,
                target=">= 0.99x",
                quality={
                    "MostPop": means[f"MostPop {metric}"],
                    "over MostPop": means[metric] / means[f"MostPop {metric}"],
                },
            )
        )


def main() -> None:
    if not data.ratings_folder().is_dir():
        print(f"   {data.ratings_folder()} is not there, set VITRINA_DATA; nothing was measured", flush=True)
        return
    rows = ratings()
    leave_one_out(rows)
    strong_generalisation(rows)


if __name__ == "__main__":
    main()
