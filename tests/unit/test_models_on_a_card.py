"""Public models trained and asked on a device that is not the processor: nothing is left behind on the other.

The device is a pretended one (`pretend_card`), which computes on the processor; with a GPU, test_gpu.py holds
the numbers of CUDA against those.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import models_small_run as small  # noqa: E402
from pretend_card import CARD, PretendCard  # noqa: E402

from vitrina.nn import device  # noqa: E402
from vitrina.nn.next_item import Batch  # noqa: E402
from vitrina.nn.session import session  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Generator:
    """Of random numbers, on the processor whatever device is named."""

    real = torch.Generator

    def __new__(cls, where: object = "cpu") -> torch.Generator:
        return cls.real()


def choose_card(monkeypatch) -> None:
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(device, "chosen", lambda: CARD)
    monkeypatch.setattr(torch.nn.GRU, "flatten_parameters", lambda self: None)  # asks for cuDNN


@pytest.fixture
def card(monkeypatch):
    choose_card(monkeypatch)
    return PretendCard


def test_tensors_of_two_devices_are_refused_on_the_card() -> None:
    linear = torch.nn.Linear(3, 2)
    with PretendCard():
        x = torch.randn(4, 3, device="cuda")
        with pytest.raises(RuntimeError, match="linear got tensors of two devices"):
            linear(x)
        linear.to("cuda")
        assert linear(x).device == CARD
        with pytest.raises(RuntimeError, match="two devices"):
            linear(x.cpu())
        with pytest.raises(TypeError, match="to numpy; use"):
            x.numpy()
        assert x.cpu().numpy().shape == (4, 3)
        assert x[torch.tensor([1])].device == CARD
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.arange(3, device="cpu")


CASES = {
    **{name: (name, {}) for name in small.MODELS},
    "SASRec, faded trend": ("SASRec", {"half_life_days": 30.0, "trend_days": 10.0, "targets": "new"}),
    "SASRec, sampled": ("SASRec", {"loss": "sampled_softmax", "negatives": "mixed", "dropout": 0.2}),
    "SASRec, own masked": ("SASRec", {"loss": "sampled_softmax", "negatives": "unigram", "mask_own": True}),
    "SASRec, memory": ("SASRec", {"loss": "sampled_softmax", "negatives": "memory", "n_negatives": 300}),
    "SASRec, streaming": ("SASRec", {"loss": "sampled_softmax", "negatives": "streaming"}),
    "SASRec, bce": ("SASRec", {"loss": "bce", "n_negatives": 3, "tied": False, "mask_own": True}),
    "SASRec, hashed": ("SASRec", {"item_table": "hashed", "table_optimizer": "rowwise", "loss": "gbce"}),
    "SASRec, ligr": ("SASRec", {"block": "ligr", "positions": "rotary", "cosine": True, "n_heads": 2}),
    "SASRec, validated": ("SASRec", {"validation": "time", "patience": 2, "clip_norm": 1.0}),
    "HSTU, sampled": ("HSTU", {"loss": "sampled_softmax", "request_time": True, "length_exponent": 1.2}),
    "TwoTower, sampled": ("TwoTower", {"loss": "sampled_softmax", "n_layers": 1}),
    "ARGUS, sampled": ("ARGUS", {"loss": "sampled_softmax", "negatives": "mixed"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_trained_and_asked_on_the_card(case, card, monkeypatch, tmp_path):
    name, more = CASES[case]
    with card() as there:
        found = small.train(name, folder=tmp_path / "checkpoints", **more)
    assert there.n_ops > 1000
    monkeypatch.undo()
    wanted = small.train(name, **more)
    for key in ("loss", "vectors", "users"):  # the full softmax takes larger chunks there: other sums
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-3, atol=1e-5, err_msg=key)
    assert (found["item_ix"] == wanted["item_ix"]).mean() > 0.98


def test_a_batch_that_is_left_on_the_processor_is_noticed(card, monkeypatch):
    monkeypatch.setattr(Batch, "to", lambda self, where: self)
    with card(), pytest.raises(RuntimeError, match="tensors of two devices"):
        small.train("SASRec")


def test_a_checkpoint_of_the_card_is_gone_on_with_on_the_processor_and_back(card, monkeypatch, tmp_path):
    more = {"loss": "sampled_softmax", "negatives": "memory", "n_negatives": 300, "dropout": 0.2}
    with card():
        assert not small.train("SASRec", folder=tmp_path / "a", kill_at=small.KILLED_AT, **more)
    monkeypatch.undo()
    wanted = small.train("SASRec", **more)
    np.testing.assert_array_equal(
        small.train("SASRec", folder=tmp_path / "a", **more)["vectors"], wanted["vectors"]
    )
    with session(device="cpu"):
        assert not small.train("SASRec", folder=tmp_path / "b", kill_at=small.KILLED_AT, **more)
    choose_card(monkeypatch)
    with card():
        found = small.train("SASRec", folder=tmp_path / "b", **more)
    np.testing.assert_array_equal(found["vectors"], wanted["vectors"])
