"""Rank correlation: whether two values of the same things rise together."""

import numpy as np
import numpy.typing as npt

from vitrina.errors import InputError


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rho: Pearson's correlation of the ranks, tied values sharing the mean of their ranks.

    It is the same for a count and for its logarithm. NaN where fewer than two pairs are given or one side is
    constant, for then nothing can rise. Cost: two sorts.

    Raises:
        InputError: the lengths differ, or a value is NaN.
    """
    from scipy.stats import spearmanr  # half a second to import, and most that read this module do not ask

    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"spearman needs two arrays of one length, got shapes {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise InputError("spearman cannot rank NaN; leave those pairs out")
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    return float(spearmanr(x, y).statistic)
