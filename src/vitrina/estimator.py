"""What every model is: a keyword-only dataclass whose fields are its parameters.

    @dataclass(kw_only=True, eq=False)
    class Ease(Estimator):
        reg: float = 500.0
        '''lambda, in units of interactions.'''
        items_: Ids = fitted()
        weights_: FloatArray = fitted()

Parameters have no trailing underscore; fitted state ends in `_` and is declared with `fitted()`.
The class itself gives `params`, `clone`, `save`, `load` and a clear error when state is asked for too early.
"""

import os
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from functools import wraps
from numbers import Integral
from typing import Any, Self

from vitrina import artifact
from vitrina.errors import ArtifactError, ConfigError, NotFittedError

SEEDS = 2**63
"""Above every seed: what numpy, torch and the kernels all take."""


def fitted() -> Any:
    """A field that `fit` sets: not a constructor argument, not printed."""
    return field(init=False, repr=False, default=MISSING)


def unchanged_if_it_fails(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that leaves its model as it was where it raises: what was fitted before still answers."""

    @wraps(method)
    def kept(self: Any, *args: Any, **named: Any) -> Any:
        before = self.__dict__.copy()
        try:
            return method(self, *args, **named)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    return kept


class Estimator:
    """Parameters, cloning, saving. Subclasses are dataclasses that define `fit` and what they answer."""

    def __post_init__(self) -> None:
        """Check what means the same in every model; a subclass that has a seed and checks more calls it.

        Raises:
            ConfigError: `seed` is no whole number in [0, 2^63).
        """
        seed = getattr(self, "seed", 0)
        if not isinstance(seed, Integral) or not 0 <= int(seed) < SEEDS:
            raise ConfigError(
                f"{type(self).__name__}.seed must be a whole number in [0, 2^63), got {seed!r}; "
                "give 0, 1, 2 and so on"
            )

    def params(self) -> dict[str, Any]:
        """Constructor parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}  # type: ignore[arg-type]

    def clone(self, **changes: Any) -> Self:
        """A new, unfitted estimator with the same parameters, except those given.

        Raises:
            ConfigError: a name is not a parameter.
        """
        unknown = sorted(changes.keys() - self.params().keys())
        if unknown:
            known = ", ".join(self.params())
            raise ConfigError(f"{type(self).__name__} has no parameter {unknown[0]!r}; it has: {known}")
        return type(self)(**{**self.params(), **changes})

    @property
    def is_fitted(self) -> bool:
        """Whether every fitted attribute is set."""
        return all(f.name in self.__dict__ for f in fields(self) if not f.init)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.startswith("_"):
            kind = type(self).__name__
            raise NotFittedError(
                f"{kind}.{name} is not there yet; call {kind}.fit(...) or {kind}.load(...) first"
            )
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __sklearn_clone__(self) -> Self:
        return self.clone()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and fitted state to a folder (see `vitrina.artifact`)."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if not f.init}  # type: ignore[arg-type]
        artifact.save(artifact.Saved(kind=type(self).__name__, params=self.params(), state=state), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a folder that `save` wrote.

        Raises:
            ArtifactError: the folder holds another class, or its content is not what this class saves.
        """
        return cls.from_saved(artifact.load(path), path)

    @classmethod
    def from_saved(cls, saved: artifact.Saved, path: str | os.PathLike[str]) -> Self:
        """An estimator from what `artifact.load` read; `path` is named in errors."""
        if saved.kind != cls.__name__:
            raise ArtifactError(
                f"{path} holds a {saved.kind}, not a {cls.__name__}; load it with its own class"
            )
        try:
            loaded = cls(**saved.params)
        except (TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} has parameters that {cls.__name__} refuses ({error}); train again"
            ) from error
        expected = {f.name for f in fields(loaded) if not f.init}  # type: ignore[arg-type]
        if expected != saved.state.keys():
            raise ArtifactError(
                f"{path} lacks {sorted(expected ^ saved.state.keys())}; it is of another version"
            )
        for name, value in saved.state.items():
            setattr(loaded, name, value)
        return loaded


def check_positive(owner: object, **values: float) -> None:
    """Raise one sentence for the first value that is not > 0 and finite.

    Raises:
        ConfigError: names the class, the parameter, the value and the rule.
    """
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{type(owner).__name__}.{name} must be > 0 and finite, got {value}")
