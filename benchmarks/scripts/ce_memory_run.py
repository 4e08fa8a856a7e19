"""One forward and backward pass of cross-entropy over a whole catalogue, in a process of its own.

    python ce_memory_run.py (ours|plain) N_ITEMS (float32|bfloat16)

`plain` is torch.nn.functional.cross_entropy over the matrix of all logits. 4,096 positions, 64 dimensions,
vectors of norm about 1 times 8, as after a LayerNorm; bfloat16 is torch's autocast.
"""

import json
import sys
import time

import torch
from torch.nn.functional import cross_entropy

from vitrina.nn.losses import full_softmax_mean

N_POSITIONS, DIM = 4096, 64


def main() -> None:
    form, n_items, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    measure(form, 1000, precision)  # kernels are made and imports done at the first call
    print(json.dumps(measure(form, n_items, precision)))


def measure(form: str, n_items: int, precision: str) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.empty(N_POSITIONS, DIM).normal_(generator=generator).requires_grad_()
    items = torch.empty(n_items, DIM).normal_(std=DIM**-0.5, generator=generator).requires_grad_()
    target = torch.randint(n_items, (N_POSITIONS,), generator=generator)
    began, began_cpu = time.perf_counter(), time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        if form == "ours":
            loss = full_softmax_mean(hidden, items, target)
        else:
            loss = cross_entropy(hidden @ items.t(), target)
    loss.backward()
    wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    assert hidden.grad is not None
    assert items.grad is not None
    return {
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "loss": round(loss.item(), 6),
        "gradient_of_hidden": round(hidden.grad.norm().item(), 8),
        "gradient_of_items": round(items.grad.norm().item(), 8),
    }


if __name__ == "__main__":
    main()
