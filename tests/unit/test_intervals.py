"""Intervals: bootstrap over users, paired comparison, Holm, seeds."""

import numpy as np
import pytest

from vitrina.errors import InputError
from vitrina.metrics import TargetLists, bootstrap, compute, holm, over_seeds, paired_bootstrap
from vitrina.metrics.intervals import _weights
from vitrina.metrics.measure import Measured


def means(values):
    """Per-user values as they come from `compute`; NaN excludes a user."""
    values = np.asarray(values, dtype=float)
    known = ~np.isnan(values)
    names = tuple(f"m{at}" for at in range(values.shape[1]))
    return Measured(names, np.nan_to_num(values), known.astype(float), {}, known.any(axis=1))


def test_each_resample_draws_as_many_users_as_there_are_evenly():
    blocks = np.concatenate(list(_weights(400, 1000, 0)))
    assert blocks.shape == (1000, 400)
    assert (blocks.sum(axis=1) == 400).all()
    # counts of a multinomial: mean 1, variance 1 - 1 / 400
    assert blocks.mean(axis=0) == pytest.approx(1, abs=5 * np.sqrt(1 / 1000))
    assert blocks.var() == pytest.approx(1 - 1 / 400, abs=0.02)


def test_the_interval_of_a_mean_is_the_normal_one_for_many_users():
    values = np.random.default_rng(0).exponential(size=(5000, 2))
    found = bootstrap(means(values), n_resamples=4000)
    half = 1.959964 * values.std(axis=0) / np.sqrt(5000)
    assert found.value == pytest.approx(values.mean(axis=0))
    assert found.low == pytest.approx(values.mean(axis=0) - half, abs=0.12 * half.max())
    assert found.high == pytest.approx(values.mean(axis=0) + half, abs=0.12 * half.max())


def test_the_bootstrap_is_the_slow_one():
    """The same draws through a loop over resamples."""
    rng = np.random.default_rng(5)
    values = rng.random((40, 3))
    values[rng.random(values.shape) < 0.2] = np.nan
    found = bootstrap(means(values), seed=7)
    slow = []
    for row in np.concatenate(list(_weights(40, 1000, 7))):
        slow.append(np.nanmean(np.repeat(values, row.astype(int), axis=0), axis=0))
    low, high = np.quantile(slow, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-12)
    assert found.n_users.tolist() == (~np.isnan(values)).sum(axis=0).tolist()


def test_intervals_of_a_ratio_of_means_resample_both_sums():
    rng = np.random.default_rng(2)
    below = rng.integers(1, 20, size=(3000, 1)).astype(float)
    above = below * rng.random((3000, 1))
    ratio = Measured(("r",), above, below, {}, np.ones(3000, bool))
    found = bootstrap(ratio, n_resamples=3000)
    r = above.sum() / below.sum()
    # delta method: var(mean(a) / mean(b)) = var(a - r b) / (n mean(b)^2)
    half = 1.959964 * (above - r * below).std() / (below.mean() * np.sqrt(3000))
    assert found.value[0] == pytest.approx(r)
    assert (found.high[0] - found.low[0]) / 2 == pytest.approx(half, rel=0.08)


def test_yambda_ndcg_is_bootstrapped_as_a_ratio():
    rng = np.random.default_rng(0)
    lists = np.array([rng.permutation(30)[:10] for _ in range(200)], dtype=np.int32)
    truth = TargetLists.of([rng.integers(0, 30, rng.integers(1, 40)).tolist() for _ in range(200)])
    found = compute(["ndcg@10"], lists, truth, definitions="yambda")
    interval = bootstrap(found)
    assert interval.value[0] == pytest.approx(found.numerator.sum() / found.denominator.sum())
    assert interval.low[0] < interval.value[0] < interval.high[0]


def test_the_95_percent_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(11)
    values = rng.random((300, 200)) < 0.3  # 200 independent samples of 300 users
    found = bootstrap(means(values))
    covered = ((found.low <= 0.3) & (found.high >= 0.3)).mean()
    assert covered > 0.88  # 0.95 less 4.5 standard errors of a share of 200


def test_equal_models_have_p_1_and_a_clear_winner_the_smallest_p():
    values = np.random.default_rng(0).random((200, 1))
    same = paired_bootstrap(means(values), means(values))
    assert (same.difference[0], same.low[0], same.high[0], same.p_value[0]) == (0, 0, 0, 1)
    better = paired_bootstrap(means(values + 0.1), means(values))
    assert better.difference[0] == pytest.approx(0.1)
    assert better.low[0] == pytest.approx(0.1)
    assert better.p_value[0] == pytest.approx(2 / 1001)


def test_pairing_removes_what_users_share():
    rng = np.random.default_rng(0)
    user = rng.random((500, 1)) * 10
    a, b = means(user + 0.05 + rng.normal(0, 0.1, (500, 1))), means(user + rng.normal(0, 0.1, (500, 1)))
    alone = bootstrap(a)
    paired = paired_bootstrap(a, b)
    assert paired.high[0] - paired.low[0] < (alone.high[0] - alone.low[0]) / 10
    assert paired.p_value[0] < 0.05


def test_p_values_are_about_uniform_where_models_are_equally_good():
    rng = np.random.default_rng(4)
    a, b = means(rng.random((150, 400))), means(rng.random((150, 400)))
    p = paired_bootstrap(a, b).p_value
    assert 0.02 < (p < 0.05).mean() < 0.09  # 0.05 and three standard errors of a share of 400
    assert 0.4 < np.median(p) < 0.6


def test_a_p_below_5_percent_means_that_the_interval_excludes_0():
    rng = np.random.default_rng(8)
    found = paired_bootstrap(means(rng.random((100, 300)) + 0.06), means(rng.random((100, 300))))
    excludes = (found.low > 0) | (found.high < 0)
    differ = excludes != (found.p_value < 0.05)
    assert (np.abs(found.p_value[differ] - 0.05) < 0.004).all()
    assert excludes.sum() > 20


def test_the_same_seed_gives_the_same_interval_whatever_else_is_measured():
    values = np.random.default_rng(0).random((100, 3))
    together, alone = bootstrap(means(values), seed=3), bootstrap(means(values[:, 1:2]), seed=3)
    assert together.low[1] == pytest.approx(alone.low[0], rel=1e-12)
    assert bootstrap(means(values), seed=4).low[0] != together.low[0]


def test_a_metric_without_users_has_no_interval():
    found = bootstrap(means([[0.5, np.nan], [0.1, np.nan]]))
    assert np.isnan([found.value[1], found.low[1], found.high[1]]).all()
    assert found.n_users.tolist() == [2, 0]
    nobody = bootstrap(Measured(("m",), np.zeros((0, 1)), np.zeros((0, 1)), {}, np.zeros(0, bool)))
    assert np.isnan(nobody.low[0])


def test_holm_of_a_worked_example():
    # sorted: .01 x 4, .02 x 3, .03 x 2, .04 x 1, made monotone
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.01, np.nan, 0.04])
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(corrected[1])
    assert holm([]).shape == (0,)


def test_spread_over_seeds_has_one_degree_of_freedom_less():
    found = over_seeds([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.sd == pytest.approx(np.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2))
    assert np.isnan(over_seeds([1.0]).sd)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bootstrap(means([[1.0]]), n_resamples=100), "n_resamples must be >= 1000, got 100"),
        (lambda: bootstrap(means([[1.0]]), confidence=95), "confidence must be between 0 and 1, got 95"),
        (lambda: paired_bootstrap(means([[1.0]]), means([[1.0], [2.0]])), "on the same users"),
        (lambda: paired_bootstrap(means([[1.0]]), means([[np.nan]])), "on the same users"),
        (lambda: over_seeds([]), "got no values"),
    ],
)
def test_errors_of_intervals_say_value_rule_and_fix(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
