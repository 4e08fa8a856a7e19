"""Random numbers as SPEC-7 asks: a seed, a Generator or nothing; global state is never touched."""

import numpy as np

Seed = int | np.random.Generator | None


def generator(seed: Seed) -> np.random.Generator:
    """A Generator from an integer seed, from nothing (entropy of the system), or the one given."""
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
