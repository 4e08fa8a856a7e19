"""What models of the next item share: fitting with validation in time, answering for histories, saving.

A model file gives the encoder (`network`) and its defaults; the rest of the way from `Histories` to a list is
here, once, so that two models differ in what their files say and in nothing else.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from vitrina.ann import Jagged, TopK
from vitrina.candidates.factors import best_by_product, nearest_by_cosine
from vitrina.candidates.held_out import HeldOut, first_takes, hold_out, ties_shuffled
from vitrina.candidates.learning import Learning
from vitrina.candidates.norms import NormWatch
from vitrina.errors import InputError
from vitrina.estimator import fitted, unchanged_if_it_fails
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.metrics import NDCG
from vitrina.nn import device, session
from vitrina.nn.layout import Layout, Windows, batches, cut_windows, pad
from vitrina.nn.next_item import (
    Aims,
    Batch,
    Encoder,
    Fade,
    NextItemObjective,
    batch_of,
    target_counts,
)
from vitrina.nn.rowwise import AdamWWithTables
from vitrina.nn.speed import Speed
from vitrina.nn.training import NothingDrawn, Run, fit, kept_rng
from vitrina.nn.trend import Trend
from vitrina.schema import US_PER_SECOND, BoolArray, DoubleArray, FloatArray, IntArray, LongArray

logger = logging.getLogger("vitrina.candidates")

QUERIES_AT_ONCE = 512
"""Histories encoded together."""


@dataclass(kw_only=True, eq=False)
class NextItemModel(Learning):
    """Behaviour of every model that learns which item comes next in a history."""

    items_: Ids = fitted()
    weights_: dict[str, FloatArray] = fitted()
    """Parameters of the encoder by name."""
    item_emb_: FloatArray = fitted()
    """Vectors of the items to predict, as scored: (I, D), with `trend_days` (I, D + 1)."""
    curve_: pl.DataFrame = fitted()
    """epoch, loss, validation (NDCG@10) and seconds of each epoch; in a session with `norms` also norm,
    count_norm and update_cos (`vitrina.candidates.norms`)."""

    def network(self, n_items: int) -> Encoder:
        """An untrained encoder. Every model defines its own."""
        raise NotImplementedError

    @unchanged_if_it_fails
    def fit(self, train: Histories) -> Self:
        """Train `n_epochs` at most, or until validation no longer rises; returns self.

        Raises:
            InputError: no history has two rows, so nothing follows anything.
            NotFiniteError: a loss is NaN or infinite; says at which batch.
        """
        if not (np.diff(train.offsets) > 1).any():
            raise InputError(
                f"{type(self).__name__}.fit needs a history of at least two rows, the longest of "
                f"{len(train)} has {int(train.lengths.max(initial=0))}"
            )
        curve: list[dict[str, float]] = []
        n_epochs = self.n_epochs
        if self.validation != "none":
            held = hold_out(
                train,
                by=self.validation,
                frac=self.frac_validation,
                seed=self.seed,
                only_new=self.targets == "new",
                kind=type(self).__name__,
            )
            objective, curve = self._train(held.train, self.n_epochs, held)
            n_epochs = 1 + int(np.argmax([entry["validation"] for entry in curve]))
        if self.validation == "none" or self.refit:
            objective, last = self._train(train, n_epochs, None)
            curve = curve or last
        self.items_ = train.items
        self._keep(objective)
        del self._aims  # a table of the trend may be large
        self.curve_ = pl.DataFrame(curve)
        return self

    def embed(self, queries: Histories) -> FloatArray:
        """The hidden state after the latest row of each history, as scored; 0 for an empty one.

        Shape (B, D), with `trend_days` (B, D + 1).
        """
        queries = queries.reindex(self.items_).last(self.max_len)
        emb_BD = np.zeros((len(queries), self.item_emb_.shape[1]), np.float32)
        found = np.flatnonzero(queries.lengths)
        order = found[np.argsort(-queries.lengths[found], kind="stable")]
        for lo in range(0, len(order), QUERIES_AT_ONCE):
            users = order[lo : lo + QUERIES_AT_ONCE].astype(np.int32)
            emb_BD[users] = self._encode(queries, users)
        return emb_BD

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k likeliest next items of each history; an empty history gets an empty list.

        Cost: one pass of the encoder over at most `max_len` rows, and I D multiply-adds a query.

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
        return nearest_by_cosine(self.item_emb_[:, :-1] if self.trend_days else self.item_emb_, item_ix, k=k)

    @property
    def raw_item_emb(self) -> FloatArray:
        """Vectors of the items to predict before any normalisation, without the trend. Shape (I, D)."""
        with torch.inference_mode():
            return self._encoder.item_vectors().float().cpu().numpy()

    @property
    def start_norm(self) -> float:
        """Mean length of the vectors of the items to predict before the first step; makes them again."""
        with kept_rng(), torch.inference_mode():
            torch.manual_seed(self.seed)
            return float(self._network(len(self.items_)).eval().item_vectors().norm(dim=-1).mean())

    def _keep(self, objective: NextItemObjective) -> None:
        """Take the weights out of torch."""
        encoder = objective.encoder.eval()
        self.weights_ = {
            name: tensor.detach().float().cpu().numpy().copy()
            for name, tensor in encoder.state_dict().items()
        }
        with torch.no_grad():
            vectors_ID = encoder.item_vectors()
            vectors_ID = F.normalize(vectors_ID, dim=-1) if self.cosine else vectors_ID
            if self._aims.trend is not None:
                now_I1 = torch.from_numpy(self._aims.trend.now_I)[:, None]
                vectors_ID = torch.cat([vectors_ID.cpu() / objective.temperature().cpu(), now_I1], 1)
            self.item_emb_ = vectors_ID.float().cpu().numpy().copy()
        self.__dict__.pop("_encoder", None)

    @cached_property
    def _encoder(self) -> Encoder:
        """The encoder with the fitted weights."""
        with NothingDrawn():
            encoder = self._network(len(self.items_))
        encoder.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights_.items()})
        return encoder.eval()

    @torch.inference_mode()
    def _encode(self, queries: Histories, users: IntArray) -> FloatArray:
        """Hidden states after the latest rows of some non-empty histories. Shape (n, D)."""
        on, (item_BT, layout) = device.chosen(), self._asked(queries, users)
        encoder, layout = self._encoder.to(on), layout.to(on)
        hidden_BTD = encoder(item_BT.to(on), layout)
        hidden_BD = hidden_BTD[torch.arange(len(users), device=on), layout.valid_BT.sum(1) - 1]
        trend = getattr(encoder, "trend", None)
        follows_B1 = None if trend is None else trend(hidden_BD)
        hidden_BD = F.normalize(hidden_BD, dim=-1) if self.cosine else hidden_BD
        return (hidden_BD if follows_B1 is None else torch.cat([hidden_BD, follows_B1], 1)).cpu().numpy()

    def _asked(self, queries: Histories, users: IntArray) -> tuple[torch.Tensor, Layout]:
        """What the encoder reads of some non-empty histories; it answers at the newest token."""
        rows = pad(Windows(queries.offsets[:-1][users], queries.offsets[1:][users]), self.max_len)
        layout = replace(rows.layout, ts_BT=rows.take(queries.ts, 0) // US_PER_SECOND)
        return rows.take(queries.item_ix, len(self.items_)), layout

    def _train(
        self, train: Histories, n_epochs: int, held: HeldOut | None
    ) -> tuple[NextItemObjective, list[dict[str, float]]]:
        """Train a new network on these histories."""
        windows = self._windows(train)
        self._aims = self._aims_of(train)
        n_batches = -(-len(windows.start) // self.batch_size)
        around = session.current()
        with kept_rng():
            torch.manual_seed(self.seed)
            objective = self._objective(train).to(device.chosen())
            schedule = self._schedule(n_epochs, patience=self.patience if held is not None else 0)
            part = "refit" if held is None and self.validation != "none" else "fit"
            watch = NormWatch(objective.encoder, train.item_counts()) if around.norms else None
            run = Run(
                batches=lambda epoch: self._watched(watch, train, windows, epoch),
                n_batches=n_batches,
                fingerprint=self._fingerprint(train),
                validate=None if held is None else lambda: self._validate(objective, held),
                after_epoch=None if watch is None else watch.after_epoch,
                folder=None if around.folder is None else around.folder / f"{type(self).__name__}-{part}",
                tracker=around.tracker,
                name=part,
                other_schedule=around.other_schedule,
                on_step=Speed(type(self).__name__, n_epochs, n_batches, around.heard),
            )
            curve = fit(objective, schedule, run, optimizer=self._optimizer(objective))
        for entry in curve:
            logger.info("%s %s: %s", type(self).__name__, part, entry)
        return objective, curve

    def _optimizer(self, objective: NextItemObjective) -> Callable[[nn.Module], torch.optim.Optimizer] | None:
        """What makes the optimiser of a module shaped as `objective`; None for AdamW of everything."""
        if self.table_optimizer == "adamw":
            return None
        tables = {id(table) for table in objective.encoder.tables()}
        names = {name for name, param in objective.named_parameters() if id(param) in tables}

        def make(module: nn.Module) -> torch.optim.Optimizer:
            each = [(name in names, param) for name, param in module.named_parameters()]
            return AdamWWithTables(
                [param for is_table, param in each if not is_table],
                [param for is_table, param in each if is_table],
                lr=self.lr,
                weight_decay=self.weight_decay,
            )

        return make

    def _windows(self, train: Histories) -> Windows:
        """What an epoch goes through once."""
        return cut_windows(train.offsets, self.max_len, every=self.windows == "all")

    def _objective(self, train: Histories) -> NextItemObjective:
        """A new network and its loss."""
        counts_I = self._target_counts(train)
        return NextItemObjective(
            self._network(train.n_items), self._loss_config(), counts_I, self._aims.trend
        )

    def _target_counts(self, train: Histories) -> LongArray | DoubleArray:
        """How often each item is a target in an epoch. Shape (I,)."""
        return target_counts(
            self._windows(train), train.item_ix, train.n_items, counted_N=self._aims.counted_N
        )

    def _network(self, n_items: int) -> Encoder:
        encoder = self.network(n_items)
        return encoder.follow_trend() if self.trend_days else encoder

    def _aims_of(self, train: Histories) -> Aims:
        """What is asked of the rows as targets."""
        days, half_life = self.trend_days, self.half_life_days
        return Aims(
            fade=Fade.over(train.ts, half_life) if half_life else None,
            trend=Trend.over(train.item_ix, train.ts, train.n_items, half_life_days=days) if days else None,
            counted_N=first_takes(train) if self.targets == "new" else None,
        )

    def _watched(self, watch: NormWatch | None, train: Histories, windows: Windows, epoch: int) -> Any:
        if watch is not None:
            watch.begin()
        return self._batches(train, windows, epoch)

    def _batches(self, train: Histories, windows: Windows, epoch: int) -> Any:
        rng = np.random.default_rng([self.seed, epoch])
        if self.shuffle_ties:
            train = ties_shuffled(train, rng)
            if self.targets == "new":
                self._aims = self._aims._replace(counted_N=first_takes(train))
        for some in batches(windows, self.batch_size, rng=rng):
            yield self._batch(some, train, rng)

    def _batch(self, windows: Windows, train: Histories, rng: np.random.Generator) -> Batch:
        """Inputs and targets of some windows; whatever is drawn comes from `rng`."""
        return batch_of(
            windows, train.item_ix, train.ts, train.n_items, longest=self.max_len, aims=self._aims
        )

    def _validate(self, objective: NextItemObjective, held: HeldOut) -> float:
        """NDCG@10 of the held-out rows."""
        self.items_ = held.train.items
        self._keep(objective)
        seen = Jagged(held.queries.offsets, held.queries.item_ix) if held.hide_seen else None
        lists = self.retrieve(held.queries, k=10, exclude=seen)
        return float(np.nanmean(NDCG(10).per_user(lists.item_ix, held.truth)))

    def _fingerprint(self, train: Histories) -> str:
        """Of log and model, so that a checkpoint is used where it belongs; the schedule stands beside it."""
        params = {name: value for name, value in self.params().items() if name not in self.scheduled}
        digest = hashlib.sha256(repr((type(self).__name__, params, train.n_items)).encode())
        for array in (train.offsets, train.item_ix, train.ts):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]
