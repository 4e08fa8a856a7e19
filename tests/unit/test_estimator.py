from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.base import clone

from vitrina.errors import ArtifactError, ConfigError, NotFittedError
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.schema import FloatArray


@dataclass(kw_only=True, eq=False)
class Mean(Estimator):
    reg: float = 1.0
    mean_: FloatArray = fitted()

    def __post_init__(self) -> None:
        check_positive(self, reg=self.reg)

    def fit(self, X):
        self.mean_ = X.mean(axis=0) / self.reg
        return self


def test_parameters_are_the_fields_and_nothing_else():
    assert Mean(reg=2.0).params() == {"reg": 2.0}
    assert repr(Mean(reg=2.0)) == "Mean(reg=2.0)"


def test_clones_are_unfitted_and_independent():
    model = Mean(reg=2.0).fit(np.ones((2, 2)))
    for copy in (model.clone(), clone(model)):
        assert copy.params() == model.params()
        assert not copy.is_fitted
    assert model.clone(reg=3.0).reg == 3.0


def test_a_typo_in_a_parameter_is_named():
    with pytest.raises(ConfigError, match=r"'regg'.*it has: reg"):
        Mean().clone(regg=3.0)


def test_state_asked_for_before_fit_says_what_to_call():
    with pytest.raises(NotFittedError, match=r"Mean\.fit"):
        _ = Mean().mean_
    with pytest.raises(AttributeError, match="no attribute 'means'"):
        _ = Mean().means


def test_saved_and_loaded_is_the_same(tmp_path):
    model = Mean(reg=2.0).fit(np.arange(4.0, dtype=np.float32).reshape(2, 2))
    model.save(tmp_path / "mean")
    loaded = Mean.load(tmp_path / "mean")
    assert loaded.params() == model.params()
    np.testing.assert_array_equal(loaded.mean_, model.mean_)


def test_loading_with_the_wrong_class_or_before_fit_is_refused(tmp_path):
    class Other(Mean):
        pass

    with pytest.raises(NotFittedError):
        Mean().save(tmp_path / "mean")
    Mean().fit(np.ones((1, 1))).save(tmp_path / "mean")
    with pytest.raises(ArtifactError, match="holds a Mean, not a Other"):
        Other.load(tmp_path / "mean")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_parameter_that_must_be_positive_is_checked(value):
    with pytest.raises(ConfigError, match=r"Mean\.reg must be > 0"):
        Mean(reg=value)
