"""Lengths of item vectors while a model learns: do those of popular items grow?

    count_norm   Spearman of (training count, |v_i|) over the items of the log
    norm         mean of |v_i|
    update_cos   mean of cos(v_i after - v_i before, v_i before) over the items that moved

taken before any normalisation. A cosine loss cannot see |v_i|, so its gradient is at right angles to v_i and
every plain step lengthens v_i: |v + d|^2 = |v|^2 + |d|^2. Items that are trained on more often would then be
longer. `update_cos` is of a whole epoch, not of one step: a vector that turns by the angle a at constant
length has -sin(a / 2), and one that keeps growing where it points has 1. Measured in docs/popularity.md.
"""

import numpy as np
import torch
from torch import Tensor

from vitrina.candidates.factors import norm_figures
from vitrina.nn.next_item import Encoder
from vitrina.schema import DoubleArray, LongArray

ROWS_AT_ONCE = 65_536
"""Vectors whose norms and updates are taken together."""


class NormWatch:
    """Figures for the training curve, epoch by epoch.

    Cost: a copy of the table while an epoch runs, and one pass over it and a sort after.

    Args:
        encoder: the network that is trained.
        counts_I: training rows of each item.
    """

    def __init__(self, encoder: Encoder, counts_I: LongArray) -> None:
        self.encoder, self.counts_I = encoder, np.asarray(counts_I)
        self._before_ID: Tensor | None = None

    def begin(self) -> None:
        """Remember the vectors: an epoch starts, or goes on after an interruption."""
        self._before_ID = self._vectors().clone()

    def after_epoch(self) -> dict[str, float]:
        """count_norm, norm and update_cos; what cannot be said is left out.

        In the epoch in which a run was resumed `update_cos` covers the steps since.
        """
        after_ID = self._vectors()
        norm_I = _norms(after_ID)
        found = norm_figures(norm_I, self.counts_I)
        if self._before_ID is not None:
            cos_I = _update_cos(self._before_ID, after_ID)
            if len(cos_I):
                found["update_cos"] = float(cos_I.mean())
        self._before_ID = None
        return found

    def _vectors(self) -> Tensor:
        with torch.no_grad():
            return self.encoder.item_vectors().detach()


def _norms(vectors_ID: Tensor) -> DoubleArray:
    """|v_i|. Shape (I,)."""
    found = [block.float().norm(dim=-1).double().cpu().numpy() for block in _blocks(vectors_ID)]
    return np.concatenate(found)


def _update_cos(before_ID: Tensor, after_ID: Tensor) -> DoubleArray:
    """cos(after - before, before) of the rows for which both have a direction."""
    found = []
    for before, after in zip(_blocks(before_ID), _blocks(after_ID), strict=True):
        start, update = before.double(), after.double() - before.double()
        lengths = update.norm(dim=-1) * start.norm(dim=-1)
        moved = lengths > 0
        found.append(((update * start).sum(-1)[moved] / lengths[moved]).cpu().numpy())
    return np.concatenate(found)


def _blocks(vectors_ID: Tensor) -> list[Tensor]:
    return [vectors_ID[lo : lo + ROWS_AT_ONCE] for lo in range(0, len(vectors_ID), ROWS_AT_ONCE)]
