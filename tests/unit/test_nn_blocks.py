"""Blocks against their formulas, written out token by token and head by head, with the module's weights."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from vitrina.nn.blocks import Attention, LiGRBlock, TransformerBlock, rotate  # noqa: E402
from vitrina.nn.hstu import HSTULayer, HSTULayers, pairs_of  # noqa: E402
from vitrina.nn.layout import Layout, Windows, pad  # noqa: E402

DIM, N_HEADS, MAX_LEN = 8, 2, 7
LENGTHS = [5, 3, 1]
MAKES = {
    "pre": lambda: TransformerBlock(DIM, N_HEADS, ffn_dim=12, dropout=0.1),
    "post": lambda: TransformerBlock(DIM, N_HEADS, ffn_dim=12, dropout=0.1, norm="post"),
    "rotary": lambda: TransformerBlock(DIM, N_HEADS, ffn_dim=12, dropout=0.1, rotary=True),
    "ligr": lambda: LiGRBlock(DIM, N_HEADS, ffn_dim=12, dropout=0.1),
    "ligr rotary": lambda: LiGRBlock(DIM, N_HEADS, ffn_dim=12, dropout=0.1, rotary=True),
    "hstu": lambda: HSTULayer(DIM, N_HEADS, max_len=MAX_LEN, dropout=0.1),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def made(kind: str) -> nn.Module:
    """Weights of every part far from where they start, so that none can be left out unseen."""
    torch.manual_seed(0)
    block = MAKES[kind]().double().eval()
    for weight in block.parameters():
        nn.init.normal_(weight, std=0.6)
    return block


def batch(lengths: list[int]) -> tuple[Tensor, Layout]:
    """Random tokens of windows of these lengths, their times up to three weeks apart."""
    rng, stop = np.random.default_rng(0), np.cumsum(lengths)
    rows = pad(Windows(stop - lengths, stop))
    shape = rows.row_BT.shape
    ts_BT = torch.from_numpy(np.cumsum(np.exp(rng.uniform(0, 13, shape)), axis=1).astype(np.int64))
    layout = Layout(rows.layout.valid_BT, rows.layout.position_BT, ts_BT=ts_BT)
    return torch.from_numpy(rng.normal(size=(*shape, DIM))), layout


def norm(x_D: Tensor, weight_D: Tensor | float, bias_D: Tensor | float, eps: float) -> Tensor:
    centred = x_D - x_D.sum() / len(x_D)
    return centred / ((centred**2).sum() / len(x_D) + eps).sqrt() * weight_D + bias_D


def normed(module: nn.LayerNorm, x_TD: list[Tensor]) -> list[Tensor]:
    return [norm(x_D, module.weight, module.bias, 1e-5) for x_D in x_TD]


def linear(module: nn.Linear, x_D: Tensor) -> Tensor:
    return module.weight @ x_D + (0.0 if module.bias is None else module.bias)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def turned(x_E: Tensor, position: int) -> Tensor:
    """Each pair (e, e + E/2) as a complex number, times exp(-i position 10000^(-2e/E))."""
    half, out = len(x_E) // 2, x_E.clone()
    for e in range(half):
        angle = -position * 10_000 ** (-2 * e / len(x_E))
        out[e] = x_E[e] * math.cos(angle) - x_E[e + half] * math.sin(angle)
        out[e + half] = x_E[e] * math.sin(angle) + x_E[e + half] * math.cos(angle)
    return out


def slow_attention(module: Attention, x_TD: list[Tensor]) -> list[Tensor]:
    """Concatenated heads of sum_j softmax_j(q_i k_j / sqrt(E)) v_j over j <= i, through the last layer."""
    n, width = len(x_TD), DIM // N_HEADS
    q, k, v = zip(*(linear(module.qkv, x_D).split(DIM) for x_D in x_TD), strict=True)
    out = []
    for i in range(n):
        heads = []
        for h in range(N_HEADS):
            part = slice(h * width, (h + 1) * width)
            q_E, k_TE = q[i][part], [k[j][part] for j in range(i + 1)]
            if module.rotary:
                q_E = turned(q_E, n - 1 - i)
                k_TE = [turned(k_E, n - 1 - j) for j, k_E in enumerate(k_TE)]
            weight = [((q_E * k_E).sum() / math.sqrt(width)).exp() for k_E in k_TE]
            heads.append(sum(w * v[j][part] for j, w in enumerate(weight)) / sum(weight))
        out.append(linear(module.out, torch.cat(heads)))
    return out


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def slow_ffn(block: TransformerBlock, x_D: Tensor) -> Tensor:
    return linear(block.ffn[2], gelu(linear(block.ffn[0], x_D)))


def slow_pre(block: TransformerBlock, x_TD: list[Tensor]) -> list[Tensor]:
    mixed_TD = slow_attention(block.attention, normed(block.norm_attention, x_TD))
    x_TD = [x + y for x, y in zip(x_TD, mixed_TD, strict=True)]
    return [x + slow_ffn(block, y) for x, y in zip(x_TD, normed(block.norm_ffn, x_TD), strict=True)]


def slow_post(block: TransformerBlock, x_TD: list[Tensor]) -> list[Tensor]:
    mixed_TD = slow_attention(block.attention, x_TD)
    x_TD = normed(block.norm_attention, [x + y for x, y in zip(x_TD, mixed_TD, strict=True)])
    return normed(block.norm_ffn, [x + slow_ffn(block, x) for x in x_TD])


def slow_ligr(block: LiGRBlock, x_TD: list[Tensor]) -> list[Tensor]:
    def ffn(x_D: Tensor) -> Tensor:
        gate = linear(block.gate, x_D)
        return linear(block.down, gate * sigmoid(gate) * linear(block.up, x_D))

    mixed_TD = slow_attention(block.attention, normed(block.norm_attention, x_TD))
    x_TD = [x + sigmoid(linear(block.gate_attention, x)) * y for x, y in zip(x_TD, mixed_TD, strict=True)]
    fed_TD = [ffn(x) for x in normed(block.norm_ffn, x_TD)]
    return [x + sigmoid(linear(block.gate_ffn, x)) * y for x, y in zip(x_TD, fed_TD, strict=True)]


def slow_hstu(layer: HSTULayer, x_TD: list[Tensor], ts_T: list[int]) -> list[Tensor]:
    """x + (norm(A V) * U) W_o, with A = SiLU(q k + p_(i-j) + w_(bucket of t_i - t_j)) / max_len."""
    width, out = DIM // N_HEADS, []
    split = [linear(layer.uvqk, norm(x_D, 1.0, 0.0, 1e-6)) for x_D in x_TD]
    u, v, q, k = zip(*((x * sigmoid(x)).split(DIM) for x in split), strict=True)
    for i, x_D in enumerate(x_TD):
        mixed_D = torch.zeros(DIM, dtype=torch.float64)
        for h in range(N_HEADS):
            part = slice(h * width, (h + 1) * width)
            for j in range(i + 1):
                bucket = min(127, math.floor(math.log(max(1, ts_T[i] - ts_T[j])) / 0.301))
                S = (q[i][part] * k[j][part]).sum() + layer.by_distance[h, i - j] + layer.by_time[h, bucket]
                mixed_D[part] += S * sigmoid(S) / MAX_LEN * v[j][part]
        out.append(x_D + linear(layer.out, norm(mixed_D, 1.0, 0.0, 1e-6) * u[i]))
    return out


SLOW = {"pre": slow_pre, "post": slow_post, "rotary": slow_pre, "ligr": slow_ligr, "ligr rotary": slow_ligr}


def slow(kind: str, block: nn.Module, x_BTD: Tensor, layout: Layout) -> Tensor:
    """States of the tokens that are no padding, row by row. Shape (N, D)."""
    found = []
    for x_TD, valid_T, ts_T in zip(x_BTD, layout.valid_BT, layout.ts_BT, strict=True):
        tokens = list(x_TD[valid_T])
        found += slow_hstu(block, tokens, ts_T.tolist()) if kind == "hstu" else SLOW[kind](block, tokens)
    return torch.stack(found)


@pytest.mark.parametrize("kind", MAKES)
def test_a_block_is_its_formula(kind) -> None:
    """Values, and gradients in the tokens and in every weight."""
    block = made(kind)
    x_BTD, layout = batch(LENGTHS)
    x_BTD.requires_grad_()
    states = block(x_BTD, pairs_of(layout) if kind == "hstu" else layout)[layout.valid_BT]
    wanted = slow(kind, block, x_BTD, layout)
    asked = torch.from_numpy(np.random.default_rng(1).normal(size=wanted.shape))
    inputs = [x_BTD, *block.parameters()]
    found, written = (torch.autograd.grad((asked * one).sum(), inputs) for one in (states, wanted))
    # angles of rotary positions and scores of HSTU are in float32
    atol = 1e-5 if kind == "hstu" or "rotary" in kind else 1e-10
    torch.testing.assert_close(states, wanted, rtol=0, atol=atol)
    for one, other in zip(found, written, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=10 * atol)


def test_layers_of_hstu_follow_one_another() -> None:
    torch.manual_seed(0)
    layers = HSTULayers(DIM, N_HEADS, 2, max_len=MAX_LEN, dropout=0.0).double()
    x_BTD, layout = batch(LENGTHS)
    one_by_one = layers.layers[1](layers.layers[0](x_BTD, pairs_of(layout)), pairs_of(layout))
    assert torch.equal(layers(x_BTD, layout), one_by_one)


def test_rotary_scores_depend_on_how_far_apart_tokens_stand_and_on_nothing_else() -> None:
    q_E, k_E = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6)))

    def score(of_q: int, of_k: int) -> float:
        both = torch.stack([q_E, k_E])[:, None, None]
        q, k = rotate(both, torch.tensor([[of_q], [of_k]]))
        return float((q * k).sum())

    apart = {d: [score(p + d, p) for p in (0, 1, 17, 300)] for d in (-5, 0, 1, 2, 40)}
    for scores in apart.values():
        np.testing.assert_allclose(scores, scores[0], atol=1e-4)  # angles in float32
    assert apart[0][0] == pytest.approx(float((q_E * k_E).sum()))
    at_zero = [scores[0] for scores in apart.values()]
    assert np.abs(np.subtract.outer(at_zero, at_zero))[~np.eye(5, dtype=bool)].min() > 0.01


def test_a_rotary_block_reads_distances_alone() -> None:
    block = made("rotary")
    x_BTD, layout = batch([5])
    states = block(x_BTD, layout)
    later, wider = (Layout(layout.valid_BT, at) for at in (layout.position_BT + 9, layout.position_BT * 2))
    torch.testing.assert_close(block(x_BTD, later), states, rtol=0, atol=1e-5)
    moved_T = (block(x_BTD, wider) - states).abs().amax((0, 2))
    assert moved_T[0] < 1e-5  # the first token sees itself alone
    assert (moved_T[1:] > 0.01).all()
