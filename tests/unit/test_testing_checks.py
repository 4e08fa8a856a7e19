"""The checks catch what they say they catch: a correct model passes, each broken one fails by name."""

from dataclasses import dataclass

import numpy as np
import pytest

from vitrina.ann import PAD, TopK, top_k
from vitrina.errors import InputError
from vitrina.estimator import Estimator, fitted
from vitrina.ids import Ids
from vitrina.testing import CHECKS, CheckFailed, check_candidates, same_lists, well_formed


@dataclass(kw_only=True, eq=False)
class CoCounts(Estimator):
    """Scores items by how many users took them together with the items of the history."""

    items_: Ids = fitted()
    counts_: np.ndarray = fitted()

    def fit(self, train):
        X = train.user_item()
        self.items_ = train.items
        self.counts_ = np.asarray((X.T @ X).toarray(), dtype=np.float32)
        return self

    def score(self, queries):
        return np.asarray(queries.user_item() @ self.counts_, dtype=np.float32)

    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        queries = queries.reindex(self.items_)
        score = self.score(queries)
        score[queries.lengths == 0] = -np.inf
        return top_k(score, k=k, exclude=exclude, allowed=allowed)

    def similar(self, item_ix, *, k):
        score = self.counts_[item_ix].copy()
        score[np.arange(len(item_ix)), item_ix] = -np.inf
        return top_k(score, k=k)


GOOD = {"deterministic", "equivariant", "similar"}


def test_a_correct_model_passes_every_check_in_this_and_in_a_new_process():
    check_candidates(CoCounts(), can=GOOD, new_process=True)


class IgnoresExclude(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        return super().retrieve(queries, k=k, allowed=allowed)


class IgnoresAllowed(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        return super().retrieve(queries, k=k, exclude=exclude)


class AnswersFromMemory(CoCounts):
    def fit(self, train):
        self.known = {user: at for at, user in enumerate(train.query_ids.to_list())}
        return super().fit(train)

    def score(self, queries):
        score = super().score(queries)
        strangers = [user not in self.known for user in queries.query_ids.to_list()]
        score[np.asarray(strangers, dtype=bool)] *= -1
        return score


class ReadsTheWholeColumn(CoCounts):
    """Takes rows of the log that the offsets do not own: with it, later rows leak."""

    def fit(self, train):
        super().fit(train)
        empty = train.lengths == 0
        self.counts_ = self.counts_ + np.float32(empty.sum())
        self.counts_[0] *= 1 + empty.sum()
        return self


class DependsOnTheBatch(CoCounts):
    def score(self, queries):
        score = super().score(queries)
        return score - score.mean(axis=0, keepdims=True)


class DrawsGlobalNumbers(CoCounts):
    def fit(self, train):
        super().fit(train)
        self.counts_ = self.counts_ + np.random.random(self.counts_.shape).astype(np.float32)
        return self


class LovesSmallNumbers(CoCounts):
    def score(self, queries):
        return super().score(queries) * (1 + np.arange(len(self.items_), dtype=np.float32)[::-1])


class AnswersEveryone(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        return top_k(self.score(queries.reindex(self.items_)) + 1, k=k, exclude=exclude, allowed=allowed)


class ForgetsOnSaving(CoCounts):
    @classmethod
    def from_saved(cls, saved, path):
        loaded = super().from_saved(saved, path)
        loaded.counts_ = np.round(loaded.counts_ / 8)
        return loaded


class RepeatsItems(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        lists = super().retrieve(queries, k=k, exclude=exclude, allowed=allowed)
        if lists.item_ix.shape[1] > 1:
            lists.item_ix[:, 1] = lists.item_ix[:, 0]
        return lists


class RanksUpwards(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        lists = super().retrieve(queries, k=k, exclude=exclude, allowed=allowed)
        return TopK(lists.item_ix[:, ::-1], lists.score[:, ::-1])


class DependsOnK(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        lists = super().retrieve(queries, k=k, exclude=exclude, allowed=allowed)
        shift = np.where(lists.item_ix == PAD, np.float32(0), np.float32(k))
        return TopK(lists.item_ix, lists.score + shift)


class ListsItself(CoCounts):
    def similar(self, item_ix, *, k):
        return top_k(self.counts_[item_ix].copy(), k=k)


class TrustsTheVocabulary(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        matrix = queries.user_item()[:, : len(self.items_)]
        score = np.asarray(matrix @ self.counts_, dtype=np.float32)
        score[queries.lengths == 0] = -np.inf
        return top_k(score, k=k, exclude=exclude, allowed=allowed)


class WritesIntoTheMask(CoCounts):
    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        lists = super().retrieve(queries, k=k, exclude=exclude, allowed=allowed)
        if allowed is not None:
            allowed[:] = True
        return lists


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (IgnoresExclude, "exclude"),
        (IgnoresAllowed, "allowed"),
        (AnswersFromMemory, "new_user"),
        (ReadsTheWholeColumn, "later_rows"),
        (DependsOnTheBatch, "batch"),
        (DrawsGlobalNumbers, "same_seed"),
        (DrawsGlobalNumbers, "fit"),
        (LovesSmallNumbers, "rename"),
        (AnswersEveryone, "empty_history"),
        (ForgetsOnSaving, "save"),
        (RepeatsItems, "prefix"),
        (RanksUpwards, "prefix"),
        (DependsOnK, "prefix"),
        (ListsItself, "similar"),
        (TrustsTheVocabulary, "unknown_item"),
        (WritesIntoTheMask, "allowed"),
    ],
)
def test_a_broken_model_fails_the_check_that_is_about_it(model, check):
    with pytest.raises(CheckFailed, match=rf"\n  {check}: "):
        check_candidates(model(), can=GOOD, only={check})


def test_a_model_that_answers_empty_histories_with_nothing_may_not_declare_that_it_answers():
    with pytest.raises(CheckFailed, match="answers_empty_history was declared"):
        check_candidates(CoCounts(), can={"answers_empty_history"}, only={"empty_history"})


def test_unknown_capabilities_and_checks_are_refused_by_name():
    with pytest.raises(InputError, match="'fast'"):
        check_candidates(CoCounts(), can={"fast"})


def test_every_check_says_what_it_checks():
    assert all(check.__doc__ for check in CHECKS.values())


def lists(items, scores):
    return TopK(np.array([items], np.int32), np.array([scores], np.float32))


def test_lists_are_the_same_up_to_ties_and_no_further():
    a = lists([3, 1, 2, 0], [2.0, 1.0, 1.0, 0.5])
    assert same_lists(a, a) is None
    assert same_lists(a, lists([3, 2, 1, 0], [2.0, 1.0, 1.0, 0.5])) is None
    assert same_lists(a, lists([1, 3, 2, 0], [2.0, 1.0, 1.0, 0.5])) is not None
    assert same_lists(a, lists([3, 1, 2, 0], [2.0, 1.1, 1.0, 0.5])) is not None
    assert same_lists(a, lists([3, 1, 2, 9], [2.0, 1.0, 1.0, 0.5])) is None, "a tie across the cut is open"
    assert same_lists(a, lists([3, 1, 2, PAD], [2.0, 1.0, 1.0, -np.inf])) is not None


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lists([1, PAD, 2], [2.0, -np.inf, 1.0]), "padding"),
        (lists([1, 2, PAD], [2.0, 1.0, 0.0]), "other than -inf"),
        (lists([1, 2, 3], [2.0, np.nan, 1.0]), "not finite"),
        (lists([1, 2, 7], [2.0, 1.0, 0.5]), "outside"),
        (lists([1, 2, 1], [2.0, 1.0, 0.5]), "twice"),
        (lists([1, 2, 3], [2.0, 1.0, 1.5]), "rise"),
        (lists([1, 2], [2.0, 1.0]), "shape"),
    ],
)
def test_a_malformed_list_is_named(broken, says):
    assert says in well_formed(broken, n_queries=1, k=3, n_items=5)
