"""Implicit ALS (Hu, Koren, Volinsky, ICDM 2008), the recipe of Rendle et al. (RecSys 2022, arXiv:2110.14037).

Notation (section 3)                                                                   shape
    W, V    vectors of users and items; score s_ui = w_u . v_i                         (U, D), (I, D)
    N_u     items of user u, with weights c_ui (1, or the sum of the weights of the rows)
    n_u     sum of c_ui over N_u; n_i likewise over the users of item i

    loss =   sum_(u, i in N_u) c_ui (kappa s_ui^2 - 2 s_ui)  +  alpha0 sum_(all u, i) s_ui^2
           + lambda sum_u (n_u + alpha0 I)^nu |w_u|^2  +  lambda sum_i (n_i + alpha0 U)^nu |v_i|^2

which for kappa = 1 is, up to a constant, c_ui (s_ui - 1)^2 on the observed pairs. With V fixed each w_u
solves a D x D system, and the reverse. A person who was not in the training log is folded in by that same
system, so a history is all that `retrieve` needs; no user vector is kept.

Cost of one epoch with conjugate gradients: 8 (steps + 1) N D + 2 (steps + 1)(U + I) D^2 multiply-adds; memory
8 N bytes for the pairs, 4 (U + I) D for the vectors.
NOTE[DIFF] Rendle: kappa = 1; here: 1 by default and any value > -alpha0; because forgiving large scores of
observed pairs ranks better on some logs (MovieLens 1M: NDCG@10 0.099 instead of 0.097).
NOTE[DIFF] Rendle: exact or block solutions; here by default: three warm-started conjugate gradient steps
(Takács, Pilászy, Tikk, RecSys 2011); because they reach the same loss sooner. `solver="blocks"` is theirs.
Use when: I is too large for EASE. See also: Ease (small I), BPR (ranking loss), ItemKNN.
"""

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
import polars as pl

from vitrina.ann import Jagged, TopK
from vitrina.candidates.als_kernels import Pairs, blocks, both_sides, conjugate_gradients, half_step
from vitrina.candidates.factors import NormCurve, best_by_product, nearest_by_cosine
from vitrina.errors import ConfigError, InputError
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray, FloatArray, IntArray

FOLD_IN_USERS = 8192
"""Queries whose vectors are computed at a time."""
FOLD_IN_TOLERANCE = 1e-6
"""|b - A w| / |b| at which a fold-in stops: about the rounding of float32."""


@dataclass(kw_only=True, eq=False)
class ImplicitALS(Estimator):
    """Matrix factorisation of observed pairs against everything, solved by alternating least squares.

    Example:
        >>> from vitrina.testing import checkerboard
        >>> world = checkerboard(seed=0)
        >>> model = ImplicitALS(embedding_dim=8, reg=0.01, unobserved_weight=0.1).fit(world.train)
        >>> lists = model.retrieve(world.train, k=10, exclude=world.seen)
        >>> world.share_of_best(lists) > 0.99
        True
    """

    embedding_dim: int = 64
    """D."""
    n_epochs: int = 10
    """Sweeps; each solves all users, then all items."""
    reg: float = 0.003
    """lambda; tune it with `unobserved_weight`, on a logarithmic grid, at a small dimension first."""
    unobserved_weight: float = 0.3
    """alpha0, the weight of any pair, in units of one observed pair. Larger leans on what is popular."""
    observed_curvature: float = 1.0
    """kappa: 1 pulls scores of observed pairs to 1; less lets them grow. Above -unobserved_weight."""
    reg_exponent: float = 1.0
    """nu: 1 scales the ridge with how often a user or item occurs, 0 gives all the same."""
    weighted: bool = False
    """Whether c_ui is the sum of the weights of the rows (their number where the log has none), else 1."""
    solver: str = "cg"
    """"cg": conjugate gradients; "blocks": exact in each block of coordinates (iALS++)."""
    cg_steps: int = 3
    """Steps of each solution of "cg"."""
    block_size: int = 64
    """Coordinates of a block of "blocks"; embedding_dim or more gives exact ALS."""
    init_std: float = 0.1
    """Standard deviation of |v_i| at the start; that of one coordinate is init_std / sqrt(D)."""
    seed: int = 0
    """Draws the item vectors at the start."""
    items_: Ids = fitted()
    item_emb_: FloatArray = fitted()
    """V, (I, D)."""
    gram_: FloatArray = fitted()
    """alpha0 V^T V, (D, D)."""
    curve_: pl.DataFrame = fitted()
    """epoch, norm and count_norm (`vitrina.candidates.norms`), no rows but in a session with `norms`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
            embedding_dim=self.embedding_dim,
            n_epochs=self.n_epochs,
            reg=self.reg,
            unobserved_weight=self.unobserved_weight,
            cg_steps=self.cg_steps,
            block_size=self.block_size,
            init_std=self.init_std,
        )
        if self.solver not in ("cg", "blocks"):
            raise ConfigError(f'ImplicitALS.solver must be "cg" or "blocks", got {self.solver!r}')
        lowest = 0.0 if self.weighted else -self.unobserved_weight
        if not lowest < self.observed_curvature < float("inf"):
            raise ConfigError(
                f"ImplicitALS.observed_curvature must be > {lowest:g} (minus unobserved_weight, or 0 where "
                f"weighted), got {self.observed_curvature}; from there on the loss may have no minimum"
            )
        if not 0 <= self.reg_exponent < float("inf"):
            raise ConfigError(f"ImplicitALS.reg_exponent must be >= 0 and finite, got {self.reg_exponent}")

    def fit(self, train: Histories) -> Self:
        """Alternate `n_epochs` times; returns self.

        Raises:
            InputError: the log has no rows.
        """
        if train.n_rows == 0:
            raise InputError("ImplicitALS.fit got a log of 0 rows; it needs at least one")
        weight = None
        if self.weighted:
            weight = np.ones(train.n_rows, np.float32) if train.weight is None else train.weight
        by_user, by_item = both_sides(train.offsets, train.item_ix, weight, train.n_items)
        n_users = int(np.count_nonzero(np.diff(by_user.offsets)))
        ridge_U = self._ridge(by_user, train.n_items)
        ridge_I = self._ridge(by_item, n_users)
        scale = self.init_std / np.sqrt(self.embedding_dim)
        V = np.random.default_rng(self.seed).standard_normal((train.n_items, self.embedding_dim), np.float32)
        V *= scale * (np.diff(by_item.offsets) > 0)[:, None]  # an item that nobody took stays at zero
        W = np.zeros((len(train), self.embedding_dim), np.float32)
        curve = NormCurve(train.item_counts())
        for _ in range(self.n_epochs):
            self._half_step(by_user, V, W, ridge_U)
            self._half_step(by_item, W, V, ridge_I)
            curve.after_epoch(V)
        if not np.isfinite(V).all():
            raise ConfigError(f"ImplicitALS diverged; raise reg={self.reg} or unobserved_weight")
        self.items_ = train.items
        self.item_emb_ = V
        self.gram_ = np.float32(self.unobserved_weight) * (V.T @ V)
        self.curve_ = curve.frame()
        return self

    def embed(self, queries: Histories) -> FloatArray:
        """The vector of each history: the w that minimises the loss with V fixed. Shape (B, D).

        An empty history has the vector 0. Cost: some 15 passes over the vectors of its items.
        """
        queries = queries.reindex(self.items_)
        emb_BD = np.zeros((len(queries), self.embedding_dim), np.float32)
        for lo, block in queries.blocks(max_users=FOLD_IN_USERS):
            X = block.user_item(binary=not self.weighted)
            weight = X.data if self.weighted else np.zeros(0, np.float32)
            pairs = Pairs(X.indptr.astype(np.int64), X.indices, weight)
            half_step(
                pairs,
                self.item_emb_,
                self.gram_,
                emb_BD[lo : lo + len(block)],
                self._ridge(pairs, len(self.items_)),
                curvature=self.observed_curvature,
                solver=conjugate_gradients,
                effort=4 * self.embedding_dim,
                tolerance=FOLD_IN_TOLERANCE,
                n_threads=numba.get_num_threads(),
            )
        return emb_BD

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k items with the largest w . v for each history; an empty history gets an empty list.

        Cost: a fold-in (`embed`) and I D multiply-adds a query; the matrix of all scores is never made.

        Args:
            queries: B histories.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        queries = queries.reindex(self.items_)
        return best_by_product(
            self.embed(queries), queries.lengths, self.item_emb_, k=k, exclude=exclude, allowed=allowed
        )

    def similar(self, item_ix: IntArray, *, k: int) -> TopK:
        """Items whose vectors have the largest cosine with the given ones. Shape (n, k)."""
        return nearest_by_cosine(self.item_emb_, item_ix, k=k)

    def _ridge(self, pairs: Pairs, n_others: int) -> FloatArray:
        """The ridge lambda (n + alpha0 * n_others)^nu of each row."""
        total = pairs.row_weight() + self.unobserved_weight * n_others
        return np.asarray(self.reg * total**self.reg_exponent, dtype=np.float32)

    def _half_step(self, pairs: Pairs, fixed: FloatArray, emb: FloatArray, ridge: FloatArray) -> None:
        by_cg = self.solver == "cg"
        half_step(
            pairs,
            fixed,
            np.float32(self.unobserved_weight) * (fixed.T @ fixed),
            emb,
            ridge,
            curvature=self.observed_curvature,
            solver=conjugate_gradients if by_cg else blocks,
            effort=self.cg_steps if by_cg else self.block_size,
            n_threads=numba.get_num_threads(),
        )
