"""HSTU: attention without softmax that knows time (Zhai et al., ICML 2024, arXiv:2402.17152).

Notation                                                                                     shape
    E        vectors of items; the same table reads the history and is scored against        (I, D)
    P        vectors of positions, counted from the newest row                               (max_len, D)
    h_t      layers(sqrt(D) E[s_1] + P[..], ..., sqrt(D) E[s_t] + P[0])                      (D,)
    logit    of item i after row t:  cos(h_t, E[i]) / temperature

    layer    x + dropout(norm(A V) * U) W_o,  A = SiLU(Q K^T + bias(distance) + bias(age)) / max_len
             (see `vitrina.nn.hstu`)
    loss     -log softmax over the item that came next and drawn negatives, at every row
    age      of row j seen from row t:  ts_t - ts_j, or, with `request_time`, ts_(t+1) - ts_j: the time at
             which the next item is asked for

`request_time` is off unless asked for, because it changes what is measured. The paper's protocol gives the
model the time of the target; in the ablations on MovieLens 1M most of the distance to SASRec, which is not
told, comes from that. A server knows when it is asked, so that it is no leak there; a table must say which
rows had it. The time reaches `retrieve` in `Histories.asked_ts`; where nobody says it, the newest row's time
stands in.

Stochastic length, with N = max_len and a = `length_exponent`: a history of l > N^(a/2) rows is trained on
whole with probability N^a / l^2 and thinned to N^(a/2) rows otherwise, drawn without replacement with weights
1 - f_j / sum f, f_j the age of row j. Attention over a history then costs about N^a D on average.

Cost of one epoch: about N (5 L D^2 + L T D + M D) multiply-adds, three times over, N rows, M negatives, T =
min(max_len, length), and N L T / 2 pairs with a table look-up and a SiLU each; memory T^2 bytes a row of a
batch beside what SASRec needs.
NOTE[DIFF] authors' code: negatives drawn for each row anew; here: for every 64 rows, one matrix product; for
a catalogue that fits, `loss="softmax"` takes all items instead.
NOTE[DIFF] authors' code: positions counted from the oldest row; here: from the newest, as in all models here.
NOTE[DIFF] authors' code: each user's latest rows alone, 101 epochs; here: every window and 20 epochs by
default; `windows="last"` and `n_epochs` are the other way.
NOTE[DIFF] paper: a thinned history predicts its own next kept row; here: the row that truly came next, as it
will be asked; the newest row is always kept.
Use when: time between rows says what comes next, or histories are long. See also: SASRec (order alone), ARGUS
(kinds of feedback).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from vitrina.candidates.next_item import NextItemModel
from vitrina.errors import ConfigError
from vitrina.estimator import check_positive
from vitrina.log import Histories
from vitrina.nn.hstu import HSTULayers
from vitrina.nn.layout import Layout, Rows, Windows, pad
from vitrina.nn.losses import Correction
from vitrina.nn.next_item import Batch, Encoder, followed
from vitrina.schema import US_PER_SECOND, BoolArray, IntArray, LongArray


@dataclass(kw_only=True, eq=False)
class HSTU(NextItemModel):
    """Pointwise attention over items with biases for distance and time, trained on cosines.

    Example:
        >>> from vitrina.testing import markov_world
        >>> world = markov_world(seed=0)
        >>> model = HSTU(embedding_dim=32, max_len=20, n_layers=1, n_epochs=15, lr=0.01).fit(world.train)
        >>> world.share_of_best(model.retrieve(world.train, k=1)) > 0.85
        True
    """

    embedding_dim: int = 50
    loss: str = "sampled_softmax"
    n_negatives: int = 128
    n_share: int = 64
    correction: Correction = "none"
    cosine: bool = True
    temperature: float = 0.05
    dropout: float = 0.2
    n_layers: int = 2
    """Layers."""
    n_heads: int = 1
    """Heads of attention; divides `embedding_dim`."""
    positions: str = "learned"
    """"learned": a vector a position; "none": distances alone."""
    time_bias: bool = True
    """Whether attention knows the age of rows."""
    request_time: bool = False
    """Whether ages count from the time of the request, in training from that of the target."""
    length_exponent: float = 2.0
    """a of the stochastic length, above 0 and at most 2; 2 reads every history whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, n_layers=self.n_layers, n_heads=self.n_heads)
        if self.embedding_dim % self.n_heads:
            raise ConfigError(
                f"HSTU.embedding_dim={self.embedding_dim} must be a multiple of n_heads={self.n_heads}"
            )
        if self.positions not in ("learned", "none"):
            raise ConfigError(f'HSTU.positions must be "learned" or "none", got {self.positions!r}')
        if self.request_time and not self.time_bias:
            raise ConfigError("HSTU.request_time=True needs time_bias=True, which is where the time enters")
        if not 0 < self.length_exponent <= 2:
            raise ConfigError(f"HSTU.length_exponent must be in (0, 2], got {self.length_exponent}")

    def network(self, n_items: int) -> Encoder:
        """Item and position vectors, `n_layers` layers; the norm at the end is that of the cosine."""
        layers = HSTULayers(
            self.embedding_dim, self.n_heads, self.n_layers, max_len=self.max_len, dropout=self.dropout
        )
        return Encoder(
            self._items(n_items),
            self.embedding_dim,
            self.max_len,
            [layers],
            dropout=self.dropout,
            positions=self.positions,
            tied=self.tied,
            final_norm=not self.cosine,
            scale=self.embedding_dim**0.5,
        )

    def _batch(self, windows: Windows, train: Histories, rng: np.random.Generator) -> Batch:
        rows = pad(Windows(windows.start, windows.stop - 1), self.max_len)
        if self.length_exponent < 2:
            rows = thinned(rows, train.ts, n=self.max_len, exponent=self.length_exponent, rng=rng)
        batch = followed(
            rows, train.item_ix, train.ts, train.n_items, asked=self.request_time, aims=self._aims
        )
        if self.time_bias:
            return batch
        return replace(batch, layout=replace(batch.layout, ts_BT=None))

    def _asked(self, queries: Histories, users: IntArray) -> tuple[torch.Tensor, Layout]:
        item_BT, layout = super()._asked(queries, users)
        ts_BT = layout.ts_BT
        if not self.time_bias or ts_BT is None:
            return item_BT, replace(layout, ts_BT=None)
        if not self.request_time:
            return item_BT, layout
        last_B = layout.valid_BT.sum(1) - 1
        row_B = torch.arange(len(users))
        asked_BT = ts_BT.roll(-1, dims=1)
        asked_BT[row_B, last_B] = ts_BT[row_B, last_B]
        if queries.asked_ts is not None:
            asked_B = torch.from_numpy(queries.asked_ts[users] // US_PER_SECOND)
            asked_BT[row_B, last_B] = torch.maximum(asked_B, ts_BT[row_B, last_B])
        return item_BT, replace(layout, asked_BT=asked_BT)


def thinned(rows: Rows, ts: LongArray, *, n: int, exponent: float, rng: np.random.Generator) -> Rows:
    """Long histories with some of their older rows left out (stochastic length; see the module).

    Args:
        rows: padded, one history a row, T tokens at most.
        ts: time of every row of the jagged arrays.
        n: N.
        exponent: a.
        rng: draws which histories, and which of their rows.
    """
    valid_BT = rows.layout.valid_BT.numpy()
    length_B = valid_BT.sum(1)
    target = max(1, int(n ** (exponent / 2)))
    is_whole_B = (length_B <= target) | (rng.random(len(length_B)) * length_B**2 < float(n) ** exponent)
    if is_whole_B.all():
        return rows
    last_B = np.maximum(length_B - 1, 0)
    ts_BT = ts[rows.row_BT]
    age_BT = np.where(valid_BT, ts_BT[np.arange(len(ts_BT)), last_B][:, None] - ts_BT, 0).astype(np.float64)
    weight_BT = 1 - age_BT / np.maximum(age_BT.sum(1, keepdims=True), 1)
    # the largest of u^(1/w) are a draw without replacement (Efraimidis and Spirakis, 2006)
    key_BT = np.log(rng.random(age_BT.shape)) / np.maximum(weight_BT, 1e-12)
    key_BT[~valid_BT] = -np.inf
    key_BT[np.arange(len(key_BT)), last_B] = np.inf
    place_BT = np.argsort(np.argsort(-key_BT, axis=1, kind="stable"), axis=1, kind="stable")
    return _kept(rows, valid_BT & (is_whole_B[:, None] | (place_BT < target)))


def _kept(rows: Rows, keep_BT: BoolArray) -> Rows:
    """The tokens where the mask is true, moved together."""
    length_B = keep_BT.sum(1)
    to_front = np.argsort(~keep_BT, axis=1, kind="stable")[:, : int(length_B.max(initial=1))]
    at_T = np.arange(to_front.shape[1])
    valid_BT = at_T < length_B[:, None]
    row_BT = np.where(valid_BT, np.take_along_axis(rows.row_BT, to_front, axis=1), 0)
    position_BT = np.maximum(length_B[:, None] - 1 - at_T, 0)
    return Rows(row_BT, Layout(torch.from_numpy(valid_BT), torch.from_numpy(position_BT)))
