"""Row-wise Adagrad: an optimiser for large embedding tables, with one number of state a row.

Notation                                                                               shape
    W, g        a table and its gradient                                               (V, D)
    G           accumulators                                                           (V,)

    G_v <- G_v + mean_d g_vd^2
    W_v <- W_v - lr g_v / (sqrt(G_v) + eps)

Adam keeps 8 D bytes a row, Adagrad 4 D, this 4: a table of 100 M rows and D = 64 takes 25.6 GB, its state
0.4 GB. A row that occurs often gets smaller steps, one that is rare keeps the full rate; a row that is not
looked up does not move at all, where Adam's momentum still pushes it.

References:
    Duchi, Hazan and Singer, JMLR 2011 (Adagrad); one accumulator a row as in Mudigere et al., ISCA 2022.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vitrina.errors import ConfigError


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator for each row of a parameter.

    Sparse gradients touch only their rows; dense ones give the same result. A vector (a bias) counts as rows
    of one number.

    Args:
        params: tables, (V, D) or (V,), or groups of them.
        lr: step size of a row at its first occurrence, in units of the root mean square of its gradient.
        eps: keeps the first division finite.
    """

    def __init__(self, params: Iterable[Any], *, lr: float = 0.1, eps: float = 1e-8) -> None:
        if not lr > 0 or not eps > 0:
            raise ConfigError(f"RowwiseAdagrad.lr and eps must be > 0, got {lr} and {eps}")
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step. Cost: O(rows with a gradient times D)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            step_rows(self.state, group["params"], group["lr"], group["eps"])
        return loss


@torch.no_grad()
def step_rows(states: Any, tables: Iterable[Tensor], lr: float, eps: float) -> None:
    """One step of row-wise Adagrad on each table that has a gradient.

    Args:
        states: of the optimiser, by parameter; gets G under "sum".
        tables: (V, D) or (V,).
        lr: see `RowwiseAdagrad`.
        eps: likewise.
    """
    for table in tables:
        if table.grad is None:
            continue
        grad, state = table.grad, states[table]
        if not state:
            state["sum"] = torch.zeros(len(table), device=table.device, dtype=torch.float32)
        sums_V: Tensor = state["sum"]
        if grad.is_sparse:
            grad = grad.coalesce()
            rows, grad_N = grad.indices()[0], grad.values()
            sums_V.index_add_(0, rows, _mean_square(grad_N))
            scale_N = lr / (sums_V[rows].sqrt() + eps)
            table.index_add_(0, rows, (_by_row(scale_N, grad_N) * grad_N).to(table.dtype), alpha=-1)
        else:
            sums_V += _mean_square(grad)
            table.sub_((_by_row(lr / (sums_V.sqrt() + eps), grad) * grad).to(table.dtype))


def _mean_square(grad: Tensor) -> Tensor:
    square = grad.float().square()
    return square if grad.ndim == 1 else square.mean(tuple(range(1, grad.ndim)))


def _by_row(scale: Tensor, grad: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (grad.ndim - 1))


class AdamWWithTables(torch.optim.AdamW):
    """AdamW for dense weights and row-wise Adagrad for tables, as one optimiser with one state.

    The tables' learning rate is `table_scale` times the scheduled one: the steps of Adagrad shrink as
    1 / sqrt(occurrences of the row), those of AdamW do not. Weight decay leaves tables alone.

    Args:
        dense: parameters that AdamW trains.
        tables: parameters, (V, D), that row-wise Adagrad trains.
        lr: of AdamW.
        betas: of AdamW.
        weight_decay: of AdamW.
        table_scale: see above.

    Raises:
        ConfigError: tables are split among processes (FSDP2); their rows must be whole.
    """

    def __init__(
        self,
        dense: Iterable[Tensor],
        tables: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.0,
        table_scale: float = 10.0,
    ) -> None:
        tables = list(tables)
        if any(hasattr(table, "device_mesh") for table in tables):
            raise ConfigError(
                'table_optimizer="rowwise" needs tables whole in each process; train without '
                'VITRINA_FSDP=1, or take "adamw"'
            )
        groups = [
            {"params": list(dense), "table_scale": 0.0},
            {"params": tables, "table_scale": table_scale},
        ]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)

    def step(self, closure: Any = None) -> Any:
        """Take one step. Cost: that of AdamW on the dense weights, and O(V D) on tables."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["table_scale"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["table_scale"]:
                step_rows(self.state, group["params"], group["table_scale"] * group["lr"], 1e-8)
                for table in group["params"]:
                    if table.grad is not None:  # torch's AdamW asks every state it loads for its step
                        self.state[table]["step"] = self.state[table].get("step", torch.tensor(0.0)) + 1
        return loss
