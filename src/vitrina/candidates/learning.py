"""How a model of the next item learns: its parameters, their rules, and what they mean to `vitrina.nn`."""

from dataclasses import dataclass
from typing import ClassVar

from vitrina.errors import ConfigError
from vitrina.estimator import Estimator, check_positive
from vitrina.nn.losses import Correction
from vitrina.nn.next_item import LossConfig
from vitrina.nn.tables import Hashed
from vitrina.nn.training import Schedule

SCHEDULE = (
    "lr",
    "weight_decay",
    "clip_norm",
    "n_warmup_steps",
    "lr_decay",
    "n_epochs",
    "patience",
    "precision",
)
"""Parameters of the schedule: a checkpoint holds them apart from those of model and data."""


@dataclass(kw_only=True, eq=False)
class Learning(Estimator):
    """Parameters that every model of the next item has."""

    embedding_dim: int = 64
    """D."""
    max_len: int = 200
    """Latest rows of a history that are looked at; longer ones are trained on window by window."""
    windows: str = "all"
    """"all": a longer history is cut into windows; "last": only its latest window is trained on."""
    loss: str = "softmax"
    """"softmax": over the whole catalogue; "sampled_softmax", "bce", "gbce": over drawn negatives."""
    n_negatives: int = 256
    """Negatives drawn for a batch ("bce", "gbce": for each position), where the loss draws any."""
    negatives: str = "uniform"
    """Drawn "uniform", "unigram" (by count), "in_batch" (the batch's own positives), "mixed" (half of them
    uniform), "memory" (the batch's own and, where those are fewer, the latest before) or "streaming" (the
    batch's own, their frequencies learned as batches come)."""
    n_share: int = 0
    """Positions that share a set of "uniform" or "unigram" negatives: fewer learn in fewer steps, more cost
    less; 0: all of the batch do ("bce", "gbce": none do)."""
    mask_own: bool = False
    """Whether other items of the same window are kept out of the negatives."""
    correction: Correction = "corrected"
    """Of sampled_softmax: "none", "standard" (Yi et al.), "corrected" (Khrylchenko et al., RecSys 2025)."""
    cosine: bool = False
    """Whether logits are cosines over `temperature` instead of inner products."""
    temperature: float = 1.0
    """Divides the logits."""
    learned_temperature: bool = False
    """Whether the temperature is learned, from the value given."""
    tied: bool = True
    """Whether items to predict have the vectors of items read."""
    item_table: str = "plain"
    """"plain": a row for each item; "hashed": each vector is a sum of 3 rows of a smaller table."""
    rows_per_item: float = 0.25
    """Rows of a hashed table in units of items."""
    table_optimizer: str = "adamw"
    """Of item vectors: "adamw", or "rowwise": Adagrad with one number of state a row, at 10 `lr`."""
    half_life_days: float = 0.0
    """Days over which the weight of a target halves, back from the end of the log; 0 weighs all alike."""
    trend_days: float = 0.0
    """Half-life in days of an item's share of events, a term of its logit (`vitrina.nn.trend`); 0: none."""
    targets: str = "all"
    """"all": every row is learned to be predicted; "new": those in which a user takes an item first."""
    shuffle_ties: bool = False
    """Whether rows of one user and one time are put in a new order for every epoch: baskets, dates."""
    dropout: float = 0.1
    """Share of values set to 0 while training."""
    lr: float = 1e-3
    """Step size of AdamW."""
    lr_decay: str = "none"
    """"none": lr stays; "cosine": falls to a tenth by the last step."""
    n_warmup_steps: int = 0
    """Steps over which lr rises from 0."""
    clip_norm: float = 0.0
    """Largest norm of the gradient over all parameters; 0 does not clip."""
    weight_decay: float = 0.0
    """Of AdamW."""
    batch_size: int = 128
    """Windows of a step."""
    n_epochs: int = 20
    """Passes over all windows, at most."""
    patience: int = 0
    """Epochs without a better validation before stopping; 0 runs all."""
    validation: str = "none"
    """"none"; "time": the latest `frac_validation` of all rows; "last": the last row of each user."""
    frac_validation: float = 0.05
    """Share of rows held out by "time"."""
    refit: bool = True
    """Whether, after validation, the model is trained anew on everything for the best number of epochs."""
    precision: str = "auto"
    """"float32", "bf16", or "auto": bf16 where the processor computes in it."""
    seed: int = 0
    """Draws weights, batches, dropout and negatives."""
    scheduled: ClassVar[tuple[str, ...]] = SCHEDULE
    """Parameters with which a stopped training may go on as others."""
    without: ClassVar[tuple[str, ...]] = ()
    """Parameters that a model does not follow; other values than the default are refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
            embedding_dim=self.embedding_dim,
            max_len=self.max_len,
            n_negatives=self.n_negatives,
            rows_per_item=self.rows_per_item,
            lr=self.lr,
            batch_size=self.batch_size,
            n_epochs=self.n_epochs,
        )
        kind = type(self).__name__
        self._check_choices()
        if self.patience and self.validation == "none":
            raise ConfigError(f'{kind}.patience={self.patience} needs validation="time" or "last"')
        if self.n_share < 0:
            raise ConfigError(f"{kind}.n_share must be >= 0, got {self.n_share}")
        for name in ("half_life_days", "trend_days"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{kind}.{name} must be >= 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1 or not 0 < self.frac_validation < 1:
            raise ConfigError(
                f"{kind}.dropout must be in [0, 1) and frac_validation in (0, 1), got {self.dropout} and "
                f"{self.frac_validation}"
            )
        for name in self.without:
            if getattr(self, name) != getattr(Learning, name):
                raise ConfigError(f"{kind} does not follow {name}, got {getattr(self, name)!r}; leave it out")
        self._loss_config()
        self._schedule(self.n_epochs, patience=self.patience)

    def _check_choices(self) -> None:
        choices = {
            "windows": ("all", "last"),
            "validation": ("none", "time", "last"),
            "targets": ("all", "new"),
            "item_table": ("plain", "hashed"),
            "table_optimizer": ("adamw", "rowwise"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                listed = ", ".join(f'"{one}"' for one in known[:-1]) + f' or "{known[-1]}"'
                raise ConfigError(
                    f"{type(self).__name__}.{name} must be {listed}, got {getattr(self, name)!r}"
                )

    def _loss_config(self) -> LossConfig:
        return LossConfig(
            loss=self.loss,
            n_negatives=self.n_negatives,
            negatives=self.negatives,
            n_share=self.n_share,
            mask_own=self.mask_own,
            correction=self.correction,
            cosine=self.cosine,
            temperature=self.temperature,
            learned_temperature=self.learned_temperature,
        )

    def _schedule(self, n_epochs: int, *, patience: int) -> Schedule:
        return Schedule(
            n_epochs=n_epochs,
            lr=self.lr,
            weight_decay=self.weight_decay,
            n_warmup_steps=self.n_warmup_steps,
            decay=self.lr_decay,
            clip_norm=self.clip_norm,
            patience=patience,
            precision=self.precision,
        )

    def _items(self, n_items: int) -> int | Hashed:
        """I, or how I items share the rows of a hashed table."""
        if self.item_table == "plain":
            return n_items
        return Hashed(n_items, max(1, round(self.rows_per_item * n_items)))
