"""`vitrina plan`: its formulas against networks that were trained and memory that was used."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrina.candidates import CANDIDATES
from vitrina.errors import ConfigError
from vitrina.nn.argus import Asking
from vitrina.nn.blocks import LiGRBlock, TransformerBlock
from vitrina.nn.layout import Windows, pad
from vitrina.recipes.planning import kept_numbers, plan
from vitrina.testing import markov_world

LOG = {"n_items": 50, "n_users": 300, "n_events": 300 * 40}

TRAINED = {
    "SASRec": {"embedding_dim": 8, "max_len": 20, "n_layers": 1, "n_epochs": 1},
    "ESASRec": {"embedding_dim": 8, "max_len": 20, "n_layers": 2, "n_epochs": 1},
    "ARGUS": {
        "embedding_dim": 8,
        "hidden_dim": 16,
        "n_layers": 2,
        "max_len": 20,
        "n_epochs": 1,
        "n_tuning_epochs": 0,
    },
    "HSTU": {"embedding_dim": 8, "max_len": 20, "n_epochs": 1},
    "GRU4Rec": {"embedding_dim": 8, "max_len": 20, "n_epochs": 1},
}


@pytest.mark.parametrize("kind", TRAINED)
def test_parameters_are_those_of_a_trained_model(kind):
    found = plan(kind, TRAINED[kind], **LOG)
    model = CANDIDATES[kind](**TRAINED[kind]).fit(markov_world(n_users=8, length=6).train)
    n_items = len(model.items_)
    again = plan(kind, TRAINED[kind], **{**LOG, "n_items": n_items})
    trained = sum(array.size for array in model.weights_.values())
    assert again.dense_parameters + again.embedding_parameters == trained
    assert found.dense_parameters == again.dense_parameters


@pytest.mark.parametrize(("n_layers", "dim"), [(1, 16), (3, 32)])
def test_dense_parameters_have_their_closed_form(n_layers, dim):
    sasrec = plan("SASRec", {"embedding_dim": dim, "n_layers": n_layers}, **LOG)
    assert sasrec.dense_parameters == n_layers * (12 * dim**2 + 13 * dim) + 2 * dim
    d = 8
    argus = plan("ARGUS", {"embedding_dim": d, "hidden_dim": dim, "n_layers": n_layers}, **LOG)
    merge, norm = (3 * d + 1) * dim, 2 * dim
    asking = 2 * dim + 4 * (dim + 1) * dim + d * dim
    query = asking + (dim + 1) * d + (dim + d + 1) * dim + (dim + 1) * d
    feedback = (dim + 1) * d + (dim + 3 * d + 1) * dim + (dim + 1)
    assert argus.dense_parameters == n_layers * (12 * dim**2 + 13 * dim) + merge + norm + query + feedback


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("block", [TransformerBlock, LiGRBlock])
def test_numbers_kept_are_those_that_autograd_keeps(block, rotary, dropout):
    dim, n_rows, n_tokens = 32, 3, 40
    stop = np.arange(1, n_rows + 1) * n_tokens
    layout = pad(Windows(stop - n_tokens, stop)).layout
    layer = block(dim, 2, ffn_dim=4 * dim, dropout=dropout, rotary=rotary)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    x = torch.randn(n_rows, n_tokens, dim, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x, layout)
    numbers = sum(n for n, _ in kept.values()) / (4 * x.numel())
    network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([layer])})
    assert numbers == pytest.approx(kept_numbers(network), rel=0.03)


def test_numbers_kept_by_the_question_of_argus_are_those_that_autograd_keeps():
    dim, n_rows, n_tokens = 64, 3, 40
    stop = np.arange(1, n_rows + 1) * n_tokens
    layout = pad(Windows(stop - n_tokens, stop)).layout
    asking, kept = Asking(dim, 4, 2), {}
    own = {p.untyped_storage().data_ptr() for p in asking.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    x = torch.randn(n_rows, n_tokens, dim, requires_grad=True)
    small = torch.randn(n_rows, n_tokens, 4)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        asking(x, small, small, layout)
    numbers = sum(n for n, _ in kept.values()) / (4 * x.numel())
    network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([]), "asking": asking})
    assert numbers == pytest.approx(kept_numbers(network), rel=0.05)


PEAK = """
import json, sys
import torch
torch.set_num_threads(1)
from vitrina.candidates import SASRec
from vitrina.testing import markov_world
small, large = (markov_world(n_users=n, n_items=60, length=l).train for n, l in ((8, 9), (64, 201)))
params = json.loads(sys.argv[1])
def peak():  # VmHWM begins anew with the program; ru_maxrss would begin at the peak of whoever started it
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
SASRec(**params).fit(small)
before = peak()
SASRec(**params).fit(large)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to read a peak of memory")
def test_memory_of_training_is_within_half_of_what_a_process_took():
    params = {
        "embedding_dim": 64, "max_len": 200, "batch_size": 64, "n_layers": 4, "n_epochs": 1,
        "precision": "float32",
    }  # fmt: skip
    found = plan("SASRec", params, n_items=60, n_users=64, n_events=64 * 201)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(params)], capture_output=True, text=True, check=True
    )
    assert 1 / 1.5 < int(done.stdout) / found.training_bytes < 1.5


def test_flops_and_time_follow_the_formula():
    params = {"embedding_dim": 16, "max_len": 20, "batch_size": 10, "n_layers": 2, "tied": True}
    found = plan("SASRec", params, **LOG, teraflops=1e-3, gigabytes_per_s=1.0)
    assert (found.tokens_per_window, found.windows_per_epoch, found.steps_per_epoch) == (20, 600, 60)
    dense, total = found.dense_parameters, found.dense_parameters + found.embedding_parameters
    flops = 3 * 200 * (2 * dense + 2 * 2 * 20 * 16 + 2 * 16 * 50)
    assert found.flops_per_step == pytest.approx(flops)
    assert found.seconds_per_step == pytest.approx(flops / 1e9 + 28 * total / 1e9)


@pytest.mark.parametrize(
    ("kind", "params", "sizes", "says"),
    [
        ("Ease", {}, {}, "Ease is none"),
        ("SASRek", {}, {}, "did you mean 'SASRec'"),
        ("SASRec", {"depth": 2}, {}, "SASRec has no parameter 'depth'"),
        ("SASRec", {}, {"n_items": 0}, "plan needs items > 0 and finite, got 0"),
        ("SASRec", {}, {"teraflops": float("inf")}, "plan needs teraflops > 0 and finite, got inf"),
        (
            "SASRec",
            {},
            {"n_users": 1000, "n_events": 10},
            "more events than users.*events=10 and users=1,000",
        ),
        ("SASRec", {}, {"n_users": 300, "n_events": 300}, "more events than users"),
    ],
)
def test_what_cannot_be_planned_is_refused(kind, params, sizes, says):
    with pytest.raises(ConfigError, match=says):
        plan(kind, params, **{**LOG, **sizes})
