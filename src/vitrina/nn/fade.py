"""Weights of targets by their age."""

from typing import NamedTuple

import numpy as np

from vitrina.schema import US_PER_DAY, FloatArray, LongArray


class Fade(NamedTuple):
    """Weights that halve with age, 1 on average: what followed lately says more about what follows now."""

    end_us: int
    """Time of the newest row."""
    half_life_us: float
    scale: float

    @classmethod
    def over(cls, ts: LongArray, half_life_days: float) -> "Fade":
        """For the rows of a log."""
        raw = cls(int(ts.max()), half_life_days * US_PER_DAY, 1.0)
        return raw._replace(scale=1.0 / float(raw.of(ts).mean(dtype=np.float64)))

    def of(self, ts: LongArray) -> FloatArray:
        """Each row's weight: scale * 2^(-(end - ts) / half-life). Shape of `ts`."""
        n_halvings = (self.end_us - np.asarray(ts)).astype(np.float32) / np.float32(self.half_life_us)
        return np.asarray(self.scale * np.exp2(-n_halvings), dtype=np.float32)
