"""Negatives that some positions share."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vitrina.candidates import ESASRec, SASRec, TwoTower  # noqa: E402
from vitrina.errors import ConfigError  # noqa: E402
from vitrina.nn.corrections import Negatives, collisions  # noqa: E402
from vitrina.nn.proposals import Uniform, Unigram  # noqa: E402
from vitrina.testing import markov_world  # noqa: E402


@pytest.mark.parametrize("n_positions", [1, 4, 5, 12, 13])
def test_each_position_meets_the_negatives_of_its_set(n_positions):
    torch.manual_seed(0)
    hidden, items = torch.randn(n_positions, 3), torch.randn(20, 3)
    positives = torch.randint(20, (n_positions,))
    for proposal in (Uniform(20, 6, n_share=4), Unigram(torch.arange(1, 21), 6, n_share=4)):
        drawn = proposal.draw(positives, torch.Generator().manual_seed(1))
        assert drawn.item_ix.shape == (-(-n_positions // 4), 6)
        each = drawn.each(n_positions)
        logit = drawn.logits(hidden, items[drawn.item_ix])
        assert logit.shape == each.item_ix.shape == each.log_q.shape == (n_positions, 6)
        for p in range(n_positions):
            assert torch.equal(each.item_ix[p], drawn.item_ix[p // 4])
            torch.testing.assert_close(logit[p], items[each.item_ix[p]] @ hidden[p])
            torch.testing.assert_close(each.log_q[p], proposal.log_q(each.item_ix[p]))
        assert torch.equal(collisions(each, positives), each.item_ix != positives[:, None])


def test_other_shapes_have_a_row_for_each_position_already():
    drawn = Negatives(torch.arange(5), torch.zeros(5))
    assert drawn.each(3) is drawn
    torch.testing.assert_close(drawn.logits(torch.ones(2, 3), torch.ones(5, 3)), torch.full((2, 5), 3.0))


@pytest.mark.parametrize("n_share", [0, 1, 4])
def test_rows_that_round_a_product_up_change_no_logit_and_no_gradient(n_share):
    torch.manual_seed(0)
    shapes = set()
    for n_positions in range(1, 600, 23):
        hidden, items = torch.randn(n_positions, 3), torch.randn(20, 3, requires_grad=True)
        drawn = Negatives(
            torch.randint(20, (-(-n_positions // max(n_share, 1)), 2)), torch.zeros(()), n_share
        )
        plain, rounded = (drawn.logits(hidden, items[ix]) for ix in (drawn.item_ix, drawn.asked))
        torch.testing.assert_close(rounded, plain)
        one, other = (torch.autograd.grad(x.square().sum(), items)[0] for x in (plain, rounded))
        torch.testing.assert_close(one, other)
        shapes.add(len(drawn.asked))
    assert len(shapes) <= (3 if n_share == 0 else 600 // max(n_share, 1) // 16 + 1)


def test_shared_sets_teach_faster_than_one_set_a_batch():
    """With few negatives one set for a whole batch pushes the same few items away everywhere."""
    world = markov_world(seed=0)
    settings = {
        "embedding_dim": 32,
        "max_len": 20,
        "n_layers": 1,
        "n_epochs": 8,
        "lr": 0.01,
        "n_negatives": 4,
    }
    found = {
        n: world.share_of_best(ESASRec(**settings, n_share=n).fit(world.train).retrieve(world.train, k=1))
        for n in (0, 16)
    }
    assert found[16] > found[0] + 0.02


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match="n_share must be >= 0, got -1"):
        SASRec(n_share=-1)
    with pytest.raises(ConfigError, match="TwoTower does not follow n_share, got 8"):
        TwoTower(n_share=8)
    assert np.isfinite(
        SASRec(loss="bce", n_negatives=2, n_share=3, embedding_dim=8, max_len=5, n_epochs=1)
        .fit(markov_world(seed=1).train)
        .curve_["loss"][0]
    )
