"""Every sequence model on a GPU gives the losses and lists of the processor: `pytest -m gpu tests/unit`."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import models_small_run as small  # noqa: E402

from vitrina.nn.full_softmax import full_softmax_mean  # noqa: E402
from vitrina.nn.hstu import Pairs, pointwise_attention  # noqa: E402
from vitrina.nn.session import session  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

SAMPLED = {"loss": "sampled_softmax", "n_negatives": 64, "dropout": 0.1}


@pytest.mark.parametrize("name", small.MODELS)
def test_losses_and_lists_of_a_gpu_are_those_of_the_processor(name):
    """In float32, without anything drawn in a step: what differs is the order of sums."""
    with session(device="cuda"):
        found = small.train(name)
    with session(device="cpu"):
        wanted = small.train(name)
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-3)
    np.testing.assert_allclose(found["vectors"], wanted["vectors"], atol=1e-2)
    assert (found["item_ix"] == wanted["item_ix"]).mean() > 0.95


@pytest.mark.parametrize("name", small.MODELS)
def test_a_model_fitted_on_a_gpu_answers_on_the_processor(name, tmp_path):
    log = small.small_log()
    with session(device="cuda"):
        model = small.MODELS[name]().fit(log)
        model.save(tmp_path / "model")
        there = model.retrieve(log, k=5)
    with session(device="cpu"):
        here = type(model).load(tmp_path / "model").retrieve(log, k=5)
    assert (there.item_ix == here.item_ix).mean() > 0.99
    np.testing.assert_allclose(there.score, here.score, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", small.MODELS)
def test_sampled_losses_of_a_gpu_are_those_of_the_processor_on_average(name):
    """Other negatives are drawn there, so that losses agree up to their noise."""
    curves = {}
    for where in ("cuda", "cpu"):
        with session(device=where):
            curves[where] = small.train(name, **SAMPLED)["loss"]
    np.testing.assert_allclose(curves["cuda"], curves["cpu"], rtol=0.1)


@pytest.mark.parametrize("negatives", ["mixed", "memory"])
def test_a_run_killed_on_a_gpu_goes_on_there_and_on_the_processor(negatives, tmp_path):
    more = SAMPLED | {"negatives": negatives}
    with session(device="cuda"):
        wanted = small.train("SASRec", **more)
        for name in ("there", "here"):
            assert not small.train("SASRec", folder=tmp_path / name, kill_at=small.KILLED_AT, **more)
        again = small.train("SASRec", folder=tmp_path / "there", **more)
    np.testing.assert_allclose(again["loss"], wanted["loss"], rtol=1e-4)
    with session(device="cpu"):
        found = small.train("SASRec", folder=tmp_path / "here", **more)
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=0.1)


def test_bfloat16_on_a_gpu_learns_as_float32():
    with session(device="cuda"):
        half, full = (small.train("SASRec", precision=one)["loss"] for one in ("bf16", "float32"))
    np.testing.assert_allclose(half, full, rtol=0.03)


def test_the_full_softmax_and_its_gradient_are_those_of_the_processor():
    torch.manual_seed(0)
    h, e, target = torch.randn(300, 16), torch.randn(5000, 16), torch.randint(5000, (300,))
    found = {}
    for where in ("cuda", "cpu"):
        hidden, items = (x.to(where).requires_grad_() for x in (h, e))
        loss = full_softmax_mean(hidden, items, target.to(where))
        loss.backward()
        found[where] = [x.detach().cpu() for x in (loss, hidden.grad, items.grad)]
    for there, here in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-6)


def test_hstu_attention_and_its_gradient_are_those_of_the_processor():
    torch.manual_seed(0)
    shapes = [(3, 2, 70, 8)] * 3 + [(2, 80), (2, 128)]
    made, bucket = (
        [torch.randn(shape) for shape in shapes],
        torch.randint(0, 128, (3, 70, 70)).to(torch.uint8),
    )
    found = {}
    for where in ("cuda", "cpu"):
        given = [x.to(where).requires_grad_() for x in made]
        mixed = pointwise_attention(*given, Pairs(bucket.to(where), None), n=80)
        mixed.square().sum().backward()
        found[where] = [x.detach().cpu() for x in (mixed, *(x.grad for x in given))]
    for there, here in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
