"""What every candidate generator must do, as checks that name what failed.

    check_candidates(MyModel(reg=0.1), can={"deterministic", "similar"})

Each check fits clones of the estimator on a small log, so the estimator given is left as it was.
"""

import json
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from vitrina.ann import PAD, Jagged, TopK
from vitrina.errors import InputError, NotFittedError
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import US_PER_DAY, US_PER_SECOND
from vitrina.testing.fresh import retrieved_in_new_process
from vitrina.testing.lists import same_lists, well_formed

CAPABILITIES: Final = {
    "deterministic": "two fits with one seed give the same lists",
    "equivariant": "renaming users and items renames the lists and changes nothing else, up to ties",
    "stable": "renaming may change random starts, but half of each list survives on the test log",
    "answers_empty_history": "an empty history gets a full list; without it, an empty list",
    "similar": "there is similar(item_ix, k=...)",
    "needs_pairs": "a log where nothing follows anything is refused with an InputError",
}
"""What an estimator may declare in `can`. What is not declared is not asked of it, except that a model that
does not declare `answers_empty_history` must give an empty history an empty list."""

CUT_US: Final = 30 * US_PER_DAY


class CheckFailed(AssertionError):
    """One or more checks failed; the message names each of them."""


def check_candidates(
    estimator: Any,
    *,
    can: Collection[str] = ("deterministic",),
    only: Collection[str] | None = None,
    new_process: bool = False,
    seed: int = 0,
) -> None:
    """Hold a candidate generator to its contract.

    Args:
        estimator: what to check; clones of it are fitted.
        can: names out of `CAPABILITIES` that it declares.
        only: names out of `CHECKS` to run; None runs all.
        new_process: load the saved model in a Python of its own, too. Its class must be importable there.
        seed: draws the log.

    Raises:
        CheckFailed: names every check that failed, and how.
        InputError: a capability or a check is unknown.
    """
    for name in [*can, *(only or ())]:
        if name not in CAPABILITIES and name not in CHECKS:
            known = ", ".join([*CAPABILITIES, *CHECKS])
            raise InputError(f"no capability or check is named {name!r}; there are: {known}")
    case = _Case(estimator, frozenset(can), new_process, seed)
    failures = []
    for name, check in CHECKS.items():
        if only is None or name in only:
            problem = check(case)
            if problem:
                failures.append(f"{name}: {problem}")
    if failures:
        kind = type(estimator).__name__
        raise CheckFailed(f"{kind} fails {len(failures)} of the checks\n  " + "\n  ".join(failures))


@dataclass
class _Case:
    """A log of two blocks of users and items with noise, and clones fitted on it."""

    estimator: Any
    can: frozenset[str]
    new_process: bool
    seed: int

    @cached_property
    def frame(self) -> pl.DataFrame:
        """32 users, 24 items, 12 rows a user, some repeated; times distinct, all before the cut."""
        rng = np.random.default_rng(self.seed)
        user = np.repeat(np.arange(32), 12)
        own = rng.random(len(user)) < 0.85
        item = rng.integers(0, 12, len(user)) + 12 * np.where(own, user % 2, rng.integers(0, 2, len(user)))
        item[:24] = np.arange(24)  # every item occurs
        ts = pl.Series(CUT_US - (1 + rng.permutation(len(user))) * 600 * US_PER_SECOND)
        return pl.DataFrame(
            {"user_id": 10 * user, "item_id": 7 * item, "ts": ts.cast(pl.Datetime("us", "UTC"))}
        )

    @cached_property
    def train(self) -> Histories:
        return Histories.from_frame(self.frame)

    @cached_property
    def fitted(self) -> Any:
        return self.fit(self.train)

    def fit(self, train: Histories) -> Any:
        return self.estimator.clone().fit(train)

    def lists(self, model: Any, queries: Histories, k: int = 10, **limits: Any) -> TopK:
        """Lists of a model, refused when malformed."""
        lists: TopK = model.retrieve(queries, k=k, **limits)
        problem = well_formed(lists, n_queries=len(queries), k=k, n_items=len(model.items_))
        if problem:
            raise _Malformed(problem)
        return lists

    @cached_property
    def full(self) -> TopK:
        return self.lists(self.fitted, self.train, k=self.train.n_items)


class _Malformed(Exception):
    pass


Check = Callable[[_Case], str | None]
CHECKS: Final[dict[str, Check]] = {}
"""Every check by name, in the order of running."""


def _check(function: Check) -> Check:
    def run(case: _Case) -> str | None:
        try:
            return function(case)
        except _Malformed as problem:
            return str(problem)
        except Exception as error:  # the other checks still run
            return f"raised {type(error).__name__}: {error}"

    run.__doc__ = function.__doc__
    CHECKS[function.__name__.lstrip("_")] = run
    return function


@_check
def _not_fitted(case: _Case) -> str | None:
    """Asking before fit raises NotFittedError."""
    try:
        case.estimator.clone().retrieve(case.train, k=5)
    except NotFittedError:
        return None
    return "retrieve before fit did not raise NotFittedError"


@_check
def _fit(case: _Case) -> str | None:
    """`fit` returns self and leaves parameters, the log and numpy's global random state alone."""
    model, before = case.estimator.clone(), _global_random_state()
    params = json.dumps(model.params(), default=repr)
    arrays = ("offsets", "item_ix", "ts", "event")
    copies = {name: getattr(case.train, name).copy() for name in arrays}
    if model.fit(case.train) is not model:
        return "fit did not return self"
    if json.dumps(model.params(), default=repr) != params:
        return "fit changed a parameter"
    changed = [name for name in arrays if not np.array_equal(copies[name], getattr(case.train, name))]
    if changed:
        return f"fit changed the {changed[0]} of the log"
    if not np.array_equal(before, _global_random_state()):
        return "fit used numpy's global random state"
    return None


@_check
def _same_seed(case: _Case) -> str | None:
    """Two fits give bit-identical lists."""
    if "deterministic" not in case.can:
        return None
    again = case.lists(case.fit(case.train), case.train, k=case.train.n_items)
    if np.array_equal(again.item_ix, case.full.item_ix) and np.array_equal(again.score, case.full.score):
        return None
    return "a second fit with the same parameters gave other lists"


@_check
def _prefix(case: _Case) -> str | None:
    """The list of 5 opens the list of 10."""
    return same_lists(case.lists(case.fitted, case.train, k=5), case.lists(case.fitted, case.train).first(5))


@_check
def _batch(case: _Case) -> str | None:
    """Queries asked one by one, and in another order, get what they get in a batch."""
    batch = case.lists(case.fitted, case.train)
    for u in range(0, len(case.train), 5):
        alone = case.lists(case.fitted, case.train.rows(np.array([u], np.int32)))
        problem = same_lists(TopK(batch.item_ix[[u]], batch.score[[u]]), alone)
        if problem:
            return f"user {u} asked alone: {problem}"
    back = case.lists(case.fitted, case.train.rows(np.arange(len(case.train), dtype=np.int32)[::-1]))
    return same_lists(batch, TopK(back.item_ix[::-1], back.score[::-1]))


@_check
def _exclude(case: _Case) -> str | None:
    """Excluded items are absent and the others keep their order."""
    seen = Jagged(case.train.offsets, case.train.item_ix)
    without = case.lists(case.fitted, case.train, exclude=seen)
    return same_lists(_filtered(case.full, without.item_ix.shape[1], seen, None), without)


@_check
def _allowed(case: _Case) -> str | None:
    """Only allowed items appear, and they keep their order; together with `exclude` as well."""
    allowed = np.arange(case.train.n_items) % 3 != 0
    kept = allowed.copy()
    lists = case.lists(case.fitted, case.train, allowed=allowed)
    if not np.array_equal(allowed, kept):
        return "retrieve changed the mask it was given"
    problem = same_lists(_filtered(case.full, lists.item_ix.shape[1], None, allowed), lists)
    if problem:
        return problem
    seen = Jagged(case.train.offsets, case.train.item_ix)
    both = case.lists(case.fitted, case.train, exclude=seen, allowed=allowed)
    return same_lists(_filtered(case.full, both.item_ix.shape[1], seen, allowed), both)


@_check
def _rename(case: _Case) -> str | None:
    """Renaming ids and shuffling rows commute with fitting."""
    rng = np.random.default_rng(case.seed + 1)
    names = {n: f"i{at:03d}" for n, at in zip(case.train.items.values, rng.permutation(24), strict=True)}
    shuffled = case.frame.sample(fraction=1.0, shuffle=True, seed=case.seed)
    if "deterministic" in case.can:
        again = case.lists(case.fit(Histories.from_frame(shuffled)), case.train, k=24)
        problem = same_lists(case.full, again)
        if problem:
            return f"after shuffling the rows of the log, {problem}"
    if not {"equivariant", "stable"} & case.can:
        return None
    renamed = shuffled.with_columns(
        pl.col("item_id").replace_strict(names, return_dtype=pl.String),
        (310 - pl.col("user_id")).alias("user_id"),
    )
    train = Histories.from_frame(renamed)
    lists = case.lists(case.fit(train), train, k=24)
    original = np.zeros(24, np.int32)
    original[train.items.ix(names.values())] = case.train.items.ix(names.keys())
    there = TopK(np.where(lists.item_ix == PAD, PAD, original[lists.item_ix])[::-1], lists.score[::-1])
    if "equivariant" in case.can:
        return same_lists(case.full, there, rtol=1e-3)
    pairs = zip(case.full.item_ix[:, :10], there.item_ix[:, :10], strict=True)
    kept = float(np.mean([np.isin(a, b).mean() for a, b in pairs]))
    return None if kept >= 0.5 else f"after renaming ids, only {kept:.0%} of the lists of ten survived"


@_check
def _save(case: _Case) -> str | None:
    """A saved and loaded model gives the same lists; in a new process too, where asked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        case.fitted.save(path)
        loaded = type(case.fitted).load(path)
        if loaded.params() != case.fitted.params():
            return "parameters changed on the way through the file"
        problem = same_lists(case.full, case.lists(loaded, case.train, k=24), rtol=1e-6)
        if problem or not case.new_process:
            return problem
        return same_lists(case.full, retrieved_in_new_process(case.fitted, case.train, k=24), rtol=1e-6)


@_check
def _unknown_item(case: _Case) -> str | None:
    """Queries over a larger vocabulary get what they get without the rows of unknown items."""
    wider = Ids(pl.Series([*case.train.items.values, -5, 3, 1_000_000]))
    rows = case.frame.head(60).with_row_index("row")
    mixed = rows.with_columns(
        pl.when(pl.col("row") % 4 == 1).then(3).otherwise(pl.col("item_id")).alias("item_id")
    )
    queries = Histories.from_frame(mixed, items=wider)
    known = Histories.from_frame(mixed.filter(pl.col("item_id") != 3), items=case.train.items)
    return same_lists(case.lists(case.fitted, known), case.lists(case.fitted, queries))


@_check
def _large_k(case: _Case) -> str | None:
    """A k above the catalogue gives as many columns as there are items."""
    return same_lists(case.full, case.lists(case.fitted, case.train, k=1000))


@_check
def _empty_history(case: _Case) -> str | None:
    """An empty history gets an empty list, or a full one where declared; no queries give no lists."""
    empty = Histories.from_lists(case.train.items, [[], case.train.items.values.head(3).to_list(), []])[0]
    lengths = case.lists(case.fitted, empty).lengths
    if "answers_empty_history" in case.can:
        if lengths[0] != 10 or lengths[2] != 10:
            return f"an empty history got {lengths[0]} items; answers_empty_history was declared"
    elif lengths[0] or lengths[2]:
        return f"an empty history got {lengths[0]} items; declare answers_empty_history or return none"
    for n_queries in (0, 2):
        case.lists(case.fitted, Histories.from_lists(case.train.items, [[]] * n_queries)[0])
    return None


@_check
def _new_user(case: _Case) -> str | None:
    """A user who is not in the training log gets the list of their history."""
    ids = pl.Series([f"new {u}" for u in range(len(case.train))])
    strangers = replace(case.train, user_ids=ids)
    lists = case.lists(case.fitted, strangers)
    if not lists.lengths.all():
        return "a user with a history but outside the training log got an empty list"
    return same_lists(case.lists(case.fitted, case.train), lists)


@_check
def _later_rows(case: _Case) -> str | None:
    """Rows after the cut, of old and of new users, change nothing in a model fitted before it."""
    if "deterministic" not in case.can:
        return None
    rng = np.random.default_rng(case.seed + 2)
    later = pl.DataFrame(
        {
            "user_id": rng.integers(0, 400, 200),
            "item_id": case.train.items.values.gather(rng.integers(0, 24, 200)),
            "ts": pl.Series(CUT_US + rng.permutation(200) * US_PER_DAY).cast(pl.Datetime("us", "UTC")),
        }
    )
    longer = Histories.from_frame(pl.concat([later, case.frame]), items=case.train.items)
    model = case.fit(longer.only(longer.ts < CUT_US))
    return same_lists(case.full, case.lists(model, case.train, k=24))


@_check
def _repeats(case: _Case) -> str | None:
    """A history that repeats items, or is one item long, gets a well-formed list."""
    items = case.train.items.values.to_list()
    queries = Histories.from_lists(case.train.items, [[items[0]] * 40, items[:1], items * 3, [items[5]]])[0]
    lists = case.lists(case.fitted, queries)
    case.lists(case.fitted, queries, exclude=Jagged(queries.offsets, queries.item_ix))
    return None if lists.lengths.all() else "a history that repeats one item got an empty list"


@_check
def _one_row(case: _Case) -> str | None:
    """A log of one user and one event can be learnt from, or is refused where declared."""
    train = Histories.from_frame(case.frame.head(1))
    if "needs_pairs" in case.can:
        try:
            case.fit(train)
        except InputError:
            return None
        return "a log where nothing follows anything was not refused"
    case.lists(case.fit(train), train)
    return None


@_check
def _similar(case: _Case) -> str | None:
    """`similar` gives well-formed lists without the item itself, alike in a batch and one by one."""
    if "similar" not in case.can:
        return None
    asked = np.arange(case.train.n_items, dtype=np.int32)
    lists = case.fitted.similar(asked, k=5)
    problem = well_formed(lists, n_queries=len(asked), k=5, n_items=len(asked))
    if problem:
        return problem
    if (lists.item_ix == asked[:, None]).any():
        return "an item is listed as similar to itself"
    alone = case.fitted.similar(asked[3:4], k=5)
    return same_lists(TopK(lists.item_ix[3:4], lists.score[3:4]), alone)


def _filtered(full: TopK, k: int, exclude: Jagged | None, allowed: Any) -> TopK:
    """The first k of complete lists after removing what may not appear: the slow twin of both limits."""
    out = TopK(np.full((len(full), k), PAD, np.int32), np.full((len(full), k), -np.inf, np.float32))
    for b in range(len(full)):
        banned = (
            set() if exclude is None else set(exclude.item_ix[exclude.offsets[b] : exclude.offsets[b + 1]])
        )
        kept = [
            at
            for at, i in enumerate(full.item_ix[b])
            if i != PAD and i not in banned and (allowed is None or allowed[i])
        ][:k]
        out.item_ix[b, : len(kept)] = full.item_ix[b, kept]
        out.score[b, : len(kept)] = full.score[b, kept]
    return out


def _global_random_state() -> Any:
    state: dict[str, Any] = np.random.get_state(legacy=False)
    return state["state"]["key"].copy()
