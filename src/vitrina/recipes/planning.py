"""What training and serving a sequence model takes, before anything runs: `vitrina plan`.

Notation: I items, N events of U users, B windows of a step, T tokens of a window, H width, D numbers of an
item's vector, L blocks with attention, M negatives, p parameters, of which p_d dense (all but tables).

    parameters   counted on the network itself, built without memory (torch's meta device)
    windows      T = min(max_len, N / U - 1); an epoch has N - U transitions, or U T with windows="last"
    FLOPs        of a step, P = B T positions; a multiply-add is 2, backward is twice forward:
                 3 P (2 p_d + 2 L T H + 2 D C),   C = I with the whole softmax, else M
    training     weights 4 p, gradients 4 p, AdamW 8 p bytes
                 activations a P H (10 + sum over blocks of the numbers each keeps for a position and unit of
                     width): 16 (TransformerBlock) or 28 (LiGRBlock), 2 more with dropout, 4 more with
                     rotary, any other block taken as 30, 8 for the question of ARGUS; a = 4 bytes, 2 in bf16
                 logits 20 P M bytes, or 16 MiB for the whole softmax, whose chunks are bounded
    serving      8 p (saved arrays and the network) + 4 I D bytes (vectors as scored)
    time         FLOPs / throughput + 28 p bytes / bandwidth: AdamW reads and writes weights, gradients and
                 both moments of every parameter at every step, most of the time where tables are large

Equal histories are assumed; longer ones among shorter pad little: blocks take rows of like length together.
The process itself (Python, torch, the log) comes on top. Checked in tests: parameters against trained
models, numbers kept against autograd's, and memory of training against the peak of a process (within 1.5
times).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from vitrina.errors import ConfigError
from vitrina.recipes.build import generator

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Figures of one model on one log; bytes, FLOPs and seconds."""

    kind: str
    params: dict[str, Any]
    dense_parameters: int
    embedding_parameters: int
    tokens_per_window: int
    windows_per_epoch: int
    steps_per_epoch: int
    flops_per_step: float
    flops_per_epoch: float
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    training_bytes: int
    serving_bytes: int
    seconds_per_step: float
    seconds_per_epoch: float

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def plan(
    kind: str,
    params: dict[str, Any],
    *,
    n_items: int,
    n_users: int,
    n_events: int,
    teraflops: float = 0.05,
    gigabytes_per_s: float = 10.0,
) -> Planned:
    """What a sequence model takes on a log of a size.

    Args:
        kind: class name of a model of the next item.
        params: its parameters, where they differ from the defaults.
        n_items: I.
        n_users: U.
        n_events: N.
        teraflops: what the device computes in a second, as it is reached, not as it is advertised.
        gigabytes_per_s: what its memory moves in a second.

    Raises:
        ConfigError: there is no such model or parameter, it learns no next item, or there is no such log.
    """
    _check_sizes(
        items=n_items, users=n_users, events=n_events, teraflops=teraflops, gigabytes_per_s=gigabytes_per_s
    )
    model: Any = generator(kind, params)
    network = _network(kind, model, n_items)
    tables, dense = _parameters(network, model)
    width, dim = _width(network, model), int(model.embedding_dim)
    n_steps_back = max(1, round(n_events / n_users) - 1)
    tokens = min(int(model.max_len), n_steps_back)
    every = model.windows == "all"
    windows = n_users * -(-n_steps_back // tokens) if every else n_users
    batch_size = min(int(model.batch_size), windows)
    positions = batch_size * tokens
    whole = model.loss == "softmax"
    scored = n_items if whole else int(model.n_negatives)
    attention = 2 * _n_attention(network) * tokens * width
    per_position = 3.0 * (2 * dense + attention + 2 * dim * scored)
    n_positions = n_users * (n_steps_back if every else tokens)
    n_steps = -(-windows // batch_size)
    number = 2 if model.precision == "bf16" else 4
    activations = int(number * positions * width * (kept_numbers(network) + 10))
    logits = 16 * MIB if whole else 20 * positions * scored
    total = tables + dense
    optimizer_s = 28 * total / (gigabytes_per_s * 1e9)
    step_s = per_position * positions / (teraflops * 1e12) + optimizer_s
    return Planned(
        kind=kind,
        params={name: getattr(model, name) for name in params},
        dense_parameters=dense,
        embedding_parameters=tables,
        tokens_per_window=tokens,
        windows_per_epoch=windows,
        steps_per_epoch=n_steps,
        flops_per_step=per_position * positions,
        flops_per_epoch=per_position * n_positions,
        weights_bytes=4 * total,
        gradients_bytes=4 * total,
        optimizer_bytes=8 * total,
        activations_bytes=activations,
        logits_bytes=logits,
        training_bytes=16 * total + activations + logits,
        serving_bytes=8 * total + 4 * n_items * dim,
        seconds_per_step=step_s,
        seconds_per_epoch=per_position * n_positions / (teraflops * 1e12) + n_steps * optimizer_s,
    )


def _check_sizes(**sizes: float) -> None:
    for name, value in sizes.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"plan needs {name} > 0 and finite, got {value}")
    events, users = sizes["events"], sizes["users"]
    if events <= users:
        raise ConfigError(
            "plan needs more events than users, because every user has one and a model learns from the next; "
            f"got events={events:,} and users={users:,}, give the rows of the log and its distinct users"
        )


def kept_numbers(network: Any) -> float:
    """Numbers that the blocks keep for the backward pass, for each position and unit of width."""
    from vitrina.nn.argus import Asking
    from vitrina.nn.blocks import LiGRBlock, TransformerBlock

    kept = 8.0 * isinstance(getattr(network, "asking", None), Asking)
    for block in getattr(network, "blocks", []):
        if isinstance(block, TransformerBlock | LiGRBlock):
            kept += 16.0 if isinstance(block, TransformerBlock) else 28.0
            kept += 2.0 * (block.dropout.p > 0) + 4.0 * block.attention.rotary
        else:
            kept += 30.0
    return kept


def _network(kind: str, model: Any, n_items: int) -> Any:
    """The untrained network, without memory for its weights."""
    import torch

    from vitrina.candidates.next_item import NextItemModel

    if not isinstance(model, NextItemModel):
        raise ConfigError(f"plan knows models that learn the next item with torch, as SASRec; {kind} is none")
    with torch.device("meta"):
        return model.network(n_items)


def _parameters(network: Any, model: Any) -> tuple[int, int]:
    """Parameters in tables, those of hashed metadata too, and all others."""
    from torch import nn

    from vitrina.nn.embeddings import MultiHash

    tables = {id(m.weight): m.weight.numel() for m in network.modules() if isinstance(m, nn.Embedding)}
    dense = sum(p.numel() for p in network.parameters() if id(p) not in tables)
    has_hashed = any(isinstance(module, MultiHash) for module in network.modules())
    hashed = 0 if has_hashed else getattr(model, "n_buckets", 0)
    return sum(tables.values()) + hashed * model.embedding_dim, dense


def _width(network: Any, model: Any) -> int:
    from torch import nn

    norm = getattr(network, "norm", None)
    return int(norm.normalized_shape[0]) if isinstance(norm, nn.LayerNorm) else int(model.embedding_dim)


def _n_attention(network: Any) -> int:
    from vitrina.nn.argus import Asking
    from vitrina.nn.blocks import Attention

    found = sum(isinstance(module, Attention | Asking) for module in network.modules())
    return found or len(getattr(network, "blocks", []))
