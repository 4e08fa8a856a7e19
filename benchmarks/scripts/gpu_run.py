"""One case of `bench_gpu`: `gpu_run.py CASE DEVICE`, a JSON object as the last line.

    step-<name>   median seconds of a training step through `Model.fit`, batches and loss included
    attention     HSTU's attention and torch's scaled_dot_product_attention, forward and backward

Each case measures the device's matmul in its own precision before and after, and keeps the faster. On a
processor, seconds are CPU time of one thread: they do not depend on what else runs.
"""

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn.functional import scaled_dot_product_attention

from vitrina.candidates import ARGUS, HSTU, SASRec
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.nn.hstu import Pairs, bucket_of, pointwise_attention
from vitrina.nn.session import session
from vitrina.nn.training import has_fast_bf16
from vitrina.recipes.planning import plan
from vitrina.schema import US_PER_DAY, US_PER_SECOND

N_ITEMS, N_WARM = 3416, 3
STEPS: dict[str, dict[str, Any]] = {
    "sasrec": {"kind": SASRec, "max_len": 200, "cpu": (128, 10), "cuda": (1024, 40)},
    "hstu": {"kind": HSTU, "max_len": 200, "cpu": (128, 6), "cuda": (512, 40)},
    "argus-100m": {"kind": ARGUS, "max_len": 200, "size": "100m", "cpu": (4, 5), "cuda": (64, 20)},
    "argus-1b": {"kind": ARGUS, "max_len": 200, "size": "1b", "cpu": None, "cuda": (16, 10)},
}
"""Windows of a step and steps, on a processor and on a GPU."""
SHAPES = {"cpu": (8, 4, 256, 32), "cuda": (64, 8, 1024, 64)}
"""B, H, T, E of attention."""


def histories(n_users: int, n: int, seed: int = 0) -> Histories:
    """Users with n rows each, items by popularity, one row in four of another kind."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(10, 10 + N_ITEMS)
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), n),
            "item_id": rng.choice(N_ITEMS, n_users * n, p=p / p.sum()),
            "ts": pl.Series(US_PER_DAY + np.cumsum(rng.integers(1, 600, n_users * n)) * US_PER_SECOND).cast(
                pl.Datetime("us", "UTC")
            ),
            "event": np.where(rng.random(n_users * n) < 0.25, "skip", "full"),
        }
    )
    return Histories.from_frame(frame, items=Ids(pl.Series(np.arange(N_ITEMS))))


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """The most multiply-adds, counted as 2, that a square product of the device reaches in a second."""
    n = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = np.inf
    for _ in range(5):
        began = now(device)
        a @ b
        best = min(best, now(device) - began)
    return 2 * n**3 / best


def now(device: str) -> float:
    """Seconds, once the device has done what it was asked for."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def step(name: str, device: str) -> dict[str, Any]:
    """Seconds of a step, tokens and model FLOPs a second, and their share of the matmul's."""
    case = dict(STEPS[name])
    batch_size, n_steps = case[device]
    kind = case.pop("kind")
    params = {key: case[key] for key in ("max_len", "size") if key in case} | {"batch_size": batch_size}
    bf16 = has_fast_bf16(device)
    params["precision"] = "bf16" if bf16 else "float32"
    more = {"n_tuning_epochs": 0} if kind is ARGUS else {}
    model = kind(n_epochs=1, **params, **more)
    n_users = batch_size * (n_steps + N_WARM)
    train, stamps = histories(n_users, model.max_len + 1), []
    batches = model._batches

    def timed(*args: Any) -> Any:
        for batch in batches(*args):
            stamps.append(now(device))
            yield batch

    model._batches = timed
    peak = matmul_flops(device, torch.bfloat16 if bf16 else torch.float32)
    with session(device=device):
        model.fit(train)
    peak = max(peak, matmul_flops(device, torch.bfloat16 if bf16 else torch.float32))
    seconds = statistics.median(np.diff(stamps)[N_WARM:])
    flops = plan(
        kind.__name__, params, n_items=N_ITEMS, n_users=n_users, n_events=train.n_rows
    ).flops_per_step
    dense = sum(array.size for array in model.weights_.values()) - model.weights_["item.weight"].size
    return {
        "seconds": seconds,
        "tokens_per_s": batch_size * model.max_len / seconds,
        "tflops": flops / seconds / 1e12,
        "peak_tflops": peak / 1e12,
        "utilisation": flops / seconds / peak,
        "dense_parameters": dense,
        "precision": params["precision"],
        "what": f"{batch_size} windows of {model.max_len}",
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
    }


def attention(device: str) -> dict[str, Any]:
    """Milliseconds of forward and backward of both attentions, with and without the bias of time."""
    n_rows, n_heads, n_tokens, width = SHAPES[device]
    bf16 = has_fast_bf16(device)
    dtype = torch.bfloat16 if bf16 else torch.float32
    torch.manual_seed(0)
    q, k, v = (torch.randn(n_rows, n_heads, n_tokens, width, device=device, dtype=dtype) for _ in range(3))
    grad = torch.randn_like(q)
    tables = [torch.randn(n_heads, n, device=device) * 0.02 for n in (n_tokens, 128)]
    ts_BT = torch.randint(1, 10**5, (n_rows, n_tokens), device=device).cumsum(1)
    timed = Pairs(bucket_of(ts_BT[:, :, None] - ts_BT[:, None, :]), None)
    given = [x.requires_grad_() for x in (q, k, v, *tables)]
    forms = {
        "hstu": lambda: pointwise_attention(*given, timed, n=n_tokens),
        "hstu_without_time": lambda: pointwise_attention(*given, Pairs(None, None), n=n_tokens),
        "sdpa": lambda: scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    found: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(8 if device == "cpu" else 30):
        for name, form in forms.items():
            began = now(device)
            form().backward(grad)
            if turn >= 2:
                found[name].append((now(device) - began) * 1000)
    return {name: statistics.median(ms) for name, ms in found.items()} | {
        "what": f"{n_rows} x {n_heads} heads x {n_tokens} tokens x {width}",
        "precision": "bf16" if bf16 else "float32",
    }


if __name__ == "__main__":
    case, where = sys.argv[1:]
    if where == "cpu":
        torch.set_num_threads(1)
    made = attention(where) if case == "attention" else step(case.removeprefix("step-"), where)
    made["device"] = torch.cuda.get_device_name() if where == "cuda" else "one thread of the processor"
    print(json.dumps(made))
