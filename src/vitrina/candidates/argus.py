"""ARGUS: a history of (context, item, feedback), pre-trained on both halves of what happened next.

Khrylchenko et al., "Scaling Recommender Transformers to One Billion Parameters", KDD 2026, arXiv:2507.15994.

Notation                                                                                    shape
    c_t, i_t, f_t   context, item and feedback of event t; together one token
    h_t             state after event t, a causal transformer                               (H,)
    e(i)            vectors of items, read and scored alike                                 (I, D)

    P(history) = prod_t P(i_t | h_(t-1), c_t) P(f_t | h_(t-1), c_t, i_t)

Pre-training maximises both factors: the first, by default a sampled softmax with logQ over in-batch and
uniform negatives, imitates whatever put items before people; the second says how they took them. Fine-tuning
then makes two towers that can answer offline, u = query(h_T, c) and e(i). It goes on with both losses, but
learns to predict only those events that were no refusal, with the context that will be known when it is
asked, and adds the pairwise loss on impressions and refusals (see `vitrina.nn.argus`):

    -log sigmoid( (<u, e(a)> - <u, e(b)>) / tau ),   a taken; b shown with it, or refused before

Feedback is the kind of event of each row (`Histories.event`): "full" and "skip", "click" and "buy". Rows of
`shown_events` are impressions that led to nothing: they are no tokens, they are the b of the pairs.

Context is what the time of an event tells, hour of the day and day of the week (UTC) and the gap since the
event before it, and whether a feed led to the event or the person came alone, where the log says so in a
column `organic` (`Histories.organic`) or by the kind of event (`feed_events`). What is
known of the context of the request is a choice:

    request_time    its time (`Histories.asked_ts`); a query that does not say when has an unknown one. It
                    changes what is measured, as in HSTU, and a table must say which rows had it: the
                    evaluation notes it
    asked_from      "feed" or "alone": where the list will be shown; "anywhere" leaves it unknown

Sizes, by `size`; L blocks of about 12 H^2 parameters, without the vectors of items:

    tiny (2, 64) 0.1 M   3m (4, 256) 3.2 M   25m (8, 512) 25 M   100m (8, 1024) 101 M   1b (20, 2048) 1.0 B

Cost of an epoch: N (12 L H^2 + L T H + M D) multiply-adds, three times over; see `vitrina plan ARGUS`.
NOTE[DIFF] paper: towers of their own at the fine-tuning; here: the head and the item table that were
pre-trained go on; because without impressions there would be little to train new ones on.
NOTE[DIFF] paper: the pairwise loss alone; here: drawn negatives beside it; because impressions only compare
what the feed thought worth showing, and retrieval ranks everything else too.
NOTE[DIFF] paper: contexts of the product (surface, device); here: time, and feed or not; because histories
carry no other.
Use when: events differ in what they mean, or impressions are logged, and there is much data. See also:
SASRec (one kind of event), HSTU (time between events).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812

from vitrina.ann import Jagged, TopK
from vitrina.candidates.contexts import N_CONTEXTS, SURFACE, TIME, contexts, of_time
from vitrina.candidates.held_out import HeldOut
from vitrina.candidates.next_item import NextItemModel
from vitrina.candidates.preferences import preferences
from vitrina.errors import ConfigError
from vitrina.estimator import fitted, unchanged_if_it_fails
from vitrina.log import Histories
from vitrina.nn import device, session
from vitrina.nn.argus import ArgusNet, ArgusObjective, Tokens, Triples
from vitrina.nn.layout import Rows, Windows, batches, pad
from vitrina.nn.next_item import NextItemObjective, target_counts
from vitrina.nn.training import Run, fit, kept_rng
from vitrina.schema import BoolArray, ByteArray, FloatArray, IntArray

SIZES = {
    "tiny": (2, 64, 2),
    "3m": (4, 256, 4),
    "25m": (8, 512, 8),
    "100m": (8, 1024, 16),
    "1b": (20, 2048, 16),
}
"""Blocks, width and heads of each size."""
ASKED_FROM = ("anywhere", "alone", "feed")


@dataclass(kw_only=True, eq=False)
class ARGUS(NextItemModel):
    """Next item and feedback, learnt together from (context, item, feedback), then two towers.

    Example:
        >>> from vitrina.testing import markov_world
        >>> world = markov_world(seed=0)
        >>> model = ARGUS(max_len=20, n_epochs=12, n_tuning_epochs=0, loss="softmax", lr=0.003)
        >>> world.share_of_best(model.fit(world.train).retrieve(world.train, k=1)) > 0.85
        True
    """

    scheduled: ClassVar[tuple[str, ...]] = (*NextItemModel.scheduled, "n_tuning_epochs", "tuning_lr")
    without: ClassVar[tuple[str, ...]] = (
        "half_life_days",
        "trend_days",
        "targets",
        "mask_own",
        "item_table",
        "table_optimizer",
        "shuffle_ties",
    )
    size: str = "tiny"
    """Name of blocks, width and heads, as in the module."""
    n_layers: int | None = None
    """Blocks, instead of those of `size`."""
    hidden_dim: int | None = None
    """H, instead of that of `size`."""
    n_heads: int | None = None
    """Heads of attention, instead of those of `size`."""
    feedback_weight: float = 1.0
    """lambda of the feedback's loss; 0 learns the next item only."""
    p_no_context: float = 0.5
    """Chance that a part of the context of the next event, time or surface, is hidden in training."""
    request_time: bool = False
    """Whether the time of the request is told, where `Histories.asked_ts` says it."""
    feed_events: tuple[str, ...] = ()
    """Kinds of event that a feed led to, the others people found alone; () goes by the log's `organic`."""
    asked_from: str = "anywhere"
    """"feed" or "alone": the surface that lists are for, told as context; "anywhere" does not tell."""
    shown_events: tuple[str, ...] = ("impression",)
    """Kinds of event that are impressions without a take."""
    refusals: tuple[str, ...] = ()
    """Kinds of event that mean no, as "dislike" or "skip"."""
    n_tuning_epochs: int = 2
    """Passes of the fine-tuning; 0 serves the pre-trained head."""
    tuning_lr: float = 3e-4
    """Step size of the fine-tuning."""
    pair_weight: float = 0.2
    """mu: what the mean loss of preferences counts beside the mean loss of events in the fine-tuning."""
    loss: str = "sampled_softmax"
    n_negatives: int = 512
    negatives: str = "mixed"
    cosine: bool = True
    temperature: float = 0.1
    learned_temperature: bool = True
    event_names_: list[str] = fitted()
    """Kinds of feedback, in the order of the head's logits."""
    tuning_curve_: pl.DataFrame = fitted()
    """epoch, loss and seconds of the fine-tuning."""

    def __post_init__(self) -> None:
        for name in ("shown_events", "refusals", "feed_events"):
            setattr(self, name, tuple(getattr(self, name)))
        super().__post_init__()
        if self.size not in SIZES:
            raise ConfigError(f"ARGUS.size must be one of {', '.join(SIZES)}, got {self.size!r}")
        _, hidden_dim, n_heads = self.shape
        if min(self.shape) < 1 or hidden_dim % n_heads:
            raise ConfigError(
                f"ARGUS needs n_layers, hidden_dim and n_heads >= 1, hidden_dim a multiple of n_heads, got "
                f"{self.shape}"
            )
        if not 0 <= self.p_no_context <= 1 or self.n_tuning_epochs < 0:
            raise ConfigError(
                f"ARGUS.p_no_context must be in [0, 1] and n_tuning_epochs >= 0, got {self.p_no_context} and "
                f"{self.n_tuning_epochs}"
            )
        if not self.tuning_lr > 0 or self.feedback_weight < 0 or self.pair_weight < 0:
            raise ConfigError(
                f"ARGUS.tuning_lr must be > 0 and feedback_weight and pair_weight >= 0, got "
                f"{self.tuning_lr}, {self.feedback_weight} and {self.pair_weight}"
            )
        if self.asked_from not in ASKED_FROM:
            raise ConfigError(
                f"ARGUS.asked_from must be one of {', '.join(ASKED_FROM)}, got {self.asked_from!r}"
            )
        if not self.tied:
            raise ConfigError("ARGUS.tied must be True: its items read and scored share their vectors")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Blocks, width and heads."""
        given = (self.n_layers, self.hidden_dim, self.n_heads)
        n_layers, hidden_dim, n_heads = (
            named if own is None else own for own, named in zip(given, SIZES[self.size], strict=True)
        )
        return n_layers, hidden_dim, n_heads

    def network(self, n_items: int) -> Any:
        """The network of `vitrina.nn.argus`, with the kinds of event that were fitted, else one."""
        n_kinds = len(self.__dict__.get("event_names_", ("event",)))
        n_layers, hidden_dim, n_heads = self.shape
        return ArgusNet(
            n_items,
            n_kinds,
            N_CONTEXTS,
            embedding_dim=self.embedding_dim,
            hidden_dim=hidden_dim,
            n_layers=n_layers,
            n_heads=n_heads,
            dropout=self.dropout,
        )

    @unchanged_if_it_fails
    def fit(self, train: Histories) -> Self:
        """Pre-train on the events that are no impressions, then fine-tune; returns self.

        Raises:
            InputError: no history has two events, impressions aside.
            NotFiniteError: a loss is NaN or infinite; says at which batch.
        """
        if self.asked_from != "anywhere" and not self.feed_events and train.organic is None:
            raise ConfigError(
                f"ARGUS.asked_from={self.asked_from!r} needs to know what a feed led to; name those kinds of "
                "event in feed_events, or give the log a column organic"
            )
        read = self._read(train)
        self._shown = train.only(np.isin(train.event, self._codes(train, self.shown_events)))
        occurring = np.unique(read.event) if read.n_rows else np.zeros(1, np.uint8)
        self.event_names_ = [train.event_names[code] for code in occurring]
        self.tuning_curve_ = pl.DataFrame()
        super().fit(read)
        del self._shown
        return self

    def embed(self, queries: Histories) -> FloatArray:
        """The user tower: the query after the latest event of each history, without context. (B, D)."""
        return super().embed(self._read(queries))

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k items nearest to each user's vector; a history without events gets an empty list.

        Cost: one pass of the network over at most `max_len` events, and I D multiply-adds a query.

        Args:
            queries: B histories; impressions in them are skipped.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        return super().retrieve(self._read(queries), k=k, exclude=exclude, allowed=allowed)

    def p_feedback(self, queries: Histories, item_ix: IntArray) -> FloatArray:
        """Chance of each kind of feedback, were the item next, in the context that is known. Shape (B, K).

        Args:
            queries: B histories, none empty.
            item_ix: an item for each. Shape (B,).
        """
        queries = self._read(queries).reindex(self.items_).last(self.max_len)
        asked = torch.from_numpy(item_ix.astype(np.int64)).to(device.chosen())
        with torch.inference_mode():
            encoder, *states = self._states(queries, np.arange(len(queries), dtype=np.int32))
            return encoder.feedback(*states, asked).softmax(-1).cpu().numpy()  # type: ignore[no-any-return]

    def _codes(self, histories: Histories, names: tuple[str, ...]) -> list[int]:
        return [code for code, name in enumerate(histories.event_names) if name in names]

    def _read(self, histories: Histories) -> Histories:
        """Without the impressions that led to nothing."""
        shown = self._codes(histories, self.shown_events)
        return histories.only(~np.isin(histories.event, shown)) if shown else histories

    def _kinds(self, histories: Histories) -> IntArray:
        """`event_names_` position of each code of these histories; K where it is unknown."""
        known = {name: at for at, name in enumerate(self.event_names_)}
        return np.array([known.get(name, len(known)) for name in histories.event_names], dtype=np.int64)

    def _columns(self, rows: Rows, histories: Histories, context_NC: ByteArray, n_items: int) -> Tokens:
        """The triples of some rows."""
        context_BTC = torch.stack([rows.take(context_NC[:, c], n) for c, n in enumerate(N_CONTEXTS)], -1)
        kinds = torch.from_numpy(self._kinds(histories))
        kind_BT = kinds[rows.take(histories.event, 0)].masked_fill(
            ~rows.layout.valid_BT, len(self.event_names_)
        )
        return Tokens(rows.take(histories.item_ix, n_items), context_BTC, kind_BT)

    def _contexts(self, histories: Histories) -> ByteArray:
        """Of every row. Shape (N, C)."""
        return contexts(histories, self._codes(histories, self.feed_events) if self.feed_events else None)

    def _triples(self, windows: Windows, train: Histories, context_NC: ByteArray) -> Triples:
        read = pad(Windows(windows.start, windows.stop - 1), self.max_len)
        after = Rows(np.minimum(read.row_BT + 1, train.n_rows - 1), read.layout)
        tokens, after_tokens = (
            self._columns(rows, train, context_NC, train.n_items) for rows in (read, after)
        )
        return Triples(tokens, after_tokens, read.layout)

    def _batches(self, train: Histories, windows: Windows, epoch: int) -> Any:
        rng = np.random.default_rng([self.seed, epoch])
        context_NC = self._contexts(train)
        for some in batches(windows, self.batch_size, rng=rng):
            yield self._triples(some, train, context_NC)

    def _objective(self, train: Histories, *, tuned: bool = False, **more: Any) -> ArgusObjective:
        p, is_refusal_N = self.p_no_context, np.isin(train.event, self._codes(train, self.refusals))
        asked = (self.request_time, self.asked_from != "anywhere")
        p_time, p_surface = (p if told or not tuned else 1.0 for told in asked)
        return ArgusObjective(
            more.pop("encoder", None) or self.network(train.n_items),
            self._loss_config(),
            target_counts(
                self._windows(train),
                train.item_ix,
                train.n_items,
                counted_N=~is_refusal_N if tuned else None,
            ),
            feedback_weight=self.feedback_weight if len(self.event_names_) > 1 else 0.0,
            groups=((TIME, p_time), (SURFACE, p_surface)),
            **more,
        )

    def _train(
        self, train: Histories, n_epochs: int, held: HeldOut | None
    ) -> tuple[NextItemObjective, list[dict[str, float]]]:
        """Pre-train, and fine-tune what will be kept."""
        objective, curve = super()._train(train, n_epochs, held)
        if self.n_tuning_epochs and (held is None or not self.refit):
            self._tune(objective, train)
        return objective, curve

    def _tune(self, objective: NextItemObjective, train: Histories) -> None:
        """Two towers out of the pre-trained network, in place."""
        known = preferences(train, self._shown, self._codes(train, self.refusals))
        windows = self._windows(train)
        context_NC, around = self._contexts(train), session.current()
        begun = _hash_of(t.detach().cpu().numpy() for t in objective.state_dict().values())[:8]

        def tuned(epoch: int) -> Any:
            rng = np.random.default_rng([self.seed, 1, epoch])
            for some in batches(windows, self.batch_size, rng=rng):
                read, after, layout, _ = self._triples(some, train, context_NC)
                yield Triples(read, after, layout, known.within(some))

        with kept_rng():
            torch.manual_seed(self.seed + 1)
            towers = self._objective(
                train,
                tuned=True,
                encoder=objective.encoder,
                pair_weight=self.pair_weight * train.n_rows / max(1, len(known.state_N)),
                refused_K=torch.tensor([name in self.refusals for name in self.event_names_] + [False]),
            ).to(device.chosen())
            towers.temperature = objective.temperature
            schedule = replace(self._schedule(self.n_tuning_epochs, patience=0), lr=self.tuning_lr)
            run = Run(
                batches=tuned,
                n_batches=-(-len(windows.start) // self.batch_size),
                fingerprint=_hash_of(known, after=self._fingerprint(train)),
                folder=None
                if around.folder is None
                else around.folder / f"{type(self).__name__}-tune-{begun}",
                tracker=around.tracker,
                name="tune",
                other_schedule=around.other_schedule,
            )
            self.tuning_curve_ = pl.DataFrame(fit(towers.to(device.chosen()), schedule, run))

    def _states(self, queries: Histories, users: IntArray) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """The network, states of some non-empty histories as asked, (n, H), and the contexts, (n, C)."""
        on, encoder = device.chosen(), self._encoder
        encoder.to(on)
        rows = pad(Windows(queries.offsets[:-1][users], queries.offsets[1:][users]), self.max_len)
        read, layout = self._columns(rows, queries, self._contexts(queries), len(self.items_)), rows.layout
        context_BC = self._asked_context(queries, users).to(on)
        context_BTC = context_BC[:, None].expand(-1, layout.valid_BT.shape[1], -1)
        net, layout = cast(ArgusNet, encoder), layout.to(on)
        read = read.to(on)
        asked_BTH = net.asked(net(read, layout), read.context_BTC, context_BTC, layout)
        return net, asked_BTH[torch.arange(len(users), device=on), layout.valid_BT.sum(1) - 1], context_BC

    def _asked_context(self, queries: Histories, users: IntArray) -> torch.Tensor:
        """What is known of the requests' contexts. Shape (n, C)."""
        context_BC = np.tile(np.array(N_CONTEXTS, np.int64), (len(users), 1))
        if self.request_time and queries.asked_ts is not None:
            last_B = np.asarray(queries.ts)[queries.offsets[1:][users] - 1]
            context_BC[:, TIME] = of_time(np.maximum(queries.asked_ts[users], last_B), last_B)
        if self.asked_from != "anywhere":
            context_BC[:, SURFACE] = ASKED_FROM.index(self.asked_from) - 1
        return torch.from_numpy(context_BC)

    def _fingerprint(self, train: Histories) -> str:
        told = [array for array in (train.event, train.organic) if array is not None]
        return _hash_of(told, after=f"{super()._fingerprint(train)} {self.event_names_}")

    @torch.inference_mode()
    def _encode(self, queries: Histories, users: IntArray) -> FloatArray:
        encoder, *states = self._states(queries, users)
        user_BD = encoder.query(*states)
        return (F.normalize(user_BD, dim=-1) if self.cosine else user_BD).cpu().numpy()


def _hash_of(arrays: Iterable[np.ndarray], *, after: str = "") -> str:
    digest = hashlib.sha256(after.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
